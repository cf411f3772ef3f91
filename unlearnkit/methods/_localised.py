# SPDX-License-Identifier: BSD-3-Clause
"""Methods that change a chosen part of the weights: importance x granularity x budget."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sklearn.base import clone
from torch import nn

from unlearnkit.base import identity
from unlearnkit.data import ForgetRetain, seed_rng
from unlearnkit.edit import WeightEdit
from unlearnkit.exceptions import DataError
from unlearnkit.gradients.reference import measured_parameters
from unlearnkit.importance import Importance, ImportanceEstimator, named
from unlearnkit.importance.base import refuse_bad_weights
from unlearnkit.methods._checks import check_choice, check_number
from unlearnkit.methods._run import derived
from unlearnkit.methods._settings import Seeded
from unlearnkit.parameters import copy_of
from unlearnkit.selection import ParameterMask, select

IMPORTANCE = 0x1A2C
"""Sets the seed of what is drawn while the importance is measured apart."""

Patterns = str | Sequence[str] | None

EVERYTHING = (
    "budget={budget!r} selects a part of the weights, and importance=None does not say which: set "
    "importance='gradient', for instance, or leave budget out."
)


@dataclass(kw_only=True, eq=False, repr=False)
class Localised(Seeded):
    """Base of the methods that change selected weights alone.

    Every other weight keeps its bits. Any importance, granularity and budget goes with any of the
    methods, so a published method is a setting of one of them.

    Parameters
    ----------
    importance : str, importance estimator or None
        What ranks the weights: ``"gradient"`` (SalUn's saliency), ``"weighted"`` (DEL's),
        ``"fisher_ratio"``, ``"fisher"``, ``"critmem"``, ``"sensitivity"`` (RLAP's), ``"deepest"``,
        ``"shallowest"``, ``"random"``, or an estimator. None: all weights that require a gradient.
    granularity : {"weight", "channel", "layer"}
        What is selected as a whole.
    budget : float
        Share of the weights to select, above 0 and up to 1.
    top : {"fan_in", "code", "all"} or float
        For channels: of how many of a channel's scores, its largest, the mean is taken; see
        :func:`unlearnkit.select`.
    include, exclude : str or sequence of str, optional
        Patterns of parameter names, such as ``"layer4.*"``: only these, not these.

    Attributes
    ----------
    mask_ : ParameterMask
        What could change.
    """

    importance: str | ImportanceEstimator | None = None
    granularity: Literal["weight", "channel", "layer"] = "weight"
    budget: float = 1.0
    top: Literal["fan_in", "code", "all"] | float = "fan_in"
    include: Patterns = None
    exclude: Patterns = None

    def _validate(self) -> None:
        super()._validate()
        check_choice("granularity", self.granularity, ("weight", "channel", "layer"))
        check_number("budget", self.budget, 1, "a share of the weights")
        if self.budget == 0:
            raise DataError("budget must be above 0: with 0 no weight is selected.")
        if isinstance(self.top, str):
            check_choice("top", self.top, ("fan_in", "code", "all"))
        else:
            check_number("top", self.top, 1, "'fan_in', 'code', 'all' or a share")
        for name in ("include", "exclude"):
            _check_patterns(name, getattr(self, name))
        if self.importance is not None:
            named(self.importance)
        elif self.budget < 1:
            raise DataError(EVERYTHING.format(budget=self.budget))

    def _measure(self, model: nn.Module, roles: ForgetRetain) -> Importance | None:
        measured_parameters(model)
        refuse_bad_weights(model)
        self._check_names(model)
        if self.importance is None:
            return None
        if self.random_state is not None:  # which samples share a batch counts for some importances
            seed_rng(derived(self.random_state, IMPORTANCE), roles.forget, roles.retain)
        return self._estimator().locate(model, roles, loss=self.loss, progress=self.progress)

    def _shares(self) -> Hashable:
        if self.importance is None:
            return None
        estimator = self._estimator()
        loss = self.loss if getattr(estimator, "loss", None) is None else None  # its own goes before
        return Localised, identity(estimator), self.random_state, identity(loss)

    def _fit(self, model: nn.Module, roles: ForgetRetain, measured: Importance | None) -> WeightEdit:
        self.mask_ = self._select(model, measured)
        edited = copy_of(model)
        self._edit(edited, model, roles, self.mask_, self._seed())
        return WeightEdit.between(model, edited, {"method": self._described()})

    def _select(self, model: nn.Module, measured: Importance | None) -> ParameterMask:
        patterns: dict[str, Any] = {"include": self.include, "exclude": self.exclude}
        if measured is None or self.importance is None:
            return ParameterMask.everything(model, **patterns)
        scores = self._estimator().scores(model, measured)
        return select(scores, self.budget, self.granularity, top=self.top, model=model, **patterns)

    def _estimator(self) -> ImportanceEstimator:
        """Return what ranks the weights; what it draws at random follows this one's seed."""
        given = named(self.importance)  # type: ignore[arg-type]
        names = given.get_params(deep=False)
        if self.random_state is None or names.get("random_state", 0) is not None:
            return given
        return clone(given).set_params(random_state=self.random_state)

    def _check_names(self, model: nn.Module) -> None:
        ParameterMask.everything(model, include=self.include, exclude=self.exclude)

    @abstractmethod
    def _edit(
        self, edited: nn.Module, model: nn.Module, roles: ForgetRetain, mask: ParameterMask, seed: int
    ) -> None:
        """Change the selected weights of `edited`, a copy of `model`, which stays as it is."""


def _check_patterns(name: str, given: object) -> None:
    parts = [given] if isinstance(given, str) or not isinstance(given, Sequence) else list(given)
    if given is not None and not all(isinstance(part, str) for part in parts):
        raise DataError(f"{name} must be a pattern of parameter names or a list of them, got {given!r}.")
