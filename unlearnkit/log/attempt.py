# SPDX-License-Identifier: BSD-3-Clause
"""One fit as a log does it: the same bits whenever it is done, and nothing it says is lost."""

from __future__ import annotations

import hashlib
import inspect
import re
import warnings
from typing import Any, NamedTuple

from sklearn.base import BaseEstimator, clone
from torch import nn

from unlearnkit.data import preserved_rng, seed_rng
from unlearnkit.edit import WeightEdit
from unlearnkit.exceptions import DataError, UnlearnWarning
from unlearnkit.metrics import Timer


class Attempt(NamedTuple):
    """What a fit yields: the edit, the seconds it took, and the warnings of the library."""

    edit: WeightEdit
    seconds: float
    warnings: tuple[str, ...]


def described(estimator: BaseEstimator) -> str:
    """Return an estimator with all that is not as it is by default, whole, and the same in every process."""
    defaults = inspect.signature(type(estimator)).parameters
    shown = [
        f"{name}={value!r}"
        for name, value in estimator.get_params(deep=False).items()
        if repr(value) != repr(defaults[name].default)
    ]
    text = f"{type(estimator).__name__}({', '.join(shown)})"
    return re.sub(r"\s+", " ", re.sub(r" at 0x[0-9a-fA-F]+", "", text))


def prepared(estimator: Any, random_state: int, request_id: str) -> Any:
    """Return a clone in which every ``random_state`` that is None has a seed of the request's own.

    Raises
    ------
    DataError
        If it is no estimator of this library.
    """
    if not isinstance(estimator, BaseEstimator) or not hasattr(estimator, "fit"):
        raise DataError(
            f"the estimator must be one of this library's, such as ASSD(), got {type(estimator).__name__}."
        )
    copy = clone(estimator)
    for name, value in sorted(copy.get_params(deep=True).items()):
        if name.rpartition("__")[2] == "random_state" and value is None:
            copy.set_params(**{name: seed_of(random_state, request_id, name)})
    return copy


def seed_of(random_state: int, request_id: str, what: str) -> int:
    """Return a seed that depends on all three, the same on every machine."""
    text = f"{random_state}\0{request_id}\0{what}".encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(text, digest_size=4).digest(), "big") >> 1


def attempt(
    estimator: Any, model: nn.Module, seed: int, forget: Any, retain: Any, validation: Any
) -> Attempt:
    """Fit, and return what came of it.

    What loaders and data sets draw at random they draw from `seed`, and the caller's random state is
    given back. Warnings are raised again at the place where they were: where they are errors, the fit
    has failed.
    """
    with warnings.catch_warnings(record=True) as raised, preserved_rng(forget, retain, validation):
        warnings.simplefilter("always")
        seed_rng(seed, forget, retain, validation)
        with Timer() as timer:
            estimator.fit(model, retain=retain, forget=forget, validation=validation)
    for one in raised:
        warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)
    said = tuple(str(one.message) for one in raised if issubclass(one.category, UnlearnWarning))
    return Attempt(estimator.edit_, timer.seconds, said)
