# SPDX-License-Identifier: BSD-3-Clause
"""Forgetting quality of the NeurIPS 2023 competition: an empirical epsilon for every sample.

Triantafillou et al., "Are we making progress in unlearning? Findings from the first NeurIPS
unlearning competition" (arXiv 2406.09073); thresholds and rules are those of its code,
``metric.py``.

Shapes: M models, N samples.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import ceil, log
from typing import Any

import numpy as np

from unlearnkit.exceptions import DataError
from unlearnkit.metrics._arrays import Array, margin_matrix, warn_few
from unlearnkit.metrics._epsilon import DELTA, epsilon_of_sample, epsilon_table
from unlearnkit.metrics.intervals import Seed, generator_of, mean_interval

__all__ = ["ForgettingQuality", "competition_score", "forgetting_epsilons", "forgetting_quality", "points"]

WANTED_MODELS = 100
BIN = 0.5


@dataclass(frozen=True)
class ForgettingQuality:
    """Forgetting quality F and the epsilons behind it.

    Attributes
    ----------
    value, low, high : float
        F, the mean of the samples' points, and its bootstrap interval over them; None without one.
    null, null_epsilon : float or None
        F and the mean epsilon when the models are exchanged at random between the two sets: what
        perfect forgetting gets with as many models. This is the target, not 1.
    epsilon : float
        Mean over the samples of what is capped at 50.
    n_models : (int, int)
        Unlearned and retrained.
    per_sample : array [N]
        Epsilons: 0 is indistinguishable, 50 told apart at once.
    """

    value: float
    low: float | None
    high: float | None
    null: float | None
    epsilon: float
    null_epsilon: float | None
    n_models: tuple[int, int]
    per_sample: Array = field(repr=False)


def forgetting_quality(
    unlearned: Any,
    retrained: Any,
    *,
    delta: float = DELTA,
    n_permutations: int = 10,
    confidence: float = 0.95,
    n_bootstrap: int = 1000,
    random_state: Seed = 0,
) -> ForgettingQuality:
    """Mean of points ``2 ** -b`` for a sample whose epsilon lies in bin b of width 0.5.

    Each sample's epsilon is the best that any attack of two families finds from how often it errs
    over the models (see `forgetting_epsilons`). Samples beyond ``ceil(log(M - 1))`` get no points.

    What is good: the value of `null`. *Exact retraining does not get 1*, but about 0.19, a mean epsilon
    of 1.5, for 16 models a side as for 2,000. A single threshold's epsilon goes to 0 with more
    models; the best of all does not: of the three largest margins exactly two are of the positive set
    in 3 of 8 samples, and a threshold below these has a ratio of 2, an epsilon of log 2, whatever
    M. Only identical arrays get an epsilon of 0.

    Weakness: it needs hundreds of models (the competition took 512), and is a lower bound of the
    true epsilon only for those attacks, without a confidence statement.

    Parameters
    ----------
    unlearned : Tensor or array_like [M, N]
        Margins of the forget samples under unlearned models, each from its own seed.
    retrained : Tensor or array_like [M', N]
        The same under models trained without them; the competition takes M' = M.
    delta : float
        Of (epsilon, delta).
    n_permutations : int
        For `null`; each takes as long as the value itself. 0 leaves it out.
    confidence, n_bootstrap, random_state
        Of the interval over samples and of the permutations; ``n_bootstrap=0`` leaves the interval out.

    Returns
    -------
    ForgettingQuality

    Raises
    ------
    DataError
        If shapes do not fit, a margin is not finite, a set has fewer than 3 models, or a setting is
        out of range.

    Warns
    -----
    SmallSampleWarning
        For fewer than 100 models of a set.
    """
    ours = margin_matrix(unlearned, "unlearned", models=3)
    theirs = margin_matrix(retrained, "retrained", models=3, samples=ours.shape[1])
    if n_permutations < 0:
        raise DataError(f"n_permutations must be at least 0; got {n_permutations}")
    fewest = min(len(ours), len(theirs))
    warn_few("the forgetting quality", "models of a set", fewest, WANTED_MODELS, "compare it with its null")
    epsilons = forgetting_epsilons(ours, theirs, delta)
    found = points(epsilons, fewest)
    pool, draw = np.concatenate([ours, theirs]), generator_of(random_state)
    mixed = []
    for _ in range(n_permutations):
        order = draw.permutation(len(pool))
        mixed.append(forgetting_epsilons(pool[order[: len(ours)]], pool[order[len(ours) :]], delta))
    low = high = None
    if n_bootstrap:
        _, low, high = mean_interval(
            found, confidence=confidence, n_bootstrap=n_bootstrap, random_state=random_state
        )
    return ForgettingQuality(
        value=float(found.mean()),
        low=low,
        high=high,
        null=float(np.mean([points(one, fewest) for one in mixed])) if mixed else None,
        epsilon=float(epsilons.mean()),
        null_epsilon=float(np.mean(mixed)) if mixed else None,
        n_models=(len(ours), len(theirs)),
        per_sample=epsilons,
    )


def forgetting_epsilons(unlearned: Any, retrained: Any, delta: float = DELTA) -> Array:
    """Epsilon of each sample, from the errors of attacks that threshold its margin.

    The set with the larger median is the positive one for ``phi >= t``, the one with the smaller range
    for ``l <= phi <= r``. Thresholds are 100 per unit of margin. Where exactly one of the false
    positive and false negative rate is 0 a threshold is dropped, where both are, epsilon is
    infinite; else it is ``max(log((1 - delta - FPR) / FNR), log((1 - delta - FNR) / FPR), 0)``.
    The largest counts, cut at 50, which is also given where one range is below 1 % of the other's.

    Two cases that the reference leaves open: two sets that are one and the same value have epsilon
    0, and where no threshold is left the margins themselves are the thresholds (then 50 if still
    none). The reference as published ends there, with an ``assert`` on an array.

    Parameters
    ----------
    unlearned, retrained : Tensor or array_like [M, N], [M', N]
    delta : float

    Returns
    -------
    array [N]
    """
    ours = margin_matrix(unlearned, "unlearned")
    theirs = margin_matrix(retrained, "retrained", samples=ours.shape[1])
    if not 0 <= delta < 1:
        raise DataError(f"delta must lie in [0, 1); got {delta}")
    table = epsilon_table(len(ours), len(theirs), delta)  # [M + 1, M' + 1] by how many err
    pairs = zip(np.sort(ours.T, axis=1), np.sort(theirs.T, axis=1), strict=True)
    return np.array([epsilon_of_sample(mine, other, table) for mine, other in pairs])


def points(epsilons: Array, models: int) -> Array:
    """Points of each sample: 1 for an epsilon below 0.5, half as many for each further 0.5.

    Parameters
    ----------
    epsilons : array [N]
    models : int
        M; beyond ``ceil(log(M - 1))`` there are no points.

    Returns
    -------
    array [N]
        In [0, 1].
    """
    bins = np.floor(np.asarray(epsilons) / BIN)
    last = ceil(log(max(models - 1, 1))) / BIN
    return np.where(bins < last, 2.0 ** -np.minimum(bins, 100), 0.0)


def competition_score(
    quality: float, retain: float, test: float, retrained_retain: float, retrained_test: float
) -> float:
    """Final score of the competition: ``F * (RA / RA_retrained) * (TA / TA_retrained)``.

    Parameters
    ----------
    quality : float
        F, the value of `forgetting_quality`.
    retain, test : float
        Accuracies of the unlearned models, as fractions (means over the models).
    retrained_retain, retrained_test : float
        The same of the retrained models.

    Returns
    -------
    float
        About F for a method that keeps what it should. More than F is possible.

    Raises
    ------
    DataError
        If a value is no fraction, or a retrained model's accuracy is 0.
    """
    given = {"quality": quality, "retain": retain, "test": test}
    for name, value in (
        given | {"retrained_retain": retrained_retain, "retrained_test": retrained_test}
    ).items():
        if not 0 <= value <= 1 or (name not in given and value == 0):
            raise DataError(f"{name} must be a fraction in [0, 1], of a retrained model above 0; got {value}")
    return quality * (retain / retrained_retain) * (test / retrained_test)
