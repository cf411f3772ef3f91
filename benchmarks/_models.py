# SPDX-License-Identifier: BSD-3-Clause
"""Networks of the benchmarks, written plainly, and one training loop for all of them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from _data import Data

EVERY = 60.0
"""Seconds after which a training's state is written again."""


def digits_cnn() -> nn.Module:
    """Two convolutions for [N, 1, 8, 8]; 9,930 weights."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(512, 10),
    )  # fmt: skip


def digits_mlp() -> nn.Module:
    """Three linear layers for [N, 1, 8, 8]; 17,226 weights."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10)
    )


def narrow_cnn() -> nn.Module:
    """Three convolutions of 16, 32 and 64 channels for [N, 3, 32, 32]; 33,834 weights."""
    layers: list[nn.Module] = []
    for inputs, outputs in ((3, 16), (16, 32), (32, 64)):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(1024, 10))


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


def train(factory: Callable[[], nn.Module], data: Data, seed: int, **recipe: Any) -> nn.Module:
    """Build a new model and train it with SGD, of momentum 0.9 unless the recipe says otherwise.

    The seed fixes the initial weights and the order of the samples. The model comes back in
    eval mode. `recipe` is what `_train` takes.
    """
    return _train(factory, data, seed, **recipe)[0]


def _train(
    factory: Callable[[], nn.Module],
    data: Data,
    seed: int,
    epochs: int = 12,
    lr: float = 0.05,
    batch_size: int = 128,
    weight_decay: float = 5e-4,
    schedule: str = "one_cycle",
    momentum: float = 0.9,
    nesterov: bool = True,
    shuffle: bool = True,
    precision: str = "float32",
    checkpoint: Path | None = None,
    clock: Callable[[], float] = perf_counter,
) -> tuple[nn.Module, float]:
    """Return a trained model and the seconds that took, by `clock`.

    The learning rate goes through one cycle, with ``schedule="cosine"`` down to a hundredth of `lr`,
    with ``"step"`` down by a twentieth after each epoch, and with ``"constant"`` nowhere. What is left
    in `checkpoint`, every `EVERY` seconds, is where an interrupted training goes on.
    """
    x, y = data
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = factory().to(x.device).train()
        optimizer = torch.optim.SGD(
            model.parameters(), lr=lr, momentum=momentum, weight_decay=weight_decay, nesterov=nesterov
        )
        rates = _rates(optimizer, schedule, lr, epochs, -(-len(y) // batch_size))
        progress = _Progress(checkpoint, model, optimizer, rates, clock)
        for epoch in range(progress.resume(), epochs):
            order = torch.randperm(len(y)) if shuffle else torch.arange(len(y))
            for batch in order.split(batch_size):
                at = batch.to(x.device)
                optimizer.zero_grad()
                with torch.autocast(x.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
                    loss = F.cross_entropy(model(x[at]), y[at])
                loss.backward()
                optimizer.step()
                rates.step()
            progress.keep(epoch + 1)
    return model.eval(), progress.seconds()


def trained(
    folder: Path, factory: Callable[[], nn.Module], data: Data, seed: int, **recipe: Any
) -> nn.Module:
    """`train`, or the model that an earlier call with the same arguments left in `folder`."""
    return trained_in(folder, factory, data, seed, **recipe)[0]


def trained_in(
    folder: Path,
    factory: Callable[[], nn.Module],
    data: Data,
    seed: int,
    *,
    clock: Callable[[], float] = perf_counter,
    **recipe: Any,
) -> tuple[nn.Module, float]:
    """Return `trained` and the seconds that the training took by `clock`, whenever that was."""
    model, device = factory(), data[0].device
    key = hashlib.blake2b(repr((repr(model), seed, recipe)).encode())
    for tensor in data:
        key.update(tensor.contiguous().cpu().numpy())
    path = folder / f"{key.hexdigest()[:24]}.pt"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        model, seconds = _train(factory, data, seed, checkpoint=part, clock=clock, **recipe)
        _write(path, {"state": model.state_dict(), "seconds": seconds})
        part.unlink(missing_ok=True)
    stored = torch.load(path, map_location=device)
    model.load_state_dict(stored["state"])
    return model.to(device).eval(), stored["seconds"]


def _rates(
    optimizer: torch.optim.Optimizer, schedule: str, lr: float, epochs: int, batches: int
) -> torch.optim.lr_scheduler.LRScheduler:
    steps = epochs * batches
    if schedule == "step":
        return torch.optim.lr_scheduler.StepLR(optimizer, batches, gamma=0.95)
    if schedule == "cosine":
        return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps, eta_min=0.01 * lr)
    if schedule == "constant":
        return torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0, total_iters=1)
    return torch.optim.lr_scheduler.OneCycleLR(
        optimizer, lr, total_steps=steps, pct_start=0.2, cycle_momentum=False
    )


class _Progress:
    """A training's state after its last epoch, on disk."""

    def __init__(
        self, path: Path | None, model: nn.Module, optimizer: Any, rates: Any, clock: Callable[[], float]
    ) -> None:
        self.path, self.parts = path, {"model": model, "optimizer": optimizer, "rates": rates}
        self.clock, self.before, self.start = clock, 0.0, clock()
        self.saved = perf_counter()

    def resume(self) -> int:
        """Read what was kept, and return how many epochs are done."""
        if self.path is None or not self.path.exists():
            return 0
        stored = torch.load(self.path, map_location="cpu", weights_only=True)
        for name, part in self.parts.items():
            part.load_state_dict(stored[name])
        torch.set_rng_state(stored["random"])
        if torch.cuda.is_available():
            torch.cuda.set_rng_state(stored["random_cuda"])
        self.before = stored["seconds"]
        return stored["epochs"]

    def seconds(self) -> float:
        """Return how long this training has taken, with what came before an interruption."""
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        return self.before + self.clock() - self.start

    def keep(self, epochs: int) -> None:
        """Write the state if the last time is long ago."""
        if self.path is None or perf_counter() - self.saved < EVERY:
            return
        self.saved = perf_counter()
        state = {name: part.state_dict() for name, part in self.parts.items()}
        state |= {"epochs": epochs, "seconds": self.seconds()}
        state["random"] = torch.get_rng_state()
        if torch.cuda.is_available():
            state["random_cuda"] = torch.cuda.get_rng_state()
        _write(self.path, state)


def _write(path: Path, content: dict[str, Any]) -> None:
    """Write all of it or nothing."""
    part = path.with_suffix(f".{os.getpid()}.tmp")
    torch.save(content, part)
    part.replace(path)
