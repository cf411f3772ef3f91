# SPDX-License-Identifier: BSD-3-Clause
"""Importances that are summed over batches, for what is not defined sample by sample."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from unlearnkit.data import Batch
from unlearnkit.gradients.pairs import upcast
from unlearnkit.gradients.reference import measured_parameters, zeros
from unlearnkit.importance.base import Batches, Importance, walk


def sum_over_batches(
    model: nn.Module,
    loader: Batches,
    value: Callable[[Batch], Tensor],
    of: Callable[[Tensor], Tensor],
    kind: str,
    progress: bool,
    clip: float | None = None,
) -> Importance:
    """Sum ``of(gradient of value(batch))`` over batches; a short one counts as a full one.

    Parameters
    ----------
    model : nn.Module
        In eval mode (see :func:`unlearnkit.data.evaluating`), without autocast.
    loader : iterable of batches
    value : callable
        Maps a batch to a scalar.
    of : callable
        Maps a gradient to its importance, element by element.
    kind : str
    progress : bool
    clip : float, optional
        The largest norm that a batch's gradient may have, over all weights; a larger one is scaled to it.
    """
    parameters = measured_parameters(model)
    totals = zeros(parameters)
    weights = list(parameters.values())

    def add(batch: Batch) -> None:
        found: Sequence[Tensor | None] = torch.autograd.grad(value(batch), weights, allow_unused=True)
        if clip is not None:
            found = _clipped(found, clip)
        for total, gradient in zip(totals.values(), found, strict=True):
            if gradient is not None:
                total.add_(of(upcast(gradient)).to(total.device))

    samples, batches = walk(loader, add, progress)
    return Importance(totals, batches, kind, samples)


def _clipped(gradients: Sequence[Tensor | None], clip: float) -> Sequence[Tensor | None]:
    """Return a gradient scaled down to the norm `clip`, if its own is larger."""
    squares = [upcast(one).double().square().sum().cpu() for one in gradients if one is not None]
    norm = float(torch.stack(squares).sum()) ** 0.5 if squares else 0.0
    if norm <= clip:
        return gradients
    return [None if one is None else upcast(one) * (clip / norm) for one in gradients]
