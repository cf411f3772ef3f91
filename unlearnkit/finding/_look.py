# SPDX-License-Identifier: BSD-3-Clause
"""What a model makes of each sample: its loss, and how sure it is.

Legend: N samples, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm.auto import tqdm

from unlearnkit.data import (
    Batch,
    Loss,
    as_loader,
    aside,
    batch_size,
    cross_entropy_of,
    device_of,
    evaluating,
    forward,
    in_order,
    labels,
    refuse_random,
    take,
    to_device,
)
from unlearnkit.exceptions import DataError, UnsupportedModuleError
from unlearnkit.gradients import refuse_batch_statistics
from unlearnkit.gradients.reference import loss_values, plain_eager
from unlearnkit.parameters import unwrap
from unlearnkit.structure.layers import last_hidden

Array = NDArray[Any]


@dataclass(frozen=True)
class Look:
    """What is known of each sample once the model has seen it, in the order of ``in_order(data)``.

    Attributes
    ----------
    losses : Tensor, shape [N]
        float32, in nats where they are cross-entropies.
    surprise : array, shape [N], float64
        The losses on an unbounded scale, as :func:`log_odds` has them.
    certainty : array, shape [N], float64, or None
        How far the largest logit lies above their mean; None for fewer than three classes, where it
        is the surprise once more, and where no logits are known.
    labels : array, shape [N], int, or None
    probabilities : array, shape [N, K], float64, or None
        Where they were asked for.
    even : float
        The surprise at a label that the model holds to be as likely right as wrong; -inf where the
        surprise does not tell.
    """

    losses: Tensor
    surprise: Array
    certainty: Array | None
    labels: Array | None
    probabilities: Array | None = None
    even: float = -np.inf


def look(model: nn.Module, data: Any, loss: Loss | None, progress: bool, probabilities: bool = False) -> Look:
    """Run the model once over all samples, in eval mode; it is left as it was.

    Raises
    ------
    DataError
        If the data is empty, does not fit the model, or is a loader that draws its samples at random;
        or a loss is not finite.
    """
    refuse_random(as_loader(data))
    inner = unwrap(model)
    refuse_batch_statistics(inner)
    device = device_of(inner)
    found: list[list[Tensor | None]] = []
    bar = tqdm(aside(in_order(data)), desc="losses", disable=not progress, leave=False)
    for batch in bar:
        with evaluating(inner), torch.no_grad():
            found.append(_of_batch(inner, to_device(batch, device), loss, probabilities))
    losses, surprise, certainty, classes, shares = (
        map(_joined, zip(*found, strict=True)) if found else [None] * 5
    )
    if losses is None or not len(losses):
        raise DataError(
            "the data is empty: it yielded no sample to look at. Check the indices or the filter that made it."
        )
    if len(bad := (~losses.isfinite()).nonzero()):
        raise DataError(
            f"the loss of {len(bad):,} of {len(losses):,} samples is not finite, first that of sample "
            f"{int(bad[0])}: look for NaN or infinite values in the data, or take a model that has not diverged."
        )
    values = losses.double().numpy()
    return Look(
        losses.float(),
        log_odds(values) if surprise is None else surprise.numpy(),
        None if certainty is None else certainty.numpy(),
        None if classes is None else classes.numpy(),
        None if shares is None else shares.numpy(),
        -np.inf if surprise is None else 0.0,
    )


def has_logits_and_hidden_layer(model: nn.Module, data: Any, loss: Loss | None) -> bool:
    """Tell whether a model that could be looked at puts out [N, K, ...], computed from a hidden layer.

    Where there is a loss of the user's, that alone may know how the model is run.
    """
    inner = unwrap(model)
    batch = next(batch for batch in aside(in_order(data)) if batch_size(batch))
    few = to_device(take(batch, slice(0, 2)), device_of(inner))
    with evaluating(inner), plain_eager(inner), torch.no_grad():
        try:
            if forward(inner, few).dim() < 2:
                return False
            last_hidden(inner, few)
        except UnsupportedModuleError:
            return False
        except Exception:  # whatever a model raises that only the user's loss knows how to call
            if loss is None:
                raise
            return False
    return True


def log_odds(losses: Array) -> Array:
    """Return losses [N] on an unbounded scale, on which they come in heaps that are nearly normal.

    Of a cross-entropy the log odds against the label, ``log((1 - p) / p) = log(exp(loss) - 1)``.
    Losses that can be below zero stay as they are.
    """
    if not len(losses) or losses.min() < 0:
        return losses
    positive = losses[losses > 0]
    floor = positive.min() if len(positive) else 1.0
    values: Array = losses.clip(floor)
    return values + np.log(-np.expm1(-values))


def _of_batch(model: nn.Module, batch: Batch, loss: Loss | None, probabilities: bool) -> list[Tensor | None]:
    """Return losses, surprise, certainty, labels [n] and probabilities [n, K]; None for what is unknown."""
    given = _labels(batch)
    if loss is not None:
        return [loss_values(model, loss, batch).detach().cpu(), None, None, given, None]
    logits = forward(model, batch)
    losses = cross_entropy_of(logits, labels(batch), isinstance(batch, Mapping)).cpu()
    if given is None or logits.dim() != 2 or bool((given < 0).any()):  # below zero: not to be counted
        return [losses, None, None, given, None]
    logits = logits.double().cpu()
    at = given[:, None]
    rest = logits.scatter(1, at, -torch.inf).logsumexp(1)  # [n], the other classes
    surprise = rest - logits.gather(1, at)[:, 0] if logits.shape[1] > 1 else None
    certainty = logits.amax(1) - logits.mean(1) if logits.shape[1] > 2 else None
    return [losses, surprise, certainty, given, logits.softmax(1) if probabilities else None]


def _labels(batch: Batch) -> Tensor | None:
    """Return class labels [n]; None where a batch has none, or several a sample."""
    try:
        given = labels(batch)
    except DataError:
        return None
    return None if given.is_floating_point() or given.dim() != 1 else given.long().cpu()


def _joined(parts: tuple[Tensor | None, ...]) -> Any:
    known = [part for part in parts if part is not None]
    return torch.cat(known) if len(known) == len(parts) else None
