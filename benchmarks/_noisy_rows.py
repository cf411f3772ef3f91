# SPDX-License-Identifier: BSD-3-Clause
"""The rows of the study of noisy data: whose partition, and what is then done with the model."""

from __future__ import annotations

from collections.abc import Callable
from time import process_time
from typing import Any, NamedTuple

from torch import nn

from _noise import ARMS
from _noisy_tasks import Case, Task
from unlearnkit import FineTune, Retrain
from unlearnkit.base import Unlearner

LABELS = ("label20", "label40")
HEAD = ("hidden.*", "output.*")
"""What L-FT trains: the two linear layers of the head, as RLAP's code does."""

FINDERS: dict[str, tuple[Callable[[], Any], str]] = {}
"""What finds the noisy part, and the model it looks with: the original, or one of a few epochs."""


class Row(NamedTuple):
    """A method on a partition: one of `FINDERS`, "truth", or "everything", which keeps all samples."""

    name: str
    part: str
    method: Callable[[Task], Unlearner]
    arms: tuple[str, ...] = tuple(ARMS)


def tuned(task: Task, **given: Any) -> FineTune:
    """Adam at 1e-3, as RLAP's code fine-tunes all weights."""
    return FineTune(**{"optimizer": "adam", "lr": 1e-3, "weight_decay": 0.0, **task.tune, **given})


def tuned_head(task: Task) -> FineTune:
    """The same on the head alone (L-FT)."""
    return tuned(task, include=HEAD, weight_decay=1e-5)


def normalised(task: Task) -> FineTune:
    """No weight moves; BatchNorm's statistics are those of the clean part."""
    return tuned(task, lr=0.0, epochs=2)


def retrained(task: Task) -> Retrain:
    """A new model by the original's recipe."""
    kept = ("epochs", "lr", "batch_size", "weight_decay", "schedule")
    return Retrain(factory=task.factory, **{name: task.recipe[name] for name in kept})


def scheduled(task: Task) -> Retrain:
    """The same, with a learning rate that falls."""
    return retrained(task).set_params(schedule="cosine")


ROWS = [
    Row("everything: fine-tuned", "everything", tuned),
    Row("everything: retrained, cosine", "everything", scheduled),
    Row("truth: fine-tuned", "truth", tuned),
    Row("truth: fine-tuned, head", "truth", tuned_head),
    Row("truth: BatchNorm alone", "truth", normalised),
    Row("truth: retrained", "truth", retrained),
    Row("truth: retrained, cosine", "truth", scheduled),
]


def run(row: Row, case: Case) -> tuple[nn.Module, dict[str, float]]:
    """Return the model that comes of a row, and the CPU seconds of finding, of pruning and of training."""
    find, parts = 0.0, {}
    if row.part == "everything":  # FineTune and Retrain look at the forget set, no more
        x, y = case.noisy.train
        data: tuple[Any, ...] = (x, y), (x[:1], y[:1])
    elif row.part == "truth":
        data = (case.truth,)
    else:
        finder, looks = FINDERS[row.part]
        found, find = case.partition(row.part, finder(), looks)
        data = (found,)
    method = row.method(case.task).set_params(random_state=case.seed)
    start = process_time()
    method.fit(case.original[0], *data)
    took = process_time() - start
    trained = took * sum(epoch["seconds"] for epoch in method.history_) / method.seconds_
    parts = {"find": find, "prune": took - trained, "train": trained}
    return method.transform(case.original[0]), parts
