# SPDX-License-Identifier: BSD-3-Clause
"""U-LiRA: whether unlearned models can be told, sample by sample, from ones that never saw it.

Kurmanji et al., "Towards unbounded machine unlearning" (NeurIPS 2023), as a likelihood ratio of
Gaussians per sample; the evaluation on shadow models is that of Hayes et al., "Inexact unlearning
needs more careful evaluations to avoid a false sense of privacy" (SaTML 2025). The score is that
of the code of munl.

Shapes: M models, N samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from unlearnkit.exceptions import DataError
from unlearnkit.metrics._arrays import Array, warn_few
from unlearnkit.metrics._attack import Attack, attack, judged_models
from unlearnkit.metrics.intervals import Seed

__all__ = ["Attack", "gaussian_log_ratio", "u_lira"]

WANTED_MODELS = 32
LEAST_SPREAD = 1e-6  # of margins; where all models agree to the last digit


def u_lira(
    unlearned: Any,
    reference: Any,
    held_out: tuple[Any, Any] | None = None,
    *,
    variance: Literal["sample", "pooled"] = "sample",
    folds: int = 5,
    rates: Sequence[float] = (0.001, 0.01),
    confidence: float = 0.95,
    n_bootstrap: int = 1000,
    random_state: Seed = 0,
) -> Attack:
    """Per-sample likelihood ratio attack on unlearning.

    To each sample's margins under the models that unlearned it a Gaussian is fitted, and one to
    those under models never trained on it. A further model's margin phi is scored by
    ``s = N(phi; m_u, s_u) / (N(phi; m_u, s_u) + N(phi; m_n, s_n))``, computed as the logarithm of
    the ratio, so that a margin far from both gets a score and not 0 / 0.

    No model is judged by a fit that it had a part in: pass held-out models, or the models are
    divided into folds, each judged by a fit on the others. Models are compared within their fold
    alone: those left out lie where the others' mean does not, so that one AUC over all folds would
    be below 0.5 without any difference.

    What is good: 0.5 for AUC and balanced accuracy, the rate itself for the TPR. A value clearly
    below 0.5 means that the fits do not carry over, not that forgetting is better than perfect.

    Weakness: it needs many models, each trained and unlearned with its own seed. [memory] Hayes et
    al. put the reference models through the same unlearning, of other samples: pass these where you
    have them, since unlearning leaves traces on all samples. A Gaussian misses what differs in
    shape alone. The interval is over the models at hand for these samples.

    Parameters
    ----------
    unlearned : Tensor or array_like [M, N]
        Margins under models that were trained on the samples and then unlearned them.
    reference : Tensor or array_like [M', N]
        Margins under models that were never trained on them.
    held_out : (array_like [A, N], array_like [B, N]), optional
        The same of further models, which are then the only ones judged.
    variance : {"sample", "pooled"}
        A spread for each sample and set, or one for each set over all samples, which is steadier
        with few models (Carlini et al. take it below 64 [memory]).
    folds : int
        Where nothing is held out; at most half as many as models of either set.
    rates : sequence of float
        False positive rates at which the TPR is reported.
    confidence, n_bootstrap, random_state
        Of the bootstrap over models, and of the division into folds; ``n_bootstrap=0`` leaves the
        intervals out.

    Returns
    -------
    Attack

    Raises
    ------
    DataError
        If shapes do not fit, a margin is not finite, there are fewer than 4 models of either set
        (2 with `held_out`), or a setting is out of range.

    Warns
    -----
    SmallSampleWarning
        For fewer than 32 models of either set, or fewer reference cases than a rate takes.
    """
    if variance not in ("sample", "pooled"):
        raise DataError(f'variance must be "sample" or "pooled"; got {variance!r}')
    judged = judged_models(
        lambda ours, theirs, x: gaussian_log_ratio(ours, theirs, x, pooled=variance == "pooled"),
        unlearned, reference, held_out, folds=folds, name="reference", random_state=random_state,
    )  # fmt: skip
    fewest = min(len(unlearned), len(reference))
    warn_few("U-LiRA", "models of a set", fewest, WANTED_MODELS, "a Gaussian per sample is fitted to them")
    return attack(judged, rates, confidence, n_bootstrap, random_state)


def gaussian_log_ratio(ours: Array, theirs: Array, x: Array, pooled: bool = False) -> Array:
    """Log of the ratio of two fitted Gaussians' densities.

    Parameters
    ----------
    ours, theirs : array [M, N], [M', N]
        What the numerator's and the denominator's Gaussians are fitted to, each sample's for itself
        by maximum likelihood.
    x : array [B, N]
        Where the densities are taken.
    pooled : bool
        One standard deviation for all samples of a set.

    Returns
    -------
    array [B, N]
    """
    return _log_density(ours, x, pooled) - _log_density(theirs, x, pooled)


def _log_density(fitted: Array, x: Array, pooled: bool) -> Array:
    """Log density, less the constant log(2 pi) / 2."""
    variance = fitted.var(axis=0)  # [N]
    spread = np.maximum(np.sqrt(variance.mean() if pooled else variance), LEAST_SPREAD)
    return -0.5 * ((x - fitted.mean(axis=0)) / spread) ** 2 - np.log(spread)
