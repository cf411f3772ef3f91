# SPDX-License-Identifier: BSD-3-Clause
"""The data, nets and recipes of the study of noisy data, and what one arm and seed of it has in common."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path
from time import process_time
from typing import Any, NamedTuple

import torch
from sklearn.metrics import precision_recall_fscore_support
from torch import nn
from torch.nn import functional as F

from _data import Data, Splits, cifar10, digits
from _models import trained_in
from _noise import ARMS, quality
from unlearnkit import Partition
from unlearnkit.exceptions import UnlearnWarning
from unlearnkit.finding import Finder
from unlearnkit.metrics import predict_logits


class Task(NamedTuple):
    """What is trained, and how.

    Attributes
    ----------
    splits : callable
        The clean data, read from a folder.
    factory : callable
        Builds the net; its head is `hidden`, ReLU and `output`, as RLAP's.
    recipe : dict
        Of the original, see `_models.train`.
    tune : dict
        Epochs and batch size of all that goes on from the original.
    """

    splits: Callable[[Path], Splits]
    factory: Callable[[], nn.Module]
    recipe: dict[str, Any]
    tune: dict[str, Any]


def cnn(channels: tuple[int, ...], side: int, hidden: int, inputs: int = 3) -> nn.Module:
    """Convolution-BatchNorm-ReLU-pool for each of `channels`, then the head; images [N, inputs, side, side]."""
    layers: list[nn.Module] = []
    for outputs in channels:
        layers += [
            nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.MaxPool2d(2),
        ]
        inputs, side = outputs, side // 2
    return nn.Sequential(
        OrderedDict(
            body=nn.Sequential(*layers, nn.Flatten()),
            hidden=nn.Linear(inputs * side**2, hidden),
            relu=nn.ReLU(),
            output=nn.Linear(hidden, 10),
        )
    )


def small_cifar(folder: Path) -> Splits:
    """8,000 standardised images to train on, 1,000 to look at settings with, 5,000 to report on; 16 x 16."""
    return Splits(*((F.avg_pool2d(x, 2), y) for x, y in cifar10(folder, 8000, 1000, 5000)))


def few_digits(folder: Path, train: int = 400) -> Splits:
    """Some of scikit-learn's digits to train on, standardised: the clamp of the input noise is meant for that."""
    splits = digits()
    x, y = splits.train
    mean, std = x.mean(), x.std()
    parts = (x[:train], y[:train]), splits.validation, splits.test
    return Splits(*(((x - mean) / std, y) for x, y in parts))


PAPER = {"batch_size": 64, "weight_decay": 5e-4, "schedule": "constant", "nesterov": False}
DIGITS = Task(
    few_digits,
    partial(cnn, (16, 32), 8, 64, 1),
    {"epochs": 10, "lr": 0.05, **PAPER, "batch_size": 32},
    {"epochs": 5, "batch_size": 32},
)
TASKS = {
    "cifar": Task(
        small_cifar,
        partial(cnn, (16, 32, 64), 16, 128),
        {"epochs": 20, "lr": 0.05, **PAPER},
        {"epochs": 10, "batch_size": 64},
    ),
    "digits": DIGITS,
    "smoke": DIGITS._replace(recipe=DIGITS.recipe | {"epochs": 2}, tune=DIGITS.tune | {"epochs": 1}),
}


class Case:
    """An arm and a seed of a task: the data, the original, and the partitions, each found once."""

    def __init__(self, task: Task, arm: str, seed: int, data: Path, work: Path) -> None:
        self.task, self.seed, self.work = task, seed, work
        self.noisy = ARMS[arm](task.splits(data), seed)
        self.found: dict[str, tuple[Partition, float]] = {}

    @cached_property
    def original(self) -> tuple[nn.Module, float]:
        """What was trained on everything, and the CPU seconds of that."""
        task, data = self.task, self.noisy.train
        return trained_in(self.work, task.factory, data, self.seed, clock=process_time, **task.recipe)

    @cached_property
    def truth(self) -> Partition:
        """The partition that only a study knows."""
        return Partition.of(self.noisy.train, self.noisy.is_noisy)

    def partition(self, name: str, factory: Callable[[], Finder]) -> tuple[Partition, float]:
        """Return what a finder finds, and in how many CPU seconds."""
        if name not in self.found:
            model, finder = self.original[0], factory()
            if "random_state" in finder.get_params(deep=False):
                finder.set_params(random_state=self.seed)
            start = process_time()
            found = finder.find(model, self.noisy.train)
            self.found[name] = found, process_time() - start
        return self.found[name]

    def quality(self, found: Partition) -> dict[str, Any]:
        """Return how good a partition is, see `_noise.quality`, and what it says of itself."""
        told = {"separation": found.separation, "is_separated": found.is_separated}
        return quality(self.noisy.is_noisy, found.noise, found.is_noisy) | told

    def figures(self, model: nn.Module) -> dict[str, float]:
        """Return accuracy, macro precision and F1 on the clean test set, and what was fitted.

        `fit_clean` and `fit_noisy` are the accuracies on the training samples' given labels.
        """
        predicted, y = _predicted(model, self.noisy.test)
        precision, _, f1, _ = precision_recall_fscore_support(
            y.numpy(), predicted.numpy(), average="macro", zero_division=0
        )
        right = torch.eq(*_predicted(model, self.noisy.train)).float()
        bad = self.noisy.is_noisy
        return {
            "accuracy": float((predicted == y).float().mean()),
            "precision": float(precision),
            "f1": float(f1),
            "fit_clean": float(right[~bad].mean()),
            "fit_noisy": float(right[bad].mean()),
        }


def _predicted(model: nn.Module, data: Data) -> tuple[torch.Tensor, torch.Tensor]:
    logits, y = predict_logits(model, data)
    return logits.argmax(1), y


def quiet() -> None:
    """A study asks for what the library warns of."""
    warnings.simplefilter("ignore", UnlearnWarning)
