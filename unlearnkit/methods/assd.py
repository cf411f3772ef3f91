# SPDX-License-Identifier: BSD-3-Clause
"""Adaptive Selective Synaptic Dampening: SSD whose threshold follows from the data."""

from __future__ import annotations

import math
from typing import Literal

from torch import nn

from unlearnkit.data import ForgetRetain, Loss
from unlearnkit.exceptions import DataError, IneffectiveWarning, warn
from unlearnkit.importance import Importance, ImportanceEstimator
from unlearnkit.importance.evidence import Evidence
from unlearnkit.methods._calibrate import Calibration, calibrate, can_watch, classes_of_forget
from unlearnkit.methods._checks import check_number
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

    Weights are ranked by F_f / F_D, how much more they matter for the forget set than for the rest;
    those above a percentile are multiplied by ``min(lambda_ * F_D / F_f, 1)``. Nothing is trained.

    Parameters
    ----------
    importance : {"per_sample", "batch"} or importance estimator, default="per_sample"
        ``"per_sample"``: the exact Fisher diagonal. ``"batch"``: squared gradients of batches, as
        in the authors' code.
    against : {"full", "retain"}, default="retain"
        What the forget set is weighed against.
    percentile : "calibrated", "paper" or float, default="calibrated"
        ``"calibrated"``: the smallest edit whose forget-set accuracy reaches `target`, stopping
        before accuracy on what is kept falls by more than `tolerance`. ``"paper"``:
        100 - ln(1 + 100 |Df| / |D|), made for ``importance="batch"``. A float: the percentile
        itself, 0 to 100; lower edits more.
    target : float, optional
        For ``"calibrated"``: the accuracy on the forget set to reach, as a fraction. Left out: what
        a model that never saw the samples would have; that is the model's accuracy on held-out
        samples of the same class (from ``validation``), and 0 for a class that goes altogether. For
        wrong labels set 0. Without ``validation``, classes that live on are aimed at 0 too, as far
        as `tolerance` allows, and a warning says so.
    tolerance : float, default=0.03
        For ``"calibrated"``: how much accuracy may fall on ``validation`` (without the classes that
        go), else on retain samples.
    lambda_ : float, default=1.0
        Strength; smaller dampens more.
    reference : Importance, optional
        Measured on the whole training set, forget set included, when the model was trained; then
        the training data is not needed, and the cost grows with |Df| alone.
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
        What was aimed at and reached (``"calibrated"`` only): `target`; `before` and `found`, each
        with `percentile`, `forget` and `kept`; `full`; `stopped_short`.
    n_forget_, n_total_ : int
        |Df| and |D| as counted.
    seconds_ : float

    Notes
    -----
    The paper's setting is ``ASSD(importance="batch", against="retain", percentile="paper")``: the
    authors' code passes the retain loader for F_D, the paper's text names the full set
    (``against="full"``).
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
                    "percentile must be 'paper', 'calibrated' or a number from 0 to 100, got "
                    f"{self.percentile!r}."
                )
        else:
            check_number("percentile", self.percentile, 100)
        if self.target is not None:
            check_number("target", self.target, 1, "an accuracy, a fraction")
        check_number("tolerance", self.tolerance, 1, "a loss of accuracy, a fraction")
        if self.percentile == "calibrated" and self.loss is not None:
            raise DataError(
                "percentile='calibrated' watches accuracy, which a task with a loss of its own may "
                "not have: use percentile='paper' or a number."
            )

    def _measure(self, model: nn.Module, roles: ForgetRetain) -> Evidence:
        is_known = self.reference is not None or roles.retain is not None
        if self.percentile == "calibrated" and is_known:
            classes_of_forget(roles)  # what it lacks is said now: to measure may take long
        return super()._measure(model, roles)

    def _threshold(self, model: nn.Module, roles: ForgetRetain, weighing: Weighing) -> float:
        if self.percentile == "calibrated" and can_watch(roles):
            return self._calibrated(model, roles, weighing)
        if self.percentile == "calibrated":
            warn(
                "neither the retain set nor a validation set is at hand, so nothing tells when "
                "what is to be kept begins to suffer, and the paper's percentile is used, a mild "
                "one. Pass fit(..., validation=held_out) to calibrate, or set percentile=.",
                IneffectiveWarning,
            )
        if self.percentile in ("calibrated", "paper"):
            self.percentile_ = paper_percentile(self.n_forget_, self.n_total_)
        else:
            self.percentile_ = float(self.percentile)
        return weighing.alpha(self.percentile_)

    def _calibrated(self, model: nn.Module, roles: ForgetRetain, weighing: Weighing) -> float:
        result = calibrate(model, roles, weighing, self.lambda_, self.tolerance, self.target)
        self.calibration_, self.percentile_ = result, result.found.percentile
        if result.stopped_short:
            warn(_shortfall(result, self.tolerance), IneffectiveWarning)
        return result.alpha

    def _chosen_by_hand(self) -> bool:
        return not hasattr(self, "calibration_")  # which says itself how far it came

    def _why_nothing(self, measured: Evidence) -> str:
        result = getattr(self, "calibration_", None)
        if result is None or result.stopped_short:
            return super()._why_nothing(measured)
        return (
            f"accuracy on the forget set is {result.before.forget:.1%} already, and the target is "
            f"{result.target:.1%}. Set target= lower to go on."
        )

    def _milder(self) -> str:
        return f"Raise percentile (now {self.percentile_:.7g}), or use percentile='calibrated'."


def _shortfall(result: Calibration, tolerance: float) -> str:
    """Say how far a calibration came, and what goes further."""
    before, found, full = result.before, result.found, result.full
    told = (
        f"dampening stopped short: accuracy on the forget set is {found.forget:.1%}, and the "
        f"target is {result.target:.1%}. "
    )
    if full is None:
        told += (
            "No percentile reaches it, training does: fine-tune the copy on the retain set, or "
            "train a newly built model. "
        )
    else:
        told += (
            f"percentile={full.percentile:.7g} reaches it, where accuracy on what is kept falls "
            f"from {before.kept:.1%} to {full.kept:.1%}, more than tolerance={tolerance:g}: raise "
            "that, and repair the copy by fine-tuning it on the retain set. "
        )
    return told + "Dampening forgets a class or a systematic error better than scattered samples."
