# SPDX-License-Identifier: BSD-3-Clause
"""What the dampening methods share: two importances, a threshold, and factors."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, nn

from unlearnkit.base import Unlearner
from unlearnkit.data import ForgetRetain, Loss, Measured
from unlearnkit.edit import WeightEdit
from unlearnkit.exceptions import DataError, IneffectiveWarning
from unlearnkit.importance import FisherDiagonal, Importance, ImportanceEstimator
from unlearnkit.ops import dampening_factor, finite_values, importance_ratio

NO_RETAIN = """\
nothing is known of the data to keep, and dampening weighs what matters for the forget set against what \
matters for the rest. One of these will do:
    fit(model, retain, forget)                                       # the retain set
    fit(model, DataLoader(Subset(train, forget_indices)))            # a Subset: the rest of it is found
    ASSD(reference=FisherDiagonal().measure(model, train)).fit(...)  # stored when the model was trained"""


@dataclass
class Evidence:
    """The importances that one measurement yields; every setting of a dampening method draws on them."""

    forget: Importance
    full: Importance | None = None
    retain: Importance | None = None

    def against(self, which: str) -> Importance:
        """Return the denominator: of the full training set, or of what is retained."""
        if which == "full":
            if self.full is None and self.retain is not None:
                self.full = self.retain + self.forget
            found = self.full
        else:
            if self.retain is None and self.full is not None:
                if not self.full.kind.startswith("fisher/per_sample"):
                    raise DataError(
                        f"against='retain' subtracts the forget set from the reference, and {self.full.kind} is a sum "
                        "over batches, not samples, so it does not subtract. Use against='full', or a reference "
                        "measured with FisherDiagonal(gradient='per_sample')."
                    )
                self.retain = self.full - self.forget
            found = self.retain
        if found is None or found.count == 0:
            raise DataError(
                "the forget set is all of the training set, so there is nothing to keep: train a newly built model "
                "instead."
            )
        return found


@dataclass
class Weighing:
    """Mean importances of the forget set beside those of a denominator."""

    forget: dict[str, Tensor]
    reference: dict[str, Tensor]

    @cached_property
    def sorted_ratios(self) -> Any:
        """All finite ratios F_f / F_D over all weights, sorted: 0/0 and x/0 are left out."""
        ratios = (importance_ratio(value, self.reference[name]) for name, value in self.forget.items())
        values = finite_values(ratios)
        values.sort()
        return values

    def factors(self, alpha: float, lambda_: float) -> dict[str, Tensor]:
        """Return the dampening factor of every weight."""
        return {
            name: dampening_factor(value, self.reference[name], alpha, lambda_)
            for name, value in self.forget.items()
        }


class Dampening(Unlearner):
    """Base of the methods that shrink the weights which matter more to the forget set than to the rest."""

    importance: Literal["per_sample", "batch"] | ImportanceEstimator
    against: Literal["full", "retain"]
    lambda_: float
    reference: Importance | None
    progress: bool

    def _validate(self) -> None:
        if self.against not in ("full", "retain"):
            raise DataError(f"against must be 'full' or 'retain', got {self.against!r}.")
        if isinstance(self.lambda_, bool) or not isinstance(self.lambda_, int | float) or not self.lambda_ >= 0:
            raise DataError(f"lambda_ must be a number from 0 on, got {self.lambda_!r}.")
        if self.reference is not None and not isinstance(self.reference, Importance):
            raise DataError(
                f"reference must be an Importance, got {type(self.reference).__name__}: measure one with "
                "FisherDiagonal().measure(model, train), or load it with Importance.load(path)."
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
        if self.reference is None and roles.retain is None:
            raise DataError(NO_RETAIN)
        forget = self._importance(model, roles.forget)
        if forget.samples == 0:
            raise DataError("the forget set is empty: there is nothing to forget. Check its indices.")
        # a stored reference is there to be used: it saves the pass over the retain set
        stored = self.reference if self.reference is not None else roles.retain
        if isinstance(stored, Measured):
            full = self._importance(model, stored)
            return Evidence(forget, full=full)
        try:
            return Evidence(forget, retain=self._importance(model, stored))
        except DataError as error:
            if "empty" in str(error):
                Evidence(forget).against("retain")  # says that there is nothing to keep
            raise

    def _importance(self, model: nn.Module, data: Any) -> Importance:
        if isinstance(data, Measured):
            if not isinstance(data, Importance):
                raise DataError(f"expected data or an Importance, got {type(data).__name__}.")
            data.check_model(model)
            return data
        return self._estimator().measure(model, data, loss=self.loss, progress=self.progress)

    def _fit(self, model: nn.Module, roles: ForgetRetain, measured: Evidence) -> WeightEdit:
        reference = measured.against(self.against)
        if measured.forget.kind != reference.kind:
            raise DataError(
                f"the importances of the forget set ({measured.forget.kind}) and of the reference "
                f"({reference.kind}) are of different kinds: measure both with the same estimator."
            )
        missing = measured.forget.sums.keys() - reference.sums.keys()
        if missing:
            raise DataError(
                f"the reference does not cover {sorted(missing)[0]}: it was measured while that parameter was frozen."
            )
        device = next(iter(measured.forget.sums.values())).device
        weighing = Weighing(measured.forget.mean(), reference.to(device).mean())
        self.n_forget_ = measured.forget.samples
        self.n_total_ = self.n_forget_ + (
            reference.samples if self.against == "retain" else reference.samples - self.n_forget_
        )
        self.alpha_ = self._threshold(model, roles, weighing)
        edit = WeightEdit.from_factors(
            model, weighing.factors(self.alpha_, self.lambda_), info={"method": repr_of(self)}
        )
        if edit.n_changed == 0:
            warnings.warn(f"the edit changes no weight: {self._why_nothing()}", IneffectiveWarning, stacklevel=4)
        return edit

    @abstractmethod
    def _threshold(self, model: nn.Module, roles: ForgetRetain, weighing: Weighing) -> float:
        """Return alpha: a weight is dampened where F_f > alpha F_D."""

    def _why_nothing(self) -> str:
        """Say why a fit may come out empty, and what to do."""
        bound = self.n_total_ / self.n_forget_
        if self.against == "full" and self.alpha_ >= bound and self._is_per_sample():
            return (
                f"alpha = {self.alpha_:.4g} can select nothing here. With per-sample gradients F_f / F_D is at most "
                f"|D| / |Df| = {bound:.4g}; published values of alpha are for squared batch gradients "
                "(importance='batch'). Lower alpha, use against='retain', or let ASSD find it."
            )
        return f"no weight is {self.alpha_:.4g} times as important for the forget set. Lower alpha or percentile."

    def _is_per_sample(self) -> bool:
        return getattr(self._estimator(), "gradient", None) == "per_sample"


def repr_of(estimator: Dampening) -> str:
    """Return the estimator's repr without what is measured: it goes into the edit's file."""
    given = estimator.get_params(deep=False)
    shown = {k: v for k, v in given.items() if k not in ("reference", "loss", "progress") and v is not None}
    return f"{type(estimator).__name__}({', '.join(f'{k}={v!r}' for k, v in shown.items())})"


@torch.no_grad()
def write_factors(target: dict[str, Tensor], original: dict[str, Tensor], factors: dict[str, Tensor]) -> None:
    """Set each target to original * factor, as :meth:`WeightEdit.from_factors` rounds it."""
    for name, factor in factors.items():
        value = original[name]
        target[name].copy_(torch.where(factor == 1, value, (value.double() * factor).to(value.dtype)))
