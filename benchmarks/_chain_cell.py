# SPDX-License-Identifier: BSD-3-Clause
"""One cell of the supply-chain study: a net trained on wrong labels, and what mends it.

A method is a function of the cell that returns a model, and what it took.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import unlearnkit
from _data import Data, Request
from _models import mlp, trained_in
from unlearnkit.base import Unlearner
from unlearnkit.finding import Finder
from unlearnkit.metrics import accuracy

CLASSES = 3
DECAY = 0.95
"""Of the learning rate, after each epoch."""

RECIPE = {
    "epochs": 25,
    "batch_size": 1024,
    "momentum": 0.0,
    "nesterov": False,
    "schedule": "step",
    "shuffle": False,
}
"""The training of the paper, but for the learning rate and the weight decay, which are searched for."""


class Made(NamedTuple):
    """A model, the seconds that it took, and what else is to be told of it."""

    model: nn.Module
    seconds: float
    more: Mapping[str, float] = {}


class Net(NamedTuple):
    """A net of the paper, and what is run on it where nothing else is said.

    `tuned_as` is the net whose learning rate and weight decay it takes, where a search of its own
    would take as long as all else.
    """

    width: int
    depth: int
    seeds: range
    left_out: tuple[str, ...] = ()
    tuned_as: str | None = None

    def trained(self, data: Data, seed: int, recipe: dict[str, Any], work: Path) -> Made:
        """Return a newly built net after training."""
        factory = partial(mlp, data[0].shape[1], CLASSES, self.width, self.depth)
        return Made(*trained_in(work, factory, data, seed, **recipe))


LONG = (
    "control: FineTune() with the errors",
    "FineTune()",
    "SalUn()",
    "FisherReset()",
    "control: RLAP's training, nothing pruned",
)
"""Left out for the largest net, where each takes as long as training anew."""

NETS = {
    "3x100": Net(100, 3, range(5)),
    "2x50": Net(50, 2, range(3)),
    "5x250": Net(250, 5, range(3), LONG, tuned_as="3x100"),
}


@dataclass
class Cell:
    """A net, a share of wrong labels, a seed.

    Attributes
    ----------
    net : Net
    request : Request
        `forget` holds the samples with wrong labels.
    wrong : Tensor [N]
        Which labels of ``request.train`` are wrong.
    seed, initial : int
        Of what is drawn, and of the initial weights, the same for all trainings of a cell.
    recipe : dict
        How a net is trained.
    work : Path
        Where trained nets are kept.
    """

    net: Net
    request: Request
    wrong: Tensor
    seed: int
    initial: int
    recipe: dict[str, Any]
    work: Path

    def trained(self, data: Data) -> Made:
        """Return a newly built net after training."""
        return self.net.trained(data, self.initial, self.recipe, self.work)

    @cached_property
    def original(self) -> Made:
        """Return the net that was trained with the wrong labels."""
        return self.trained(self.request.train)

    def loader(self, data: Data) -> DataLoader[Any]:
        """Return batches in the data's own order; what trains shuffles them."""
        return DataLoader(TensorDataset(*data), batch_size=self.recipe["batch_size"])

    def fitted(self, method: Unlearner, *data: Any, model: nn.Module | None = None) -> Made:
        """Return what a method makes of the original, or of another model."""
        if "random_state" in method.get_params(deep=False):
            method.set_params(random_state=self.seed)
        model = model or self.original.model
        method.fit(model, *data)
        return Made(method.transform(model), method.seconds_)

    def figures(self, model: nn.Module) -> dict[str, float]:
        """Return three accuracies, as fractions: "wrong" is of the wrong labels themselves."""
        parts = {"test": self.request.test, "retain": self.request.retain, "wrong": self.request.forget}
        return {name: accuracy(model, self.loader(data)) for name, data in parts.items()}


def one_epoch(cell: Cell, data: Data, model: nn.Module | None = None) -> Made:
    """Train for one epoch at the rate that comes after the training's last, in the data's order."""
    recipe = cell.recipe
    method = unlearnkit.FineTune(
        epochs=1,
        lr=recipe["lr"] * DECAY ** (recipe["epochs"] + 1),
        weight_decay=recipe["weight_decay"],
        trainer=unlearnkit.Trainer(momentum=0.0),
    )
    return cell.fitted(method, list(cell.loader(data)), cell.loader(cell.request.forget), model=model)


