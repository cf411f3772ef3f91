# SPDX-License-Identifier: BSD-3-Clause
"""The saliencies of SalUn and DEL: gradients summed with their signs, then taken absolute."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from unlearnkit.data import (
    Batch,
    Loss,
    as_loader,
    cross_entropy,
    device_of,
    evaluating,
    to_device,
    warn_if_random,
)
from unlearnkit.exceptions import DataError
from unlearnkit.gradients.reference import per_sample_losses, plain_eager
from unlearnkit.importance._batches import sum_over_batches
from unlearnkit.importance.base import Importance, refuse_bad_weights
from unlearnkit.importance.estimator import ImportanceEstimator, On
from unlearnkit.parameters import named_parameters, unwrap


class GradientSaliency(ImportanceEstimator):
    """SalUn's saliency: ``|sum over batches of the gradient of the batch's mean loss|``.

    The sums keep their signs, so they add up over sets of data; scores are absolute. They stand for
    every batch alike: a short last batch counts as a full one.

    Parameters
    ----------
    on : {"forget", "retain", "all"}, default="forget"
        The samples to measure on. The paper's are the forget set's; the others are the variants
        that do not look at what is to be forgotten alone.
    loss : callable, optional
        ``loss(model, batch) -> Tensor [N]`` to measure with, where it is another than the method trains
        with.
    clip : float, optional
        The largest norm that a batch's gradient may have, over all weights, before it is added. SalUn's
        code for diffusion has 1.0, which in effect gives all batches the same norm.

    Notes
    -----
    Fan et al., "SalUn", arXiv 2310.12508, in the form of the authors' code: eval mode,
    true labels, signs kept until the end. With a shuffling loader the short batch is another one
    each time, and so is its small part in the sum.

    Examples
    --------
    >>> import torch
    >>> from unlearnkit import GradientSaliency
    >>> model = torch.nn.Linear(3, 2)
    >>> saliency = GradientSaliency()
    >>> measured = saliency.measure(model, (torch.randn(8, 3), torch.randint(2, (8,))))
    >>> bool((saliency.scores(model, measured)["weight"] >= 0).all())
    True
    """

    def __init__(self, on: On = "forget", loss: Loss | None = None, clip: float | None = None) -> None:
        self.on = on
        self.loss = loss
        self.clip = clip

    @property
    def kind(self) -> str:
        """What is measured, as :attr:`Importance.kind` has it."""
        return "gradient/batch" if self.clip is None else f"gradient/batch/clip {self.clip:g}"

    def measure(
        self, model: nn.Module, data: Any, loss: Loss | None = None, progress: bool = False
    ) -> Importance:
        """Measure every weight that requires a gradient, in eval mode; leave the model as it was.

        Parameters
        ----------
        model : nn.Module
        data : DataLoader, Dataset or (X, y)
        loss : callable, optional
            ``loss(model, batch) -> Tensor [N]``; the estimator's own goes before, and where there is
            neither, cross-entropy.
        progress : bool
            Show a progress bar.

        Returns
        -------
        Importance
            Signed sums in float64, counted in batches.

        Raises
        ------
        DataError
            If the data is empty or does not fit the model, or a weight or loss is not finite.
        UnsupportedModuleError
            If no parameter requires a gradient, or one is complex.
        """
        if self.clip is not None and not (isinstance(self.clip, float | int) and self.clip > 0):
            raise DataError(f"clip must be a number above 0 or None, got {self.clip!r}.")
        refuse_bad_weights(model)
        chosen: Loss = self.loss or loss or cross_entropy
        inner, loader = unwrap(model), as_loader(data)
        warn_if_random(loader, "importance")
        device = device_of(inner)

        def mean_loss(batch: Batch) -> Tensor:
            return per_sample_losses(inner, chosen, to_device(batch, device)).mean()

        with evaluating(inner), plain_eager(inner):
            return sum_over_batches(
                inner, loader, mean_loss, torch.Tensor.detach, self.kind, progress, self.clip
            )

    def scores(self, model: nn.Module, measured: Importance) -> dict[str, Tensor]:
        """Return the absolute sums. See :meth:`ImportanceEstimator.scores`."""
        return {name: value.abs() for name, value in measured.sums.items()}


class WeightedSaliency(GradientSaliency):
    """DEL's criterion: ``|theta * sum over batches of the gradient of the batch's mean loss|``.

    A first-order estimate of how the loss changes where a weight becomes zero. It is measured as
    :class:`GradientSaliency` is, so one measurement serves both.

    Parameters
    ----------
    on : {"forget", "retain", "all"}, default="forget"
        The samples to measure on; the paper compares the forget set's with all.
    loss, clip
        As of :class:`GradientSaliency`.

    Notes
    -----
    Torkzadehmahani et al., "Improved Localized Machine Unlearning Through the Lens of
    Memorization", arXiv 2412.02432, algorithm 1.
    """

    def scores(self, model: nn.Module, measured: Importance) -> dict[str, Tensor]:
        """Return the absolute products. See :meth:`ImportanceEstimator.scores`."""
        weights = named_parameters(model)
        return {
            name: (weights[name].detach().to(value.device, value.dtype) * value).abs()
            for name, value in measured.sums.items()
        }
