# SPDX-License-Identifier: BSD-3-Clause
"""Logits, accuracy and confidence of a classifier.

Shapes: N samples, K classes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from unlearnkit.data import as_loader, device_of, evaluating, forward, labels, to_device
from unlearnkit.exceptions import DataError
from unlearnkit.metrics._reading import batches

__all__ = ["accuracy", "accuracy_from_logits", "confidence_from_logits", "predict_logits"]


def predict_logits(model: nn.Module, data: Any) -> tuple[Tensor, Tensor]:
    """Logits and labels of every sample, in the order in which `data` yields them.

    The model is run in eval mode without gradients and is left as it was found.

    Parameters
    ----------
    model : nn.Module
        A classifier; it runs on the device that it is on.
    data : DataLoader, Dataset or (X, y)
        Anything that `unlearnkit.data.as_loader` takes.

    Returns
    -------
    logits : Tensor [N, K]
        On the CPU.
    labels : Tensor [N]
        On the CPU.

    Raises
    ------
    DataError
        If `data` yields no samples.
    """
    device = device_of(model)
    outputs, targets = [], []
    with evaluating(model), torch.no_grad():
        for batch in batches(as_loader(data)):
            batch = to_device(batch, device)
            outputs.append(forward(model, batch).cpu())
            targets.append(labels(batch).cpu())
    if sum(len(target) for target in targets) == 0:
        raise DataError(
            "a metric needs at least one sample; the data yielded none: check the subset's "
            "indices, and that the loader is no iterator that has run out"
        )
    return torch.cat(outputs), torch.cat(targets)


def accuracy(model: nn.Module, data: Any) -> float:
    """Share of the samples of `data` whose most likely class is the label.

    Every sample weighs the same, whatever the batch size.

    Parameters
    ----------
    model : nn.Module
        A classifier; it is left as it was found.
    data : DataLoader, Dataset or (X, y)
        Anything that `unlearnkit.data.as_loader` takes.

    Returns
    -------
    float
        In [0, 1].

    Raises
    ------
    DataError
        If `data` is empty, or the model's output does not fit the labels.
    """
    return accuracy_from_logits(*predict_logits(model, data))


def accuracy_from_logits(logits: Tensor, labels: Tensor) -> float:
    """Share of the rows of `logits` whose largest entry is at the label.

    Parameters
    ----------
    logits : Tensor [N, K]
        One row a sample.
    labels : Tensor [N]
        Class indices, 0 to K - 1.

    Returns
    -------
    float
        In [0, 1].

    Raises
    ------
    DataError
        If a shape does not fit, a label is out of range, a logit is NaN, or N is 0.
    """
    check_logits(logits, labels)
    return (logits.argmax(dim=1) == labels).double().mean().item()


def confidence_from_logits(logits: Tensor, labels: Tensor) -> Tensor:
    """Softmax probability of the label.

    Parameters
    ----------
    logits : Tensor [N, K]
        One row a sample.
    labels : Tensor [N]
        Class indices, 0 to K - 1.

    Returns
    -------
    Tensor [N]
        float64, in [0, 1]; in float32 a confident model's values would round to 1.

    Raises
    ------
    DataError
        As `accuracy_from_logits`.
    """
    check_logits(logits, labels)
    return logits.double().softmax(dim=1).gather(1, labels.long()[:, None])[:, 0]


def check_logits(logits: Tensor, labels: Tensor) -> None:
    """Refuse logits and labels from which a metric would be a meaningless number."""
    if logits.ndim != 2 or labels.ndim != 1 or len(logits) != len(labels):
        raise DataError(
            "a classification metric needs logits of shape [N, K] and labels of shape [N]; got "
            f"{list(logits.shape)} and {list(labels.shape)}: for other tasks call the metrics "
            "that take arrays"
        )
    if len(labels) == 0:
        raise DataError("a metric needs at least one sample; got 0: check how the data was cut")
    if labels.is_floating_point() or labels.is_complex():
        raise DataError(f"labels are class indices; got {labels.dtype}: convert them with labels.long()")
    low, high, classes = int(labels.min()), int(labels.max()), logits.shape[1]
    if low < 0 or high >= classes:
        raise DataError(
            f"labels must lie in 0 to {classes - 1} for {classes} logits a sample; got {low} to "
            f"{high}: check that the model's last layer and the labels count the same classes"
        )
    broken = (logits.isnan() | logits.isposinf()).any(dim=1)
    if broken.any():
        raise DataError(
            f"{int(broken.sum())} of {len(logits)} samples have a NaN or +inf logit: look for NaN "
            "in the data, or else the model has diverged: lower the learning rate or weaken the edit that "
            "made it"
        )
