# SPDX-License-Identifier: BSD-3-Clause
"""Methods that train: what their steps are is theirs, how a step is made is the loop's."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from unlearnkit.data import ForgetRetain
from unlearnkit.exceptions import DataError
from unlearnkit.methods._checks import check_choice, check_count, check_number
from unlearnkit.methods._finetune import Loop
from unlearnkit.methods._frozen import Frozen
from unlearnkit.methods._run import Run
from unlearnkit.methods._settings import Seeded
from unlearnkit.methods._trainer import Optimizers, Schedules, Trainer
from unlearnkit.parameters import digest, named_tensors
from unlearnkit.selection import ParameterMask

OPTIMIZER = "a function such as lambda parameters: torch.optim.RMSprop(parameters, lr=0.01)"
SCHEDULE = "a function of the progress, 0 to 1"


@dataclass(kw_only=True, eq=False, repr=False)
class Training(Seeded):
    """Base of the methods that train.

    Parameters
    ----------
    epochs : int
        Passes over the data.
    lr : float
        Learning rate at the start.
    batch_size : int or "loader"
        Samples a batch, or the loader's own number. Data that is not a loader over a map-style data
        set comes in its own batches, whatever this says.
    optimizer : {"sgd", "adam", "adamw"} or callable
        Or ``optimizer(parameters) -> torch.optim.Optimizer``, which then sets its own rate and decay.
    weight_decay : float
    schedule : {"constant", "cosine", "linear", "warmup"} or callable
        Of the learning rate, step by step; or a function of the progress, 0 to 1, that returns a
        factor.
    trainer : Trainer, optional
        Everything else: momentum, clipping, BatchNorm, precision, early stopping, checkpoints.

    Attributes
    ----------
    history_ : list of dict
        A row an epoch: ``epoch``, ``loss`` (the mean over steps), ``lr`` (at the last step), ``seconds``,
        and ``monitor`` where one watches.
    """

    _default: ClassVar[Trainer] = Trainer()
    _bar: ClassVar[str] = "epochs"
    _sizes: ClassVar[tuple[str, ...]] = ("loader",)

    epochs: int = 10
    lr: float = 0.01
    batch_size: int | Literal["loader"] = 128
    optimizer: Optimizers = "sgd"
    weight_decay: float = 0.0
    schedule: Schedules = "constant"
    trainer: Trainer | None = None

    def _validate(self) -> None:
        super()._validate()
        check_count("epochs", self.epochs)
        check_number("lr", self.lr)
        if self.batch_size not in self._sizes:
            said = " or ".join(map(repr, self._sizes))
            check_count("batch_size", self.batch_size, 1, f"{said} or a whole number")
        check_number("weight_decay", self.weight_decay)
        if not callable(self.optimizer) or isinstance(self.optimizer, type):
            check_choice("optimizer", self.optimizer, ("sgd", "adam", "adamw"), OPTIMIZER)
        if not callable(self.schedule):
            check_choice("schedule", self.schedule, ("constant", "cosine", "linear", "warmup"), SCHEDULE)
        if self.trainer is None:
            return
        if not isinstance(self.trainer, Trainer):
            raise DataError(f"trainer must be a Trainer(...), got {self.trainer!r}.")
        self.trainer.validate()
        if self.trainer.checkpoint is not None and self.random_state is None:
            raise DataError(
                "a checkpoint needs random_state=, so that what goes on draws what the interrupted "
                "training would have drawn."
            )

    def _run_of(self, edited: nn.Module, model: nn.Module, roles: ForgetRetain, seed: int) -> Run:
        """Return a run that trains `edited`, a copy of `model`, on some data."""
        size = None if self.batch_size == "loader" else self.batch_size
        return Run(edited, model, roles.forget, roles.retain, size, self.loss, seed)

    def _plain(self) -> Trainer:
        """Return the trainer's settings for a model trained on the way, without those that are for the result."""
        given = self.trainer or self._default
        return Trainer(
            momentum=given.momentum,
            clip=given.clip,
            clip_before_mask=given.clip_before_mask,
            batchnorm=given.batchnorm,
            precision=given.precision,
        )

    def _train(self, run: Run, mask: Mapping[str, Tensor]) -> None:
        """Train the run's model; `mask` says of what the edit is, by canonical name."""
        trainer = self.trainer or self._default
        key = self._key(run, mask) if trainer.checkpoint is not None else ""
        length = self._length(run)
        try:
            with torch.autocast(run.device.type, enabled=False):  # the trainer's precision counts alone
                self._begin(run)
                run.frozen = Frozen(run.model, self._trainable(run))
                loop = Loop(
                    run,
                    self._most_epochs(),
                    self.optimizer,
                    self.lr,
                    self.weight_decay,
                    self._schedule(),
                    trainer,
                    self._bar if self.progress else "",
                    key,
                )
                self.history_ = loop.train(self._steps, length, self._ended)
        finally:
            self._finish(run)
            run.after_step.clear()  # they may hold the run, and with it three models

    @abstractmethod
    def _length(self, run: Run) -> int:
        """Return how many steps an epoch has."""

    @abstractmethod
    def _steps(self, run: Run) -> Iterator[Tensor]:
        """Yield the loss of each step of an epoch: a scalar with its graph.

        The step is made before the next one is asked for.
        """

    def _begin(self, run: Run) -> None:
        """Prepare the run's model before the first epoch: reset it, add to it. Seeds are set."""

    @abstractmethod
    def _trainable(self, run: Run) -> ParameterMask:
        """Return what is trained, once the run has begun."""

    def _most_epochs(self) -> int:
        """Return after how many epochs training ends, if nothing ends it before."""
        return self.epochs

    def _schedule(self) -> Schedules:
        """Return the schedule over all of them."""
        return self.schedule

    def _ended(self, run: Run) -> None:
        """Do what is due after an epoch; ``run.stop = True`` makes it the last."""

    def _finish(self, run: Run) -> None:
        """Take back what :meth:`_begin` added, after an error too."""

    def _milder(self) -> str:
        return "Lower lr, or repair the model by fine-tuning it on the retain set."

    def _key(self, run: Run, mask: Mapping[str, Tensor]) -> str:
        trainer = (self.trainer or self._default).get_params()
        for name in ("monitor", "patience", "checkpoint"):  # they say when to stop, not how to train
            trainer.pop(name)
        parts: list[Any] = [self._described(), self.loss is None, trainer]
        parts += [(name, digest(tensor)) for name, tensor in named_tensors(run.source).items()]
        parts += [(name, digest(selected)) for name, selected in mask.items()]
        parts += [len(found) for found in (run._forget, run._retain) if hasattr(found, "__len__")]
        return hashlib.blake2b(repr(parts).encode(), digest_size=16).hexdigest()
