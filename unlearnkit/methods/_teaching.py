# SPDX-License-Identifier: BSD-3-Clause
"""How far a student's class probabilities are from a teacher's.

Legend: N samples, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from unlearnkit.data import Batch, labels
from unlearnkit.exceptions import DataError


def divergence(teacher: Tensor, student: Tensor, batch: Batch, temperature: float = 1.0) -> Tensor:
    """Return KL(teacher || student) [N] of class probabilities, both softened by a temperature.

    Where a sample has several outputs (pixels, tokens), the mean over those that count: whose label
    is not -100.

    Parameters
    ----------
    teacher, student : Tensor [N, K, ...]
        Logits; [N, ..., K] where batches are mappings.
    batch : Batch
        What they are for.
    temperature : float
        Logits are divided by it.

    Raises
    ------
    DataError
        If the output is none of class logits.
    """
    teacher, student = classes_second(batch, teacher, student)
    if student.dim() < 2 or student.shape[1] < 2:
        raise DataError(
            f"teaching is for classification: logits [N, K] of 2 classes or more, got an output "
            f"{list(student.shape)}. For another task use GradientAscent(loss=...) or FineTune(loss=...)."
        )
    log_p = (teacher / temperature).log_softmax(1)
    log_q = (student / temperature).log_softmax(1)
    p = log_p.exp()
    # a class that the teacher rules out counts for nothing, even where both logits are -inf
    terms = torch.where(p == 0, 0, p * (log_p - log_q))  # [N, K, ...]
    return over_targets(terms.sum(1), batch)


def classes_second(batch: Batch, *logits: Tensor) -> tuple[Tensor, ...]:
    """Return logits as [N, K, ...]; where batches are mappings they come as [N, ..., K]."""
    if not isinstance(batch, Mapping):
        return logits
    return tuple(each.movedim(-1, 1) if each.dim() > 2 else each for each in logits)


def over_targets(values: Tensor, batch: Batch) -> Tensor:
    """Return the mean [N] of values [N, ...] over the targets that count: whose label is not -100."""
    if values.dim() == 1:
        return values
    target, counted = labels(batch), torch.ones_like(values)
    if target.shape == values.shape and not target.is_floating_point():
        counted = (target != -100).to(values)
    return (values * counted).flatten(1).sum(1) / counted.flatten(1).sum(1).clamp(min=1)
