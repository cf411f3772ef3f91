# SPDX-License-Identifier: BSD-3-Clause
"""Relearning time: how soon training on the forgotten samples brings them back."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from math import isfinite
from typing import Any, Literal

import torch
from torch import nn

from unlearnkit.data import (
    Epochs,
    Loss,
    as_loader,
    batch_size,
    cross_entropy,
    device_of,
    evaluating,
    preserved_rng,
    seed_rng,
    to_device,
)
from unlearnkit.exceptions import DataError
from unlearnkit.metrics.classification import accuracy
from unlearnkit.metrics.timing import Timer
from unlearnkit.parameters import copy_of

__all__ = ["Relearning", "RelearningTime", "relearn", "relearning_time"]

Measure = Literal["accuracy", "loss"]


@dataclass(frozen=True)
class Relearning:
    """How one model came back.

    Attributes
    ----------
    steps : int or None
        Training steps until the level was reached, 0 where it was there at once; None if it was not
        within `max_steps`: more are needed, and how many is not known (censored).
    seconds : float
        Of the steps made, without the looks at the forget set in between.
    max_steps : int
    values : tuple of float
        The forget set's accuracy or loss before the first step and at every look.
    """

    steps: int | None
    seconds: float
    max_steps: int
    values: tuple[float, ...] = field(repr=False)

    def __str__(self) -> str:
        return f"more than {self.max_steps} steps" if self.steps is None else f"{self.steps} steps"


@dataclass(frozen=True)
class RelearningTime:
    """The unlearned model beside the oracle.

    Attributes
    ----------
    unlearned, oracle : Relearning
    level : float
        What both were trained to reach.
    ratio : float or None
        Steps of the unlearned model over the oracle's; None where either did not reach the level,
        or the oracle was there at once.
    """

    unlearned: Relearning
    oracle: Relearning
    level: float

    @property
    def ratio(self) -> float | None:
        """Steps of the unlearned model over the oracle's, where both are known."""
        if self.unlearned.steps is None or not self.oracle.steps:
            return None
        return self.unlearned.steps / self.oracle.steps


def relearning_time(
    model: nn.Module,
    oracle: nn.Module,
    original: nn.Module,
    forget: Any,
    *,
    measure: Measure = "accuracy",
    margin: float = 0.05,
    loss: Loss = cross_entropy,
    **training: Any,
) -> RelearningTime:
    """Steps of training on the forget set to be back near the original, beside the oracle's.

    The anamnesis index of "Zero-shot machine unlearning" (Chundawat et al. 2022, section on AIN
    [memory]) over mini-batch steps; relearning the loss goes back to Golatkar et al. 2020.

    Good is a ratio of 1. Near 0 the samples are still in the model and only hidden; far above 1 the
    model was driven away from them, which is no forgetting either (the "Streisand effect").

    Weakness. It depends on the learning rate, batch size and margin: compare ratios of one setting.
    Samples that resemble retained ones are relearned at once by any model. One seed is one draw.

    Parameters
    ----------
    model, oracle, original : nn.Module
        The unlearned model, one trained without the forget set, and the one before unlearning.
        All are left as they were found.
    forget : DataLoader, Dataset or (X, y)
        Trained and measured on.
    measure : {"accuracy", "loss"}
        Of the original; the level is its accuracy times ``1 - margin`` or its loss times ``1 + margin``.
    margin : float
        At least 0.
    loss : callable
        ``loss(model, batch) -> Tensor [N]``, for another task than classification.
    **training
        As of `relearn`: lr, size, optimizer, max_steps, every, random_state.

    Returns
    -------
    RelearningTime

    Raises
    ------
    DataError
        As `relearn`, or if the margin is negative.
    """
    if not (isfinite(margin) and margin >= 0):
        raise DataError(f"margin must be a number of at least 0; got {margin}: 0.05 for 5 %")
    _check_measure(measure)
    at_first = _measured(original, forget, measure, loss)
    level = at_first * (1 - margin if measure == "accuracy" else 1 + margin)
    shared: dict[str, Any] = {"level": level, "measure": measure, "loss": loss, **training}
    return RelearningTime(relearn(model, forget, **shared), relearn(oracle, forget, **shared), level)


