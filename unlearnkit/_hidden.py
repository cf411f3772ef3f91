# SPDX-License-Identifier: BSD-3-Clause
"""A method that scikit-learn's searches must not take for theirs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import update_wrapper
from types import MethodType
from typing import Any

REMEDY = (
    "scikit-learn's model selection cuts X and y into folds, fits on some and scores on the rest; a model that is "
    "to forget has no such folds. Use unlearnkit.UnlearnSearch: it takes the same grids, as in "
    "UnlearnSearch({name}(), param_grid).fit(model, retain, forget, validation=held_out, oracle=retrained)"
)


class hidden_from_sklearn:  # noqa: N801 - a decorator
    """Make a method an error to scikit-learn's searches, which look for ``score`` before anything else.

    They would otherwise go on and fail where nobody can tell why. For every other caller it is a method.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        update_wrapper(self, function)  # type: ignore[arg-type]

    def __get__(self, instance: Any, owner: type | None = None) -> Callable[..., Any]:
        if instance is None:
            return self.function
        caller = sys._getframe(1).f_globals.get("__name__", "")
        if caller.startswith(("sklearn.metrics.", "sklearn.model_selection.")):
            raise TypeError(REMEDY.format(name=type(instance).__name__))
        return MethodType(self.function, instance)
