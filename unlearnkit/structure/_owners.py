# SPDX-License-Identifier: BSD-3-Clause
"""Which modules hold a weight that has units, and which of a tensor's dimensions the units are."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd


def owners_of(
    model: nn.Module, names: Mapping[int, str]
) -> tuple[dict[str, list[nn.Module]], dict[str, str]]:
    """Return the modules that hold each weight with units, by layer; and the layers left out, with why.

    Parameters
    ----------
    model : nn.Module
    names : mapping of int to str
        The canonical name of each parameter, by its id.
    """
    users: dict[int, list[nn.Module]] = {}
    for module in model.modules():
        for identity in {id(p) for p in module._parameters.values() if p is not None}:
            users.setdefault(identity, []).append(module)
    owners: dict[str, list[nn.Module]] = {}
    left_out: dict[str, str] = {}
    for path, module in model.named_modules():
        if not isinstance(module, nn.Linear | _ConvNd):
            continue
        weight = module._parameters.get("weight")
        if weight is None:
            left_out[path] = "its weight is computed from other parameters"
            continue
        layer, sharing = names[id(weight)].rpartition(".")[0], users[id(weight)]
        biases = {id(bias) for one in sharing if (bias := one._parameters.get("bias")) is not None}
        others = [one for one in sharing if type(one) is not type(module)]
        if isinstance(module, _ConvTransposeNd):
            left_out[layer] = "of a transposed convolution a unit is no row of the weight"
        elif others:
            left_out[layer] = f"its weight is shared with a {type(others[0]).__name__}"
        elif len(biases) > 1 or any(one not in sharing for bias in biases for one in users[bias]):
            left_out[layer] = "its weight and its bias are shared with different modules"
        else:
            owners.setdefault(layer, []).append(module)
    return owners, left_out


def affine_of(
    norm: nn.Module, layer: nn.Module, shape: torch.Size, model: nn.Module, names: Mapping[int, str]
) -> tuple[str, ...]:
    """Name the affine of a norm of a layer's output; nothing unless it is its own, and of the units."""
    own = {name: p for name in ("weight", "bias") if (p := norm._parameters.get(name)) is not None}
    across = type(norm) in (nn.LayerNorm, nn.RMSNorm)  # of the last dimension; others of the channels
    dim = len(shape) - 1 if across else 1
    fits = dim == channel_dim(layer, len(shape)) and all(p.shape == (shape[dim],) for p in own.values())
    others = {id(p) for module in model.modules() if module is not norm for p in module._parameters.values()}
    if not fits or any(id(p) in others for p in own.values()):
        return ()
    return tuple(names[id(p)] for p in own.values())


def channel_dim(layer: nn.Module, dims: int) -> int:
    """Return which of the dimensions of a layer's output its units are."""
    return 1 if isinstance(layer, _ConvNd) else dims - 1


def has_samples(shape: torch.Size, n: int) -> bool:
    """Tell whether a layer's output has the samples in its first dimension, and units in another."""
    return len(shape) > 1 and shape[0] == n
