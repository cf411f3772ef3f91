# SPDX-License-Identifier: BSD-3-Clause
"""One cell of the supply-chain study: a net trained on wrong labels, and what mends it.

A method is a function of the cell that returns a model and the seconds that it took.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import unlearnkit
from _data import Data, Request
from _models import mlp, trained_in
from unlearnkit.base import Unlearner
from unlearnkit.metrics import accuracy

Made = tuple[nn.Module, float]

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


class Net(NamedTuple):
    """A net of the paper, and what is run on it where nothing else is said."""

    width: int
    depth: int
    seeds: range
    left_out: tuple[str, ...] = ()

    def trained(self, data: Data, seed: int, recipe: dict[str, Any], work: Path) -> Made:
        """Return a newly built net after training."""
        factory = partial(mlp, data[0].shape[1], CLASSES, self.width, self.depth)
        return trained_in(work, factory, data, seed, **recipe)


LONG = ("control: FineTune() with the errors", "FineTune()", "SalUn()", "FisherReset()")
"""Methods that take as long as training the largest net anew."""

NETS = {
    "3x100": Net(100, 3, range(5)),
    "2x50": Net(50, 2, range(3)),
    "5x250": Net(250, 5, range(3), LONG),
}


@dataclass
class Cell:
    """A net, a share of wrong labels, a seed.

    Attributes
    ----------
    net : Net
    request : Request
        `forget` holds the samples with wrong labels.
    seed, initial : int
        Of what is drawn, and of the initial weights, the same for all trainings of a cell.
    recipe : dict
        How a net is trained.
    work : Path
        Where trained nets are kept.
    """

    net: Net
    request: Request
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
        model = model or self.original[0]
        method.fit(model, *data)
        return method.transform(model), method.seconds_

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


def dampened(cell: Cell, **parameters: Any) -> Made:
    """Apply ASSD to the wrong labels."""
    request = cell.request
    method = unlearnkit.ASSD(**parameters)
    return cell.fitted(method, cell.loader(request.retain), cell.loader(request.forget))


def then_one_epoch(cell: Cell, **parameters: Any) -> Made:
    """Apply ASSD, and then train for one epoch without the wrong labels."""
    model, before = dampened(cell, **parameters)
    model, after = one_epoch(cell, cell.request.retain, model)
    return model, before + after


def dampened_by_chance(cell: Cell, **parameters: Any) -> Made:
    """Apply ASSD to as many samples with right labels: what comes of this is not the errors' doing."""
    x, y = cell.request.retain
    generator = torch.Generator().manual_seed(2000 + cell.seed)
    order = torch.randperm(len(y), generator=generator)
    count = len(cell.request.forget[1])
    drawn, rest = order[:count].sort().values, order[count:].sort().values
    parts = ((x[at], y[at]) for at in (rest, drawn))
    return cell.fitted(unlearnkit.ASSD(**parameters), *map(cell.loader, parts))


def by_name(name: str, cell: Cell, knows: bool = True) -> Made:
    """Apply a method of the library as it comes; without `knows` it has to find the errors itself."""
    request = cell.request
    data = (request.retain, request.forget) if knows else (request.train,)
    return cell.fitted(getattr(unlearnkit, name)(), *map(cell.loader, data))


def tuned_with_errors(cell: Cell) -> Made:
    """Fine-tune on everything: what comes of this is the training's doing alone."""
    parts = cell.loader(cell.request.train), cell.loader(cell.request.forget)
    return cell.fitted(unlearnkit.FineTune(), *parts)


PUBLISHED = {"importance": "batch", "against": "retain", "percentile": "paper"}

METHODS: dict[str, Callable[[Cell], Made]] = {
    "original": lambda cell: cell.original,
    "retrained": lambda cell: cell.trained(cell.request.retain),
    "fine-tuned": lambda cell: one_epoch(cell, cell.request.retain),
    "ASSD, published": partial(dampened, **PUBLISHED),
    "ASSD, published, fine-tuned": partial(then_one_epoch, **PUBLISHED),
    "ASSD()": dampened,
    "ASSD(), fine-tuned": then_one_epoch,
    "control: an epoch with the errors": lambda cell: one_epoch(cell, cell.request.train),
    "control: ASSD of right labels": partial(dampened_by_chance, **PUBLISHED),
    "control: FineTune() with the errors": tuned_with_errors,
    "FineTune()": partial(by_name, "FineTune"),
    "SalUn()": partial(by_name, "SalUn"),
    "FisherReset()": partial(by_name, "FisherReset"),
}
if hasattr(unlearnkit, "RLAP"):
    METHODS["RLAP(), errors known"] = partial(by_name, "RLAP")
    METHODS["RLAP(), errors unknown"] = partial(by_name, "RLAP", knows=False)
