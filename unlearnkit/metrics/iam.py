# SPDX-License-Identifier: BSD-3-Clause
"""IAM: how completely each single sample was unlearned, from one shadow model on.

"Towards lifecycle unlearning commitment management: measuring sample-level unlearning
completeness" (USENIX Security 2025, arXiv 2506.06112); the formulas are those of its code,
``iam_score.py``.

Shapes: S shadow models, N samples.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from torch import nn

from unlearnkit.exceptions import DataError
from unlearnkit.metrics._arrays import Array, as_floats, margin_matrix, margin_vector, warn_few
from unlearnkit.metrics.intervals import Seed, mean_interval
from unlearnkit.metrics.margins import margins

__all__ = ["IAM", "iam", "iam_of_models", "iam_signal"]

EULER = 0.5772  # Euler's gamma to the digits of the authors' code
LEAST_SPREAD = 1e-10
WANTED_SAMPLES = 20


@dataclass(frozen=True)
class IAM:
    """Unlearning completeness.

    Attributes
    ----------
    value, low, high : float
        Mean over the samples and its bootstrap interval over them; None without one.
    level : float
        The mean that models never trained on the samples get: each shadow model beside the others
        (a single one beside itself, which is somewhat high). This is the target, not 1. Clearly
        below it: under-unlearned; clearly above it: the samples are treated worse than unseen
        ones, which is over-unlearning.
    untouched : float or None
        The mean of the original model, where it was given: forgetting has not begun there.
    per_sample, level_per_sample : array [N]
        In [0, 1]: what `value` and `level` are the means of.
    n_shadows : int
    """

    value: float
    low: float | None
    high: float | None
    level: float
    untouched: float | None
    n_shadows: int
    per_sample: Array = field(repr=False)
    level_per_sample: Array = field(repr=False)


def iam_signal(phi: Any, eps1: float = 1e-2, eps2: float = 1e-5) -> Array:
    """Signal ``g = -log(eps1 - log(p + eps2))`` of the label's probability ``p = sigmoid(phi)``.

    Parameters
    ----------
    phi : Tensor or array_like
        Margins of any shape; +inf for p = 1.
    eps1, eps2 : float
        Of the paper's code; it takes eps1 = 0.1 for language models.

    Returns
    -------
    array
        float64, rising with phi, about -2.4 (p = 0) to 4.6 (p = 1).
    """
    if not 0 < eps2 < eps1:
        raise DataError(f"eps1 must be larger than eps2, and both above 0; got {eps1} and {eps2}")
    p = np.exp(-np.logaddexp(0, -as_floats(phi)))
    return -np.log(eps1 - np.log(p + eps2))


def iam(
    unlearned: Any,
    shadows: Any,
    original: Any = None,
    *,
    steps: int = 100,
    spread: Literal["data", "shadows"] = "data",
    eps1: float = 1e-2,
    eps2: float = 1e-5,
    confidence: float = 0.95,
    n_bootstrap: int = 1000,
    random_state: Seed = 0,
) -> IAM:
    """Interpolated approximate measurement: completeness of unlearning of every sample.

    Between the signals of models that never saw a sample (mean g_s) and the one that was fitted
    to it (g_o) lie ``m_a = g_s + a (g_o - g_s)`` for ``a = 0, 1 / (K - 1), ..., 1``. Around each is
    laid a Gumbel distribution of this mean and of a spread s_a, by moments: scale
    ``s_a sqrt(6) / pi``, location ``m_a - 0.5772 scale``. Where the unlearned model's signal lies
    above them, it still looks fitted; membership is the mean of the K - 1 first distribution
    functions at it, weighted by the *following* a as in the authors' code, and completeness is
    1 - membership.

    What is good: the `level` of models that never saw the samples. It is not 1, and for samples
    that an unseen model knows as well it is about 0.43 for *any* model, since the distribution
    function at its own mean is 0.57: compare with `level`, and read samples that were memorised.

    Weakness: the shadow models must be trained as the model was; a shadow that is trained longer or
    on other data shifts every sample. With one shadow the spread is that over samples, so that
    the scale of a sample depends on its company.

    Parameters
    ----------
    unlearned : Tensor or array_like [N]
        Margins of the unlearned model.
    shadows : Tensor or array_like [S, N]
        Margins of 1 or more models that were never trained on these samples; 1 to 4 are usual.
        Give the ones measured against here no part in choosing the method's settings.
    original : Tensor or array_like [N], optional
        Margins of the model before unlearning; without it p = 1 is taken for the fitted end.
    steps : int
        K, the number of interpolated means; at least 2.
    spread : {"data", "shadows"}
        Of what s_a is the standard deviation: of the interpolated signals of all shadows and
        samples together (always so for one shadow), or over the shadows, of each sample.
    eps1, eps2 : float
        See `iam_signal`.
    confidence, n_bootstrap, random_state
        Of the interval over samples; ``n_bootstrap=0`` leaves it out.

    Returns
    -------
    IAM

    Raises
    ------
    DataError
        If a shape does not fit, a margin is not finite, there is one sample and one shadow, or a
        setting is out of range.

    Warns
    -----
    SmallSampleWarning
        For fewer than 20 samples.
    """
    judged = margin_vector(unlearned, "unlearned")
    unseen = margin_matrix(shadows, "shadows", samples=len(judged))
    fitted = (
        np.full_like(judged, np.inf) if original is None else margin_vector(original, "original", len(judged))
    )
    if steps < 2:
        raise DataError(f"steps must be at least 2; got {steps}")
    if spread not in ("data", "shadows"):
        raise DataError(f'spread must be "data" or "shadows"; got {spread!r}')
    pooled = spread == "data" or len(unseen) == 1
    if pooled and unseen.size == 1:
        raise DataError("one sample under one shadow has no spread: give more samples or more shadow models")
    warn_few("IAM", "samples", len(judged), WANTED_SAMPLES, "the spread that it measures in is of these")

    g_u, g_s, g_o = (iam_signal(phi, eps1, eps2) for phi in (judged, unseen, fitted))
    found = _completeness(g_u, g_s, g_o, steps, pooled)  # [N]
    level = _level(g_s, g_o, steps, pooled)  # [N]
    untouched = None if original is None else float(_completeness(g_o, g_s, g_o, steps, pooled).mean())
    low = high = None
    if n_bootstrap:
        _, low, high = mean_interval(
            found, confidence=confidence, n_bootstrap=n_bootstrap, random_state=random_state
        )
    return IAM(
        value=float(found.mean()),
        low=low,
        high=high,
        level=float(level.mean()),
        untouched=untouched,
        n_shadows=len(unseen),
        per_sample=found,
        level_per_sample=level,
    )


def iam_of_models(
    unlearned: nn.Module,
    shadows: nn.Module | list[nn.Module],
    forget: Any,
    *,
    original: nn.Module | None = None,
    **settings: Any,
) -> IAM:
    """`iam` of models on data.

    Parameters
    ----------
    unlearned : nn.Module
    shadows : nn.Module or list of nn.Module
        Trained as the original was, without the samples of `forget`.
    forget : DataLoader, Dataset or (X, y)
        The samples that were to be forgotten; read once.
    original : nn.Module, optional
    **settings
        Of `iam`.

    Returns
    -------
    IAM
    """
    unseen = [shadows] if isinstance(shadows, nn.Module) else list(shadows)
    phi = margins([unlearned, *unseen, *([] if original is None else [original])], forget)
    fitted = None if original is None else phi[-1]
    return iam(phi[0], phi[1 : 1 + len(unseen)], fitted, **settings)


def _completeness(g_u: Array, g_s: Array, g_o: Array, steps: int, pooled: bool) -> Array:
    """Return completeness [N] from signals g_u [N], g_s [S, N], g_o [N]."""
    mean = g_s.mean(axis=0)
    weights = np.linspace(0, 1, steps)
    member = np.zeros_like(g_u)
    for at, weight in pairwise(weights):
        spread = ((1 - at) * g_s + at * g_o).std(axis=None if pooled else 0)
        scale = np.sqrt(6) / np.pi * np.maximum(spread, LEAST_SPREAD)
        z = (g_u - (mean + at * (g_o - mean))) / scale + EULER
        member += weight * np.exp(-np.exp(np.minimum(-z, 700)))
    return 1 - member / weights.sum()


def _level(g_s: Array, g_o: Array, steps: int, pooled: bool) -> Array:
    """Completeness of the shadows [N]: of each beside the others, or of the only one beside itself."""
    if len(g_s) == 1:
        return _completeness(g_s[0], g_s, g_o, steps, pooled)
    others = [np.delete(g_s, at, axis=0) for at in range(len(g_s))]
    pairs = zip(g_s, others, strict=True)
    return np.mean(
        [_completeness(one, rest, g_o, steps, pooled or len(rest) == 1) for one, rest in pairs], axis=0
    )
