# SPDX-License-Identifier: BSD-3-Clause
"""What a check is made of: a promise, whose promise it is, and ways to say what broke it."""

from __future__ import annotations

import copy
import functools
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.base import clone
from torch import nn

from unlearnkit.data import preserved_rng
from unlearnkit.edit import WeightEdit
from unlearnkit.exceptions import DataError, UnlearnError, UnlearnWarning, UnsupportedModuleError
from unlearnkit.parameters import bits, named_tensors


class CheckFailed(AssertionError):  # noqa: N818  (a verdict, as AssertionError is)
    """An estimator breaks a promise that every method of unlearnkit makes."""


@dataclass(frozen=True)
class Check:
    """A promise of every method, as a function of an estimator.

    Attributes
    ----------
    body : callable
        Takes an unfitted estimator of its own, and raises `CheckFailed` where the promise is
        broken. The first line of its docstring is the promise.
    applies : callable
        Whether an estimator makes this promise.
    """

    body: Callable[[Any], None]
    applies: Callable[[Any], bool] = lambda estimator: True

    @classmethod
    def where(cls, applies: Callable[[Any], bool]) -> Callable[[Callable[[Any], None]], Check]:
        """Return a decorator for checks of some estimators only."""
        return functools.partial(cls, applies=applies)

    @property
    def __name__(self) -> str:
        """Name of the check, as a report shows it."""
        return self.body.__name__

    @property
    def promise(self) -> str:
        """What is checked, in a sentence."""
        return (self.body.__doc__ or "").split("\n\n")[0].strip()

    def __call__(self, estimator: Any) -> None:
        """Run the check on a clone of `estimator`, from the same random state every time.

        Raises
        ------
        CheckFailed
            If the promise is broken.
        """
        with warnings.catch_warnings(), preserved_rng():
            warnings.simplefilter("ignore", UnlearnWarning)  # on a toy, edits may ruin the model
            torch.manual_seed(0)
            np.random.seed(0)
            try:
                self.body(fresh(estimator))
            except CheckFailed as failure:
                failure.args = (f"{self.promise} {failure}",)
                raise
            except Exception as error:
                raise CheckFailed(
                    f"{self.promise} No error was expected, but there was a {type(error).__name__}: {error}"
                ) from error

    def __repr__(self) -> str:
        return self.__name__


def fresh(estimator: Any) -> Any:
    """Return an unfitted copy whose random states are set, those of nested estimators too."""
    try:
        copied = clone(estimator)
    except (RuntimeError, TypeError, AttributeError):
        copied = copy.deepcopy(estimator)  # `check_clone` says what is wrong; the others go on
    unset = [
        name
        for name, value in copied.get_params().items()
        if value is None and name.rpartition("__")[2] == "random_state"
    ]
    return copied.set_params(**dict.fromkeys(unset, 0))


# which estimators ------------------------------------------------------------------------------


def needs_retain(estimator: Any) -> bool:
    """Whether a method must know anything of the retain set."""
    return estimator.needs_retain != "nothing"


def needs_samples(estimator: Any) -> bool:
    """Whether a method must have the retain samples themselves."""
    return estimator.needs_retain == "data"


def finds_forget(estimator: Any) -> bool:
    """Whether a method finds out what is to be forgotten."""
    return bool(estimator.finds_forget)


def takes_importance(estimator: Any) -> bool:
    """Whether an importance can stand in for the retain samples."""
    return estimator.needs_retain == "importance"


def has_parameter(name: str) -> Callable[[Any], bool]:
    """Whether a method has a parameter of that name."""
    return lambda estimator: name in estimator.get_params(deep=False)


# what must hold --------------------------------------------------------------------------------


def require(condition: bool, message: str) -> None:
    """Fail with a message unless a condition holds."""
    if not condition:
        raise CheckFailed(message)


def require_same(first: WeightEdit, second: WeightEdit, what: str) -> None:
    """Fail unless two edits agree in every bit."""
    if first == second:
        return
    for name in {**first, **second}:
        if name not in first or name not in second:
            where = f"{name} is changed by one of them only"
            break
        if (first[name].before, first[name].after) != (second[name].before, second[name].after):
            where = f"{name} comes out different"
            break
    raise CheckFailed(f"{what}: the edits should agree in every bit, but {where}.")


def require_equal_tensors(first: nn.Module, second: nn.Module, what: str) -> None:
    """Fail unless two models hold the same bits under the same names."""
    mine, its = named_tensors(first), named_tensors(second)
    require(list(mine) == list(its), f"{what}: the tensors' names differ.")
    for name, tensor in mine.items():
        same = tensor.dtype == its[name].dtype and torch.equal(bits(tensor), bits(its[name]))
        require(same, f"{what}: {name} differs.")


def require_close(first: nn.Module, second: nn.Module, what: str) -> None:
    """Fail unless two models hold the same values to rounding.

    One weight in a hundred may differ: rounding can carry it over a threshold of selection.
    """
    far = total = 0
    for mine, its in zip(named_tensors(first).values(), named_tensors(second).values(), strict=True):
        scale = mine.abs().max().double() if mine.numel() else 0
        far += int(((mine.double() - its.double()).abs() > 1e-3 * scale).sum())
        total += mine.numel()
    require(
        far <= 0.01 * total,
        f"{what}: {far} of {total} values differ by more than rounding explains.",
    )


@contextmanager
def refused(what: str, *kinds: type[Exception], naming: tuple[str, ...] = ()) -> Iterator[None]:
    """Fail unless the block raises one of `kinds`, with a message that has each of some words."""
    wanted = " or ".join(kind.__name__ for kind in kinds)
    try:
        yield
    except kinds as error:
        said = str(error).lower()
        missing = [word for word in naming if word.lower() not in said]
        require(not missing, f"{what}: the error should name {missing}; it says: {error}")
        require(len(said) > 20, f"{what}: the error should say what to do; it says: {error!r}")
    except CheckFailed:
        raise
    except Exception as error:
        raise CheckFailed(
            f"{what} must be a {wanted} that says what to do, but is a {type(error).__name__}: {error}"
        ) from error
    else:
        raise CheckFailed(f"{what} must be a {wanted}, but nothing was raised.")


def works_or_refuses(estimator: Any, fit: Callable[[], Any], what: str) -> bool:
    """Return whether `fit` works; fail where it refuses and names no parameter as the way out."""
    try:
        fit()
    except (DataError, UnsupportedModuleError) as error:
        require(
            names_a_parameter(estimator, error),
            f"{what} is refused, and the error names no parameter of {type(estimator).__name__} "
            f"that would help (as in alpha=5, or 'leave alpha out'); it says: {error}",
        )
        return False
    return True


def names_a_parameter(estimator: Any, error: UnlearnError) -> bool:
    """Whether an error says what to do with a parameter, perhaps one of a nested estimator."""
    names = "|".join({name.rpartition("__")[2] for name in estimator.get_params()})
    return re.search(rf"\b({names})=|leave ({names}) out", str(error)) is not None