RLAP = partial(unlearnkit.RLAP, batch_size=1024)
"""As it comes, but for the batches, which are the net's own: with 64 it takes sixteen times the steps."""


def mended(cell: Cell, make: Callable[[], Unlearner]) -> Made:
    """Apply a method that is told which labels are wrong."""
    return cell.fitted(make(), cell.loader(cell.request.retain), cell.loader(cell.request.forget))


def found_and_mended(cell: Cell, finder: Callable[[], Finder] | None = None) -> Made:
    """Apply RLAP to everything: it has to find the wrong labels itself."""
    method = RLAP(finder=finder and finder())
    made = cell.fitted(method, cell.loader(cell.request.train))
    partition = method.partition_
    taken, wrong = partition.is_noisy, cell.wrong
    both = float((taken & wrong).sum())
    more = {"found": float(taken.float().mean()), "recall": both / float(wrong.sum())}
    more["doubted"] = float(not partition.is_separated)
    if taken.any():
        more["purity"] = both / float(taken.sum())
    return made._replace(more=more)


def then_one_epoch(cell: Cell, make: Callable[[], Unlearner]) -> Made:
    """Apply a method that is told, and then train for one epoch without the wrong labels."""
    first = mended(cell, make)
    then = one_epoch(cell, cell.request.retain, first.model)
    return Made(then.model, first.seconds + then.seconds)


def misled(cell: Cell, make: Callable[[], Unlearner]) -> Made:
    """Tell a method of as many samples with right labels: what comes of this is not the errors' doing."""
    x, y = cell.request.retain
    generator = torch.Generator().manual_seed(2000 + cell.seed)
    order = torch.randperm(len(y), generator=generator)
    count = len(cell.request.forget[1])
    drawn, rest = order[:count].sort().values, order[count:].sort().values
    parts = ((x[at], y[at]) for at in (rest, drawn))
    return cell.fitted(make(), *map(cell.loader, parts))


def tuned_with_errors(cell: Cell) -> Made:
    """Fine-tune on everything: what comes of this is the training's doing alone."""
    parts = cell.loader(cell.request.train), cell.loader(cell.request.forget)
    return cell.fitted(unlearnkit.FineTune(), *parts)


PUBLISHED = partial(unlearnkit.ASSD, importance="batch", against="retain", percentile="paper")
AS_RLAP = partial(
    unlearnkit.FineTune, epochs=30, lr=0.001, optimizer="adam", batch_size=1024, weight_decay=0.0
)

METHODS: dict[str, Callable[[Cell], Made]] = {
    "original": lambda cell: cell.original,
    "retrained": lambda cell: cell.trained(cell.request.retain),
    "fine-tuned": lambda cell: one_epoch(cell, cell.request.retain),
    "ASSD, published": partial(mended, make=PUBLISHED),
    "ASSD, published, fine-tuned": partial(then_one_epoch, make=PUBLISHED),
    "ASSD()": partial(mended, make=unlearnkit.ASSD),
    "ASSD(), fine-tuned": partial(then_one_epoch, make=unlearnkit.ASSD),
    "control: an epoch with the errors": lambda cell: one_epoch(cell, cell.request.train),
    "control: ASSD of right labels": partial(misled, make=PUBLISHED),
    "control: FineTune() with the errors": tuned_with_errors,
    "FineTune()": partial(mended, make=unlearnkit.FineTune),
    "SalUn()": partial(mended, make=unlearnkit.SalUn),
    "FisherReset()": partial(mended, make=unlearnkit.FisherReset),
    "RLAP, errors known": partial(mended, make=RLAP),
    "RLAP, errors unknown": found_and_mended,
    "control: RLAP's training, nothing pruned": partial(mended, make=AS_RLAP),
}
if find_spec("cleanlab"):
    METHODS["RLAP by LabelIssues(), errors unknown"] = partial(
        found_and_mended, finder=unlearnkit.LabelIssues
    )
