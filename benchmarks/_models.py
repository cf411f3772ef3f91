# SPDX-License-Identifier: BSD-3-Clause
"""Networks of the benchmarks, written plainly, and one training loop for all of them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from _data import Data


def digits_cnn() -> nn.Module:
    """Two convolutions for [N, 1, 8, 8]; 9,930 weights."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(512, 10),
    )  # fmt: skip


def small_cnn(norm: bool = False) -> nn.Module:
    """Three convolutions for [N, 3, 32, 32]; 113,738 weights, with BatchNorm 114,186."""

    def block(inputs: int, outputs: int) -> list[nn.Module]:
        layers = [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        return [layers[0], nn.BatchNorm2d(outputs), *layers[1:]] if norm else layers

    return nn.Sequential(*block(3, 32), *block(32, 64), *block(64, 128), nn.Flatten(), nn.Linear(2048, 10))


def small_cnn_bn() -> nn.Module:
    """`small_cnn` with BatchNorm."""
    return small_cnn(norm=True)


def mlp(inputs: int, classes: int, width: int = 100, depth: int = 3) -> nn.Module:
    """Linear-BatchNorm-ReLU `depth` times and a Linear, the net of ASSD's DataCo experiment."""
    sizes = [inputs] + [width] * depth
    layers: list[nn.Module] = []
    for before, after in pairwise(sizes):
        layers += [nn.Linear(before, after), nn.BatchNorm1d(after), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(width, classes))


def train(
    factory: Callable[[], nn.Module],
    data: Data,
    seed: int,
    epochs: int = 12,
    lr: float = 0.05,
    batch_size: int = 128,
    weight_decay: float = 5e-4,
) -> nn.Module:
    """Build a new model and train it with SGD, momentum 0.9 and one cycle of learning rates.

    The seed fixes the initial weights and the order of the samples. The model comes back in
    eval mode.
    """
    x, y = data
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = factory().to(x.device).train()
        steps = epochs * -(-len(y) // batch_size)
        optimizer = torch.optim.SGD(
            model.parameters(), lr=lr, momentum=0.9, weight_decay=weight_decay, nesterov=True
        )
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, lr, total_steps=steps, pct_start=0.2, cycle_momentum=False
        )
        for _ in range(epochs):
            for batch in torch.randperm(len(y)).split(batch_size):
                optimizer.zero_grad()
                F.cross_entropy(model(x[batch]), y[batch]).backward()
                optimizer.step()
                schedule.step()
    return model.eval()


def trained(
    folder: Path, factory: Callable[[], nn.Module], data: Data, seed: int, **recipe: Any
) -> nn.Module:
    """`train`, or the model that an earlier call with the same arguments left in `folder`."""
    key = hashlib.blake2b(repr((factory().state_dict().keys(), seed, recipe)).encode())
    for tensor in data:
        key.update(tensor.contiguous().numpy())
    path = folder / f"{key.hexdigest()[:24]}.pt"
    if path.exists():
        model = factory()
        model.load_state_dict(torch.load(path))
        return model.eval()
    model = train(factory, data, seed, **recipe)
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(model.state_dict(), path)
    return model
