# SPDX-License-Identifier: BSD-3-Clause
"""Pruning of units: what answers to the forget set is set to zero."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from unlearnkit.data import Batch, ForgetRetain, cross_entropy
from unlearnkit.edit import WeightEdit
from unlearnkit.exceptions import DataError, IneffectiveWarning, warn
from unlearnkit.importance import Importance, ImportanceEstimator
from unlearnkit.methods._localised import Localised
from unlearnkit.methods._run import Run
from unlearnkit.parameters import copy_of, named_parameters
from unlearnkit.selection import ParameterMask, select
from unlearnkit.structure import Units, closure, forward_pass, units_of

NO_IMPORTANCE = (
    "importance=None does not say which units to prune: set importance='sensitivity', for instance, or use "
    "FineTune, which prunes none."
)
NO_UNIT = (
    "no unit can be pruned, and none was: before its last layer the model calls no linear layer or convolution "
    "whose weights require a gradient."
)
NO_RANK = (
    "the importance is the same for all of {weights}, so which of their units are pruned says nothing: set include= "
    "to weights that it ranks, or another importance."
)


@dataclass(kw_only=True, eq=False, repr=False)
class Prune(Localised):
    """Set the units that answer to the forget set to zero: one step of RLAP, and nothing else.

    A unit is a row of a linear layer's weight, or a filter of a convolution. With its incoming
    weights go its bias, and the affine weights of the normalisation that follows, so that it puts
    out zero. Nothing is trained: :class:`RLAP` is what repairs. :func:`unlearnkit.compact` then makes
    the model smaller by what was pruned.

    Parameters
    ----------
    importance : str or importance estimator
        What ranks the units; any that ranks weights will do, as ``"random"`` or ``"fisher_ratio"``.
    granularity
        With ``"weight"`` single weights of units are pruned, with ``"layer"`` all units of a layer.
    budget : float
        Share of the units to prune, or of the layers; at least one is. RLAP's authors prune 40 of 256.
    include, exclude : str or sequence of str, optional
        Patterns of the weights whose units may be pruned, such as ``"fc*"``; without `include` those
        of the last layer before the output that `exclude` leaves. The output layer never is.

    Attributes
    ----------
    mask_ : ParameterMask
        What was pruned.

    Notes
    -----
    "Machine Unlearning for Robust DNNs", arXiv 2506.11615, section 3. The authors' code leaves
    biases and normalisations as they are.

    Examples
    --------
    >>> from unlearnkit import Prune
    >>> Prune(budget=0.3)
    Prune(budget=0.3)
    """

    needs_retain: ClassVar[Literal["data", "importance", "nothing"]] = "data"

    importance: str | ImportanceEstimator | None = "sensitivity"
    granularity: Literal["weight", "channel", "layer"] = "channel"
    budget: float = 0.15625

    def _validate(self) -> None:
        if self.importance is None:
            raise DataError(NO_IMPORTANCE)
        super()._validate()

    def _fit(self, model: nn.Module, roles: ForgetRetain, measured: Importance | None) -> WeightEdit:
        run = Run(copy_of(model), model, roles.forget, roles.retain, None, self.loss, self._seed())
        run.look_at_forget()
        self.mask_ = self._pruned(run, measured)
        set_to_zero(run.model, self.mask_)
        return WeightEdit.between(model, run.model, {"method": self._described()})

    def _pruned(self, run: Run, measured: Importance | None, whole: bool = True) -> ParameterMask:
        """Return what is to be set to zero: of whole units all that is theirs, or their incoming weights."""
        layers = self._prunable(run)
        parameters = named_parameters(run.source)
        if not layers or measured is None:
            warn(NO_UNIT, IneffectiveWarning)
            return nothing_of(run.source)
        weights = [layer.weight for layer in layers]
        sizes = [parameters[name].numel() for name in weights]
        budget = self.budget
        if self.granularity != "weight":  # at least one
            units = [layer.count if self.granularity == "channel" else 1 for layer in layers]
            least = min(size / count for size, count in zip(sizes, units, strict=True))
            budget = min(max(budget, (least + 0.5) / sum(sizes)), 1.0)
        scores = self._estimator().scores(run.source, measured)
        chosen = select(scores, budget, self.granularity, self.top, include=weights, model=run.source)
        alike = len({float(extreme) for name in weights for extreme in scores[name].aminmax()}) == 1
        if alike and not all(bool(chosen[name].all()) for name in weights):
            warn(NO_RANK.format(weights=", ".join(weights)), IneffectiveWarning)
        if self.granularity == "weight" or not whole:
            return chosen
        closed = closure(run.source, batch_of(run), chosen, runner(run))
        return ParameterMask(closed, budget, [name for layer in layers for name in layer.parameters])

    def _prunable(self, run: Run) -> list[Units]:
        """Return the layers whose units may be pruned."""
        hidden = hidden_layers(run)
        if self.include is None and self.exclude is None:
            return hidden[-1:]
        names = ParameterMask.everything(run.source, include=self.include, exclude=self.exclude).eligible
        chosen = [layer for layer in hidden if layer.weight in names]
        if not chosen:
            known = ", ".join(layer.weight for layer in hidden) or "none"
            raise DataError(
                f"include={self.include!r}, exclude={self.exclude!r} leave no weight whose units can be pruned; "
                f"of this model these can: {known}."
            )
        return chosen if self.include is not None else chosen[-1:]

    def _milder(self) -> str:
        return "Prune fewer units with a smaller budget, or repair the model with RLAP."


def nothing_of(model: nn.Module) -> ParameterMask:
    """Return the mask in which nothing is selected."""
    parameters = named_parameters(model).items()
    return ParameterMask({name: torch.zeros(p.shape, dtype=torch.bool) for name, p in parameters}, 0.0, ())


def set_to_zero(model: nn.Module, mask: ParameterMask) -> None:
    """Set what is selected to zero, in place."""
    with torch.no_grad():
        for name, parameter in named_parameters(model).items():
            parameter.masked_fill_(mask[name].to(parameter.device), 0)


def hidden_layers(run: Run) -> list[Units]:
    """Return the layers before the output whose units are free to be pruned, in the order in which they run."""
    parameters = named_parameters(run.source)
    return [
        layer
        for layer in units_of(run.original, batch_of(run), runner(run)).values()
        if not layer.is_output and all(parameters[name].requires_grad for name in layer.parameters)
    ]


def batch_of(run: Run) -> Batch:
    """Return some samples of the retain set."""
    run.seed_epoch(0)
    return next(run.retain.walk(run.generator))


def runner(run: Run) -> Callable[[nn.Module, Batch], Tensor]:
    """Return what runs the model; where there is a loss of the user's, that alone knows how."""
    return forward_pass if run.loss is cross_entropy else run.loss
