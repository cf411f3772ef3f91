# SPDX-License-Identifier: BSD-3-Clause
"""Resetting what was selected to a fresh initialisation, and training it again: RFT, and DEL."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from unlearnkit.importance import ImportanceEstimator
from unlearnkit.methods._fresh import Factory, check_factory, fresh_weights
from unlearnkit.methods._run import Run, derived
from unlearnkit.methods._trainer import Schedules
from unlearnkit.methods.finetune import FineTune
from unlearnkit.parameters import named_parameters
from unlearnkit.selection import ParameterMask
from unlearnkit.structure.layers import head_of

RESET = 0x5E5E
"""Sets the seed of a reset apart: with the original's own seed it would only rewind it."""


@dataclass(kw_only=True, eq=False, repr=False)
class ResetFinetune(FineTune):
    """Set the selected weights back to a fresh initialisation, then train them on the retain set.

    Parameters
    ----------
    train_head : bool
        Train the model's last layer whole, though only what is selected of it is reset.
    factory : callable, optional
        ``factory() -> model`` builds your model anew: where its initial weights come from. Without
        it they come from each module's ``reset_parameters``, or a transformers model's own.

    Attributes
    ----------
    mask_ : ParameterMask
        What was reset.
    trained_ : ParameterMask
        What was trained: that, and with ``train_head`` the last layer.

    Notes
    -----
    "RFT" of DEL (arXiv 2412.02432), section 4. Statistics of BatchNorm are not reset.
    """

    needs_retain: ClassVar[Literal["data", "importance", "nothing"]] = "data"

    _strict: ClassVar[bool] = True  # what has no initialisation is an error

    train_head: bool = False
    factory: Factory | None = None

    def _validate(self) -> None:
        super()._validate()
        check_factory(self.factory)

    def _begin(self, run: Run) -> None:
        super()._begin(run)
        self._reset(run)

    def _reset(self, run: Run) -> None:
        """Give what was selected new values."""
        fresh = fresh_weights(run.source, self.mask_, derived(run.seed, RESET), self.factory, self._strict)
        with torch.no_grad():
            for name, parameter in named_parameters(run.model).items():
                if name in fresh:
                    chosen = self.mask_[name].to(parameter.device)
                    parameter.copy_(torch.where(chosen, fresh[name].to(parameter.device), parameter))

    def _milder(self) -> str:
        return "Train for more epochs, or reset fewer weights with a smaller budget."

    def _trainable(self, run: Run) -> ParameterMask:
        self.trained_ = self.mask_
        if self.train_head:
            run.seed_epoch(0)
            head = head_of(run.original, next(run.retain.walk(run.generator)), loss=self.loss)
            self.trained_ = self.mask_ | ParameterMask.everything(run.source, include=head)
        return self.trained_


@dataclass(kw_only=True, eq=False, repr=False)
class DEL(ResetFinetune):
    """Deletion by example localisation: reset the channels that hold the examples, and train them again.

    :class:`ResetFinetune` with ``importance="weighted"``, channels, and 30 % of the weights.

    Notes
    -----
    Torkzadehmahani et al., "Improved Localized Machine Unlearning Through the Lens of
    Memorization", arXiv 2412.02432. The authors train for as many epochs as the original had been
    (30 for CIFAR-10). ``top="code"`` takes the mean over a tenth of the number of channels, as
    their code does; the default, over a tenth of a channel's weights.

    Examples
    --------
    >>> from unlearnkit import DEL
    >>> DEL(budget=0.1)
    DEL(budget=0.1)
    """

    importance: str | ImportanceEstimator | None = "weighted"
    granularity: Literal["weight", "channel", "layer"] = "channel"
    budget: float = 0.3
    epochs: int = 30
    lr: float = 0.015
    weight_decay: float = 0.0
    schedule: Schedules = "cosine"
    train_head: bool = True
