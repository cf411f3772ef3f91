# SPDX-License-Identifier: BSD-3-Clause
"""Importances from gradients that are not squared."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from unlearnkit.data import Batch, Loss, as_loader, batch_size, evaluating, forward, to_device, warn_if_random
from unlearnkit.data.guard import device_of
from unlearnkit.exceptions import DataError
from unlearnkit.gradients.pairs import upcast
from unlearnkit.importance.base import Importance, ImportanceEstimator, refuse_bad_weights, walk
from unlearnkit.parameters import named_parameters, unwrap


class LogitNorm(ImportanceEstimator):
    """LFSSD's importance: how each weight moves the squared norm of the logits. Needs no labels.

    The mean over batches of |gradient of the batch's mean squared L2 norm of the output|; not squared, so an
    alpha found for a Fisher does not carry over (Foster et al., "Loss-Free Machine Unlearning", arXiv
    2402.19308).
    """

    kind = "logit_norm/batch"

    def measure(
        self, model: nn.Module, data: Any, loss: Loss | None = None, progress: bool = False
    ) -> Importance:
        """Measure every weight that requires a gradient, in eval mode; the model is left as it was.

        Parameters
        ----------
        model : nn.Module
        data : DataLoader, Dataset or (X, y)
            The last element of a batch, its labels, is not looked at.
        loss : None
            There is none.
        progress : bool
            Show a progress bar.

        Returns
        -------
        Importance
            Counted in batches.

        Raises
        ------
        DataError
            If the data is empty, a loss is given, or a weight or the norm is not finite.
        """
        if loss is not None:
            raise DataError("LogitNorm uses the model's output and no loss: leave loss out.")
        refuse_bad_weights(model)
        inner, loader = unwrap(model), as_loader(data)
        warn_if_random(loader, "importance", order_matters=True)
        parameters = named_parameters(inner, trainable=True)
        totals = {n: torch.zeros_like(p, dtype=torch.float64, requires_grad=False) for n, p in parameters.items()}
        device = device_of(inner)

        def add(batch: Batch) -> int:
            batch = to_device(batch, device)
            norm = forward(inner, batch).flatten(1).square().sum(1).mean()
            if not bool(torch.isfinite(norm)):
                raise DataError(f"the squared norm of the logits is {norm.item()}: look for NaN in the data.")
            found = torch.autograd.grad(norm, list(parameters.values()), allow_unused=True)
            for total, gradient in zip(totals.values(), found, strict=True):
                if gradient is not None:
                    total.add_(upcast(gradient).abs())
            return batch_size(batch)

        with evaluating(inner), torch.enable_grad():
            samples, batches = walk(loader, progress, add)
        return Importance(totals, batches, self.kind, samples)