def relearn(
    model: nn.Module,
    forget: Any,
    *,
    level: float,
    measure: Measure = "accuracy",
    loss: Loss = cross_entropy,
    lr: float = 1e-3,
    size: int = 32,
    optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer] | None = None,
    max_steps: int = 500,
    every: int = 1,
    random_state: int = 0,
) -> Relearning:
    """Train a copy of a model on the forget set until its accuracy or loss there reaches a level.

    Parameters
    ----------
    model : nn.Module
        It is left as it was found; what it has frozen stays so in the copy.
    forget : DataLoader, Dataset or (X, y)
    level : float
        Accuracy to reach from below, or mean loss from above.
    measure : {"accuracy", "loss"}
    loss : callable
        ``loss(model, batch) -> Tensor [N]``; what is trained, and measured by "loss".
    lr : float
        Of Adam, which the authors' code takes.
    size : int
        Samples a step.
    optimizer : callable, optional
        ``optimizer(parameters)``, in place of Adam; then `lr` is not used.
    max_steps : int
        The cap; what is not back by then is censored.
    every : int
        Steps between two looks at the forget set, each as dear as a pass over it.
    random_state : int
        Of the order of samples and of all that the model draws.

    Returns
    -------
    Relearning

    Raises
    ------
    DataError
        If the forget set is empty, the model has nothing to train, training diverges, or a setting is
        out of range.
    """
    _check_measure(measure)
    if max_steps < 1 or every < 1 or size < 1 or not lr > 0 or not isfinite(level):
        raise DataError(
            "relearning needs max_steps, every and size of at least 1, a positive lr and a finite level; got "
            f"{max_steps}, {every}, {size}, {lr} and {level}"
        )
    with preserved_rng(forget), torch.enable_grad():
        seed_rng(random_state)
        copy = copy_of(model).train()
        trained = [parameter for parameter in copy.parameters() if parameter.requires_grad]
        if not trained:
            raise DataError(
                "the model has no parameter that requires a gradient, so it relearns nothing: unfreeze it"
            )
        epochs = Epochs(as_loader(forget, size, "forget"), size, device_of(copy), "forget")
        batches = epochs.cycle(torch.Generator().manual_seed(random_state))
        chosen = torch.optim.Adam(trained, lr=lr) if optimizer is None else optimizer(trained)
        values, seconds = [_measured(copy, forget, measure, loss)], 0.0
        for step in range(max_steps + 1):
            if step % every == 0 or step == max_steps:
                if step:
                    values.append(_measured(copy, forget, measure, loss))
                if values[-1] >= level if measure == "accuracy" else values[-1] <= level:
                    return Relearning(step, seconds, max_steps, tuple(values))
            if step < max_steps:
                with Timer() as timer:
                    _step(copy, next(batches), loss, chosen)
                seconds += timer.seconds
    return Relearning(None, seconds, max_steps, tuple(values))


def _step(model: nn.Module, batch: Any, loss: Loss, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    loss(model, batch).mean().backward()
    optimizer.step()


def _measured(model: nn.Module, forget: Any, measure: Measure, loss: Loss) -> float:
    if measure == "accuracy":
        return accuracy(model, forget)
    total, count, device = 0.0, 0, device_of(model)
    with evaluating(model), torch.no_grad():
        for batch in as_loader(forget):
            total += float(loss(model, to_device(batch, device)).double().sum())
            count += batch_size(batch)
    if not count:
        raise DataError("the forget set is empty: it yielded no sample")
    if not isfinite(total):
        raise DataError("the loss on the forget set is not finite: training diverged; lower lr")
    return total / count


def _check_measure(measure: str) -> None:
    if measure not in ("accuracy", "loss"):
        raise DataError(f"measure must be 'accuracy' or 'loss'; got {measure!r}")
