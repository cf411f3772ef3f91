# SPDX-License-Identifier: BSD-3-Clause
"""Methods that train the selected weights."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from unlearnkit.data import ForgetRetain
from unlearnkit.exceptions import IneffectiveWarning, warn
from unlearnkit.methods._localised import Localised
from unlearnkit.methods._run import Run
from unlearnkit.methods._training import Training
from unlearnkit.parameters import named_parameters
from unlearnkit.selection import ParameterMask

UNMOVED = (
    "the training changed no weight: the loss has no gradient at this model, or lr or epochs is too small. The "
    "distance to what the model gave before, for one, is least there: train the forget set with another loss, such as "
    "the method misaligned of a loss for RandomLabel and SalUn."
)


@dataclass(kw_only=True, eq=False, repr=False)
class Trained(Training, Localised):
    """Base of the methods that train the selected weights.

    Its parameters are those of `Localised`, what is selected, and of `Training`, how it is trained.
    """

    def _edit(
        self, edited: nn.Module, model: nn.Module, roles: ForgetRetain, mask: ParameterMask, seed: int
    ) -> None:
        self._train(self._run_of(edited, model, roles, seed), mask)
        before = named_parameters(model)
        if all(torch.equal(after, before[name]) for name, after in named_parameters(edited).items()):
            warn(UNMOVED, IneffectiveWarning)

    def _trainable(self, run: Run) -> ParameterMask:
        """Return what is trained: what was selected."""
        return self.mask_
