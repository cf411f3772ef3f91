# SPDX-License-Identifier: BSD-3-Clause
"""Training on wrong labels for what is to be forgotten: RL, and SalUn."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from unlearnkit.data import Batch, Mixed, labels, take
from unlearnkit.exceptions import DataError
from unlearnkit.importance import ImportanceEstimator
from unlearnkit.methods._checks import check_choice, check_number
from unlearnkit.methods._labels import RandomLabels, classes_of, with_labels
from unlearnkit.methods._run import Run, derived
from unlearnkit.methods._trained import Trained


@dataclass(kw_only=True, eq=False, repr=False)
class RandomLabel(Trained):
    """Train on the forget set with random labels and on the retain set with its own ("RL").

    Parameters
    ----------
    exclude_true_label : bool
        Never draw a sample's own label, as the paper has it; its code may draw it.
    draw : {"visit", "once"}
        Draw a label anew each time a sample is read, or once for the whole training.
    order : {"sequential", "mixed", "paired"}
        An epoch is a pass over the forget set and then one over the retain set; or one over both,
        shuffled together; or one over the forget set in which each step has a batch of either.
        SalUn's code has the first for CIFAR-10 and SVHN, the second for the other classifiers, the
        third for generators.
    alpha : float
        Weight of the retain set's loss.
    loss : callable, optional
        As of all methods. For a task without classes it says itself what a wrong label is, by a method
        ``misaligned(model, batch, original, generator) -> Tensor [N]`` that takes the loss's place on
        the forget set: see :class:`unlearnkit.diffusion.DiffusionLoss`. What draws is `generator`, and
        ``original()`` is the model before, in eval mode: a copy that is made when it is first asked for.

    Notes
    -----
    As the baseline of SalUn (arXiv 2310.12508), section 3, equation 5 without its mask; with such a
    loss equation 6.
    """

    needs_retain: ClassVar[Literal["data", "importance", "nothing"]] = "data"

    weight_decay: float = 5e-4
    exclude_true_label: bool = True
    draw: Literal["visit", "once"] = "visit"
    order: Literal["sequential", "mixed", "paired"] = "sequential"
    alpha: float = 1.0

    def _validate(self) -> None:
        super()._validate()
        check_choice("draw", self.draw, ("visit", "once"))
        check_choice("order", self.order, ("sequential", "mixed", "paired"))
        check_number("alpha", self.alpha)
        if _misaligns(self.loss) and (self.draw != "visit" or not self.exclude_true_label):
            raise DataError(
                f"draw={self.draw!r} and exclude_true_label={self.exclude_true_label!r} are for class labels, and "
                f"{type(self.loss).__name__} says itself what a wrong label is: leave draw and exclude_true_label "
                "out, and set its own parameters."
            )

    def _begin(self, run: Run) -> None:
        if _misaligns(run.loss):
            return
        run.seed_epoch(0)
        first = next(run.forget.walk(run.generator))
        run.state = RandomLabels(classes_of(run.original, first), self.exclude_true_label)

    def _length(self, run: Run) -> int:
        if self.order == "mixed":
            return len(Mixed(run.forget, run.retain))
        return len(run.forget) + len(run.retain) * (self.order == "sequential")

    def _steps(self, run: Run) -> Iterator[Tensor]:
        if self.order == "mixed":
            yield from self._mixed(run)
        elif self.order == "paired":
            kept = run.retain.cycle(run.generator)
            for numbers, batch in run.forget.numbered(run.generator):
                yield (
                    self._wrong_losses(run, batch, numbers).mean()
                    + self.alpha * run.losses(next(kept)).mean()
                )
        else:
            for numbers, batch in run.forget.numbered(run.generator):
                yield self._wrong_losses(run, batch, numbers).mean()
            for batch in run.retain.walk(run.generator):
                yield self.alpha * run.losses(batch).mean()

    def _wrong_losses(self, run: Run, batch: Batch, numbers: Tensor) -> Tensor:
        """Return the losses [N] of samples of the forget set."""
        if not _misaligns(run.loss):
            return run.losses(self._wrong(run, batch, numbers))
        misaligned = run.loss.misaligned  # type: ignore[attr-defined]
        return run.losses(
            batch, lambda model, batch: misaligned(model, batch, lambda: run.original, run.generator)
        )

    def _mixed(self, run: Run) -> Iterator[Tensor]:
        for numbers, batch in Mixed(run.forget, run.retain).numbered(run.generator):
            if _misaligns(run.loss):
                yield self._both(run, batch, numbers)
                continue
            old = labels(batch)
            is_forget = (numbers < run.forget.samples).to(old.device)  # [N]
            new = labels(self._wrong(run, batch, numbers))
            per_label = is_forget.view(-1, *[1] * (old.dim() - 1))
            losses = run.losses(with_labels(batch, torch.where(per_label, new, old)))
            yield torch.where(is_forget, losses, self.alpha * losses).mean()

    def _both(self, run: Run, batch: Batch, numbers: Tensor) -> Tensor:
        """Return the loss of a mixed batch whose wrong labels are the loss's own."""
        is_forget = numbers < run.forget.samples  # [N]
        mine, kept = (take(batch, chosen.to(run.device)) for chosen in (is_forget, ~is_forget))
        parts: list[Tensor] = []
        if bool(is_forget.any()):
            parts.append(self._wrong_losses(run, mine, numbers[is_forget]))
        if not bool(is_forget.all()):
            parts.append(self.alpha * run.losses(kept))
        return torch.cat(parts).mean()

    def _wrong(self, run: Run, batch: Batch, numbers: Tensor) -> Batch:
        draw: RandomLabels = run.state
        if self.draw == "once":
            return draw.once(batch, numbers, derived(run.seed, 0, 0))
        return draw.visit(batch, run.generator)


def _misaligns(loss: object) -> bool:
    """Tell whether a loss says itself what a wrong label is."""
    return callable(getattr(loss, "misaligned", None))


@dataclass(kw_only=True, eq=False, repr=False)
class SalUn(RandomLabel):
    """Saliency unlearning: random labels, on the weights that matter most to the forget set alone.

    :class:`RandomLabel` with ``importance="gradient"``, ``budget=0.5``: the half of all weights, in
    one ranking, where the gradient of the forget set's loss is largest.

    Parameters
    ----------
    importance, budget, lr, epochs, batch_size
        The authors tune lr between 5e-4 and 5e-2 and budget between 0.1 and 0.9 to bring each
        result near a retrained model's; their example has lr 0.013, 10 epochs, batches of 256.

    Notes
    -----
    Fan et al., "SalUn: Empowering Machine Unlearning via Gradient-based Weight Saliency in Both
    Image Classification and Generation", arXiv 2310.12508. What is frozen here stays so bit by bit;
    in the code behind the published tables weight decay shrank it.

    Examples
    --------
    >>> from unlearnkit import SalUn
    >>> SalUn()
    SalUn()
    >>> SalUn(importance="random")  # the paper's control
    SalUn(importance='random')
    """

    importance: str | ImportanceEstimator | None = "gradient"
    budget: float = 0.5
    lr: float = 0.013
    batch_size: int | Literal["loader"] = 256
