# SPDX-License-Identifier: BSD-3-Clause
"""What a request did: measured before and after, and read off the edit."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from torch import nn

from unlearnkit.data import (
    Batch,
    Loss,
    cross_entropy_of,
    device_of,
    evaluating,
    forward,
    labels,
    sample_of,
    to_device,
)
from unlearnkit.edit import WeightEdit
from unlearnkit.exceptions import DataError
from unlearnkit.parameters import named_parameters

SAMPLES = 4096
"""How many samples are looked at, spread over the data."""


class Look(NamedTuple):
    """Accuracy, a fraction, and mean loss of a model; None where there is none."""

    accuracy: float | None
    loss: float | None


@torch.no_grad()
def look(model: nn.Module, data: Iterable[Batch] | None, loss: Loss | None = None) -> Look:
    """Measure accuracy and mean loss on at most some thousand samples; the model is left as it was.

    A task with a loss of its own, or without one class a sample, has no accuracy; one without labels
    has neither, unless its loss is given.
    """
    if data is None:
        return Look(None, None)
    device, right, total, count, classes = device_of(model), 0, 0.0, 0, loss is None
    with evaluating(model):
        try:
            for batch in sample_of(data, SAMPLES):
                batch = to_device(batch, device)
                if loss is None:
                    logits, target = forward(model, batch), labels(batch)
                    losses = cross_entropy_of(logits, target, isinstance(batch, Mapping))  # [N]
                    classes = classes and target.dim() == 1 and not target.is_floating_point()
                    right += int((logits.argmax(1) == target).sum()) if classes else 0
                else:
                    losses = loss(model, batch)
                total, count = total + float(losses.double().sum()), count + len(losses)
        except DataError:
            if loss is not None:
                raise
            return Look(None, None)
    if count == 0:
        return Look(None, None)
    return Look(right / count if classes else None, total / count)


def pair(before: float | None, after: float | None) -> tuple[float, float] | None:
    """Return both values, or None where one is not known."""
    return None if before is None or after is None else (before, after)


def length(model: nn.Module) -> float:
    """Return the Euclidean length of a model's weights."""
    weights = named_parameters(model).values()
    return math.sqrt(sum(float(weight.detach().abs().double().square().sum()) for weight in weights))


def distance(edit: WeightEdit, undo: WeightEdit) -> float:
    """Return the Euclidean length of what an edit changes in the weights; buffers do not count."""
    total = 0.0
    for name, change in edit.items():
        if not change.is_buffer:
            wide = torch.complex128 if change.dtype.is_complex else torch.float64
            total += float((change.values.to(wide) - undo[name].values.to(wide)).abs().square().sum())
    return math.sqrt(total)
