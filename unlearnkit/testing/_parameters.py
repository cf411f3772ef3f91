# SPDX-License-Identifier: BSD-3-Clause
"""Parameters, as scikit-learn has them: stored in ``__init__``, checked in ``fit``."""

from __future__ import annotations

import inspect
import math
import numbers
import pickle
from typing import Any

from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from unlearnkit.exceptions import UnlearnError
from unlearnkit.testing._task import NotToBeRead, Task
from unlearnkit.testing._tools import (
    Check,
    fresh,
    refused,
    require,
    require_equal_tensors,
    require_same,
)


class Nonsense:
    """A value that no parameter can have."""


@Check
def check_init_stores_parameters(estimator: Any) -> None:
    """``__init__`` stores every parameter under its name, as it is, and does nothing else."""
    kind = type(estimator)
    signature = inspect.signature(kind)
    kinds = {parameter.kind for parameter in signature.parameters.values()}
    some = kinds & {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}
    require(not some, "__init__ takes *args or **kwargs: name every parameter.")
    given = {name: Nonsense() for name in signature.parameters}
    try:
        made = kind(**given)
    except Exception as error:
        require(False, f"__init__ raises {error!r} on a wrong value: check parameters in fit.")
    changed = [name for name, value in given.items() if getattr(made, name, None) is not value]
    require(not changed, f"{changed} are not what was given: convert them in fit, not before.")
    more = sorted(set(vars(made)) - set(given))
    require(not more, f"__init__ sets {more}, which are no parameters.")


@Check
def check_get_and_set_params(estimator: Any) -> None:
    """``get_params`` and ``set_params`` know the parameters of ``__init__``, and no others."""
    names = sorted(inspect.signature(type(estimator)).parameters)
    require(sorted(estimator.get_params(deep=False)) == names, "get_params names others.")
    for name in names:
        value = Nonsense()
        require(estimator.set_params(**{name: value}) is estimator, "set_params returns self.")
        require(estimator.get_params(deep=False)[name] is value, f"{name} was set, and is not got.")
    with refused("set_params of an unknown name", ValueError, naming=("no_such_parameter",)):
        estimator.set_params(no_such_parameter=1)


@Check
def check_clone(estimator: Any) -> None:
    """``clone`` gives an unfitted estimator with the same parameters."""
    Task().fit(estimator)
    copied = clone(estimator)
    require(type(copied) is type(estimator), f"the clone is a {type(copied).__name__}.")
    learned = sorted(name for name in vars(copied) if name not in copied.get_params(deep=False))
    require(not learned, f"the clone holds {learned}.")
    require(repr(copied) == repr(estimator), "the clone has other parameters.")


@Check
def check_repr(estimator: Any) -> None:
    """The estimator shows itself by its name and parameters, in text and in a notebook."""
    name, before = type(estimator).__name__, repr(estimator)
    require(before.startswith(f"{name}("), f"repr is {before!r}, expected {name}(...).")
    require(name in estimator._repr_html_(), "the notebook's picture lacks the name.")
    Task().fit(estimator)
    require(repr(estimator) == before, "repr changes with fit.")
    require(name in estimator._repr_html_(), "the notebook's picture lacks the name after fit.")
    for parameter in estimator.get_params(deep=False):
        shown = repr(fresh(estimator).set_params(**{parameter: "another value"}))
        require(f"{parameter}='another value'" in shown, f"repr does not show {parameter}.")


@Check
def check_fit_keeps_parameters(estimator: Any) -> None:
    """``fit`` leaves the parameters alone."""
    before = estimator.get_params(deep=False)
    Task().fit(estimator)
    changed = [n for n, value in estimator.get_params(deep=False).items() if value is not before[n]]
    require(not changed, f"fit sets the parameters {changed}: learned values have names in _.")


@Check
def check_wrong_parameters_are_named(estimator: Any) -> None:
    """A parameter of a wrong kind, or NaN, is refused by name before any data is read."""
    task = Task()
    defaults = inspect.signature(type(estimator)).parameters
    for name, value in estimator.get_params(deep=False).items():
        for wrong in _wrong_values(value, defaults[name].default):
            asked = fresh(estimator).set_params(**{name: wrong})
            with refused(f"{name}={wrong!r}", UnlearnError, ValueError, TypeError, naming=(name,)):
                asked.fit(task.model, NotToBeRead(), NotToBeRead())


def _wrong_values(value: Any, default: Any) -> list[Any]:
    if isinstance(value, bool):
        return []  # everything is true or false
    wrong: list[Any] = ["no such choice", Nonsense()]
    if isinstance(value, numbers.Real):
        wrong.append(math.nan)
    if default is not None:
        wrong.append(None)
    return wrong


@Check
def check_not_fitted(estimator: Any) -> None:
    """``transform`` before ``fit`` is scikit-learn's NotFittedError."""
    with refused("transform before fit", NotFittedError, naming=(type(estimator).__name__,)):
        estimator.transform(Task().model)


@Check
def check_pickle(estimator: Any) -> None:
    """A fitted estimator comes out of a pickle as it went in."""
    task = Task()
    task.fit(estimator)
    back = pickle.loads(pickle.dumps(estimator))
    require(repr(back) == repr(estimator), "the parameters differ.")
    require(sorted(vars(back)) == sorted(vars(estimator)), "what was learned has other names.")
    require_same(back.edit_, estimator.edit_, "Pickled and not")
    require_equal_tensors(
        back.transform(task.model), estimator.transform(task.model), "What transform returns"
    )
