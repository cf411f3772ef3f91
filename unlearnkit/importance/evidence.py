# SPDX-License-Identifier: BSD-3-Clause
"""What matters for the forget set beside what matters for the rest."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from unlearnkit.data import ForgetRetain, Loss, Measured
from unlearnkit.exceptions import DataError
from unlearnkit.importance.base import Importance, NoSamplesError, checked
from unlearnkit.importance.estimator import ImportanceEstimator

ROUNDING = 1e-4
"""Of an importance in float32, this much may be the rounding of the gradients."""

NOTHING_TO_KEEP = (
    "the forget set is all of the training set, so there is nothing to keep: train a newly built "
    "model instead."
)


@dataclass(frozen=True)
class Evidence:
    """The importances that one measurement yields; every setting of a method draws on them.

    Attributes
    ----------
    forget : Importance
        Of the forget set.
    known : Importance
        Of the retain set or, if `is_full`, of the training set, forget set included.
    is_full : bool
    """

    forget: Importance
    known: Importance
    is_full: bool

    def __post_init__(self) -> None:
        if self.forget.samples == 0:
            raise DataError("the forget set is empty: there is nothing to forget.")
        if self.forget.kind != self.known.kind:
            raise DataError(
                f"the importances of the forget set ({self.forget.kind}) and of the reference "
                f"({self.known.kind}) are of different kinds: measure both with the same estimator. A stored "
                "FisherDiagonal() goes with importance='per_sample', which is not the default of SSD."
            )
        if self.is_full and self.known.samples < self.forget.samples:
            raise DataError(
                f"the reference saw {self.known.samples:,} samples, fewer than the forget set's "
                f"{self.forget.samples:,}: measure it on the whole training set, the forget set "
                "included."
            )
        if self.known.samples == (self.forget.samples if self.is_full else 0):
            raise DataError(NOTHING_TO_KEEP)

    @property
    def n_total(self) -> int:
        """|D|, the size of the training set."""
        return self.known.samples + (0 if self.is_full else self.forget.samples)

    @property
    def largest_ratio(self) -> float:
        """What F_f / F_D cannot exceed against the training set: its size over the forget set's.

        In batches where those were counted; a stored sum over other batches knows no such bound.
        """
        if self.is_full and self.known.count != self.known.samples:
            return math.inf
        return self.against("full").count / self.forget.count

    def against(self, which: Literal["full", "retain"]) -> Importance:
        """Return the denominator: of the training set, or of what is retained of it.

        What is left when the forget set is subtracted from all cannot be told from rounding where
        it is far less than what was subtracted. There it is taken for zero, and so it is where the
        retain set itself was measured: data and a stored reference give the same edit.

        Raises
        ------
        DataError
            If the one that is known does not yield the other.
        """
        if which == "full":
            return self.known if self.is_full else self.known + self.forget
        if self.known.count != self.known.samples:
            if not self.is_full:
                return self.known
            raise DataError(
                "against='retain' subtracts the forget set from the reference, and "
                f"{self.known.kind} is a sum over batches, not samples, so it does not subtract. "
                "Use against='full', or importance='per_sample' with a reference measured likewise."
            )
        rest = self.known - self.forget if self.is_full else self.known
        sums = {
            name: value * (value > ROUNDING * self.forget.sums[name]) for name, value in rest.sums.items()
        }
        return Importance(sums, rest.count, rest.kind, rest.samples)


def gather(
    estimator: ImportanceEstimator,
    model: nn.Module,
    roles: ForgetRetain,
    reference: Importance | None,
    unknown: str,
    loss: Loss | None = None,
    progress: bool = False,
) -> Evidence:
    """Measure both sides of the evidence, or take what is stored of them.

    Parameters
    ----------
    estimator : ImportanceEstimator
    model : nn.Module
    roles : ForgetRetain
    reference : Importance or None
        Measured on the whole training set, forget set included. It is there to be used: the retain
        set is not walked then.
    unknown : str
        What to say where nothing is known of the data to keep.
    loss, progress
        As of :meth:`ImportanceEstimator.measure`.

    Raises
    ------
    DataError
        If a side is missing, has no samples, or the two do not belong together.
    """
    known = roles.retain if reference is None else reference
    if known is None:
        raise DataError(unknown)
    if isinstance(known, Measured):
        known = checked(known, model)

    def importance(data: Any) -> Importance:
        if isinstance(data, Measured):
            return checked(data, model)
        return estimator.measure(model, data, loss=loss, progress=progress)

    try:
        forget = importance(roles.forget)
    except NoSamplesError as error:
        raise DataError(f"the forget set: {error}") from error
    if isinstance(known, Importance):
        return Evidence(forget, _restricted(known, forget), is_full=True)
    try:
        return Evidence(forget, importance(known), is_full=False)
    except NoSamplesError as error:
        raise DataError(NOTHING_TO_KEEP) from error


def _restricted(stored: Importance, forget: Importance) -> Importance:
    """Return what is stored of the parameters that were measured on the forget set, beside it."""
    for name in forget.sums:
        if name not in stored.sums:
            raise DataError(
                f"the reference does not cover {name}: it was frozen when that was measured. "
                "Freeze it again, or measure the reference anew."
            )
    sums = {name: stored.sums[name].to(value.device) for name, value in forget.sums.items()}
    return Importance(sums, stored.count, stored.kind, stored.samples)
