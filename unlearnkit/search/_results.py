# SPDX-License-Identifier: BSD-3-Clause
"""The table of a search, in the columns of scikit-learn's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from unlearnkit.search._work import Row


def table(rows: Sequence[Row], names: Sequence[str], repeats: int, error_score: float) -> dict[str, Any]:
    """Return ``cv_results_``: a column an array, a row a candidate; a split is a repeat.

    Parameters
    ----------
    rows : sequence of Row
        In the order of the candidates.
    names : sequence of str
        Of the scores.
    repeats : int
        How often each was fitted.
    error_score : float
        The scores of a candidate that failed.
    """
    found: dict[str, Any] = {}
    for column, values in (("fit", "fit_seconds"), ("score", "score_seconds")):
        seconds = [getattr(row, values) or [np.nan] for row in rows]
        found[f"mean_{column}_time"] = np.array([np.mean(each) for each in seconds])
        found[f"std_{column}_time"] = np.array([np.std(each) for each in seconds])
    found["estimator"] = np.array([row.candidate.name for row in rows], dtype=object)
    for name in dict.fromkeys(name for row in rows for name in row.candidate.params):
        chosen: Any = np.ma.array(np.full(len(rows), None), mask=True, dtype=object)
        for at, row in enumerate(rows):
            if name in row.candidate.params:
                chosen[at] = row.candidate.params[name]
        found[f"param_{name}"] = chosen
    found["params"] = [row.candidate.params for row in rows]
    means = []
    for name in names:
        splits = np.full((repeats, len(rows)), np.nan)  # [repeats, candidates]
        for at, row in enumerate(rows):
            splits[:, at] = [scores[name] for scores in row.scores] if row.scores else np.nan
            if row.error:
                splits[:, at] = error_score
        for repeat, split in enumerate(splits):
            found[f"split{repeat}_test_{name}"] = split
        means.append(splits.mean(0))
        found[f"mean_test_{name}"], found[f"std_test_{name}"] = means[-1], splits.std(0)
        found[f"rank_test_{name}"] = ranks(means[-1])
    found["is_pareto"] = pareto(np.stack(means, axis=1))
    found["n_changed"] = np.array([np.mean(row.changed) if row.changed else np.nan for row in rows])
    found["collapsed"] = np.array([row.collapsed for row in rows])
    found["error"] = np.array([row.error for row in rows], dtype=object)
    found["warnings"] = [row.warnings for row in rows]
    return found


def ranks(scores: NDArray[np.float64]) -> NDArray[np.int32]:
    """Return the place of each score, 1 the highest, equal ones alike, NaN last."""
    return rankdata(-np.where(np.isnan(scores), -np.inf, scores), method="min").astype(np.int32)


def pareto(scores: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return which rows of scores [C, S] no other row beats: as good in all, and better in one."""
    known = ~np.isnan(scores).any(1)
    front = known.copy()
    for at in np.flatnonzero(known):
        others = scores[known]
        front[at] = not ((others >= scores[at]).all(1) & (others > scores[at]).any(1)).any()
    return front
