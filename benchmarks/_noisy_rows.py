# SPDX-License-Identifier: BSD-3-Clause
"""The rows of the study of noisy data: whose partition, and what is then done with the model."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from time import process_time
from typing import Any, NamedTuple

from torch import nn

from _noise import ARMS
from _noisy_tasks import Case, Task
from unlearnkit import (
    RLAP,
    FineTune,
    LabelIssues,
    MixtureFinder,
    Prune,
    Retrain,
    Sensitivity,
    WarmUpFinder,
)
from unlearnkit.base import Unlearner
from unlearnkit.finding import Finder

LABELS = ("label20", "label40")
HEAD = ("hidden.*", "output.*")
"""What L-FT trains: the two linear layers of the head, as RLAP's code does."""

FINDERS: dict[str, Callable[[], Finder]] = {
    "found": WarmUpFinder,  # the library's own choice
    "by the original": MixtureFinder,
    "by a copy": partial(WarmUpFinder, when="always"),
    "by attributions": partial(MixtureFinder, "attribution"),
    "by losses": partial(MixtureFinder, "loss"),
    "as published": MixtureFinder.published,
    "label issues": LabelIssues,
    "label issues by a copy": partial(WarmUpFinder, LabelIssues(), when="always"),
}
"""What finds the noisy part. The original is looked through where no copy is, of a few epochs of training."""


class Row(NamedTuple):
    """A method on a partition: that of one of `FINDERS`, the "truth", or "everything" to keep."""

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


def tuned_down(task: Task) -> FineTune:
    """The original's optimizer, with a rate that falls: no other rate than in retraining, for fewer epochs."""
    return tuned(task, optimizer="sgd", lr=task.recipe["lr"], weight_decay=5e-4, schedule="cosine")


def rlap(task: Task, **given: Any) -> RLAP:
    """RLAP with its defaults, but for the length of the training."""
    return RLAP(**task.tune, **given)


def published(task: Task, **given: Any) -> RLAP:
    """RLAP as its authors' code regresses and prunes; the default fine-tunes as theirs."""
    return rlap(task, importance=Sensitivity.published(layers="hidden"), regrow=True, **given)


def pruned(task: Task) -> Prune:
    """No weight is trained."""
    return Prune()


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


LAST = {"tune": "last", "weight_decay": 1e-5}
ROWS = [
    Row("found: RLAP", "found", rlap),
    Row("found: RLAP, head", "found", partial(rlap, **LAST)),
    Row("found: pruned at random", "found", partial(rlap, importance="random")),
    Row("found: pruned, not trained", "found", pruned),
    Row("found: fine-tuned", "found", tuned),
    Row("found: fine-tuned, head", "found", tuned_head),
    Row("found: fine-tuned, cosine", "found", tuned_down),
    Row("found: BatchNorm alone", "found", normalised),
    Row("found: retrained", "found", retrained),
    Row("found: retrained, cosine", "found", scheduled),
    Row("as published: RLAP", "as published", published),
    Row("as published: RLAP, head", "as published", partial(published, **LAST)),
    Row("by losses: fine-tuned", "by losses", tuned),
    Row("by a copy: RLAP", "by a copy", rlap, LABELS),
    Row("by a copy: fine-tuned", "by a copy", tuned, LABELS),
    Row("by a copy: retrained, cosine", "by a copy", scheduled, LABELS),
    Row("label issues: fine-tuned", "label issues", tuned, LABELS),
    Row("label issues by a copy: fine-tuned", "label issues by a copy", tuned, LABELS),
    Row("everything: fine-tuned", "everything", tuned),
    Row("everything: retrained, cosine", "everything", scheduled),
    Row("truth: RLAP", "truth", rlap),
    Row("truth: fine-tuned", "truth", tuned),
    Row("truth: fine-tuned, head", "truth", tuned_head),
    Row("truth: BatchNorm alone", "truth", normalised),
    Row("truth: retrained", "truth", retrained),
    Row("truth: retrained, cosine", "truth", scheduled),
]


def run(row: Row, case: Case) -> tuple[nn.Module, dict[str, float]]:
    """Return the model that comes of a row, and CPU seconds: of finding, of pruning, of training."""
    find = 0.0
    if row.part == "everything":  # FineTune and Retrain look at the forget set, no more
        x, y = case.noisy.train
        data: tuple[Any, ...] = (x, y), (x[:1], y[:1])
    elif row.part == "truth":
        data = (case.truth,)
    else:
        partition, find = case.partition(row.part, FINDERS[row.part])
        data = (partition,)
    method = row.method(case.task).set_params(random_state=case.seed)
    start = process_time()
    method.fit(case.original[0], *data)
    took, prune = process_time() - start, 0.0
    history = getattr(method, "history_", [])
    if isinstance(method, RLAP | Prune):
        prune = took * (1 - sum(epoch["seconds"] for epoch in history) / method.seconds_)
    seconds = {"find": find, "prune": prune, "train": took - prune, "epochs": len(history)}
    return method.transform(case.original[0]), seconds
