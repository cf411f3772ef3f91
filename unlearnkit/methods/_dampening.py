# SPDX-License-Identifier: BSD-3-Clause
"""What the dampening methods share: two importances, a threshold, and factors."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, nn

from unlearnkit.base import Unlearner
from unlearnkit.data import ForgetRetain, Measured
from unlearnkit.edit import WeightEdit
from unlearnkit.edit.sources import edited, state_of
from unlearnkit.exceptions import DataError, IneffectiveWarning, warn
from unlearnkit.importance import FisherDiagonal, Importance, ImportanceEstimator
from unlearnkit.importance.base import NoSamplesError
from unlearnkit.methods._checks import check_number
from unlearnkit.ops import dampen_, importance_ratio, percentile
from unlearnkit.parameters import named_parameters

NO_RETAIN = """\
nothing is known of the data to keep, and dampening weighs what matters for the forget set against \
what matters for the rest. One of these will do:
    fit(model, retain, forget)                                       # the retain set
    fit(model, DataLoader(Subset(train, forget_indices)))            # a Subset: its rest is found
    ASSD(reference=FisherDiagonal().measure(model, train)).fit(...)  # stored after training"""

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
                f"({self.known.kind}) are of different kinds: measure both with the same estimator."
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


@dataclass(frozen=True)
class Weighing:
    """Mean importances of the forget set beside those of a denominator."""

    forget: dict[str, Tensor]
    reference: dict[str, Tensor]

    def __post_init__(self) -> None:
        for which in (self.forget, self.reference):
            for name, value in which.items():
                if bool((value < 0).any()):
                    raise DataError(
                        f"the importance of {name} is below zero at {int((value < 0).sum())} weights: an "
                        "importance is a magnitude. Measure squares or absolute values."
                    )

    @cached_property
    def ratios(self) -> list[Tensor]:
        """F_f / F_D of every weight, all on one device; NaN is 0 / 0."""
        ratios = [importance_ratio(self.forget[name], self.reference[name]) for name in self.forget]
        return [ratio.to(ratios[0].device) for ratio in ratios]

    def alpha(self, q: float) -> float:
        """Return the q-th percentile of the finite ratios: 0/0 and x/0 do not count, zeros do.

        Raises
        ------
        DataError
            If no ratio is finite.
        """
        try:
            return percentile(self.ratios, q)
        except DataError as error:
            raise DataError(
                "no weight matters for the data to keep: all its gradients are zero, so there is "
                "no ratio to rank. Check the reference; a model in float64 tells smaller losses "
                "from zero."
            ) from error

    def count_between(self, alpha: float, lambda_: float) -> int:
        """Return how many weights are selected though their factor is 1."""
        if alpha >= lambda_:
            return 0
        return sum(int(((ratio > alpha) & (ratio <= lambda_)).sum()) for ratio in self.ratios)

    def dampen(self, weights: Mapping[str, Tensor], alpha: float, lambda_: float) -> None:
        """Dampen the weights of these names in place; `weights` may hold others too."""
        devices: dict[torch.device, list[str]] = {}  # a model may lie on several
        for name in self.forget:
            devices.setdefault(weights[name].device, []).append(name)
        for device, names in devices.items():
            targets = [weights[name].detach() for name in names]
            forget = [self.forget[name].to(device) for name in names]
            reference = [self.reference[name].to(device) for name in names]
            dampen_(targets, forget, reference, alpha, lambda_)

    def edit(self, model: nn.Module, alpha: float, lambda_: float, info: Mapping[str, str]) -> WeightEdit:
        """Return the edit that dampens a model so."""
        original = named_parameters(model)
        after = {name: original[name].detach().clone() for name in self.forget}
        self.dampen(after, alpha, lambda_)
        return WeightEdit(*edited(state_of(model), after, lambda _name, _before, new: new), info)


