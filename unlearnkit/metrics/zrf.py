# SPDX-License-Identifier: BSD-3-Clause
"""Zero retrain forgetting: does the model answer on the forget set like one that knows nothing."""

from __future__ import annotations

from dataclasses import dataclass
from math import log
from typing import Any

import torch
from torch import Tensor, nn

from unlearnkit.exceptions import DataError
from unlearnkit.metrics._arrays import as_floats
from unlearnkit.metrics.classification import check_logits, predict_logits
from unlearnkit.metrics.intervals import Seed, mean_interval

__all__ = ["ZRF", "jensen_shannon", "zrf", "zrf_from_logits"]

LEAST = 1 - log(2)


@dataclass(frozen=True)
class ZRF:
    """The score, and of each forgotten sample ``1 - JS``.

    Attributes
    ----------
    value, low, high : float
        Mean over samples and the ends of its bootstrap interval.
    per_sample : Tensor [N]
        In [1 - ln 2, 1].
    """

    value: float
    low: float
    high: float
    per_sample: Tensor


def zrf(model: nn.Module, incompetent: nn.Module, forget: Any, **interval: Any) -> ZRF:
    """ZRF of a model on the forget set, see `zrf_from_logits`.

    Parameters
    ----------
    model, incompetent : nn.Module
        The unlearned model, and one of the same kind with random weights; both are left alone.
    forget : DataLoader, Dataset or (X, y)
        Read once a model, so it must not shuffle.
    **interval
        confidence, n_bootstrap, random_state.
    """
    own, other = predict_logits(model, forget), predict_logits(incompetent, forget)
    check_same_samples(own[1], other[1])
    return zrf_from_logits(own[0], other[0], **interval)


def zrf_from_logits(
    unlearned: Tensor,
    incompetent: Tensor,
    *,
    confidence: float = 0.95,
    n_bootstrap: int = 1000,
    random_state: Seed = 0,
) -> ZRF:
    """Zero retrain forgetting ``1 - mean JS(p_u || p_i)``, the variant of the paper's text, in nats.

    From "Can bad teaching induce forgetting?" (Chundawat et al., AAAI 2023), equations 4 and 5
    [memory]. JS is the Jensen-Shannon divergence of the predictions of the unlearned model and of
    an incompetent one, bounded by ln 2, so the score lies in [0.307, 1].

    The authors' code (also in SSD's) computes another quantity: the KL divergences from the mean *to*
    the predictions, unbounded and infinite or NaN where a probability is 0, divided by samples
    times classes. Its scores lie closer to 1 and cannot be compared with these.

    Weakness. Like a random model is not like a retrained one, which generalises to the forget set.
    Good is the retrained model's score against the same incompetent model, not 1.

    Parameters
    ----------
    unlearned, incompetent : Tensor [N, K]
        Logits of the forget set, rows in the same order.
    confidence, n_bootstrap, random_state
        Of the interval, see `mean_interval`.

    Returns
    -------
    ZRF

    Raises
    ------
    DataError
        If the shapes differ, a logit is NaN or +inf, or there is no sample.
    """
    per_sample = 1 - jensen_shannon(unlearned.detach(), incompetent.detach()).cpu()  # [N]
    found = mean_interval(
        as_floats(per_sample),
        bounds=(LEAST, 1.0),
        confidence=confidence,
        n_bootstrap=n_bootstrap,
        random_state=random_state,
    )
    return ZRF(*found, per_sample)


def check_same_samples(labels: Tensor, others: Tensor) -> None:
    """Refuse two readings of a set whose labels come in different orders."""
    if not torch.equal(labels, others):
        raise DataError(
            "the two models were not given the same samples in the same order: pass the data set, or a loader "
            "that does not shuffle"
        )


def jensen_shannon(logits: Tensor, others: Tensor) -> Tensor:
    """Jensen-Shannon divergence of the softmax of each row and its counterpart.

    ``JS = (KL(p || m) + KL(q || m)) / 2`` with ``m = (p + q) / 2``; 0 log 0 is 0.

    Parameters
    ----------
    logits, others : Tensor [N, K]

    Returns
    -------
    Tensor [N]
        float64, in nats, in [0, ln 2].

    Raises
    ------
    DataError
        If the shapes differ, a logit is NaN or +inf, or there is no sample.
    """
    if logits.shape != others.shape:
        raise DataError(
            f"two models' logits of the same samples have one shape; got {list(logits.shape)} and "
            f"{list(others.shape)}"
        )
    none = torch.zeros(len(logits), dtype=torch.long) if logits.dim() else logits  # labels are not looked at
    for one in (logits, others):
        check_logits(one, none)
    log_p, log_q = logits.double().log_softmax(dim=1), others.double().log_softmax(dim=1)  # [N, K]
    log_m = torch.logaddexp(log_p, log_q) - log(2)
    terms = [
        torch.where(part > -torch.inf, part.exp() * (part - log_m), 0.0).sum(1) for part in (log_p, log_q)
    ]
    return ((terms[0] + terms[1]) / 2).clamp(0, log(2))
