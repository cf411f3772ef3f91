# SPDX-License-Identifier: BSD-3-Clause
"""How sure a figure is: bootstrap intervals over samples, t-intervals over seeds.

An interval over samples says how far the figure would move with another draw of as many samples,
for the models at hand. It says nothing about another training seed: repeat the study for that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import sqrt
from typing import NamedTuple

import numpy as np
from numpy.random import Generator, RandomState
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from sklearn.utils import check_random_state

from unlearnkit.exceptions import DataError, SmallSampleWarning, warn

__all__ = ["Interval", "bootstrap_interval", "mean_interval", "resampled_means", "t_interval"]

Array = NDArray[np.float64]
Seed = int | RandomState | None

MAX_CELLS = 64  # with more distinct values, drawing rows is quicker than drawing their counts
CHUNK = 1 << 21  # numbers in memory at once


class Interval(NamedTuple):
    """A figure and the ends of its confidence interval."""

    value: float
    low: float
    high: float


def bootstrap_interval(
    statistic: Callable[..., float],
    *samples: ArrayLike,
    confidence: float = 0.95,
    n_bootstrap: int = 1000,
    random_state: Seed = 0,
) -> Interval:
    """Percentile bootstrap of any statistic of one or several independent samples.

    Efron and Tibshirani, "An Introduction to the Bootstrap", chapter 13. Each sample is resampled
    for itself; what is paired belongs into the columns of one.

    Parameters
    ----------
    statistic : callable
        Takes as many arrays as there are samples and returns a number.
    *samples : array_like [N, ...]
        Resampled along the first dimension. Where a sample has one value throughout, so has every
        resample, and the interval has no width: see `mean_interval` for means.
    confidence : float
        Between 0 and 1.
    n_bootstrap : int
        Resamples.
    random_state : int, RandomState or None

    Returns
    -------
    Interval

    Raises
    ------
    DataError
        If a sample is empty, the statistic is not finite, or a setting is out of range.
    """
    check_settings(confidence, n_bootstrap)
    arrays = [np.asarray(sample) for sample in samples]
    if not arrays or any(array.ndim == 0 or len(array) == 0 for array in arrays):
        shapes = [list(array.shape) for array in arrays]
        raise DataError(f"a bootstrap needs samples of at least one row each; got the shapes {shapes}")
    draw = generator_of(random_state)
    value = float(statistic(*arrays))
    drawn = np.array(
        [
            statistic(*(array[draw.integers(len(array), size=len(array))] for array in arrays))
            for _ in range(n_bootstrap)
        ],
        dtype=np.float64,
    )
    if not (np.isfinite(value) and np.isfinite(drawn).all()):
        raise DataError(
            f"the statistic must be finite on every resample; got {value} on the data and "
            f"{int((~np.isfinite(drawn)).sum())} of {n_bootstrap} resamples without a value: too few samples, or "
            "a division by something that can be 0"
        )
    return Interval(value, *percentiles(drawn, confidence))


def mean_interval(
    values: ArrayLike,
    *,
    bounds: tuple[float, float] | None = (0.0, 1.0),
    confidence: float = 0.95,
    n_bootstrap: int = 1000,
    random_state: Seed = 0,
) -> Interval:
    """Percentile bootstrap of a mean: exact binomial draws for shares, whatever their number.

    Where all values are equal the bootstrap has no width, which would claim certainty for 3 of 3.
    There the share of samples that could have deviated is bounded by Clopper and Pearson's
    ``p = 1 - ((1 - confidence) / 2) ** (1 / N)``, and the mean by all of these lying at a bound.

    Parameters
    ----------
    values : array_like [N]
        One value a sample, for example whether it is classified rightly.
    bounds : (float, float), optional
        The least and the largest value that a sample can have; None where there is none.
    confidence, n_bootstrap, random_state
        As of `bootstrap_interval`.

    Returns
    -------
    Interval

    Raises
    ------
    DataError
        If there is no value, one is not finite or out of bounds, or a setting is out of range.
    """
    check_settings(confidence, n_bootstrap)
    sample = np.asarray(values, dtype=np.float64)
    if sample.ndim != 1 or len(sample) == 0 or not np.isfinite(sample).all():
        raise DataError(
            f"a mean needs finite values [N], at least one; got the shape {list(sample.shape)} with "
            f"{int((~np.isfinite(sample)).sum())} that are not finite"
        )
    least, most, mean = float(sample.min()), float(sample.max()), float(sample.mean())
    slack = 1e-9
    if bounds is not None and (least < bounds[0] - slack or most > bounds[1] + slack):
        raise DataError(f"values must lie in {bounds}; got {least} to {most}: say bounds=, or None for none")
    if least == most and bounds is not None:
        share = 1 - ((1 - confidence) / 2) ** (1 / len(sample))
        return Interval(mean, mean - share * (mean - bounds[0]), mean + share * (bounds[1] - mean))
    drawn = resampled_means(sample[:, None], n_bootstrap, random_state)[:, 0]
    return Interval(mean, *percentiles(drawn, confidence))


def resampled_means(values: ArrayLike, n_bootstrap: int, random_state: Seed = 0) -> Array:
    """Means [B, M] of the columns of `values` [N, M] over B resamples of its rows.

    Resampling N rows of which few are distinct is one multinomial draw of how often each comes,
    exactly; for a column of 0 and 1 it is a binomial draw.
    """
    rows = np.asarray(values, dtype=np.float64)  # [N, M]
    draw, n = generator_of(random_state), len(rows)
    cells = _cells(rows)
    if cells is not None:
        distinct, counts = cells
        times = draw.multinomial(n, counts / n, size=n_bootstrap)  # [B, C]
        return times @ distinct / n
    means = np.empty((n_bootstrap, rows.shape[1]))
    step = max(1, CHUNK // n)
    for at in range(0, n_bootstrap, step):
        chosen = draw.integers(n, size=(min(step, n_bootstrap - at), n))  # [b, N]
        for column in range(rows.shape[1]):
            means[at : at + step, column] = rows[chosen, column].mean(axis=1)
    return means


def t_interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """Mean over seeds with Student's t-interval, as tables of several runs are reported.

    Parameters
    ----------
    values : sequence of float
        One figure a seed, for example the ToW of each.
    confidence : float
        Between 0 and 1.

    Returns
    -------
    Interval
        Not cut at the metric's bounds.

    Raises
    ------
    DataError
        If there are fewer than two values, or one is not finite.

    Warns
    -----
    SmallSampleWarning
        For fewer than three.
    """
    check_settings(confidence, 1)
    sample = np.asarray(values, dtype=np.float64)
    if sample.ndim != 1 or len(sample) < 2 or not np.isfinite(sample).all():
        raise DataError(
            f"an interval over seeds needs at least two finite values; got {sample.tolist()}: repeat the run "
            "with other seeds"
        )
    if len(sample) < 3:
        warn(
            "an interval over two seeds is very wide: three are the least, ten are good.", SmallSampleWarning
        )
    mean = float(sample.mean())
    half = (
        float(stats.t.ppf((1 + confidence) / 2, len(sample) - 1))
        * float(sample.std(ddof=1))
        / sqrt(len(sample))
    )
    return Interval(mean, mean - half, mean + half)


def percentiles(drawn: Array, confidence: float) -> tuple[float, float]:
    """Return what leaves (1 - confidence) / 2 of the draws at either end."""
    low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def generator_of(random_state: Seed) -> Generator:
    """Return NumPy's newer generator, which is quicker, for scikit-learn's `random_state`."""
    if isinstance(random_state, int | np.integer):
        return np.random.default_rng(int(random_state))
    return np.random.default_rng(int(check_random_state(random_state).randint(2**31)))


def check_settings(confidence: float, n_bootstrap: int) -> None:
    """Refuse settings that give no interval."""
    if not 0 < confidence < 1:
        raise DataError(f"confidence must lie between 0 and 1; got {confidence}: 0.95 for 95 %")
    if n_bootstrap < 1:
        raise DataError(f"n_bootstrap must be at least 1; got {n_bootstrap}")


def _cells(rows: Array) -> tuple[Array, NDArray[np.int64]] | None:
    """Return the distinct rows [C, M] and how often each comes [C]; None if there are many."""
    code = np.zeros(len(rows), dtype=np.int64)
    for column in rows.T:
        found, inverse = np.unique(column, return_inverse=True)
        if len(found) > MAX_CELLS:
            return None
        code = np.unique(code * len(found) + inverse, return_inverse=True)[1]
    _, first, counts = np.unique(code, return_index=True, return_counts=True)
    return (rows[first], counts) if len(first) <= MAX_CELLS else None
