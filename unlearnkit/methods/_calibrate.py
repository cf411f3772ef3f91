# SPDX-License-Identifier: BSD-3-Clause
"""How far to dampen: the smallest edit that forgets, by bisection over cheap re-dampenings."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from unlearnkit.data import Batch, ForgetRetain, Measured, labels, sample_of, take
from unlearnkit.exceptions import DataError, IneffectiveWarning, warn
from unlearnkit.methods._dampening import Weighing
from unlearnkit.metrics import accuracy, predict_logits
from unlearnkit.parameters import copy_of, named_parameters

HIGHEST = 100.0
SHARES = [50 / 2**k for k in range(10, -1, -1)]
"""Of all weights, in percent: the edits that are tried, from small to large."""

STEPS = 10
SAMPLES = 2048


@dataclass(frozen=True)
class Reached:
    """What dampening at a percentile leads to.

    Attributes
    ----------
    percentile : float
    forget, kept : float
        Accuracy on the forget set, and on what should be kept.
    """

    percentile: float
    forget: float
    kept: float


@dataclass(frozen=True, repr=False)
class Calibration:
    """What a calibration found.

    Attributes
    ----------
    target : float
        The accuracy on the forget set that was aimed at.
    before, found : Reached
        Without an edit, and with the one that was chosen.
    full : Reached or None
        With the smallest edit that reaches the target, whatever the tolerance; None if none does.
    alpha : float
        The threshold of `found`; infinite where nothing was to be done.
    """

    target: float
    before: Reached
    found: Reached
    full: Reached | None
    alpha: float

    @property
    def stopped_short(self) -> bool:
        """Whether the tolerance, or the range of percentiles, ended before the target."""
        return self.found.forget > self.target

    def __repr__(self) -> str:
        """Say what it is at a glance."""
        before, found = self.before, self.found
        return (
            f"Calibration: percentile {found.percentile:.7g}, accuracy on forget "
            f"{before.forget:.1%} -> {found.forget:.1%} (target {self.target:.1%}), on what is "
            f"kept {before.kept:.1%} -> {found.kept:.1%}"
        )


def calibrate(
    model: nn.Module,
    roles: ForgetRetain,
    weighing: Weighing,
    lambda_: float,
    tolerance: float,
    target: float | None,
) -> Calibration:
    """Find the largest percentile (the smallest edit) whose forget accuracy reaches the target.

    Parameters
    ----------
    model : nn.Module
        It is copied; the copy is dampened again and again from the original weights.
    roles : ForgetRetain
    weighing : Weighing
    lambda_ : float
    tolerance : float
        How much accuracy on what is kept may fall.
    target : float or None
        None: what a model that never saw the samples would have, see :func:`unseen_accuracy`; 0,
        with a warning, where there is nothing to tell that by.

    Raises
    ------
    DataError
        As :func:`classes_of_forget`.
    """
    truth = classes_of_forget(roles)
    gone = _classes_gone(roles, truth)
    goal = target
    if goal is None and roles.validation is None and (living := sorted(set(truth.tolist()) - gone)):
        names = ", ".join(map(str, living[:5])) + (", ..." if len(living) > 5 else "")
        warn(
            "what a model that never saw these samples would make of them is not known: their "
            f"classes ({names}) live on in the retain set, and there is no validation set. So as "
            "much is forgotten as tolerance allows. Pass fit(..., validation=held_out) to aim at "
            "held-out accuracy, or target= (0 for wrong labels, which this is right for).",
            IneffectiveWarning,
        )
        goal = 0.0
    if goal is None:
        goal = unseen_accuracy(model, truth, gone, roles.validation)
    # read once what is looked at at every step
    forget = list(sample_of(roles.forget, SAMPLES))  # type: ignore[arg-type]
    kept = _kept(roles, gone)

    working = copy_of(model)
    tensors, original = named_parameters(working), named_parameters(model)

    def dampened(percentile: float) -> nn.Module:
        with torch.no_grad():
            for name in weighing.forget:
                tensors[name].copy_(original[name])
        weighing.dampen(tensors, weighing.alpha(percentile), lambda_)
        return working

    def reached(percentile: float) -> Reached:
        edited = dampened(percentile)
        return Reached(percentile, accuracy(edited, forget), accuracy(edited, kept))

    before = Reached(HIGHEST, accuracy(model, forget), accuracy(model, kept))
    if before.forget <= goal:
        return Calibration(goal, before, before, before, math.inf)
    at = _smallest_edit(lambda p: accuracy(dampened(p), forget) <= goal)
    full = None if at is None else reached(at)
    found = full or reached(HIGHEST - SHARES[-1])  # where none reaches it, as far as one may go
    floor = before.kept - tolerance
    if found.kept < floor:
        milder = _boundary(lambda p: accuracy(dampened(p), kept) >= floor, HIGHEST, found.percentile)
        found = reached(milder)
    return Calibration(goal, before, found, full, weighing.alpha(found.percentile))


def _smallest_edit(reaches: Callable[[float], bool]) -> float | None:
    """Return about the largest percentile that reaches the target; None if none was seen to.

    From small edits to large ones, each twice the one before, then by bisection. Not by bisection
    alone: a large edit can undo what a smaller one has reached.
    """
    outside = HIGHEST
    if reaches(outside):  # by the weights alone that do not matter for the rest at all
        return outside
    for inside in (HIGHEST - share for share in SHARES):
        if reaches(inside):
            return _boundary(reaches, inside, outside)
        outside = inside
    return None


def _boundary(holds: Callable[[float], bool], inside: float, outside: float) -> float:
    """Return a percentile at which something holds, beside one at which it does not."""
    for _ in range(STEPS):
        middle = (inside + outside) / 2
        inside, outside = (middle, outside) if holds(middle) else (inside, middle)
    return inside


def can_watch(roles: ForgetRetain) -> bool:
    """Tell whether samples are at hand on which to watch what is kept."""
    stored = roles.retain is None or isinstance(roles.retain, Measured)
    return roles.validation is not None or not stored


def classes_of_forget(roles: ForgetRetain) -> Tensor:
    """Return the class of every sample of the forget set [N].

    Raises
    ------
    DataError
        If the samples are missing, or have no classes.
    """
    if isinstance(roles.forget, Measured):
        raise DataError(
            "percentile='calibrated' watches the accuracy on the forget set, so it needs the "
            "samples: pass the data instead of its importance, or percentile='paper' or a number."
        )
    return _classes(roles.forget)


def _classes_gone(roles: ForgetRetain, truth: Tensor) -> set[int]:
    """Return the classes of the forget set of which the retain set, if at hand, has no sample."""
    if roles.retain is None or isinstance(roles.retain, Measured):
        return set()
    gone = set(truth.unique().tolist())
    for batch in roles.retain:
        gone -= set(labels(batch).unique().tolist())
        if not gone:
            break
    return gone


def unseen_accuracy(
    model: nn.Module, truth: Tensor, gone: set[int], validation: Iterable[Batch] | None
) -> float:
    """Return the accuracy that a model which never saw the forget set would have on it.

    Of a sample whose class lives on, the model's own accuracy on held-out samples of that class (of
    all held-out samples where there are none of it); of one whose class goes altogether, 0.
    """
    living = set(truth.unique().tolist()) - gone
    if not living:
        return 0.0
    logits, held_out = predict_logits(model, validation)
    right = (logits.argmax(1) == held_out).double()
    expected = torch.zeros(len(truth), dtype=torch.float64)
    for label in living:
        own = right[held_out == label]
        expected[truth == label] = (own if len(own) else right).mean()
    return float(expected.mean())


def _classes(data: Iterable[Batch]) -> Tensor:
    """Return the class of every sample [N], on the CPU."""
    found = [labels(batch).cpu() for batch in data]
    for target in found:
        if target.dim() != 1 or target.is_floating_point():
            raise DataError(
                "percentile='calibrated' watches accuracy, so labels must be class indices, one a "
                f"sample; got {list(target.shape)} of {target.dtype}. Use percentile='paper' or a "
                "number."
            )
    return torch.cat(found) if found else torch.empty(0, dtype=torch.long)


def _kept(roles: ForgetRetain, gone: set[int]) -> list[Batch]:
    """Return on what accuracy is kept: validation without the classes that go, else retain."""
    if roles.validation is not None:
        parts = (_without(batch, gone) for batch in sample_of(roles.validation, SAMPLES))
        if kept := [part for part in parts if part is not None]:
            return kept
    return list(sample_of(roles.retain, SAMPLES))  # type: ignore[arg-type]


def _without(batch: Batch, gone: set[int]) -> Batch | None:
    """Return the samples of a batch whose class is not gone; None where there is none."""
    target = labels(batch)
    own = ~torch.isin(target, torch.tensor(sorted(gone), dtype=target.dtype, device=target.device))
    return take(batch, own) if bool(own.any()) else None
