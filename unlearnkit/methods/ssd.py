# SPDX-License-Identifier: BSD-3-Clause
"""Selective Synaptic Dampening, with a threshold that the user sets."""

from __future__ import annotations

from typing import Literal

from torch import nn

from unlearnkit.data import ForgetRetain, Loss
from unlearnkit.importance import Importance, ImportanceEstimator, LogitNorm
from unlearnkit.methods._checks import check_number
from unlearnkit.methods._dampening import Dampening, Weighing


class SSD(Dampening):
    """Selective Synaptic Dampening (Foster et al., AAAI 2024, arXiv 2308.07707).

    Weights that matter more than `alpha` times as much for the forget set as for the training set
    are multiplied by ``min(lambda_ * F_D / F_f, 1)``. Nothing is trained.

    Parameters
    ----------
    importance : {"batch", "per_sample"} or importance estimator, default="batch"
        How importance is measured: ``"batch"`` squares the gradients of batches, as the authors'
        code does and their `alpha` is made for; ``"per_sample"`` is the exact Fisher diagonal,
        whose ratio to the full one cannot exceed |D| / |Df|.
    against : {"full", "retain"}, default="full"
        What the forget set is weighed against: all training data, or what is retained of it.
    alpha : float, default=10.0
        Selection threshold. 10 for a ResNet-18 on CIFAR, 5 to 25 for a ViT, 50 for
        PinsFaceRecognition in the authors' code; sensitive to data and architecture.
    lambda_ : float, default=1.0
        Strength; smaller dampens more.
    reference : Importance, optional
        Measured on the whole training set, forget set included, when the model was trained; then
        the training data is not needed.
    loss : callable, optional
        ``loss(model, batch) -> Tensor [N]``; cross-entropy where left out.
    progress : bool, default=False
        Show progress bars.

    Attributes
    ----------
    edit_ : WeightEdit
    alpha_ : float
        The threshold used.
    n_forget_, n_total_ : int
        |Df| and |D| as counted.
    seconds_ : float
    """

    def __init__(
        self,
        importance: Literal["per_sample", "batch"] | ImportanceEstimator = "batch",
        against: Literal["full", "retain"] = "full",
        alpha: float = 10.0,
        lambda_: float = 1.0,
        reference: Importance | None = None,
        loss: Loss | None = None,
        progress: bool = False,
    ) -> None:
        self.importance = importance
        self.against = against
        self.alpha = alpha
        self.lambda_ = lambda_
        self.reference = reference
        self.loss = loss
        self.progress = progress

    def _validate(self) -> None:
        super()._validate()
        check_number("alpha", self.alpha)

    def _threshold(self, model: nn.Module, roles: ForgetRetain, weighing: Weighing) -> float:
        return float(self.alpha)

    def _milder(self) -> str:
        return f"Raise alpha (now {self.alpha:g}), or let ASSD(percentile='calibrated') find it."


class LFSSD(SSD):
    """Loss-free SSD (Foster et al., arXiv 2402.19308): needs no labels.

    SSD with :class:`~unlearnkit.LogitNorm` as its importance, the absolute gradient of the squared
    norm of the logits. That is not squared, so an `alpha` found for SSD does not carry over. The
    adaptive form (ALFSSD) is ``ASSD(importance=LogitNorm(), percentile="paper")``.

    Parameters
    ----------
    against : {"full", "retain"}, default="full"
    alpha : float, default=10.0
    lambda_ : float, default=1.0
    reference : Importance, optional
    progress : bool, default=False
        All as of :class:`SSD`.
    """

    def __init__(
        self,
        against: Literal["full", "retain"] = "full",
        alpha: float = 10.0,
        lambda_: float = 1.0,
        reference: Importance | None = None,
        progress: bool = False,
    ) -> None:
        self.against = against
        self.alpha = alpha
        self.lambda_ = lambda_
        self.reference = reference
        self.progress = progress

    importance = "batch"
    loss = None

    def _estimator(self) -> ImportanceEstimator:
        return LogitNorm()
