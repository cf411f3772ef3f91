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
        found = torch.autograd.grad(value(batch), weights, allow_unused=True)
        factor = 1.0 if clip is None else _factor(found, clip)
        for total, gradient in zip(totals.values(), found, strict=True):
            if gradient is not None:
                total.add_(of(upcast(gradient) * factor).to(total.device))

    samples, batches = walk(loader, add, progress)
    return Importance(totals, batches, kind, samples)


def _factor(gradients: Sequence[Tensor | None], clip: float) -> float:
    """Return what a gradient is to be multiplied by, so that its norm is `clip` at most."""
    norm = sum(float(upcast(one).double().square().sum()) for one in gradients if one is not None) ** 0.5
    return min(1.0, clip / norm) if norm else 1.0
