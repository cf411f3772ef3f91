# SPDX-License-Identifier: BSD-3-Clause
"""The candidates of a search as they are typed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from scipy import stats

from unlearnkit.base import Unlearner
from unlearnkit.cli._errors import WrongUse
from unlearnkit.cli._methods import MAKERS, check_parameter, method, with_settings
from unlearnkit.cli._values import setting, split, value_of, values_of

DRAWN = {
    "uniform": lambda low, high: stats.uniform(low, high - low),
    "loguniform": stats.loguniform,
    "randint": stats.randint,
}


def estimators_of(names: Sequence[str], settings: Sequence[str]) -> dict[str, Unlearner]:
    """Return the methods of a search by their names, with the settings that concern them.

    Raises
    ------
    WrongUse
        If a name or a parameter is unknown, or a method occurs twice.
    """
    found: dict[str, Unlearner] = {}
    for text in names:
        estimator = method(text)
        kind = type(estimator).__name__
        if kind in found:
            raise WrongUse(f"--method {text} is given twice; values to try of one method are a --grid.")
        found[kind] = estimator
    for text in settings:
        for kind, rest in _targets(found, text, "--set").items():
            with_settings(found[kind], [rest])
    return found


def grids_of(estimators: dict[str, Unlearner], grids: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return the grid of each method: values, or a distribution, by parameter.

    Raises
    ------
    WrongUse
        If a parameter is unknown or is given twice, or a value is missing.
    """
    found: dict[str, dict[str, Any]] = {}
    for text in grids:
        for kind, rest in _targets(estimators, text, "--grid").items():
            name, values = setting(rest, "--grid")
            grid = found.setdefault(kind, {})
            if name in grid:
                raise WrongUse(f"--grid {text}: {name} of {kind} is given twice.")
            drawn = len(split(values)) == 1 and values.partition("(")[0] in DRAWN
            grid[name] = value_of(values, "--grid", DRAWN) if drawn else values_of(values, "--grid", MAKERS)
    return found


def _targets(estimators: dict[str, Unlearner], text: str, option: str) -> dict[str, str]:
    """Return which methods ``NAME=VALUE`` or ``SSD.NAME=VALUE`` concerns, and of each the part without its name."""
    name, value = setting(text, option)
    kind, dot, own = name.partition(".")
    by_lower = {known.lower(): known for known in estimators}
    if dot:
        if kind.lower() not in by_lower:
            raise WrongUse(f"{option} {text}: {kind!r} is none of the methods, {', '.join(estimators)}.")
        kind = by_lower[kind.lower()]
        check_parameter(estimators[kind], own, f"{option} {text}")
        return {kind: f"{own}={value}"}
    found = [kind for kind, one in estimators.items() if name in one.get_params(deep=False)]
    if not found:
        check_parameter(next(iter(estimators.values())), name, f"{option} {text}")
    return dict.fromkeys(found, text)
