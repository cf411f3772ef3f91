# SPDX-License-Identifier: BSD-3-Clause
"""How far an unlearned model is from one that was retrained without the forget set (the oracle).

The functions take what `evaluate` returns: accuracies as fractions, keyed by data set.

Their common weakness: equal accuracies do not mean equal models, and one oracle is one draw of a
training seed. A distance below that between two oracles tells nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite, prod

from unlearnkit.exceptions import DataError

__all__ = ["avg_gap", "avg_gap_ends", "retention", "rte", "tow", "tow_ends", "tow_mia"]

_SETS = ("forget", "retain", "test")
Ends = tuple[float, float]


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
        In [0, 1]; 1 is best, if and only if the three accuracies are equal. Equal accuracies do
        not mean equal models: two that err on different samples score 1.

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


def tow_mia(unlearned: Mapping[str, float], oracle: Mapping[str, float]) -> float:
    """Tug of war whose forget term compares the attack's success in place of the accuracy.

    ``(1 - |mia_u - mia_r|) * prod over retain and test of (1 - |a_u - a_r|)``, from RUM (NeurIPS
    2024); mia is the share that SalUn's confidence attack calls non-members (`confidence_mia`), and
    its weakness is this metric's too.

    Parameters
    ----------
    unlearned, oracle : Mapping[str, float]
        Fractions under the keys "mia", "retain" and "test"; others are ignored.

    Returns
    -------
    float
        In [0, 1]; 1 is best.

    Raises
    ------
    DataError
        If a key is missing or a value is no fraction.
    """
    return prod(1 - _gap(unlearned, oracle, key) for key in ("mia", "retain", "test"))


def retention(unlearned: Mapping[str, float], oracle: Mapping[str, float], key: str) -> float:
    """Accuracy as a multiple of the oracle's: "Deep Unlearn"'s RetRetain, RetForget and RetTest.

    Parameters
    ----------
    unlearned, oracle : Mapping[str, float]
        Accuracies in [0, 1].
    key : {"retain", "forget", "test"}

    Returns
    -------
    float
        At least 0; 1 is best: more than 1 on the forget set is too little forgotten.

    Raises
    ------
    DataError
        If the oracle's accuracy is 0, as where a whole class was left out, or as for `tow`.
    """
    _gap(unlearned, oracle, key)
    if oracle[key] == 0:
        raise DataError(
            f"retention on {key!r} divides by the oracle's accuracy, which is 0: compare differences, as tow "
            "and avg_gap do"
        )
    return unlearned[key] / oracle[key]


def rte(seconds: float, retrain_seconds: float) -> float:
    """Run-time efficiency: how many times faster than retraining ("Deep Unlearn"'s RTE).

    Only fair where both were timed on one machine, and where the search for the method's
    parameters is counted or said to be left out.

    Parameters
    ----------
    seconds, retrain_seconds : float
        Wall-clock seconds of unlearning and of training anew, as `Timer` measures.

    Returns
    -------
    float
        Positive; above 1 is faster than retraining.

    Raises
    ------
    DataError
        If one is not a positive number.
    """
    for name, value in (("seconds", seconds), ("retrain_seconds", retrain_seconds)):
        if not (isfinite(value) and value > 0):
            raise DataError(f"{name} must be a positive number; got {value}: measure it with a Timer")
    return retrain_seconds / seconds


def tow_ends(differences: Sequence[Ends]) -> Ends:
    """Ends of ToW over all differences that lie within the given ends.

    A distance has its least value at 0, where percentiles of resampled distances never cover it:
    resampling the oracle itself gives a distance too. So the ends come from the signed differences.
    With simultaneous intervals of these (each at ``1 - (1 - confidence) / k`` for k of them) the
    result holds at the confidence, on the safe side; it includes 1 where none of the differences is
    significant.

    Parameters
    ----------
    differences : sequence of (float, float)
        Ends of ``a_u - a_r`` of each data set.
    """
    gaps = [_absolute(ends) for ends in differences]
    return prod(max(0.0, 1 - most) for _, most in gaps), prod(1 - least for least, _ in gaps)


def avg_gap_ends(differences: Sequence[Ends]) -> Ends:
    """Ends of the average gap over all differences that lie within the given ends, as `tow_ends`."""
    gaps = [_absolute(ends) for ends in differences]
    return sum(least for least, _ in gaps) / len(gaps), sum(most for _, most in gaps) / len(gaps)


def _absolute(ends: Ends) -> Ends:
    low, high = ends
    return 0.0 if low <= 0 <= high else min(abs(low), abs(high)), max(abs(low), abs(high))


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
