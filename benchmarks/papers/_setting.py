# SPDX-License-Identifier: BSD-3-Clause
"""What the papers' experiments are made of: CIFAR-10 at a size, a ResNet-18, and what is to go."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from _data import CIFAR10_MEAN, CIFAR10_STD, Data, Request, Splits, cifar10
from _models import trained_in
from _networks import resnet18
from unlearnkit.metrics import evaluate

TUNING = 9
"""The seed on which hyper-parameters are chosen; no figure is reported for it."""


class Size(NamedTuple):
    """How much data, which net, and how both are trained.

    Attributes
    ----------
    cut : tuple of int
        Images to train on, to choose settings with, and to report on.
    pool : int
        Images are averaged over squares of so many pixels a side.
    width : int
        Channels of the ResNet-18's first stage; 64 in the papers.
    recipe : dict
        Of the original and the oracle, see `_models.train`.
    shared : dict
        Parameters of all unlearning methods that have them.
    augment : bool
        Shift and mirror the images in training.
    attack : int
        Samples of either side that train the membership inference.
    """

    cut: tuple[int, int, int]
    pool: int
    width: int
    recipe: dict[str, Any]
    shared: dict[str, Any]
    augment: bool = False
    attack: int | None = 1000


class Scenario(NamedTuple):
    """What is to be forgotten, drawn with a seed."""

    name: str
    request: Callable[[Splits, int], Request]


class Standardise(nn.Module):
    """CIFAR-10's mean and standard deviation by channel: the net itself takes pixels in [0, 1]."""

    def __init__(self) -> None:
        super().__init__()
        for name, values in (("mean", CIFAR10_MEAN), ("std", CIFAR10_STD)):
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


class Augment(nn.Module):
    """While it trains, a net sees images shifted by up to 4 pixels and mirrored half the time."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        n, channels, height, width = x.shape
        top, left = torch.randint(9, (2, n, 1), device=x.device)
        rows = top + torch.arange(height, device=x.device)  # [N, H]
        columns = left + torch.arange(width, device=x.device)  # [N, W]
        mirrored = torch.rand(n, 1, device=x.device) < 0.5
        columns = torch.where(mirrored, columns.flip(1), columns)
        sample = torch.arange(n, device=x.device)[:, None, None, None]
        channel = torch.arange(channels, device=x.device)[:, None, None]
        return F.pad(x, (4, 4, 4, 4))[sample, channel, rows[:, None, :, None], columns[:, None, None]]


def network(size: Size) -> nn.Module:
    """Build a new ResNet-18 for pixels [N, 3, H, W]."""
    first = [Augment()] if size.augment else []
    return nn.Sequential(*first, Standardise(), resnet18(size.width))


def images(size: Size, folder: Path) -> Splits:
    """Return the cut of CIFAR-10."""
    splits = cifar10(folder, *size.cut, pixels=True)
    return Splits(*((F.avg_pool2d(x, size.pool), y) for x, y in splits))


class Bench:
    """One scenario and seed: the original, the oracle, and how far a model is from that."""

    def __init__(
        self, size: Size, splits: Splits, scenario: Scenario, seed: int, work: Path, device: str
    ) -> None:
        self.size, self.seed, self.work = size, seed, work
        drawn = scenario.request(splits, seed)
        self.request = Request(*((x.to(device), y.to(device)) for x, y in drawn))
        classes = self.request.retain[1].unique()
        x, y = self.request.validation
        known = torch.isin(y, classes)
        self.validation = x[known], y[known]  # without a class that is forgotten as a whole
        self.expected: dict[str, Mapping[str, float]] = {}

    @cached_property
    def original(self) -> tuple[nn.Module, float]:
        """What is to forget, and the seconds of its training."""
        return self._trained(self.request.train, self.seed)

    @cached_property
    def oracle(self) -> tuple[nn.Module, float]:
        """A newly built model that was trained without the forget set, likewise."""
        return self._trained(self.request.retain, self.seed + 1000)

    @cached_property
    def another(self) -> tuple[nn.Module, float]:
        """A second oracle: no method can be told from retraining below its distance to the first."""
        return self._trained(self.request.retain, self.seed + 2000)

    def figures(self, model: nn.Module, held_out: str) -> dict[str, float]:
        """Return UA, RA, TA and MIA in percent, the average gap to the oracle likewise, and ToW.

        `held_out` is "validation" where settings are chosen, and "test" in the report.
        """
        if held_out not in self.expected:
            self.expected[held_out] = self._evaluate(self.oracle[0], held_out)
        found = self._evaluate(model, held_out, oracle=self.expected[held_out])
        return {
            "ua": 100 * (1 - found["forget"]),
            "ra": 100 * found["retain"],
            "ta": 100 * found["test"],
            "mia": 100 * found["mia"],
            "gap": 100 * found["avg_gap"],
            "tow": found["tow"],
        }

    def _evaluate(self, model: nn.Module, held_out: str, **named: Any) -> Mapping[str, float]:
        unseen = self.validation if held_out == "validation" else self.request.test
        sets = {"retain": self.request.retain, "forget": self.request.forget, "test": unseen}
        batched = {name: _batches(data) for name, data in sets.items()}
        return evaluate(model, **batched, max_samples=self.size.attack, **named)

    def _trained(self, data: Data, seed: int) -> tuple[nn.Module, float]:
        return trained_in(self.work, partial(network, self.size), data, seed, **self.size.recipe)


def _batches(data: Data) -> list[Data]:
    x, y = data
    return list(zip(x.split(512), y.split(512), strict=True))
