# SPDX-License-Identifier: BSD-3-Clause
"""KLoM: how far the margins of unlearned models are distributed from those of retrained ones.

Georgiev et al., "Attribute-to-delete: machine unlearning via datamodel matching" (arXiv
2410.23232), appendix E.1; bins and floor are those of the authors' code.

Shapes: M models, N samples, B bins.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from unlearnkit.exceptions import DataError
from unlearnkit.metrics._arrays import Array, margin_matrix, warn_few
from unlearnkit.metrics.intervals import Seed, generator_of, mean_interval

__all__ = ["KLoM", "klom", "klom_by_set", "klom_per_sample"]

WANTED_MODELS, FEW_MODELS = 100, 16


@dataclass(frozen=True)
class KLoM:
    """Divergence from retrained models, in nats; read it between `null` and `ceiling`.

    Attributes
    ----------
    value, low, high : float
        Mean over the samples and its bootstrap interval over them; None without one.
    p95 : float
        The 95th percentile over the samples.
    null, null_p95 : float
        The same when the models are exchanged at random between the two sets: what there is
        without any difference, with as many models. The target. (Of sets that lie far apart the
        mixture has wide bins and a lower null.)
    floor, floor_p95 : float or None
        The same of one half of the oracles against the other, as the paper shows it. Halves have half as
        many models, and with few models this can lie above a value that is far from the null.
        None below 4 oracles.
    ceiling, ceiling_p95 : float or None
        The same of the original models against the oracles: what there is without unlearning.
    n_models : (int, int)
        Unlearned models and oracles.
    per_sample : array [N]
    """

    value: float
    low: float | None
    high: float | None
    p95: float
    null: float
    null_p95: float
    floor: float | None
    floor_p95: float | None
    ceiling: float | None
    ceiling_p95: float | None
    n_models: tuple[int, int]
    per_sample: Array = field(repr=False)


def klom(
    unlearned: Any,
    oracles: Any,
    originals: Any = None,
    *,
    bins: int = 20,
    clip: float = 100.0,
    least: float = 1e-5,
    n_splits: int = 5,
    confidence: float = 0.95,
    n_bootstrap: int = 1000,
    random_state: Seed = 0,
) -> KLoM:
    """KL divergence of margins: of histograms over models, sample by sample.

    What is good: the null. Report it for the forget, the retain and a validation set *separately*
    (`klom_by_set`): a method may be close on one and far on another.

    Weakness: a divergence of histograms from few models is mostly chance, since every unlearned
    margin in a bin without an oracle costs ``log(p / 1e-5)``. For normal margins of one distribution
    it is about 4 nats with 16 models a side, 0.35 with 100 and 0.02 with 1,000: never read it
    without its null. The interval is over samples, for the models at hand.

    Parameters
    ----------
    unlearned : Tensor or array_like [M, N]
        Margins of models that were trained with the forget set and then unlearned it, each from
        its own seed.
    oracles : Tensor or array_like [M', N]
        Margins of models trained without it.
    originals : Tensor or array_like [M'', N], optional
        Margins of the models before unlearning, for the ceiling.
    bins : int
        Equal bins between the least and the largest margin of the two sets, both within.
    clip : float
        Margins are cut to [-clip, clip] first.
    least : float
        What an empty bin of the oracles counts as.
    n_splits : int
        Random exchanges and halvings that the null and the floor are means of.
    confidence, n_bootstrap, random_state
        Of the interval over samples, and of these; ``n_bootstrap=0`` leaves the interval out.

    Returns
    -------
    KLoM

    Raises
    ------
    DataError
        If shapes do not fit, a margin is not finite, a set has fewer than 2 models, or a setting is
        out of range.

    Warns
    -----
    SmallSampleWarning
        For fewer than 100 models of a set.
    """
    ours = margin_matrix(unlearned, "unlearned", models=2)
    n = ours.shape[1]
    theirs = margin_matrix(oracles, "oracles", models=2, samples=n)
    _check(bins, clip, least, n_splits)
    fewest = min(len(ours), len(theirs))
    why = "with so few it is hardly more than chance" if fewest < FEW_MODELS else "compare it with its null"
    warn_few("KLoM", "models of a set", fewest, WANTED_MODELS, why)

    def divergence(first: Array, second: Array) -> Array:
        return klom_per_sample(first, second, bins=bins, clip=clip, least=least)

    found = divergence(ours, theirs)  # [N]
    pool = np.concatenate([ours, theirs])
    null = np.array(
        [divergence(*pair) for pair in _divided(pool, len(ours), len(pool), n_splits, random_state)]
    )
    half = len(theirs) // 2
    halves = _divided(theirs, half, 2 * half, n_splits, random_state) if half >= 2 else []
    floor = np.array([divergence(*pair) for pair in halves])  # [S, N]
    before = margin_matrix(originals, "originals", models=2, samples=n) if originals is not None else None
    ceiling = None if before is None else divergence(before, theirs)
    low = high = None
    if n_bootstrap:
        _, low, high = mean_interval(
            found, bounds=None, confidence=confidence, n_bootstrap=n_bootstrap, random_state=random_state
        )
    return KLoM(
        value=float(found.mean()),
        low=low,
        high=high,
        p95=_p95(found),
        null=float(null.mean()),
        null_p95=float(np.mean([_p95(one) for one in null])),
        floor=float(floor.mean()) if len(floor) else None,
        floor_p95=float(np.mean([_p95(one) for one in floor])) if len(floor) else None,
        ceiling=None if ceiling is None else float(ceiling.mean()),
        ceiling_p95=None if ceiling is None else _p95(ceiling),
        n_models=(len(ours), len(theirs)),
        per_sample=found,
    )


def klom_by_set(
    unlearned: Mapping[str, Any],
    oracles: Mapping[str, Any],
    originals: Mapping[str, Any] | None = None,
    **settings: Any,
) -> dict[str, KLoM]:
    """`klom` of each set of samples, such as "forget", "retain" and "validation".

    Parameters
    ----------
    unlearned, oracles, originals : Mapping[str, array_like [M, N]]
        Margins by the name of the set.
    **settings
        Of `klom`.

    Returns
    -------
    dict[str, KLoM]

    Raises
    ------
    DataError
        If the mappings name different sets, and as `klom`.
    """
    for name, given in (("oracles", oracles), ("originals", originals)):
        if given is not None and given.keys() != unlearned.keys():
            raise DataError(
                f"unlearned has the sets {sorted(unlearned)} and {name} {sorted(given)}: name the same"
            )
    return {
        name: klom(margins, oracles[name], None if originals is None else originals[name], **settings)
        for name, margins in unlearned.items()
    }


def klom_per_sample(
    unlearned: Array, oracles: Array, *, bins: int = 20, clip: float = 100.0, least: float = 1e-5
) -> Array:
    """``sum_b p_b log(p_b / max(q_b, least))`` over the bins b with p_b > 0, sample by sample.

    p and q are histograms of the clipped margins over models. The largest margin of all lies in the
    last bin; with ``numpy.digitize``, as in a public reimplementation, it falls out.

    Parameters
    ----------
    unlearned, oracles : array [M, N], [M', N]
        Of which p and q are the histograms.
    bins, clip, least
        As of `klom`.

    Returns
    -------
    array [N]
        In nats. It can be slightly negative where `least` adds to q.
    """
    first, second = (np.clip(one, -clip, clip) for one in (unlearned, oracles))
    low = np.minimum(first.min(axis=0), second.min(axis=0))
    high = np.maximum(first.max(axis=0), second.max(axis=0))
    edges = np.linspace(low, np.where(high > low, high, low + 1), bins + 1)  # [B + 1, N]
    p, q = (_histogram(one, edges) for one in (first, second))  # [B, N]
    ratio = np.where(p > 0, p, 1) / np.where(p > 0, np.maximum(q, least), 1)
    return (p * np.log(ratio)).sum(axis=0)


def _histogram(x: Array, edges: Array) -> Array:
    """Share of the rows of `x` in each bin [B, N], as ``numpy.histogram`` has it."""
    bins, n = len(edges) - 1, x.shape[1]
    at = ((x - edges[0]) / (edges[-1] - edges[0]) * bins).astype(np.int64).clip(0, bins - 1)  # [M, N]
    at -= x < np.take_along_axis(edges, at, axis=0)  # rounding at an edge
    at += (x >= np.take_along_axis(edges, at + 1, axis=0)) & (at < bins - 1)
    counts = np.bincount((at * n + np.arange(n)).ravel(), minlength=bins * n)
    return counts.reshape(bins, n) / len(x)


def _divided(
    models: Array, first: int, last: int, times: int, random_state: Seed
) -> list[tuple[Array, Array]]:
    """Return random divisions of the models into [first] and [last - first]."""
    draw = generator_of(random_state)
    orders = [draw.permutation(len(models)) for _ in range(times)]
    return [(models[order[:first]], models[order[first:last]]) for order in orders]


def _p95(values: Array) -> float:
    return float(np.quantile(values, 0.95))


def _check(bins: int, clip: float, least: float, n_splits: int) -> None:
    if bins < 2 or n_splits < 1 or not clip > 0 or not 0 < least < 1:
        raise DataError(
            "klom needs bins of at least 2, n_splits of at least 1, clip above 0 and least between 0 and 1; got "
            f"{bins}, {n_splits}, {clip} and {least}"
        )
