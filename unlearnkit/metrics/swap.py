# SPDX-License-Identifier: BSD-3-Clause
"""Unlearning quality by the swap test: an attack's advantage that exact retraining brings to 0.

Tu, Hu and Ma, "A reliable cryptographic framework for empirical machine unlearning evaluation"
(NeurIPS 2025, arXiv 2404.11577). [memory] Written from what is recalled of the paper, unverified;
the absolute value is taken after the sum over both splits, since only so does retraining get 1.

Shapes: M models of each split, F forget and T test samples, E entries (all of these together).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from torch import nn

from unlearnkit.exceptions import DataError
from unlearnkit.metrics._arrays import Array, as_floats, margin_matrix, warn_few
from unlearnkit.metrics.intervals import Seed, check_settings, generator_of
from unlearnkit.metrics.margins import margins

__all__ = ["SwapQuality", "swap_quality", "swap_quality_of_models"]

WANTED_SAMPLES = 100
Pair = tuple[Any, Any]


@dataclass(frozen=True)
class SwapQuality:
    """Unlearning quality Q and the best attack's advantage.

    Attributes
    ----------
    value, low, high : float
        Q = 1 - advantage; 1 where no attack of the family tells forgotten from unseen samples. The
        interval is a bootstrap over samples of a band that holds at *all* thresholds together, since
        the best was chosen on them; None without one.
    null, p_value : float or None
        Mean Q, and share of draws with at most this Q, when every sample's two roles are
        exchanged at random: chance alone, as much as is in the supremum over thresholds.
    attack : str
        The best attack's name.
    threshold : float
        It says "forgotten" from here on.
    advantages : Mapping[str, float]
        By attack, each at its own best threshold.
    n_samples : (int, int)
        Forget and test.
    """

    value: float
    low: float | None
    high: float | None
    null: float | None
    p_value: float | None
    attack: str
    threshold: float
    advantages: Mapping[str, float]
    n_samples: tuple[int, int]


class _Entries(NamedTuple):
    """Scores of all models and samples in falling order, and what each adds to the advantage."""

    scores: Array  # [E]
    weights: Array  # [E], positive where the sample was forgotten
    samples: Any  # [E], the number of the sample, test after forget
    last: Any  # [E], whether the next score is another one: only there a threshold can lie


def swap_quality(
    split: Pair,
    swap: Pair,
    *,
    n_permutations: int = 200,
    confidence: float = 0.95,
    n_bootstrap: int = 1000,
    random_state: Seed = 0,
) -> SwapQuality:
    """One minus the largest advantage of threshold attacks over a split and its swap.

    A model is trained on retain and forget set, and unlearns the forget set; another is trained on
    retain and *test* set, and unlearns the test set. An attack that says "forgotten" for scores from
    t on has the advantage ``|P(F forgotten) - P(T unseen) + P(T forgotten) - P(F unseen)| / 2``, P being
    the share of which it says so. A difference between the two sets themselves, which misleads
    ordinary membership inference, cancels; models retrained on the retain set alone are the same
    in both splits and get exactly 0.

    What is good: the `null`, a little below 1, since the best of all thresholds is taken.

    Weakness: the average over samples hides the few at risk, and the supremum is over the scores
    that are given: a better attack may exist. The null takes samples for independent.

    Parameters
    ----------
    split : (forget [M, F], test [M, T])
        Scores under models that were trained on the forget set and unlearned it, such as margins;
        [F] and [T] for one model. Or two mappings of these by attack: every score is thresholded for
        itself, and 0 and 1 make a decision of one.
    swap : (forget [M', F], test [M', T])
        The same scores of the same samples under models that were trained on the test set and
        unlearned it.
    n_permutations : int
        For `null` and `p_value`; 0 leaves them out.
    confidence, n_bootstrap, random_state
        Of the interval and the permutations; ``n_bootstrap=0`` leaves the interval out.

    Returns
    -------
    SwapQuality

    Raises
    ------
    DataError
        If shapes or names do not fit, a score is not finite, or a setting is out of range.

    Warns
    -----
    SmallSampleWarning
        For fewer than 100 samples of either set.
    """
    family = _family(split, swap)
    n = next(iter(family.values()))[1]
    warn_few(
        "the swap test", "samples of a set", min(n), WANTED_SAMPLES, "the best threshold fits their chance"
    )
    check_settings(confidence, max(n_bootstrap, 1))
    best = {name: _best(entries) for name, (entries, _) in family.items()}
    name = max(best, key=lambda one: best[one][0])
    advantage, threshold = best[name]
    draw = generator_of(random_state)
    null = p_value = low = high = None
    if n_permutations:
        drawn = _chance([entries for entries, _ in family.values()], sum(n), n_permutations, draw)
        null = float(1 - drawn.mean())
        p_value = float((1 + (drawn >= advantage - 1e-12).sum()) / (1 + n_permutations))
    if n_bootstrap:
        off = _deviations([entries for entries, _ in family.values()], n, n_bootstrap, draw)
        band = float(np.quantile(off, confidence))
        low, high = max(1 - advantage - band, 0.0), min(1 - advantage + band, 1.0)
    return SwapQuality(
        value=1 - advantage,
        low=low,
        high=high,
        null=null,
        p_value=p_value,
        attack=name,
        threshold=threshold,
        advantages={one: found[0] for one, found in best.items()},
        n_samples=n,
    )


def swap_quality_of_models(
    split: nn.Module | Iterable[nn.Module],
    swap: nn.Module | Iterable[nn.Module],
    forget: Any,
    test: Any,
    **settings: Any,
) -> SwapQuality:
    """`swap_quality` of the margins of models.

    Parameters
    ----------
    split : nn.Module or iterable of nn.Module
        Trained on retain and forget set, then unlearned the forget set.
    swap : nn.Module or iterable of nn.Module
        Trained on retain and test set, then unlearned the test set.
    forget, test : DataLoader, Dataset or (X, y)
    **settings
        Of `swap_quality`.

    Returns
    -------
    SwapQuality
    """
    ours = [split] if isinstance(split, nn.Module) else list(split)
    theirs = [swap] if isinstance(swap, nn.Module) else list(swap)
    of_forget, of_test = (margins([*ours, *theirs], data) for data in (forget, test))
    first = of_forget[: len(ours)], of_test[: len(ours)]
    second = of_forget[len(ours) :], of_test[len(ours) :]
    return swap_quality(first, second, **settings)


def _family(split: Pair, swap: Pair) -> dict[str, tuple[_Entries, tuple[int, int]]]:
    """Return the entries of every attack, and how many samples of either set there are."""
    given = [one if isinstance(one, Mapping) else {"score": one} for one in (*split, *swap)]
    if not given[0] or any(one.keys() != given[0].keys() for one in given):
        raise DataError(
            f"the four sets of scores must name the same attacks; got {[sorted(one) for one in given]}"
        )
    found = {}
    for name in given[0]:
        scores = [np.atleast_2d(as_floats(one[name])) for one in given]
        titles = ("forget of split", "test of split", "forget of swap", "test of swap")
        checked = [margin_matrix(one, title) for one, title in zip(scores, titles, strict=True)]
        for at in (0, 1):
            margin_matrix(checked[at + 2], titles[at + 2], samples=checked[at].shape[1])
        found[name] = _entries(*checked), (checked[0].shape[1], checked[1].shape[1])
    if len({n for _, n in found.values()}) > 1:
        raise DataError(
            f"all attacks must score the same samples; got { ({a: n for a, (_, n) in found.items()}) }"
        )
    return found


def _entries(forget: Array, test: Array, forget_swap: Array, test_swap: Array) -> _Entries:
    parts, signs = (forget, test, forget_swap, test_swap), (1, -1, -1, 1)
    first = (0, forget.shape[1], 0, forget.shape[1])
    scores = np.concatenate([part.ravel() for part in parts])
    weights = np.concatenate([np.full(p.size, s / (2 * p.size)) for p, s in zip(parts, signs, strict=True)])
    samples = np.concatenate(
        [np.tile(np.arange(p.shape[1]) + start, len(p)) for p, start in zip(parts, first, strict=True)]
    )
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order]
    return _Entries(ordered, weights[order], samples[order], np.append(ordered[:-1] != ordered[1:], True))


def _best(entries: _Entries) -> tuple[float, float]:
    """Return the largest advantage, and the threshold that has it."""
    found = np.where(entries.last, np.abs(entries.weights.cumsum()), -1)
    at = int(found.argmax())
    return float(found[at]), float(entries.scores[at])


def _chance(family: list[_Entries], samples: int, count: int, draw: np.random.Generator) -> Array:
    """Return the largest advantages when each sample's roles are exchanged with probability 1/2."""
    found = np.empty(count)
    for at in range(count):
        signs = draw.choice((-1.0, 1.0), samples)
        found[at] = max(_best(one._replace(weights=one.weights * signs[one.samples]))[0] for one in family)
    return found


def _deviations(family: list[_Entries], n: tuple[int, int], count: int, draw: np.random.Generator) -> Array:
    """Return how far a resample's difference of shares is from the sample's at most, over all thresholds."""
    found = np.empty(count)
    for at in range(count):
        times = np.concatenate([draw.multinomial(size, np.full(size, 1 / size)) for size in n])
        found[at] = max(
            _best(one._replace(weights=one.weights * (times[one.samples] - 1)))[0] for one in family
        )
    return found
