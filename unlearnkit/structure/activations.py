# SPDX-License-Identifier: BSD-3-Clause
"""What units put out for each sample."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from unlearnkit.data import Batch, batch_size
from unlearnkit.exceptions import DataError
from unlearnkit.parameters import named_parameters
from unlearnkit.structure._owners import channel_dim, has_samples, owners_of
from unlearnkit.structure._watch import Call, Watch
from unlearnkit.structure.units import Run, Units, forward_pass


def activations_of(
    model: nn.Module, batch: Batch, units: Mapping[str, Units], run: Run = forward_pass, before: bool = False
) -> dict[str, Tensor]:
    """Return what the units put out, after their norm and the activation function that follows it.

    Parameters
    ----------
    model : nn.Module
        In eval mode (see :func:`unlearnkit.data.evaluating`).
    batch : Batch
        On the model's device.
    units : mapping of str to Units
        What :func:`units_of` found, or some of it.
    run : callable, optional
        As of :func:`units_of`.
    before : bool
        Stop before the activation function.

    Returns
    -------
    dict of str to Tensor [N, O]
        By layer, in float64: means over positions (pixels, tokens), and over the calls of a layer
        that is called more than once. A norm or function counts as following where it takes the
        very tensor.

    Raises
    ------
    DataError
        If a layer's output does not have the samples in its first dimension, or one was not called.
    """
    owners, _ = owners_of(model, {id(p): name for name, p in named_parameters(model).items()})
    n, latest = batch_size(batch), dict[Call, Tensor]()

    def seen(call: Call, module: nn.Module | None, value: Tensor) -> None:
        if module is None and before:
            return
        if not has_samples(value.shape, n):
            raise DataError(
                f"layer {call[0]!r} returned {list(value.shape)} for {n:,} samples, which are not its first "
                "dimension: leave the layer out."
            )
        latest[call] = _mean(value, channel_dim(owners[call[0]][0], value.dim()))

    watch = Watch({module: layer for layer in units for module in owners[layer]}, seen)
    with watch.on(model):
        run(model, batch)
    found: dict[str, Tensor] = {}
    for layer in units:
        calls = [value for call, value in latest.items() if call[0] == layer]
        if not calls:
            raise DataError(f"layer {layer!r} was called for one batch and not for another: leave it out.")
        found[layer] = torch.stack(calls).mean(0)  # [N, O]
    return found


def _mean(value: Tensor, dim: int) -> Tensor:
    """Return the means [N, O] of a layer's output over all but its samples and units."""
    rows = value.detach().movedim(dim, 1)  # [N, O, ...]
    if rows.dtype is not torch.float64:
        rows = rows.float()
    # summing in double what is single takes 40 times as long, and tells no more than its rounding
    means = rows.flatten(2).mean(2) if rows.dim() > 2 else rows
    means = means.cpu() if means.device.type == "mps" else means  # which has no float64
    return means.to(torch.float64, copy=True)  # what follows may write over the output
