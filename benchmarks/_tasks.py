# SPDX-License-Identifier: BSD-3-Clause
"""What the Fisher is timed on: a model in eval mode, random samples, and a loss for each sample."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from _networks import gpt, resnet18, resnet50, vit

Batch = tuple[Tensor, Tensor]


def label_loss(model: nn.Module, batch: Batch) -> Tensor:
    """Cross-entropy of each sample, [N]."""
    x, y = batch
    return F.cross_entropy(model(x), y, reduction="none")


def next_symbol_loss(model: nn.Module, batch: Batch) -> Tensor:
    """Cross-entropy of each sequence, the mean over its positions, [N]."""
    x, y = batch
    losses = F.cross_entropy(model(x).flatten(0, 1), y.flatten(), reduction="none")
    return losses.view(len(x), -1).mean(1)


@dataclass(frozen=True)
class Task:
    """A model that can be built, and samples that can be drawn.

    Attributes
    ----------
    title : str
        What it is, in full.
    build : callable
        Makes the model.
    shape : tuple of int
        Of one input: of an image, or the length of a text of bytes.
    batch : int
        Samples at a time.
    loss : callable
        ``loss(model, (x, y)) -> Tensor [N]``.
    """

    title: str
    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    batch: int
    loss: Callable[[nn.Module, Batch], Tensor] = label_loss

    def model(self, device: str) -> nn.Module:
        """Build the model, the same at every call."""
        torch.manual_seed(0)
        return self.build().to(device).eval()

    def draw(self, device: str, samples: int | None = None) -> Batch:
        """Draw random samples, the same at every call; `batch` of them unless told."""
        n = samples or self.batch
        torch.manual_seed(1)
        if self.loss is next_symbol_loss:
            text = torch.randint(256, (n, self.shape[0] + 1), device=device)
            return text[:, :-1].contiguous(), text[:, 1:].contiguous()
        return torch.randn(n, *self.shape, device=device), torch.randint(10, (n,), device=device)


CIFAR = (3, 32, 32)

SCALES: dict[str, dict[str, Task]] = {
    "tiny": {  # for tests
        "resnet18": Task("ResNet-18, width 4", partial(resnet18, 4), (3, 8, 8), 4),
        "resnet50": Task("ResNet-50, width 4", partial(resnet50, 4), (3, 8, 8), 4),
        "vit": Task("ViT, width 16", partial(vit, 8, 4, 16, 2, 2, 10), (3, 8, 8), 4),
        "gpt": Task("GPT, width 16", partial(gpt, 6, 16, 2, 2), (6,), 4, next_symbol_loss),
    },
    "small": {  # for a processor
        "resnet18": Task("ResNet-18 (CIFAR stem, 32 x 32)", resnet18, CIFAR, 32),
        "resnet50": Task("ResNet-50 (CIFAR stem, 32 x 32)", resnet50, CIFAR, 16),
        "vit": Task("ViT-S/16 (96 x 96, 37 tokens)", partial(vit, 96, 16, 384, 12, 6), (3, 96, 96), 32),
        "gpt": Task(
            "4 GPT-2 blocks (128 tokens)", partial(gpt, 128, 768, 4, 12), (128,), 8, next_symbol_loss
        ),
    },
    "large": {  # for a GPU
        "resnet18": Task("ResNet-18 (CIFAR stem, 32 x 32)", resnet18, CIFAR, 128),
        "resnet50": Task("ResNet-50 (CIFAR stem, 32 x 32)", resnet50, CIFAR, 128),
        "vit": Task(
            "ViT-B/16 (224 x 224, 197 tokens)", partial(vit, 224, 16, 768, 12, 12), (3, 224, 224), 32
        ),
        "gpt": Task(
            "12 GPT-2 blocks (256 tokens)", partial(gpt, 256, 768, 12, 12), (256,), 16, next_symbol_loss
        ),
    },
}
MODELS = tuple(SCALES["small"])


def find(scale: str, name: str, batch: int | None = None) -> Task:
    """Return a task by its name; ``resnet18/32`` is the ResNet-18 of width 32."""
    name, _, width = name.partition("/")
    task = SCALES[scale][name]
    if width:
        task = replace(task, title=f"{task.title}, width {width}", build=partial(resnet18, int(width)))
    return replace(task, batch=batch or task.batch)
