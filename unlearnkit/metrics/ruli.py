# SPDX-License-Identifier: BSD-3-Clause
"""RULI: two games of telling unlearned from unseen samples, on those that were most at risk.

"Rectifying privacy and efficacy measurements in machine unlearning: a new inference attack
perspective" (USENIX Security 2025). Densities and ratios are those of its code.

Shapes: M models, N samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from unlearnkit.exceptions import DataError
from unlearnkit.metrics._arrays import Array, warn_few
from unlearnkit.metrics._attack import Attack, Judged, attack, judged_models
from unlearnkit.metrics.intervals import Seed

__all__ = ["RULI", "kernel_log_density", "ruli"]

WANTED_MODELS = 30  # a third of the authors' 90
Bandwidth = float | Literal["scott"]


@dataclass(frozen=True)
class RULI:
    """Both games by group of samples; "all" is every sample.

    Attributes
    ----------
    privacy : Mapping[str, Attack]
        Unlearned against never seen, both after unlearning: what somebody learns of who was
        forgotten.
    efficacy : Mapping[str, Attack] or None
        Unlearned models against retrained ones: how far from the retrained one the result is.
    """

    privacy: Mapping[str, Attack]
    efficacy: Mapping[str, Attack] | None


def ruli(
    unlearned: Any,
    unseen: Any,
    retrained: Any = None,
    *,
    groups: Mapping[str, ArrayLike] | None = None,
    bandwidth: Bandwidth = 1.0,
    folds: int = 5,
    rates: Sequence[float] = (0.001, 0.01),
    confidence: float = 0.95,
    n_bootstrap: int = 1000,
    random_state: Seed = 0,
) -> RULI:
    """Kernel density ratios of unlearned against unseen samples, per sample.

    ``p_u(phi) / (p_u(phi) + p_r(phi))`` with densities from Gaussian kernels on the margins. In the
    privacy game p_r is of models that unlearned *other* samples and never saw this one; in the
    efficacy game of models trained without it that unlearned nothing. Models are divided into folds
    and judged by densities of the others, as in `u_lira`.

    What is good: 0.5 for AUC and balanced accuracy, the rate itself for the TPR, *in every group*. An
    average over all samples hides the few at risk: give the memorised ones as a group, for example
    ``groups={"vulnerable": u_lira(seen, never_seen).per_sample > 0.9}`` of trained models, or canaries.

    Weakness: it takes many models (the authors train 90, a third of them for each role of a
    sample), and a kernel of a fixed width of 1 blurs margins that differ by less. Their code
    judges one target model over samples; here many models are judged, so that the interval is over
    models. Their TPR is read at the *nearest* false positive rate, which may exceed the one that is
    named; here it never does.

    Parameters
    ----------
    unlearned : Tensor or array_like [M, N]
        Margins under models that were trained on the samples and unlearned them.
    unseen : Tensor or array_like [M', N]
        Margins under models that never saw them and unlearned others.
    retrained : Tensor or array_like [M'', N], optional
        Margins under models that were trained without them, for the efficacy game.
    groups : Mapping[str, array_like [N]], optional
        Masks, or indices, of samples to be judged for themselves.
    bandwidth : float or "scott"
        Of the kernel, in units of the margin; 1 as in the authors' code. "scott" takes
        ``M ** -0.2`` standard deviations of each sample.
    folds, rates, confidence, n_bootstrap, random_state
        As of `u_lira`.

    Returns
    -------
    RULI

    Raises
    ------
    DataError
        If shapes do not fit, a margin is not finite, there are fewer than 4 models of a set, a
        group is empty, or a setting is out of range.

    Warns
    -----
    SmallSampleWarning
        For fewer than 30 models of a set, or fewer reference cases than a rate takes.
    """
    if bandwidth != "scott" and not (isinstance(bandwidth, int | float) and 0 < bandwidth < np.inf):
        raise DataError(f'bandwidth must be a number above 0 or "scott"; got {bandwidth!r}')
    density = partial(kernel_log_density, bandwidth=bandwidth)

    def game(reference: Any, name: str) -> dict[str, Attack]:
        judged = judged_models(
            lambda ours, theirs, x: density(ours, x) - density(theirs, x),
            unlearned, reference, None, folds=folds, name=name, random_state=random_state,
        )  # fmt: skip
        fewest = min(len(unlearned), len(reference))
        warn_few("RULI", "models of a set", fewest, WANTED_MODELS, "a density per sample is fitted to them")
        chosen = _chosen(groups, judged[0].unlearned.shape[1])
        return {
            group: attack(
                [Judged(fold.unlearned[:, at], fold.reference[:, at]) for fold in judged],
                rates, confidence, n_bootstrap, random_state,
            )
            for group, at in chosen.items()
        }  # fmt: skip

    return RULI(game(unseen, "unseen"), None if retrained is None else game(retrained, "retrained"))


def kernel_log_density(fitted: Array, x: Array, bandwidth: Bandwidth = 1.0) -> Array:
    """Log of a Gaussian kernel density estimate, each column's for itself.

    Parameters
    ----------
    fitted : array [M, N]
    x : array [B, N]
    bandwidth : float or "scott"

    Returns
    -------
    array [B, N]
    """
    width: Any = bandwidth
    if bandwidth == "scott":
        width = np.maximum(fitted.std(axis=0, ddof=1) * len(fitted) ** -0.2, 1e-6)  # [N]
    found = np.empty_like(x)
    for at, row in enumerate(x):  # [M, N] at a time
        found[at] = np.logaddexp.reduce(-0.5 * ((row - fitted) / width) ** 2, axis=0)
    return found - np.log(len(fitted) * np.sqrt(2 * np.pi) * width)


def _chosen(groups: Mapping[str, ArrayLike] | None, samples: int) -> dict[str, Any]:
    """Return indices of the samples of each group, and of all."""
    found: dict[str, Any] = {"all": np.arange(samples)}
    for name, values in (groups or {}).items():
        at = np.asarray(values)
        if at.dtype == bool and at.shape == (samples,):
            at = at.nonzero()[0]
        whole = at.dtype.kind in "iu" and at.ndim == 1 and len(at) > 0
        if not whole or at.min() < 0 or at.max() >= samples:
            raise DataError(
                f"the group {name!r} must be a mask [{samples}] or indices of samples, at least one; got an array of "
                f"{at.dtype} of shape {list(at.shape)}"
            )
        found[name] = at
    return found
