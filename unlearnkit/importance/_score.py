# SPDX-License-Identifier: BSD-3-Clause
"""The numbers whose gradient an attribution takes.

Legend: N samples, K classes, Q positions of an output for each sample (pixels, tokens), S scores.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from unlearnkit.data import Batch, Loss, cross_entropy, cross_entropy_of, forward, labels
from unlearnkit.exceptions import DataError
from unlearnkit.gradients.reference import loss_values, per_sample_losses

TARGETS = ("label", "predicted", "margin", "max", "loss")


@dataclass(frozen=True)
class Scores:
    """What a model makes of a batch.

    Attributes
    ----------
    values : Tensor, shape [S, N]
        In the graph.
    logits : Tensor or None
        None where only losses are known: `values` are those, below zero.
    """

    values: Tensor
    logits: Tensor | None = None

    def losses(self, model: nn.Module, batch: Batch, loss: Loss | None) -> Tensor:
        """Return the losses [N] of the given labels, without a graph."""
        if self.logits is None:
            return -self.values[0].detach()
        if loss is not None:
            return loss_values(model, loss, batch)
        return cross_entropy_of(self.logits.detach(), labels(batch), isinstance(batch, Mapping))


def scores_of(model: nn.Module, batch: Batch, target: str, loss: Loss | None) -> Scores:
    """Run the model, and score each sample.

    Where a sample has several labels (pixels, tokens), the mean over those that are not -100.

    Parameters
    ----------
    model : nn.Module
    batch : Batch
    target : {"label", "predicted", "margin", "max", "loss"}
        The logit of the label, of the predicted class, the label's less the largest other, each
        class's (S = K), the loss below zero.
    loss : callable or None
        Of ``target="loss"``.

    Raises
    ------
    DataError
        If there are no logits of classes, or labels do not fit them.
    """
    if target == "loss":
        return Scores(-per_sample_losses(model, loss or cross_entropy, batch)[None])
    logits = forward(model, batch)
    if logits.dim() < 2:
        raise DataError(
            f"target={target!r} looks at logits [N, K], and the model's output has the shape "
            f"{list(logits.shape)}: use target='loss', with loss= for what is no classification."
        )
    classes_last = isinstance(batch, Mapping) or logits.dim() == 2
    rows = logits.movedim(-1 if classes_last else 1, -1)  # [N, ..., K]
    rows = rows[:, None] if rows.dim() == 2 else rows.flatten(1, -2)  # [N, Q, K]
    if target == "max":
        return Scores(rows.mean(1).T, logits)
    if target == "predicted":
        return Scores(rows.max(-1).values.mean(1)[None], logits)
    given = _classes(logits, batch).reshape(rows.shape[:2])  # [N, Q]
    counted, index = given != -100, given.clamp(min=0)[..., None]
    own = rows.gather(-1, index)[..., 0]  # [N, Q]
    if target == "margin":
        if rows.shape[-1] < 2:
            raise DataError(
                "target='margin' compares classes, and the model has one output: use target='loss'."
            )
        own = own - rows.scatter(-1, index, -torch.inf).max(-1).values
    return Scores(((own * counted).sum(1) / counted.sum(1).clamp(min=1))[None], logits)


def _classes(logits: Tensor, batch: Batch) -> Tensor:
    """Return the labels [N, ...], the likeliest of soft ones, once they are known to fit."""
    given = labels(batch)
    with torch.no_grad():
        cross_entropy_of(logits, given, isinstance(batch, Mapping))
    if given.is_floating_point():
        return given.argmax(-1 if isinstance(batch, Mapping) else 1)
    return given.long()
