# SPDX-License-Identifier: BSD-3-Clause
"""A model that has begun to learn, and has not memorised yet: wrong labels still show in its losses."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from unlearnkit.data import Batch
from unlearnkit.methods._fresh import Factory
from unlearnkit.methods._run import Run, derived
from unlearnkit.methods._training import Training
from unlearnkit.methods.reset import ResetFinetune
from unlearnkit.parameters import copy_of
from unlearnkit.selection import ParameterMask

WARM_UP = 0xAB1E
"""Sets the seed of this training apart from that of the method."""


@dataclass(kw_only=True, eq=False, repr=False)
class WarmUp(ResetFinetune):
    """Resets all that can be, and trains it a little on data given as the retain set."""

    _strict: ClassVar[bool] = False
    _bar: ClassVar[str] = "warm-up"

    def _begin(self, run: Run) -> None:
        self._reset(run)

    def _trainable(self, run: Run) -> ParameterMask:
        return ParameterMask.everything(run.source)


def warmed_up(
    model: nn.Module, data: Iterable[Batch], method: Training, epochs: int, factory: Factory | None
) -> nn.Module:
    """Return a newly initialised copy of `model`, trained for some epochs on `data` as `method` trains.

    What has no initialisation that can be had keeps its values, and so do the statistics of BatchNorm.
    """
    seed = derived(method._seed(), WARM_UP)
    training = WarmUp(
        epochs=epochs,
        lr=method.lr,
        batch_size=method.batch_size,
        optimizer=method.optimizer,
        weight_decay=method.weight_decay,
        loss=method.loss,
        progress=method.progress,
        trainer=method._plain(),
        factory=factory,
    )
    training.mask_ = ParameterMask.everything(model)
    size = None if method.batch_size == "loader" else method.batch_size
    run = Run(copy_of(model), model, None, data, size, method.loss, seed)
    training._train(run, training.mask_)
    return run.model.eval()
