# SPDX-License-Identifier: BSD-3-Clause
"""Attacks that are fitted per sample on some models and judged on others, as numbers.

A score is a log likelihood ratio, positive where the attack says "this was unlearned". It is
judged only beside scores of the same *fold*, that is of attacks fitted on the same models: with
two sets of models of one distribution these are exchangeable, and the expected AUC and accuracy
are 1/2 whatever the fit. Scores of different folds are not: the models left out lie where the
others' mean does not, and an AUC over all of them together is below 1/2 without any difference.

Shapes: U unlearned and R reference models that were judged, N samples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unlearnkit.exceptions import DataError
from unlearnkit.metrics._arrays import Array, margin_matrix, warn_few
from unlearnkit.metrics.intervals import Seed, check_settings, generator_of, percentiles

Fit = Callable[[Array, Array, Array], Array]
Fold = tuple[NDArray[np.int64], NDArray[np.int64], Array]  # rows and columns of models, wins of each pair


@dataclass(frozen=True)
class Attack:
    """How well unlearned models are told from reference models; 0.5 of each is indistinguishable.

    Attributes
    ----------
    value, low, high : float
        AUC over all pairs of models and samples, and its bootstrap interval over models (not over
        samples); None without one.
    balanced_accuracy, accuracy_low, accuracy_high : float
        Of calling unlearned what has the likelihood ratio above 1.
    tpr : Mapping[float, float]
        By false positive rate: share of unlearned cases found without calling more than that share
        of the others unlearned. Indistinguishable: the rate itself.
    n_models : (int, int)
        Unlearned and reference models judged.
    per_sample : array [N]
        AUC of each sample over models. Rests on few models each: read its distribution.
    """

    value: float
    low: float | None
    high: float | None
    balanced_accuracy: float
    accuracy_low: float | None
    accuracy_high: float | None
    tpr: Mapping[float, float]
    n_models: tuple[int, int]
    per_sample: Array = field(repr=False)


@dataclass(frozen=True)
class Judged:
    """Scores of the models of one fold: unlearned [U, N], reference [R, N]."""

    unlearned: Array
    reference: Array


def judged_models(
    fit: Fit,
    unlearned: Any,
    reference: Any,
    held_out: tuple[Any, Any] | None,
    *,
    folds: int,
    name: str,
    random_state: Seed,
) -> list[Judged]:
    """Score models by `fit(unlearned, reference, x)` of others: the held-out ones, or fold by fold."""
    least = 2 if held_out is not None else 4
    ours = margin_matrix(unlearned, "unlearned", models=least)
    theirs = margin_matrix(reference, name, models=least, samples=ours.shape[1])
    if held_out is not None:
        judged = [
            margin_matrix(one, f"held_out {title}", samples=ours.shape[1])
            for one, title in zip(held_out, ("unlearned", name), strict=True)
        ]
        return [Judged(*(fit(ours, theirs, one) for one in judged))]
    if folds < 2:
        raise DataError(
            f"folds must be at least 2; got {folds}: no model is judged by a fit that it had a part in"
        )
    draw = generator_of(random_state)
    count = min(folds, len(ours) // 2, len(theirs) // 2)
    parts = [np.array_split(draw.permutation(len(one)), count) for one in (ours, theirs)]
    found = []
    for left, right in zip(*parts, strict=True):
        rest = np.delete(ours, left, axis=0), np.delete(theirs, right, axis=0)
        found.append(Judged(fit(*rest, ours[left]), fit(*rest, theirs[right])))
    return found


def attack(
    judged: Sequence[Judged],
    rates: Sequence[float],
    confidence: float,
    n_bootstrap: int,
    random_state: Seed,
) -> Attack:
    """Summarise the scores of all folds; every pair of models within one weighs the same."""
    if any(not 0 < rate < 1 for rate in rates):
        raise DataError(f"false positive rates must lie between 0 and 1; got {list(rates)}: 0.001 for 0.1 %")
    pairs, hits = _pairs(judged), _hits(judged)
    ones = np.ones(len(hits[0])), np.ones(len(hits[1]))
    value, accuracy = _auc(pairs, *ones), _accuracy(hits, *ones)
    low = high = accuracy_low = accuracy_high = None
    if n_bootstrap:
        check_settings(confidence, n_bootstrap)
        draw = generator_of(random_state)
        drawn = [_drawn(pairs, hits, draw) for _ in range(n_bootstrap)]
        kept = np.array([pair for pair in drawn if np.isfinite(pair[0])])
        low, high = _widened(percentiles(kept[:, 0], confidence), value, len(judged))
        accuracy_low, accuracy_high = _widened(percentiles(kept[:, 1], confidence), accuracy, len(judged))
    cases = min(fold.reference.size for fold in judged)
    if rates:
        wanted = round(1 / min(rates))
        warn_few(
            f"the TPR at {min(rates):.1%} FPR",
            "reference cases",
            cases,
            wanted,
            "with fewer it is the TPR without any",
        )
    return Attack(
        value=value,
        low=low,
        high=high,
        balanced_accuracy=accuracy,
        accuracy_low=accuracy_low,
        accuracy_high=accuracy_high,
        tpr={
            rate: float(np.mean([tpr_at(f.unlearned, f.reference, rate) for f in judged])) for rate in rates
        },
        n_models=(len(hits[0]), len(hits[1])),
        per_sample=_per_sample(judged),
    )


def tpr_at(positive: Array, negative: Array, rate: float) -> float:
    """Largest share of `positive` above a threshold that at most `rate` of `negative` exceeds."""
    allowed = int(np.floor(rate * negative.size + 1e-9))
    threshold = np.sort(negative, axis=None)[::-1][allowed]
    return float((positive > threshold).mean())


def _pairs(judged: Sequence[Judged]) -> list[Fold]:
    """Of each fold, which models it judged, and over which share of cases each pair's first wins [U, R]."""
    found, rows, columns = [], 0, 0
    for fold in judged:
        n = fold.unlearned.shape[1]
        wins = np.empty((len(fold.unlearned), len(fold.reference)))
        for at, scores in enumerate(fold.reference):
            ordered = np.sort(scores)
            below, upto = (np.searchsorted(ordered, fold.unlearned, side) for side in ("left", "right"))
            wins[:, at] = (below + upto).mean(axis=1) / (2 * n)
        found.append((rows + np.arange(wins.shape[0]), columns + np.arange(wins.shape[1]), wins))
        rows, columns = rows + wins.shape[0], columns + wins.shape[1]
    return found


