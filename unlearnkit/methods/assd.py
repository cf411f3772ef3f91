# SPDX-License-Identifier: BSD-3-Clause
"""Adaptive Selective Synaptic Dampening: SSD whose threshold follows from the data."""

from __future__ import annotations

import math
import warnings
from typing import Literal

import numpy as np
from torch import nn

from unlearnkit.data import ForgetRetain, Loss
from unlearnkit.exceptions import DataError, IneffectiveWarning
from unlearnkit.importance import Importance, ImportanceEstimator
from unlearnkit.methods._calibrate import Calibration, calibrate
from unlearnkit.methods._dampening import Dampening, Weighing


def paper_percentile(n_forget: int, n_total: int) -> float:
    """Return p = 100 - ln(1 + 100 |Df| / |D|), the percentile of ASSD (arXiv 2402.10098).

    Examples
    --------
    >>> round(paper_percentile(10, 100), 3)
    97.602
    """
    return 100 - math.log1p(100 * n_forget / n_total)


class ASSD(Dampening):
    """Adaptive Selective Synaptic Dampening (Schoepf et al., arXiv 2402.10098).

    Weights are ranked by F_f / F_D, how much more they matter for the forget set than for the rest; those
    above a percentile are multiplied by ``min(lambda_ * F_D / F_f, 1)``. Nothing is trained.

    Parameters
    ----------
    importance : {"per_sample", "batch"} or importance estimator, default="per_sample"
        ``"per_sample"``: the exact Fisher diagonal. ``"batch"``: squared gradients of batches, as in the
        authors' code.
    against : {"full", "retain"}, default="retain"
        What the forget set is weighed against.
    percentile : "calibrated", "paper" or float, default="calibrated"
        ``"calibrated"``: the smallest edit whose forget-set accuracy reaches `target`, stopping before
        accuracy on what is kept falls by more than `tolerance`. ``"paper"``: 100 - ln(1 + 100 |Df| / |D|),
        made for ``importance="batch"``. A float: the percentile itself, 0 to 100; lower edits more.
    target : float, optional
        For ``"calibrated"``: the accuracy on the forget set to reach, as a fraction. Left out: what a model
        that never saw the samples would have; that is the model's accuracy on held-out samples of the same
        class (from ``validation``), and 0 for a class that goes altogether. For wrong labels set 0.
    tolerance : float, default=0.03
        For ``"calibrated"``: how much accuracy may fall on ``validation``, else on retain samples.
    lambda_ : float, default=1.0
        Strength; smaller dampens more.
    reference : Importance, optional
        Measured on the whole training set, forget set included, when the model was trained; then the
        training data is not needed, and the cost grows with |Df| alone.
    loss : callable, optional
        ``loss(model, batch) -> Tensor [N]``; cross-entropy where left out.
    progress : bool, default=False
        Show progress bars.

    Attributes
    ----------
    edit_ : WeightEdit
    alpha_, percentile_ : float
        The threshold used, and the percentile that it is.
    calibration_ : Calibration
        What was aimed at and reached (``"calibrated"`` only).
    n_forget_, n_total_ : int
        |Df| and |D| as counted.
    seconds_ : float

    Notes
    -----
    The paper's setting is ``ASSD(importance="batch", against="retain", percentile="paper")``: the authors'
    code passes the retain loader for F_D, the paper's text names the full set (``against="full"``).
    """

    def __init__(
        self,
        importance: Literal["per_sample", "batch"] | ImportanceEstimator = "per_sample",
        against: Literal["full", "retain"] = "retain",
        percentile: Literal["calibrated", "paper"] | float = "calibrated",
        target: float | None = None,
        tolerance: float = 0.03,
        lambda_: float = 1.0,
        reference: Importance | None = None,
        loss: Loss | None = None,
        progress: bool = False,
    ) -> None:
        self.importance = importance
        self.against = against
        self.percentile = percentile
        self.target = target
        self.tolerance = tolerance
        self.lambda_ = lambda_
        self.reference = reference
        self.loss = loss
        self.progress = progress

    def _validate(self) -> None:
        super()._validate()
        if isinstance(self.percentile, str):
            if self.percentile not in ("paper", "calibrated"):
                raise DataError(
                    f"percentile must be 'paper', 'calibrated' or a number from 0 to 100, got {self.percentile!r}."
                )
        elif isinstance(self.percentile, bool) or not 0 <= self.percentile <= 100:
            raise DataError(f"percentile must lie between 0 and 100, got {self.percentile!r}.")
        if self.target is not None and not 0 <= self.target <= 1:
            raise DataError(f"target is an accuracy, a fraction from 0 to 1, got {self.target!r}.")
        if not 0 <= self.tolerance <= 1:
            raise DataError(f"tolerance is a loss of accuracy, a fraction from 0 to 1, got {self.tolerance!r}.")
        if self.percentile == "calibrated" and self.loss is not None:
            raise DataError(
                "percentile='calibrated' watches accuracy, which a task with a loss of its own may not have: use "
                "percentile='paper' or a number."
            )

    def _threshold(self, model: nn.Module, roles: ForgetRetain, weighing: Weighing) -> float:
        if self.percentile == "calibrated":
            self.calibration_ = self._calibrated(model, roles, weighing)
            self.percentile_ = self.calibration_.percentile
        elif self.percentile == "paper":
            self.percentile_ = paper_percentile(self.n_forget_, self.n_total_)
        else:
            self.percentile_ = float(self.percentile)
        alpha = self._alpha(weighing, self.percentile_)
        if alpha < 1:
            warnings.warn(
                f"alpha = {alpha:.3g} at percentile {self.percentile_:.4g} is below 1: of the weights selected, "
                "those less important for the forget set than for the rest are left as they are.",
                IneffectiveWarning,
                stacklevel=5,
            )
        return alpha

    @staticmethod
    def _alpha(weighing: Weighing, percentile: float) -> float:
        """Return the percentile of the finite ratios: 0/0 and x/0 do not count, zeros do."""
        return float(np.percentile(weighing.sorted_ratios, percentile))

    def _calibrated(self, model: nn.Module, roles: ForgetRetain, weighing: Weighing) -> Calibration:
        found = calibrate(
            model,
            roles,
            weighing,
            lambda p: self._alpha(weighing, p),
            self.lambda_,
            self.tolerance,
            self.target,
        )
        if found.stopped_short:
            warnings.warn(
                f"dampening stopped short: accuracy on the forget set is {found.forget:.1%}, and {found.target:.1%} is "
                f"what a model that never saw it would have. Going on would cost more than tolerance="
                f"{self.tolerance:g} of the accuracy to be kept (now {found.kept:.1%}, before "
                f"{found.kept_before:.1%}). Raise tolerance, and repair the copy by fine-tuning on the retain set; "
                "dampening forgets a class well, scattered samples and wrong labels barely.",
                IneffectiveWarning,
                stacklevel=6,
            )
        return found

    def _milder(self) -> str:
        return f"Raise percentile (now {self.percentile_:.4g}), or use percentile='calibrated'."
