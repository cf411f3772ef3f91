# SPDX-License-Identifier: BSD-3-Clause
"""The suite: which checks an estimator has to pass, and how they are run."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from unlearnkit.base import Unlearner
from unlearnkit.testing import _arguments, _conduct, _data, _edit, _models, _parameters
from unlearnkit.testing._tools import Check, CheckFailed

CHECKS: tuple[Check, ...] = tuple(
    found
    for module in (_conduct, _parameters, _arguments, _data, _models, _edit)
    for found in vars(module).values()
    if isinstance(found, Check)
)
"""Every check, those for some estimators only included."""


def checks_for(estimator: Unlearner) -> list[Check]:
    """Return the checks that an estimator has to pass.

    They follow from its class: what it needs of the retain set (``needs_retain``), and which
    parameters it has.

    Parameters
    ----------
    estimator : Unlearner
        An instance; its parameters are those that are checked.

    Returns
    -------
    list of Check
        Functions of an estimator, with a ``__name__``, that raise `CheckFailed`.

    Raises
    ------
    TypeError
        If `estimator` is no instance of an Unlearner.
    """
    given: object = estimator
    if isinstance(given, type):
        name = given.__name__
        raise TypeError(f"expected an instance of an Unlearner, got the class {name}: pass {name}().")
    if not isinstance(given, Unlearner):
        raise TypeError(
            f"expected an instance of an Unlearner, got {type(given).__name__}: derive the method "
            "from unlearnkit.base.Unlearner."
        )
    return [check for check in CHECKS if check.applies(estimator)]


def check_unlearner(estimator: Unlearner) -> None:
    """Check that an estimator keeps what every method of unlearnkit promises.

    Each check runs on a clone, on models and data made on the spot; all of them take some seconds.

    Parameters
    ----------
    estimator : Unlearner
        With the parameters to check. They must suit a problem of 96 samples.

    Raises
    ------
    CheckFailed
        If a promise is broken. All that are broken are listed; the first one's traceback is shown.

    Examples
    --------
    >>> from unlearnkit import SSD
    >>> from unlearnkit.testing import check_unlearner
    >>> check_unlearner(SSD(alpha=5))  # doctest: +SKIP
    """
    checks, failures = checks_for(estimator), {}
    for check in checks:
        try:
            check(estimator)
        except CheckFailed as failure:
            failures[check.__name__] = failure
    if failures:
        lines = [f"{estimator!r} fails {len(failures)} of {len(checks)} checks:"]
        lines += [f"  {name}: {failure}" for name, failure in failures.items()]
        raise CheckFailed("\n".join(lines)) from next(iter(failures.values()))


def parametrize_with_checks(estimators: Iterable[Unlearner]) -> Any:
    """Return a pytest decorator that makes each check of each estimator a test.

    Parameters
    ----------
    estimators : iterable of Unlearner
        Instances.

    Returns
    -------
    decorator
        For a test function of the arguments ``estimator`` and ``check``.

    Examples
    --------
    >>> from unlearnkit import SSD
    >>> from unlearnkit.testing import parametrize_with_checks
    >>> @parametrize_with_checks([SSD(), SSD(importance="per_sample")])
    ... def test_method(estimator, check):
    ...     check(estimator)
    """
    import pytest  # no dependency: whoever calls this has it

    pairs = [
        pytest.param(estimator, check, id=f"{_short(estimator)}-{check.__name__}")
        for estimator in estimators
        for check in checks_for(estimator)
    ]
    return pytest.mark.parametrize(("estimator", "check"), pairs)


def _short(estimator: Unlearner) -> str:
    return " ".join(repr(estimator).split())
