# SPDX-License-Identifier: BSD-3-Clause
"""The parts of FisherReset: how its witness is trained, how far a model is from it, how much counts."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unlearnkit.data import Batch, cross_entropy, evaluating, forward, labels, to_device
from unlearnkit.methods._run import Run
from unlearnkit.methods._teaching import classes_second, over_targets
from unlearnkit.methods.reset import ResetFinetune
from unlearnkit.selection import ParameterMask

STEPS = 75
"""About how many steps an epoch has, where the data is not so small or large that batches would be."""

VISITS = 10
"""How many times as often as a retain sample one of the forget set is seen, at most."""


LEAST = -1e4
"""The least logarithm of a probability that is told from others."""

LOOKED_AT = 1500
"""Retain samples by which it is told whether the model is as good as it was."""


@dataclass
class State:
    """What a training needs to know: the witness, and when to end."""

    witness: nn.Module
    forget_goal: float = 0.0
    retain_goal: float = 0.0
    kept: list[Batch] = field(default_factory=list)


def divergence(logits: Tensor, known: Tensor, batch: Batch, detail: float = 1.0) -> Tensor:
    """Return how far the model is from the witness on each sample [N], in nats; of many targets, the mean.

    ``(1 - detail) KL of the label's probability against the rest + detail KL of all classes``, each of
    the witness against the model.

    Parameters
    ----------
    logits, known : Tensor [N, K, ...] ([N, ..., K] where batches are mappings)
        The model's and the witness's.
    batch : Batch
        Its labels of -100 do not count. Where labels are no class indices, all classes count alone.
    detail : float
    """
    logits, known = classes_second(batch, logits, known)
    # a model may rule a class out with a logit of -inf, and 0 * inf is NaN
    log_p, log_q = (scores.log_softmax(1).clamp(min=LEAST) for scores in (logits, known))
    found = F.kl_div(log_p, log_q, reduction="none", log_target=True).sum(1)  # [N, ...]
    target = labels(batch)
    if target.shape == found.shape and not target.is_floating_point():
        at = target.long().clamp(min=0)[:, None]
        found = detail * found + (1 - detail) * _of_label(log_p, log_q, at)
        found = found * (target != -100)
    return over_targets(found, batch)


def _of_label(log_p: Tensor, log_q: Tensor, at: Tensor) -> Tensor:
    """Return KL(q || p) of two events, the label `at` [N, 1, ...] and any other class."""
    total = torch.zeros_like(log_p[:, 0])
    for own in (True, False):
        parts = [
            log.gather(1, at)[:, 0] if own else log.scatter(1, at, -torch.inf).logsumexp(1)
            for log in (log_p, log_q)
        ]
        total = total + parts[1].exp() * (parts[1] - parts[0])
    return total


@torch.no_grad()
def known_share(model: nn.Module, run: Run, data: Iterable[Batch]) -> float:
    """Return the accuracy on some data; for other tasks the mean of ``exp(-loss)``, a probability."""
    right: list[Tensor] = []
    with evaluating(model):
        for batch in data:
            batch = to_device(batch, run.device)
            target = None if run.loss is not cross_entropy else labels(batch)
            if target is not None and target.dim() == 1 and not target.is_floating_point():
                right.append((forward(model, batch).argmax(1) == target).double())
            else:
                right.append(run.loss(model, batch).double().neg().exp())
    return float(torch.cat(right).mean())


def share_of_forget(run: Run) -> float:
    """Return the weight of the forget set beside the retain set's: 1, or less where it is small.

    A few samples in every batch would be seen so often that they shape the model anew.
    """
    return min(1.0, VISITS * run.forget.samples / run.retain.samples)


def automatic_size(samples: int) -> int:
    """Return a power of 2 from 16 to 512 that makes about `STEPS` batches of so many samples.

    Examples
    --------
    >>> automatic_size(5_000), automatic_size(45_000), automatic_size(1_000_000)
    (64, 512, 512)
    """
    return 2 ** min(max(int(math.log2(max(samples / STEPS, 1))), 4), 9)


@dataclass(kw_only=True, eq=False, repr=False)
class WitnessTraining(ResetFinetune):
    """Resets what was selected, where that can be, and trains everything."""

    _strict: ClassVar[bool] = False
    _bar: ClassVar[str] = "witness"

    def _trainable(self, run: Run) -> ParameterMask:
        return ParameterMask.everything(run.source)
