# SPDX-License-Identifier: BSD-3-Clause
"""How uncertain a classifier is of each sample: loss, entropy, modified entropy.

These are what membership attacks look at. All are computed in float64 from log probabilities, so
that a confident model's values do not round to 0.

Shapes: N samples, K classes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from unlearnkit.metrics.classification import check_logits

__all__ = ["entropy_from_logits", "loss_from_logits", "modified_entropy_from_logits"]


def loss_from_logits(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy ``-log p_y``.

    Parameters
    ----------
    logits : Tensor [N, K]
        One row a sample.
    labels : Tensor [N]
        Class indices, 0 to K - 1.

    Returns
    -------
    Tensor [N]
        float64, in nats; infinite where the label's logit is -inf.

    Raises
    ------
    DataError
        As `accuracy_from_logits`.
    """
    check_logits(logits, labels)
    return -logits.double().log_softmax(dim=1).gather(1, labels.long()[:, None])[:, 0]


def entropy_from_logits(logits: Tensor, labels: Tensor) -> Tensor:
    """Entropy ``-sum_k p_k log p_k`` of the prediction; the labels are only checked.

    Parameters, errors and shapes are those of `loss_from_logits`.

    Returns
    -------
    Tensor [N]
        float64, in nats, in [0, log K].
    """
    check_logits(logits, labels)
    log_p = logits.double().log_softmax(dim=1)  # [N, K]
    return -_product(log_p.exp(), log_p).sum(dim=1)


def modified_entropy_from_logits(logits: Tensor, labels: Tensor) -> Tensor:
    """Modified entropy ``-(1 - p_y) log p_y - sum_{k != y} p_k log(1 - p_k)``.

    From "Systematic evaluation of privacy risks of machine learning models" (Song and Mittal,
    USENIX Security 2021), equation 8 [memory]. Unlike the entropy it is large for a confident
    error. The code of Unlearn-Saliency and its forks takes, of every sample, the column of *every*
    label in the data for the label's, and ``log p`` for ``log(1 - p)``: its numbers are others.

    Parameters, errors and shapes are those of `loss_from_logits`.

    Returns
    -------
    Tensor [N]
        float64, in nats, at least 0; infinite where the label's logit is -inf.
    """
    check_logits(logits, labels)
    log_p = logits.double().log_softmax(dim=1)  # [N, K]
    p, at = log_p.exp(), labels.long()[:, None]
    terms = _product(p, _log_of_the_rest(logits.double(), log_p))  # [N, K]
    log_label = log_p.gather(1, at)  # [N, 1]
    of_label = _product(-torch.expm1(log_label), log_label)
    return -(terms.scatter(1, at, of_label)).sum(dim=1)


def _product(p: Tensor, log: Tensor) -> Tensor:
    """``p * log`` with ``0 * -inf = 0``, the limit."""
    return torch.where(p > 0, p * log, 0.0)


def _log_of_the_rest(logits: Tensor, log_p: Tensor) -> Tensor:
    """``log(1 - p_k)`` [N, K], from the other classes' logits where p_k is close to 1."""
    others = torch.log(-torch.expm1(log_p))  # [N, K]; -inf where p_k rounds to 1
    top = logits.argmax(dim=1, keepdim=True)
    rest = logits.scatter(1, top, -torch.inf).logsumexp(dim=1, keepdim=True) - logits.logsumexp(
        1, keepdim=True
    )
    return others.scatter(1, top, rest)
