# SPDX-License-Identifier: BSD-3-Clause
"""Epsilon of one sample from the margins of two sets of models.

An attack's epsilon depends only on how many models of each set it mistakes, so all pairs of counts
are worked out once in a table, and a threshold is two counts found by bisection.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from unlearnkit.metrics._arrays import Array

CAP = 50.0
DELTA = 1e-5
PER_UNIT = 100  # thresholds
BUFFER = 2.0  # how far thresholds go beyond what they enclose
GRID = int(2 * BUFFER * PER_UNIT)  # T, the ends on either side
MOST = 10**6  # thresholds in a grid; over a wider range the margins themselves divide the models as well
PEAKY = 0.01  # ratio of ranges below which the two are called told apart

Indices = NDArray[np.int64]
Pair = tuple[Indices, Indices]


def epsilon_table(ours: int, theirs: int, delta: float) -> Array:
    """Epsilon by how many of either set are mistaken [ours + 1, theirs + 1]; -inf where dropped.

    It is the same whichever set is called positive: exchanging false positives and false negatives
    exchanges the two terms of the maximum.
    """
    a = np.arange(ours + 1)[:, None] / ours
    b = np.arange(theirs + 1)[None, :] / theirs
    with np.errstate(divide="ignore", invalid="ignore"):
        both = np.log(1 - delta - a) - np.log(b), np.log(1 - delta - b) - np.log(a)
    table = np.fmax(*both)  # NaN where an error rate is 1: nothing to say
    table = np.where(np.isnan(table), -np.inf, np.maximum(table, 0))
    table[0, :] = table[:, 0] = -np.inf
    table[0, 0] = np.inf
    return table


def epsilon_of_sample(ours: Array, theirs: Array, table: Array) -> float:
    """Largest epsilon of all attacks; an attack calls positive what lies in a window [l, r].

    Parameters
    ----------
    ours, theirs : array [M], [M']
        Sorted margins.
    table : array [M + 1, M' + 1]
        Of `epsilon_table`.
    """
    wide, narrow = np.ptp(ours), np.ptp(theirs)
    ours_peaky = bool(wide < narrow)
    if ours_peaky:
        wide, narrow = narrow, wide
    if wide == 0 and ours[0] == theirs[0]:
        return 0.0
    if narrow < PEAKY * wide or wide == 0:
        return CAP
    ours_above = bool(np.median(ours) >= np.median(theirs))
    if wide == narrow:  # then the reference calls the lower one the peaky one
        ours_peaky = not ours_above
    values = np.unique(np.concatenate([ours, theirs]))
    peaky = ours if ours_peaky else theirs

    def best(left: Array, right: Array, pair: Pair, ours_positive: bool) -> float:
        mine, other = (_inside(one, left, right, pair) for one in (ours, theirs))
        mine, other = (len(ours) - mine, other) if ours_positive else (mine, len(theirs) - other)
        return float(table[mine, other].max(initial=-np.inf))

    def above(thresholds: Array) -> float:
        at = np.arange(len(thresholds))
        return best(thresholds, np.full_like(thresholds, np.inf), (at, at), ours_above)

    count = int(np.ceil(np.ptp(values) * PER_UNIT))
    grid = np.linspace(values[0], values[-1], count) if count <= MOST else values
    found = max(above(grid), best(*_around(ours, theirs, peaky), ours_peaky))
    if found == -np.inf:
        found = max(above(values), best(values, values, np.triu_indices(len(values)), ours_peaky))
    return CAP if found == -np.inf else min(found, CAP)


def _around(ours: Array, theirs: Array, peaky: Array) -> tuple[Array, Array, Pair]:
    """Return left and right ends around all of the peakier set, up to 2 beyond and 2 within, and their pairs.

    There are T right ends, and T left ends of each, at the same offsets from it less the range. So
    there are 2 T - 1 different left ends, and the jth of the ith right end is number i + j. Of ends
    between which no margin lies one is enough.
    """
    right = peaky[-1] + np.linspace(-BUFFER, BUFFER, GRID)  # [T]
    left = peaky[0] + np.linspace(-2 * BUFFER, 2 * BUFFER, 2 * GRID - 1)  # [2 T - 1]
    first, last = _runs(ours, theirs, right, "right")
    start, stop = _runs(ours, theirs, left, "left")
    # Some i of a run of right ends and some k = i + j of one of left ends, j from 0 to T - 1.
    fits = (stop >= first[:, None]) & (start <= last[:, None] + GRID - 1)
    at, k = fits.nonzero()
    return left[start], right[first], (k, at)


def _runs(ours: Array, theirs: Array, ends: Array, side: Literal["left", "right"]) -> tuple[Indices, Indices]:
    """Return first and last index of each run of ends that divide the margins alike."""
    counts = np.searchsorted(ours, ends, side) + np.searchsorted(theirs, ends, side)
    starts = np.flatnonzero(np.diff(counts, prepend=-1))
    return starts, np.append(starts[1:], len(ends)) - 1


def _inside(margins: Array, left: Array, right: Array, pair: Pair) -> Indices:
    """Return how many margins lie in [left, right], of each pair of indices into the two."""
    below, upto = np.searchsorted(margins, left, "left"), np.searchsorted(margins, right, "right")
    return np.maximum(upto[pair[1]] - below[pair[0]], 0)  # a window with l > r is empty