class Dampening(Unlearner):
    """Base of the methods that shrink the weights which matter more for the forget set."""

    importance: Literal["per_sample", "batch"] | ImportanceEstimator
    against: Literal["full", "retain"]
    lambda_: float
    reference: Importance | None
    progress: bool

    def _validate(self) -> None:
        if self.against not in ("full", "retain"):
            raise DataError(f"against must be 'full' or 'retain', got {self.against!r}.")
        check_number("lambda_", self.lambda_)
        if self.reference is not None and not isinstance(self.reference, Importance):
            raise DataError(
                f"reference must be an Importance, got {type(self.reference).__name__}: measure "
                "one with FisherDiagonal().measure(model, train), or Importance.load(path) it."
            )
        self._estimator()

    def _estimator(self) -> ImportanceEstimator:
        if isinstance(self.importance, ImportanceEstimator):
            return self.importance
        if self.importance not in ("per_sample", "batch"):
            raise DataError(
                "importance must be 'per_sample', 'batch' or an importance estimator such as "
                f"FisherDiagonal(), got {self.importance!r}."
            )
        return FisherDiagonal(gradient=self.importance)

    def _measure(self, model: nn.Module, roles: ForgetRetain) -> Evidence:
        # a stored reference is there to be used: it saves the pass over the retain set
        known = roles.retain if self.reference is None else self.reference
        if known is None:
            raise DataError(NO_RETAIN)
        if isinstance(known, Measured):
            known = _checked(known, model)
        try:
            forget = self._importance(model, roles.forget)
        except NoSamplesError as error:
            raise DataError(f"the forget set: {error}") from error
        if isinstance(known, Importance):
            return Evidence(forget, _restricted(known, forget), is_full=True)
        try:
            return Evidence(forget, self._importance(model, known), is_full=False)
        except NoSamplesError as error:
            raise DataError(NOTHING_TO_KEEP) from error

    def _importance(self, model: nn.Module, data: Any) -> Importance:
        if isinstance(data, Measured):
            return _checked(data, model)
        return self._estimator().measure(model, data, loss=self.loss, progress=self.progress)

    def _fit(self, model: nn.Module, roles: ForgetRetain, measured: Evidence) -> WeightEdit:
        weighing = Weighing(measured.forget.mean(), measured.against(self.against).mean())
        self.n_forget_, self.n_total_ = measured.forget.samples, measured.n_total
        self.alpha_ = self._threshold(model, roles, weighing)
        edit = weighing.edit(model, self.alpha_, self.lambda_, {"method": described(self)})
        if edit.n_changed == 0:
            why = self._why_nothing(measured)
            warn(f"the edit changes no weight: {why}", IneffectiveWarning)
        elif self._chosen_by_hand() and (idle := weighing.count_between(self.alpha_, self.lambda_)):
            warn(
                f"alpha = {self.alpha_:.3g} is below {self.lambda_:g}: {idle:,} of the weights "
                f"selected are not more than {self.lambda_:g} times as important for the forget "
                "set, so they are left as they are, and a lower alpha or percentile edits nothing "
                "more.",
                IneffectiveWarning,
            )
        return edit

    def _chosen_by_hand(self) -> bool:
        """Tell whether the threshold is one that the user could have set otherwise."""
        return True

    @abstractmethod
    def _threshold(self, model: nn.Module, roles: ForgetRetain, weighing: Weighing) -> float:
        """Return alpha: a weight is dampened where F_f > alpha F_D."""

    def _why_nothing(self, measured: Evidence) -> str:
        """Say why a fit may come out empty, and what to do."""
        if self.against == "full" and self.alpha_ >= (bound := measured.largest_ratio):
            return (
                f"alpha = {self.alpha_:.4g} can select nothing here. F_D has the forget set in it, "
                f"so F_f / F_D is at most |D| / |Df| = {bound:.4g}. Lower alpha, use "
                "against='retain', or let ASSD find it."
            )
        return (
            f"no weight is {self.alpha_:.4g} times as important for the forget set. Lower alpha or "
            "percentile."
        )


def _checked(stored: Any, model: nn.Module) -> Importance:
    if not isinstance(stored, Importance):
        raise DataError(f"expected data or an Importance, got {type(stored).__name__}.")
    stored.check_model(model)
    return stored


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


def described(estimator: Dampening) -> str:
    """Return the estimator's repr without what is measured: it goes into the edit's file."""
    given = estimator.get_params(deep=False)
    for name in ("reference", "loss", "progress"):
        given.pop(name, None)
    shown = ", ".join(f"{name}={value!r}" for name, value in given.items() if value is not None)
    return f"{type(estimator).__name__}({shown})"
