# SPDX-License-Identifier: BSD-3-Clause
"""How far an unlearned model is from one that was retrained without the forget set (the oracle).

Both functions take what `evaluate` returns: accuracies as fractions, keyed by data set.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

from unlearnkit.exceptions import DataError

__all__ = ["avg_gap", "tow"]

_SETS = ("forget", "retain", "test")


def tow(unlearned: Mapping[str, float], oracle: Mapping[str, float]) -> float:
    """Tug of war: the product over forget, retain and test of ``1 - |a_u - a_r|``.

    From "What makes unlearning hard and what to do about it" (RUM, NeurIPS 2024).

    Parameters
    ----------
    unlearned, oracle : Mapping[str, float]
        Accuracies in [0, 1] under the keys "forget", "retain" and "test"; others are ignored.

    Returns
    -------
    float
        In [0, 1]; 1 if and only if the three accuracies are equal. Equal accuracies do not mean
        equal models: two that err on different samples score 1.

    Raises
    ------
    DataError
        If a key is missing or a value is no fraction.
    """
    return prod(1 - _gap(unlearned, oracle, key) for key in _SETS)


def avg_gap(unlearned: Mapping[str, float], oracle: Mapping[str, float]) -> float:
    """Mean absolute difference to the oracle, SalUn's "Avg. Gap" as a fraction.

    Parameters
    ----------
    unlearned, oracle : Mapping[str, float]
        Fractions under the keys "forget", "retain" and "test", and "mia" where both have it
        (the paper's average is of all four).

    Returns
    -------
    float
        In [0, 1]; 0 is best.

    Raises
    ------
    DataError
        If a key is missing or a value is no fraction.
    """
    keys = [*_SETS, "mia"] if "mia" in unlearned and "mia" in oracle else _SETS
    return sum(_gap(unlearned, oracle, key) for key in keys) / len(keys)


def _gap(unlearned: Mapping[str, float], oracle: Mapping[str, float], key: str) -> float:
    for name, results in (("unlearned", unlearned), ("oracle", oracle)):
        if key not in results:
            raise DataError(
                f"the {name} model's results lack {key!r}; got {sorted(results)}: "
                "unlearnkit.metrics.evaluate returns all of them"
            )
        if not 0 <= results[key] <= 1:
            raise DataError(
                f"{key!r} of the {name} model must be a fraction in [0, 1]; got {results[key]}: "
                "divide percent by 100"
            )
    return abs(unlearned[key] - oracle[key])
