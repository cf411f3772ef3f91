# SPDX-License-Identifier: BSD-3-Clause
"""What the dampening methods share: a threshold, and factors."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor, nn

from unlearnkit.base import Unlearner, identity
from unlearnkit.data import ForgetRetain
from unlearnkit.edit import WeightEdit
from unlearnkit.edit.sources import edited, state_of
from unlearnkit.exceptions import DataError, IneffectiveWarning, warn
from unlearnkit.importance import FisherDiagonal, Importance, ImportanceEstimator
from unlearnkit.importance.evidence import Evidence, gather
from unlearnkit.methods._checks import check_number
from unlearnkit.ops import dampen_, importance_ratio, percentile
from unlearnkit.parameters import named_parameters

NO_RETAIN = """\
nothing is known of the data to keep, and dampening weighs what matters for the forget set against \
what matters for the rest. One of these will do:
    fit(model, retain, forget)                                       # the retain set
    fit(model, DataLoader(Subset(train, forget_indices)))            # a Subset: its rest is found
    ASSD(reference=FisherDiagonal().measure(model, train)).fit(...)  # stored after training"""


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
        return gather(
            self._estimator(), model, roles, self.reference, NO_RETAIN, loss=self.loss, progress=self.progress
        )

    def _shares(self) -> Hashable:
        return Evidence, identity(self._estimator()), identity(self.reference), identity(self.loss)

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


def described(estimator: Dampening) -> str:
    """Return the estimator's repr without what is measured: it goes into the edit's file."""
    given = estimator.get_params(deep=False)
    for name in ("reference", "loss", "progress"):
        given.pop(name, None)
    shown = ", ".join(f"{name}={value!r}" for name, value in given.items() if value is not None)
    return f"{type(estimator).__name__}({shown})"
