# SPDX-License-Identifier: BSD-3-Clause
"""What a search tries: estimators, each with some of the settings of its grid."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.model_selection import ParameterGrid, ParameterSampler

from unlearnkit.base import Unlearner
from unlearnkit.exceptions import DataError

Grid = Mapping[str, Any] | Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Candidate:
    """An estimator as it will be fitted.

    Attributes
    ----------
    index : int
        Its row of the results.
    name : str
        Of its estimator.
    estimator : Unlearner
        A clone of its own, with the parameters set.
    params : dict
        What was chosen for it.
    """

    index: int
    name: str
    estimator: Unlearner
    params: dict[str, Any]


def named_estimators(given: Any) -> dict[str, Unlearner]:
    """Return estimators by name; where none is given, a class's name, numbered where it occurs twice.

    Raises
    ------
    DataError
        If one of them is no estimator of this library's kind.
    """
    if isinstance(given, Mapping):
        named = dict(given)
    elif isinstance(given, list | tuple):
        kinds = [type(each).__name__ for each in given]
        seen: Counter[str] = Counter()
        named = {}
        for kind, each in zip(kinds, given, strict=True):
            seen[kind] += 1
            named[kind if kinds.count(kind) == 1 else f"{kind}-{seen[kind]}"] = each
    else:
        named = {type(given).__name__: given}
    if not named:
        raise DataError("there is no estimator to search over: give one, a list, or a dict by name.")
    for name, each in named.items():
        if isinstance(each, type) or not isinstance(each, Unlearner):
            hint = f"; write {each.__name__}()" if isinstance(each, type) else ""
            raise DataError(
                f"{name!r} must be an estimator such as ASSD(), got {each!r}{hint}. A search takes one "
                "estimator, a list of them, or a dict by name."
            )
    return named


def grids_of(given: Any, names: Sequence[str], is_one: bool) -> dict[str, Grid]:
    """Return the grid of each estimator that has one.

    Raises
    ------
    DataError
        If the grid names estimators that are not there, or is none.
    """
    if given is None:
        return {}
    if is_one:
        return {names[0]: _checked(given, names[0])}
    if not isinstance(given, Mapping) or not set(given) <= set(names):
        unknown = sorted(map(str, set(given) - set(names))) if isinstance(given, Mapping) else given
        raise DataError(
            f"with several estimators param_grid is a dict of grids by estimator, {list(names)}; got {unknown!r}, "
            f"which is none of them. Write {{{names[0]!r}: {{'parameter': [values]}}}}."
        )
    return {name: _checked(grid, name) for name, grid in given.items()}


def candidates_of(
    estimators: Mapping[str, Unlearner], grids: Mapping[str, Grid], n_iter: int | None, seed: int
) -> list[Candidate]:
    """Return every candidate: of each estimator its whole grid, or `n_iter` draws from it.

    Raises
    ------
    DataError
        If a parameter is unknown, or a distribution is given where nothing is drawn.
    """
    found: list[Candidate] = []
    for name, estimator in estimators.items():
        for params in _settings(grids.get(name, {}), n_iter, seed, name):
            try:
                # values are cloned too: an estimator in a grid would be one object in many candidates
                chosen = clone(estimator).set_params(**clone(params, safe=False))
            except (ValueError, TypeError, AttributeError) as error:  # no such parameter, or none within it
                raise DataError(f"{name} has no parameters {params}: {error}") from error
            found.append(Candidate(len(found), name, chosen, params))
    return found


def _settings(grid: Grid, n_iter: int | None, seed: int, name: str) -> list[dict[str, Any]]:
    parts = [grid] if isinstance(grid, Mapping) else list(grid)
    drawn = [key for part in parts for key, values in part.items() if hasattr(values, "rvs")]
    if n_iter is None:
        if drawn:
            raise DataError(
                f"{name}: {drawn[0]} is a distribution, of which there is no whole grid: set n_iter= to say how "
                "many settings to draw."
            )
        return list(ParameterGrid(grid))
    if not drawn and len(ParameterGrid(grid)) <= n_iter:
        return list(ParameterGrid(grid))
    return list(ParameterSampler(grid, n_iter, random_state=seed))


def _checked(grid: Any, name: str) -> Grid:
    parts = [grid] if isinstance(grid, Mapping) else grid
    if (
        not isinstance(parts, list | tuple)
        or not parts
        or not all(isinstance(part, Mapping) for part in parts)
    ):
        raise DataError(f"the grid of {name} must be a dict of lists, or a list of such; got {grid!r}.")
    for part in parts:
        for key, values in part.items():
            if hasattr(values, "rvs"):
                continue
            is_array = isinstance(values, np.ndarray) and values.ndim == 1
            if isinstance(values, str) or not (is_array or isinstance(values, Sequence)):
                remedy = "list(...) makes one"
                if isinstance(values, str) or not isinstance(values, Iterable):
                    remedy = f"write {{{key!r}: [{values!r}]}} for one value"
                raise DataError(
                    f"{name}: the values of {key} must be a list, an array of one dimension, or a distribution; got "
                    f"{values!r}: {remedy}."
                )
            if len(values) == 0:
                raise DataError(
                    f"{name}: the list of values of {key} is empty: leave it out, or give it values."
                )
    return grid