def _hits(judged: Sequence[Judged]) -> tuple[Array, Array]:
    """Of each model the share of samples at which it is called what it is; half at a ratio of 1."""
    signs = ((np.sign(fold.unlearned), -np.sign(fold.reference)) for fold in judged)
    ours, theirs = zip(*signs, strict=True)
    first, second = ((1 + np.concatenate(one)).mean(axis=1) / 2 for one in (ours, theirs))
    return first, second


def _auc(pairs: Sequence[Fold], ours: Array, theirs: Array) -> float:
    """AUC where each model counts as often as is said."""
    won = sum(ours[rows] @ wins @ theirs[columns] for rows, columns, wins in pairs)
    cases = sum(ours[rows].sum() * theirs[columns].sum() for rows, columns, _ in pairs)
    return float(won / cases) if cases else float("nan")


def _accuracy(hits: tuple[Array, Array], ours: Array, theirs: Array) -> float:
    return float((np.average(hits[0], weights=ours) + np.average(hits[1], weights=theirs)) / 2)


def _drawn(
    pairs: Sequence[Fold], hits: tuple[Array, Array], draw: np.random.Generator
) -> tuple[float, float]:
    """AUC and accuracy of one resample of the models."""
    times = [draw.multinomial(len(one), np.full(len(one), 1 / len(one))).astype(float) for one in hits]
    return _auc(pairs, *times), _accuracy(hits, times[0], times[1])


def _widened(interval: tuple[float, float], value: float, folds: int) -> tuple[float, float]:
    """Widen an interval for folds, whose fits share models, so that they err alike.

    By the factor of Nadeau and Bengio, "Inference for the generalization error" (2003), for the
    standard deviation: ``sqrt(1 + folds * tested / fitted)``. Without it the interval of 95 % held
    0.5 in 85 % of simulated nulls.
    """
    factor = np.sqrt(1 + folds / (folds - 1)) if folds > 1 else 1.0
    low, high = (value + factor * (end - value) for end in interval)
    return max(float(low), 0.0), min(float(high), 1.0)


def _per_sample(judged: Sequence[Judged]) -> Array:
    """AUC of each sample over the pairs of models within a fold [N]."""
    won = sum(
        ((1 + np.sign(one - fold.reference)).sum(axis=0) / 2 for fold in judged for one in fold.unlearned),
        start=np.zeros(judged[0].unlearned.shape[1]),
    )
    return won / sum(len(fold.unlearned) * len(fold.reference) for fold in judged)
