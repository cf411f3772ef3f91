# SPDX-License-Identifier: BSD-3-Clause
"""Linear layers, convolutions and norms with fewer channels, in place.

Legend: O units of a layer, P of the one that takes them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def keep_units(layer: nn.Module, kept: Tensor) -> None:
    """Keep the units `kept` [K], by index, of a linear layer or a convolution."""
    _narrow(layer, ("weight", "bias"), kept)
    setattr(layer, "out_features" if isinstance(layer, nn.Linear) else "out_channels", len(kept))


def keep_inputs(layer: nn.Module, kept: Tensor) -> None:
    """Keep the inputs `kept` [K], by index, of a linear layer or a convolution in one group."""
    _narrow(layer, ("weight",), kept, dim=1)
    setattr(layer, "in_features" if isinstance(layer, nn.Linear) else "in_channels", len(kept))


def keep_channels(norm: Any, kept: Tensor) -> None:
    """Keep the channels `kept` [K], by index, of a norm that has statistics for each."""
    _narrow(norm, ("weight", "bias", "running_mean", "running_var"), kept)
    norm.num_features = len(kept)


@torch.no_grad()
def fold(layer: nn.Module, values: Tensor, block: int) -> None:
    """Add to a layer's bias what inputs of constant `values` [O], on the CPU, amount to, of `block` indices each."""
    weight, bias = layer.get_parameter("weight").cpu().double(), layer.get_parameter("bias")
    by_input = weight.flatten(2).sum(2) if weight.dim() > 2 else weight  # [P, O * block]
    share = by_input.unflatten(1, (-1, block)).sum(2) @ values.double()  # [P]
    bias.copy_(bias.cpu().double() + share)


@torch.no_grad()
def _narrow(module: nn.Module, names: tuple[str, ...], kept: Tensor, dim: int = 0) -> None:
    for name in names:
        old = getattr(module, name, None)
        if old is None:
            continue
        new = old.detach().index_select(dim, kept.to(old.device))
        if old.dim() == 4 and old.is_contiguous(memory_format=torch.channels_last):
            new = new.contiguous(memory_format=torch.channels_last)
        if isinstance(old, nn.Parameter):
            new = nn.Parameter(new, requires_grad=old.requires_grad)
        setattr(module, name, new)
