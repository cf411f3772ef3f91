# SPDX-License-Identifier: BSD-3-Clause
"""Estimators by name, for what can be said in a word."""

from __future__ import annotations

from collections.abc import Callable

from unlearnkit.exceptions import DataError
from unlearnkit.importance.chance import RandomScore
from unlearnkit.importance.critmem import CritMem
from unlearnkit.importance.depth import LayerDepth
from unlearnkit.importance.estimator import ImportanceEstimator
from unlearnkit.importance.fisher import FisherDiagonal
from unlearnkit.importance.gradient import GradientSaliency, WeightedSaliency
from unlearnkit.importance.ratio import FisherRatio
from unlearnkit.importance.saliency import LogitNorm
from unlearnkit.importance.sensitivity import Sensitivity

NAMES: dict[str, Callable[[], ImportanceEstimator]] = {
    "fisher": FisherDiagonal,
    "fisher_ratio": FisherRatio,
    "gradient": GradientSaliency,
    "weighted": WeightedSaliency,
    "logit_norm": LogitNorm,
    "critmem": CritMem,
    "sensitivity": Sensitivity,
    "deepest": lambda: LayerDepth("deepest"),
    "shallowest": lambda: LayerDepth("shallowest"),
    "random": RandomScore,
}


def named(importance: str | ImportanceEstimator) -> ImportanceEstimator:
    """Return the estimator of a name, with its defaults; an estimator as it is.

    Raises
    ------
    DataError
        If there is none of that name; it lists those that there are.

    Examples
    --------
    >>> from unlearnkit.importance import named
    >>> named("weighted")
    WeightedSaliency()
    """
    if isinstance(importance, ImportanceEstimator):
        return importance
    if isinstance(importance, str) and importance in NAMES:
        return NAMES[importance]()
    raise DataError(
        f"importance must be one of {', '.join(map(repr, NAMES))}, or an importance estimator such as "
        f"WeightedSaliency(on='all'), got {importance!r}."
    )
