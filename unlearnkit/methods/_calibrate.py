# SPDX-License-Identifier: BSD-3-Clause
"""How far to dampen: the smallest edit that forgets, found by bisection over cheap re-dampenings."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import nn

from unlearnkit.data import Batch, ForgetRetain, Measured, labels, sample_of, take
from unlearnkit.exceptions import DataError
from unlearnkit.metrics import accuracy_from_logits, predict_logits
from unlearnkit.methods._dampening import Weighing, write_factors
from unlearnkit.parameters import copy_of, named_parameters

LOWEST, HIGHEST, STEPS = 50.0, 100.0, 12
SAMPLES = 2048


@dataclass
class Calibration:
    """What a calibration found.

    Attributes
    ----------
    percentile : float
    forget, target : float
        Accuracy on the forget set after the edit, and what it was to reach.
    kept_before, kept : float
        Accuracy on what should be kept, before and after.
    stopped_short : bool
        Whether the target was not reached because the tolerance, or the range, ended first.
    """

    percentile: float
    forget: float
    target: float
    kept_before: float
    kept: float
    stopped_short: bool


def calibrate(
    model: nn.Module,
    roles: ForgetRetain,
    weighing: Weighing,
    alpha_of: Callable[[float], float],
    lambda_: float,
    tolerance: float,
    target: float | None,
) -> Calibration:
    """Find the largest percentile (the smallest edit) whose forget accuracy is at most the target.

    Parameters
    ----------
    model : nn.Module
        It is copied; the copy is dampened again and again from the original weights.
    roles : ForgetRetain
    weighing : Weighing
    alpha_of : callable
        The threshold of a percentile.
    lambda_ : float
    tolerance : float
        How much accuracy on what is kept may fall.
    target : float or None
        None: what a model that never saw the samples would have, see :func:`target_accuracy`.

    Raises
    ------
    DataError
        If data is missing that the search needs.
    """
    if isinstance(roles.forget, Measured):
        raise DataError(
            "percentile='calibrated' watches the accuracy on the forget set, so it needs the samples: pass the "
            "data instead of its importance, or percentile='paper' or a number."
        )
    kept_data = _kept(roles)
    # read once what is looked at at every step
    forget = list(sample_of(roles.forget, SAMPLES))
    kept = list(sample_of(kept_data, SAMPLES))
    goal = target_accuracy(model, roles) if target is None else target

    working = copy_of(model)
    tensors, original = named_parameters(working), dict(named_parameters(model))

    def accuracies(percentile: float) -> tuple[float, float]:
        write_factors(tensors, original, weighing.factors(alpha_of(percentile), lambda_))
        return (
            accuracy_from_logits(*predict_logits(working, forget)),
            accuracy_from_logits(*predict_logits(working, kept)),
        )

    kept_before = accuracy_from_logits(*predict_logits(model, kept))
    forget_before = accuracy_from_logits(*predict_logits(model, forget))
    if forget_before <= goal:
        return Calibration(HIGHEST, forget_before, goal, kept_before, kept_before, False)
    reached = _largest(lambda p: accuracies(p)[0] <= goal)
    allowed = _smallest(lambda p: accuracies(p)[1] >= kept_before - tolerance, reached)
    found = max(allowed, LOWEST if reached is None else reached)
    forget_after, kept_after = accuracies(found)
    return Calibration(found, forget_after, goal, kept_before, kept_after, forget_after > goal)


def _largest(reaches: Callable[[float], bool]) -> float | None:
    """Return the largest percentile at which the target is reached; None if not even at the lowest."""
    if not reaches(LOWEST):
        return None
    low, high = LOWEST, HIGHEST
    for _ in range(STEPS):
        middle = (low + high) / 2
        if reaches(middle):
            low = middle
        else:
            high = middle
    return low


def _smallest(holds: Callable[[float], bool], start: float | None) -> float:
    """Return the smallest percentile from `start` on at which enough is kept."""
    low = LOWEST if start is None else start
    if holds(low):
        return low
    high = HIGHEST
    for _ in range(STEPS):
        middle = (low + high) / 2
        if holds(middle):
            high = middle
        else:
            low = middle
    return high


def target_accuracy(model: nn.Module, roles: ForgetRetain) -> float:
    """Return the accuracy that a model which never saw the forget set would have on it.

    For a sample whose class lives on in the retain set, the model's own accuracy on held-out samples of that
    class; 0 for one whose class goes altogether.

    Raises
    ------
    DataError
        If a class lives on and there is no validation set to measure on.
    """
    forgotten = torch.cat([labels(batch) for batch in roles.forget])  # type: ignore[union-attr]
    classes = set(forgotten.unique().tolist())
    if not isinstance(roles.retain, Measured) and roles.retain is not None:
        classes &= _classes(roles.retain)
    if not classes:
        return 0.0
    if roles.validation is None:
        raise DataError(
            "percentile='calibrated' asks what a model that never saw these samples would make of them, and their "
            f"classes ({', '.join(map(str, sorted(classes)[:5]))}) live on in the retain set: pass "
            "fit(..., validation=held_out), or set target= (0 for wrong labels), or percentile='paper' or a number."
        )
    logits, truth = predict_logits(model, roles.validation)
    right = (logits.argmax(1) == truth).double()
    expected = torch.zeros(len(forgotten), dtype=torch.float64)
    for label in classes:
        own = truth == label
        expected[forgotten == label] = float(right[own].mean()) if bool(own.any()) else 0.0
    return float(expected.mean())


def _classes(data: Iterable[Batch]) -> set[int]:
    found: set[int] = set()
    for batch in data:
        found.update(labels(batch).unique().tolist())
    return found


def _kept(roles: ForgetRetain) -> Iterable[Batch]:
    """What accuracy must be kept on: validation samples of classes that live on, else retain samples."""
    gone: set[int] = set()
    if isinstance(roles.retain, Measured) or roles.retain is None:
        if roles.validation is None:
            raise DataError(
                "percentile='calibrated' watches what is kept, and neither the retain set nor a validation set is "
                "at hand: pass fit(..., validation=held_out), or percentile='paper' or a number."
            )
    else:
        gone = set(torch.cat([labels(b) for b in roles.forget]).unique().tolist()) - _classes(roles.retain)  # type: ignore[union-attr]
        if roles.validation is None:
            return roles.retain
    if not gone:
        return roles.validation
    return [kept for batch in roles.validation if (kept := _without(batch, gone)) is not None]


def _without(batch: Batch, gone: set[int]) -> Batch | None:
    own = ~torch.isin(labels(batch), torch.tensor(sorted(gone), dtype=labels(batch).dtype))
    return take(batch, own) if bool(own.any()) else None
