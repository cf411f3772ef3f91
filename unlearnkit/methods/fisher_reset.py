# SPDX-License-Identifier: BSD-3-Clause
"""FisherReset: a witness shows what a model makes of the forget set that never saw it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from unlearnkit.data import (
    Batch,
    ForgetRetain,
    batch_size,
    cross_entropy,
    cross_entropy_of,
    forward,
    join_batches,
    joinable,
    labels,
    sample_of,
)
from unlearnkit.gradients.reference import loss_values
from unlearnkit.importance import ImportanceEstimator
from unlearnkit.methods._checks import check_count, check_number
from unlearnkit.methods._fresh import Factory, check_factory
from unlearnkit.methods._run import Run, derived
from unlearnkit.methods._trained import Trained
from unlearnkit.methods._trainer import Schedules, Trainer, factor_at
from unlearnkit.methods._witness import (
    LOOKED_AT,
    State,
    WitnessTraining,
    automatic_size,
    divergence,
    known_share,
    share_of_forget,
)
from unlearnkit.parameters import copy_of
from unlearnkit.selection import ParameterMask


@dataclass(kw_only=True, eq=False, repr=False)
class FisherReset(Trained):
    """Learn from a witness what not knowing the forget set looks like, and train until the model says the same.

    1. The *witness* is a copy of the model in which three quarters of the weights are set back to a
       fresh initialisation, and which is then trained a little on the retain set. It is no good
       model, but it keeps next to no memory of single samples: what it makes of the forget set is
       what a model makes of samples that it never saw.
    2. The model itself is trained on the retain set, and on the forget set towards the witness's
       predictions, in cycles of a few epochs, until it is no more accurate on the forget set than the
       witness, and as accurate on the retain set as it was.

    So nobody has to say how far to forget. A class that is gone from the retain set is gone from the
    witness's predictions; scattered samples are predicted as unseen samples are; a wrong label is as
    unlikely as the witness finds it. The second term is zero where the witness is matched and never
    less, so nothing diverges, as gradient ascent does.

    Parameters
    ----------
    importance, granularity, budget
        What is reset in the witness; at random serves best.
    epochs : int
        Passes over the retain set in a cycle.
    cycles : int
        How many cycles there are at most.
    tolerance : float
        By how much accuracy on the forget set may exceed the witness's, and accuracy on the retain
        set fall behind the original's, for a cycle to be the last. Of tasks without classes, the mean
        of ``exp(-loss)``.
    witness_epochs : int
        Passes over the retain set of the witness.
    witness_lr, lr : float
        Highest learning rates, of the witness and of the model.
    batch_size : int, "loader" or "auto"
        ``"auto"``: a power of 2 from 16 to 512 that makes about 75 steps an epoch.
    strength : float
        Weight of the forget set's term. It is less where the forget set is below a tenth of the
        retain set, by as much.
    detail : float
        How much of the witness is followed: 0, its probability of a sample's label; 1, its
        predictions of all classes.
    factory : callable, optional
        ``factory() -> model`` builds your model anew: where initial weights come from. Without it
        they come from each module's ``reset_parameters``, or a transformers model's own way; what
        has neither is not reset.

    Attributes
    ----------
    mask_ : ParameterMask
        What was reset in the witness, but for what has no initialisation.
    trained_ : ParameterMask
        What could change in the model.
    cycles_ : int
        How many cycles it took.

    Notes
    -----
    A method of this library, with no paper behind it; docs/fisher_reset.md has the study, which also
    says why no Fisher information is left in it: resets by ``importance="fisher_ratio"`` were nowhere
    better by more than noise, and worse on an MLP.

    A model that was fine-tuned from a pretrained one has another fresh start than random weights: pass
    a factory that loads the pretrained ones.

    With a ``loss`` of your own there are no predictions to compare. Then the loss of each forget sample
    is raised until it is the witness's: ``relu(loss under the witness - loss)``.

    Examples
    --------
    >>> from unlearnkit import FisherReset
    >>> FisherReset(random_state=0)
    FisherReset(random_state=0)
    """

    needs_retain: ClassVar[Literal["data", "importance", "nothing"]] = "data"
    _default: ClassVar[Trainer] = Trainer(clip=10.0)
    _sizes: ClassVar[tuple[str, ...]] = ("loader", "auto")

    importance: str | ImportanceEstimator | None = "random"
    budget: float = 0.75
    epochs: int = 3
    cycles: int = 3
    tolerance: float = 0.02
    witness_epochs: int = 3
    witness_lr: float = 0.03
    lr: float = 0.02
    batch_size: int | Literal["loader", "auto"] = "auto"  # type: ignore[assignment]
    weight_decay: float = 5e-4
    schedule: Schedules = "warmup"
    strength: float = 1.0
    detail: float = 0.3
    factory: Factory | None = None

    def _validate(self) -> None:
        super()._validate()
        check_count("cycles", self.cycles)
        check_number("tolerance", self.tolerance, 1, "a share of samples")
        check_count("witness_epochs", self.witness_epochs)
        check_number("witness_lr", self.witness_lr)
        check_number("strength", self.strength)
        check_number("detail", self.detail, 1, "a share")
        check_factory(self.factory)

    def _run_of(self, edited: nn.Module, model: nn.Module, roles: ForgetRetain, seed: int) -> Run:
        run = Run(edited, model, roles.forget, roles.retain, None, self.loss, seed)
        if self.batch_size == "loader":
            return run
        size = automatic_size(run.retain.samples) if self.batch_size == "auto" else self.batch_size
        part = max(2, round(size * share_of_forget(run)))  # BatchNorm cannot train on one
        return Run(edited, model, roles.forget, roles.retain, size, self.loss, seed, part)

    def _begin(self, run: Run) -> None:
        witness = copy_of(run.source)
        reset = WitnessTraining(
            loss=self.loss,
            progress=self.progress,
            random_state=derived(run.seed, 1, 1),
            epochs=self.witness_epochs,
            lr=self.witness_lr,
            optimizer=self.optimizer,
            weight_decay=self.weight_decay,
            schedule=self.schedule,
            trainer=self._plain(),
            factory=self.factory,
        )
        reset.mask_ = self.mask_
        reset._train(run.beside(witness, derived(run.seed, 1)), self.mask_)
        run.state = State(witness.eval().requires_grad_(False))
        run.state.forget_goal = known_share(witness, run, run.forget.source) + self.tolerance
        kept = run.state.kept = list(sample_of(run.retain.source, LOOKED_AT))
        run.state.retain_goal = known_share(run.original, run, kept) - self.tolerance

    def _trainable(self, run: Run) -> ParameterMask:
        self.trained_ = ParameterMask.everything(run.source, include=self.include, exclude=self.exclude)
        return self.trained_

    def _most_epochs(self) -> int:
        return self.epochs * self.cycles

    def _schedule(self) -> Schedules:
        return lambda progress: factor_at(self.schedule, progress * self.cycles % 1)

    def _ended(self, run: Run) -> None:
        if (run.epoch + 1) % self.epochs:
            return
        self.cycles_ = (run.epoch + 1) // self.epochs
        forgotten = known_share(run.model, run, run.forget.source) < run.state.forget_goal
        run.stop |= forgotten and known_share(run.model, run, run.state.kept) > run.state.retain_goal

    def _length(self, run: Run) -> int:
        return len(run.retain)

    def _steps(self, run: Run) -> Iterator[Tensor]:
        forget = run.forget.cycle(run.generator)
        weight = self.strength * share_of_forget(run)
        for batch in run.retain.walk(run.generator):
            term = self._towards_predictions if run.loss is cross_entropy else self._up_to_losses
            kept, missing = term(run, batch, next(forget))
            yield kept.mean() + weight * missing.mean()

    def _up_to_losses(self, run: Run, batch: Batch, gone: Batch) -> tuple[Tensor, Tensor]:
        known = loss_values(run.state.witness, run.loss, gone)  # [M]
        if joinable(batch, gone):
            losses = run.losses(join_batches(batch, gone))
            kept, found = losses.split((len(losses) - len(known), len(known)))
        else:
            kept, found = run.losses(batch), run.losses(gone)
        return kept, (known - found).relu()

    def _towards_predictions(self, run: Run, batch: Batch, gone: Batch) -> tuple[Tensor, Tensor]:
        n = batch_size(batch)
        with torch.no_grad():
            known = forward(run.state.witness, gone)
        # side by side, so that BatchNorm sees both; padded to different lengths they cannot be
        if joinable(batch, gone):
            losses, logits = self._both(run, join_batches(batch, gone))
            kept, found = losses[:n], logits[n:]
        else:
            kept, found = run.losses(batch), self._both(run, gone)[1]
        return kept, divergence(found, known, gone, self.detail)

    def _both(self, run: Run, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the losses [N] and the logits [N, K, ...] of one forward pass."""
        seen: list[Tensor] = []

        def loss(model: nn.Module, batch: Batch) -> Tensor:
            seen.append(forward(model, batch))
            return cross_entropy_of(seen[0], labels(batch), isinstance(batch, Mapping))

        return run.losses(batch, loss), seen[0]
