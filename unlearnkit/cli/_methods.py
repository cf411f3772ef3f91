# SPDX-License-Identifier: BSD-3-Clause
"""Estimators by name, with parameters as they are typed."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from sklearn.base import BaseEstimator

from unlearnkit import finding, importance, methods
from unlearnkit.base import Unlearner
from unlearnkit.cli._errors import WrongUse, near
from unlearnkit.cli._values import Makers, setting, value_of
from unlearnkit.finding import Finder
from unlearnkit.importance import ImportanceEstimator
from unlearnkit.importance.names import NAMES
from unlearnkit.methods import Trainer

_Estimator = TypeVar("_Estimator", bound=BaseEstimator)


def _classes(module: Any, kind: type) -> dict[str, type[Any]]:
    """Return what a package exports of a kind, by name."""
    found = {name: getattr(module, name) for name in module.__all__}
    return {
        name: one
        for name, one in found.items()
        if inspect.isclass(one) and issubclass(one, kind) and one is not kind
    }


METHODS: dict[str, type[Unlearner]] = _classes(methods, Unlearner)
IMPORTANCES: dict[str, type[ImportanceEstimator]] = _classes(importance, ImportanceEstimator)
MAKERS: Makers = {
    **IMPORTANCES,
    **_classes(finding, Finder),
    **_classes(methods, Finder),
    "Trainer": Trainer,
}
"""What may stand in a value, as in ``--set "importance=WeightedSaliency(on='all')"``."""


def method(name: str, settings: Sequence[str] = ()) -> Unlearner:
    """Return a method with its parameters set.

    Raises
    ------
    WrongUse
        If there is none of that name, or it has no such parameter.
    """
    return with_settings(_known(name, METHODS, "--method", "method")(), settings)


def measure(name: str, settings: Sequence[str] = ()) -> ImportanceEstimator:
    """Return an importance estimator, by the name of its class or by its short name.

    Raises
    ------
    WrongUse
        As :func:`method`.
    """
    if name in NAMES:
        return with_settings(NAMES[name](), settings)
    return with_settings(_known(name, IMPORTANCES, "--importance", "importance", list(NAMES))(), settings)


def with_settings(estimator: _Estimator, settings: Sequence[str], option: str = "--set") -> _Estimator:
    """Set parameters from texts ``NAME=VALUE``.

    Raises
    ------
    WrongUse
        If one is not of this form, occurs twice, or is no parameter of the estimator.
    """
    given: dict[str, Any] = {}
    for text in settings:
        name, value = setting(text, option)
        check_parameter(estimator, name, f"{option} {text}")
        if name in given:
            raise WrongUse(f"{option} {text}: {name} is set twice.")
        given[name] = value_of(value, option, MAKERS)
    return estimator.set_params(**given)


def check_parameter(estimator: BaseEstimator, name: str, where: str) -> None:
    """Check that an estimator has a parameter of that name which a command line can set.

    Raises
    ------
    WrongUse
        If it has none; its parameters are listed.
    """
    known = estimator.get_params(deep=False)
    kind = type(estimator).__name__
    if name == "reference" and name in known:
        raise WrongUse(f"{where}: a stored importance is given by --reference FILE.")
    if name == "loss" and name in known:
        raise WrongUse(f"{where}: a loss is given by --loss train.py:loss.")
    if name not in known:
        raise WrongUse(
            f"{where}: {kind} has no parameter {name!r}{near(name, known)}. It has {', '.join(known)}."
        )


def spelled(estimator: BaseEstimator) -> str:
    """Return an estimator in one line, the same in every process."""
    return re.sub(" at 0x[0-9a-fA-F]+", "", " ".join(repr(estimator).split()))


def supply(estimator: BaseEstimator, values: Mapping[str, Any]) -> None:
    """Set those of some parameters that the estimator has, and that are not None."""
    known = estimator.get_params(deep=False)
    estimator.set_params(
        **{name: value for name, value in values.items() if name in known and value is not None}
    )


def _known(
    name: str, classes: Mapping[str, type[Any]], option: str, what: str, others: Sequence[str] = ()
) -> type[Any]:
    by_lower = {known.lower(): known for known in classes}
    if name.lower() not in by_lower:
        raise WrongUse(
            f"{option} {name}: there is no {what} of that name{near(name, [*classes, *others])}. "
            f"There are {', '.join([*classes, *others])}."
        )
    return classes[by_lower[name.lower()]]
