# SPDX-License-Identifier: BSD-3-Clause
"""Margins: the confidence in the label on a scale on which it is close to normal.

``phi = z_y - logsumexp_{k != y} z_k = log(p_y / (1 - p_y))``, of logits z. Carlini et al.,
"Membership inference attacks from first principles" (S&P 2022), section IV-C [memory], look at
single samples on this scale, and so do all metrics here that compare many models.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from unlearnkit.data import as_loader, device_of, evaluating, forward, labels, to_device
from unlearnkit.exceptions import DataError
from unlearnkit.metrics.classification import check_logits

__all__ = ["margins", "margins_from_logits"]


def margins_from_logits(logits: Tensor, labels: Tensor) -> Tensor:
    """Logit of the label less the log-sum-exp of the other classes' logits.

    Computed in float64 from the logits themselves: log(p / (1 - p)) of a probability in float32 is
    infinite from a margin of 17 on.

    Parameters
    ----------
    logits : Tensor [N, K]
        One row a sample, K at least 2.
    labels : Tensor [N]
        Class indices, 0 to K - 1.

    Returns
    -------
    Tensor [N]
        float64; positive if and only if the label is more likely than all other classes together.
        Infinite where a class is masked with -inf.

    Raises
    ------
    DataError
        If there is one class, a shape does not fit, a label is out of range, a logit is NaN, or
        N is 0.
    """
    check_logits(logits, labels)
    if logits.shape[1] < 2:
        raise DataError(
            "a margin needs at least two classes; got logits of shape "
            f"{list(logits.shape)}: of a single logit z per sample make torch.stack([-z, z], 1) / 2"
        )
    z, at = logits.double(), labels.long()[:, None]
    others = z.scatter(1, at, -torch.inf).logsumexp(dim=1)  # [N]
    return z.gather(1, at)[:, 0] - others


def margins(models: nn.Module | Iterable[nn.Module], data: Any) -> Tensor:
    """Margins of several models on the same samples.

    The data is read once and every batch is given to all models, so that a loader that shuffles
    gives each of them the same samples in the same order. The models are run in eval mode without
    gradients and are left as they were found.

    Parameters
    ----------
    models : nn.Module or iterable of nn.Module
        Classifiers of the same task, each on any device.
    data : DataLoader, Dataset or (X, y)
        Anything that `unlearnkit.data.as_loader` takes.

    Returns
    -------
    Tensor [M, N]
        float64, on the CPU.

    Raises
    ------
    DataError
        If there is no model, `data` yields no samples, or logits and labels do not fit.
    """
    chosen = [models] if isinstance(models, nn.Module) else list(models)
    if not chosen:
        raise DataError("margins need at least one model; got none")
    rows: list[Tensor] = []  # [M, B] of each batch
    with ExitStack() as stack, torch.no_grad():
        for model in chosen:
            stack.enter_context(evaluating(model))
        for batch in as_loader(data):
            rows.append(torch.stack([_margins(model, batch) for model in chosen]))
    if sum(row.shape[1] for row in rows) == 0:
        raise DataError(
            "margins need at least one sample; the data yielded none: check the subset's indices, and that the "
            "loader is no iterator that has run out"
        )
    return torch.cat(rows, dim=1)


def _margins(model: nn.Module, batch: Any) -> Tensor:
    batch = to_device(batch, device_of(model))
    return margins_from_logits(forward(model, batch), labels(batch)).cpu()  # [B]
