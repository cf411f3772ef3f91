# SPDX-License-Identifier: BSD-3-Clause
"""RLAP: part of the training data is bad, and it is not known which part."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from sklearn.base import clone
from torch import nn

from unlearnkit.data import ForgetRetain, Measured, Partition, as_loader
from unlearnkit.edit import WeightEdit
from unlearnkit.exceptions import DataError, IneffectiveWarning, warn
from unlearnkit.finding import Finder
from unlearnkit.importance import Importance, ImportanceEstimator
from unlearnkit.methods._checks import check_choice
from unlearnkit.methods._run import Run
from unlearnkit.methods._trainer import Optimizers
from unlearnkit.methods.find import find_forget_set
from unlearnkit.methods.finetune import FineTune
from unlearnkit.methods.prune import Prune, batch_of, hidden_layers, nothing_of, set_to_zero
from unlearnkit.methods.warm_up import WarmUpFinder, with_seed
from unlearnkit.parameters import copy_of
from unlearnkit.selection import ParameterMask
from unlearnkit.structure.layers import head_of

NOTHING_FOUND = (
    "no sample of the data stands out as noisy, so there is nothing to forget: keep the model as it is, lower the "
    "finder's threshold, or say what is noisy, as in fit(model, retain, forget)."
)

NOTHING_LEFT = (
    "all {count:,} samples of the data were found to be noisy, so there is nothing to keep: raise the finder's "
    "threshold, as in finder=MixtureFinder(threshold=0.9), take another finder, or say what is noisy, as in "
    "fit(model, retain, forget)."
)

DOUBTFUL = (
    "no part of the data stands out clearly enough to be taken for noise (another warning says why), so the model is "
    "left as it is. See what was found in partition_; to prune and train all the same, pass it: fit(model, partition)."
)


@dataclass(kw_only=True, eq=False, repr=False)
class RLAP(FineTune, Prune):
    """Find the noisy part of the data, prune the units that answer to it, and train on the clean part.

    For a model part of whose training data is bad when it is not known which part:
    ``fit(model, data)`` with the data whole. Where it is known, ``fit(model, retain, forget)``.

    1. *Find*: a mixture model divides the samples by how the model comes to its predictions
       (`finder`).
    2. *Regress*: how much does each unit of a hidden layer respond to the noisy part
       (`importance`)?
    3. *Prune*: those that do most are set to zero (incoming weights, bias, and the affine weights
       of the normalisation that follows), and stay zero.
    4. *Fine-tune* on the clean part.

    Where no part stands out clearly (:attr:`Partition.is_separated`) the model is left as it is, with
    a warning: to train on what is left of good data would do it harm.

    Any importance goes in the place of the regression, as ``"random"``; and without pruning, steps 1
    and 4 are ``FineTune().fit(model, find_forget_set(model, data))``.

    Parameters
    ----------
    finder : Finder, optional
        How the noisy part is found; :class:`~unlearnkit.WarmUpFinder` where left out.
    tune : {"all", "last"}
        What is trained on the clean part: all weights, or the last hidden layer and the head; the
        paper's F-FT and L-FT. Statistics of BatchNorm move with either, unless the `trainer` keeps
        them.
    regrow : bool
        As the authors' code prunes: only incoming weights are set to zero, and they are trained
        like all others.

    Attributes
    ----------
    partition_ : Partition or None
        The two parts, and each sample's probability of being noisy; None where the sets were given.
    finder_ : Finder
        What found them, with what it learned, such as ``looked_at_``; where it was asked.
    mask_ : ParameterMask
        What was pruned.
    trained_ : ParameterMask
        What was trained.

    Notes
    -----
    "Machine Unlearning for Robust DNNs: Attribution-Guided Partitioning and Neuron Pruning in Noisy
    Environments", arXiv 2506.11615, algorithm 1. The authors' code differs from what is done here:
    it regresses on the class in the place of the sample's part, by mistake, takes the absolute
    coefficient, leaves biases, and lets what was pruned grow again. Their fine-tuning is 30 epochs
    of Adam at 1e-3 in batches of 64; for ``tune="last"`` with a weight decay of 1e-5.
    """

    needs_retain: ClassVar[Literal["data", "importance", "nothing"]] = "data"
    finds_forget: ClassVar[bool] = True

    finder: Finder | None = None
    importance: str | ImportanceEstimator | None = "sensitivity"
    granularity: Literal["weight", "channel", "layer"] = "channel"
    budget: float = 0.15625
    tune: Literal["all", "last"] = "all"
    regrow: bool = False
    epochs: int = 30
    lr: float = 0.001
    batch_size: int | Literal["loader"] = 64
    optimizer: Optimizers = "adam"
    weight_decay: float = 0.0

    def fit(
        self, model: nn.Module, *data: Any, retain: Any = None, forget: Any = None, validation: Any = None
    ) -> RLAP:
        """Learn how to make `model` good; the model itself is left bit by bit as it was.

        Parameters
        ----------
        model : nn.Module
            Trained on all of the data.
        *data : one or two of: DataLoader, Dataset, (X, y); or a Partition
            ``fit(model, data)``: data of which some is noisy. ``fit(model, partition)`` and
            ``fit(model, retain, forget)``: which is known.
        retain, forget : the same, by keyword
            The clean and the noisy part.
        validation : DataLoader, Dataset or (X, y), optional
            Held-out samples.

        Returns
        -------
        self

        Raises
        ------
        TypeError
            If the arguments are none of the forms above.
        DataError
            If data is empty, does not fit the model, or no part of it is found to be noisy.
        UnsupportedModuleError
            If the model cannot be measured exactly.
        """
        return super().fit(model, *data, retain=retain, forget=forget, validation=validation)

    def _validate(self) -> None:
        super()._validate()
        check_choice("tune", self.tune, ("all", "last"))
        if self.finder is not None and not isinstance(self.finder, Finder):
            raise DataError(f"finder must be a Finder such as MixtureFinder(), got {self.finder!r}.")

    def _roles(
        self, model: nn.Module, data: tuple[Any, ...], retain: Any, forget: Any, validation: Any
    ) -> ForgetRetain:
        named = retain is not None or forget is not None
        if len(data) == 1 and data[0] is not None and not named and not isinstance(data[0], Partition):
            data = (self._found(model, data[0], validation),)
        return super()._roles(model, data, retain, forget, validation)

    def _found(self, model: nn.Module, data: Any, validation: Any) -> Partition:
        if isinstance(data, Measured):
            raise DataError("RLAP looks at each sample, so it needs the data itself, and got an Importance.")
        source = as_loader(data)
        if validation is not None:
            as_loader(validation, name="validation")  # to be told before the long work
        # what a finder learns is not to be written into a parameter
        self.finder_: Finder = WarmUpFinder() if self.finder is None else clone(self.finder)
        self.finder_ = with_seed(self.finder_, self.random_state)
        found = find_forget_set(
            model, source, self.finder_, self.loss, self.progress, random_state=self.random_state
        )
        if not len(found.indices):
            raise DataError(NOTHING_FOUND)
        if bool(found.is_noisy.all()):
            raise DataError(NOTHING_LEFT.format(count=len(found.is_noisy)))
        return found

    def _measure(self, model: nn.Module, roles: ForgetRetain) -> Importance | None:
        return None if self._doubts(roles) else super()._measure(model, roles)

    def _doubts(self, roles: ForgetRetain) -> bool:
        """Tell whether the parts were found by this estimator, and not clearly."""
        found = hasattr(self, "finder_") and roles.partition is not None
        return found and not roles.partition.is_separated  # type: ignore[union-attr]

    def _fit(self, model: nn.Module, roles: ForgetRetain, measured: Importance | None) -> WeightEdit:
        self.partition_ = roles.partition
        if self._doubts(roles):
            warn(DOUBTFUL, IneffectiveWarning)
            self.mask_ = self.trained_ = nothing_of(model)
            self.history_ = []
            return WeightEdit.between(model, model, {"method": self._described()})
        run = self._run_of(copy_of(model), model, roles, self._seed())
        self.mask_ = self._pruned(run, measured, whole=not self.regrow)
        self._train(run, self.mask_)
        return WeightEdit.between(model, run.model, {"method": self._described()})

    def _begin(self, run: Run) -> None:
        super()._begin(run)
        set_to_zero(run.model, self.mask_)

    def _trainable(self, run: Run) -> ParameterMask:
        names = None
        if self.tune == "last":
            last = [name for layer in hidden_layers(run)[-1:] for name in layer.parameters]
            names = [*last, *head_of(run.original, batch_of(run), "set tune='all'", self.loss)]
        self.trained_ = ParameterMask.everything(run.source, include=names)
        if not self.regrow:
            held = {name: mask & ~self.mask_[name] for name, mask in self.trained_.items()}
            self.trained_ = ParameterMask(held, 1.0, self.trained_.eligible)
        return self.trained_

    def _milder(self) -> str:
        return "Train for more epochs, or prune fewer units with a smaller budget."
