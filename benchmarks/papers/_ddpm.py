# SPDX-License-Identifier: BSD-3-Clause
"""Class-conditional diffusion models to forget with: their sizes, their training, and a classifier that looks on."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler, DDPMScheduler, UNet2DModel
from torch import Tensor, nn
from torch.nn import functional as F

from _data import Data, Splits, cifar10, digits
from _networks import resnet18

CLASSES = NULL = 10  # the class that stands for none comes after the others


@dataclass(frozen=True)
class Size:
    """A data set, a model of it, and how it is trained, sampled from and unlearned."""

    channels: tuple[int, ...]
    attention: int | None  # the level that has it
    layers: int
    steps: int
    batch: int
    lr: float
    ema: float
    sampling: int
    guidance: float
    per_class: int
    unlearn: dict[str, Any] = field(default_factory=dict)
    dropout: float = 0.0
    cut: tuple[int, int, int] = (1100, 197, 500)
    pool: int = 1
    is_cifar: bool = False
    looks: int = 30  # epochs of the classifier

    def data(self, folder: Path | None) -> Splits:
        """Images in [-1, 1]."""
        if not self.is_cifar:
            splits = digits()
        elif folder is None:
            raise SystemExit("--size cifar10 needs --data DIR, a folder with cifar-10-batches-py in it")
        else:
            splits = cifar10(folder, *self.cut, pixels=True)
        return Splits(
            *(
                (F.avg_pool2d(2 * x - 1, self.pool)[:n], y[:n])
                for (x, y), n in zip(splits, self.cut, strict=True)
            )
        )


DIGITS = Size(
    channels=(32, 32), attention=None, layers=1, steps=2500, batch=64, lr=2e-3, ema=0.995, sampling=25,
    guidance=0.0, per_class=50, unlearn={"lr": 1e-3, "epochs": 30, "batch_size": 32},
)  # fmt: skip
CIFAR10 = Size(
    channels=(128, 256, 256, 256), attention=1, layers=2, steps=800_000, batch=128, lr=2e-4, ema=0.9999,
    sampling=250, guidance=2.0, per_class=500, unlearn={"lr": 1e-4, "epochs": 25, "batch_size": 128},
    dropout=0.1, cut=(45_000, 5_000, 10_000), is_cifar=True, looks=40,
)  # fmt: skip
SMOKE = Size(
    channels=(8, 8), attention=None, layers=1, steps=4, batch=16, lr=2e-3, ema=0.9, sampling=2, guidance=0.0,
    per_class=3, unlearn={"lr": 1e-3, "epochs": 1, "batch_size": 16}, cut=(90, 10, 60), pool=2, looks=2,
)  # fmt: skip
SIZES = {"digits": DIGITS, "cifar10": CIFAR10, "smoke": SMOKE}


def unet(size: Size, shape: torch.Size) -> UNet2DModel:
    """Build a U-Net for images [C, H, W] with an embedding for each class and one for none."""
    down = ["DownBlock2D"] * len(size.channels)
    up = ["UpBlock2D"] * len(size.channels)
    if size.attention is not None:
        down[size.attention] = "AttnDownBlock2D"
        up[-1 - size.attention] = "AttnUpBlock2D"
    return UNet2DModel(
        sample_size=shape[-1],
        in_channels=shape[0],
        out_channels=shape[0],
        layers_per_block=size.layers,
        block_out_channels=size.channels,
        down_block_types=tuple(down),
        up_block_types=tuple(up),
        num_class_embeds=CLASSES + 1,
        norm_num_groups=min(32, size.channels[0] // 4),
        dropout=size.dropout,
        add_attention=size.attention is not None,
    )


def schedules() -> tuple[DDPMScheduler, DDIMScheduler]:
    """Return the paper's forward process, 1,000 steps from 1e-4 to 2e-2, and what samples."""
    forward = DDPMScheduler()
    return forward, DDIMScheduler.from_config(forward.config)


def trained(size: Size, data: Data, seed: int, device: str) -> UNet2DModel:
    """Train a model; 10 % of the conditions are dropped, and the mean of its weights over time is returned."""
    torch.manual_seed(seed)
    x, y = (part.to(device) for part in data)
    model = unet(size, x.shape[1:]).to(device).train()
    mean = copy.deepcopy(model).eval()
    optimizer = torch.optim.AdamW(model.parameters(), size.lr, weight_decay=1e-4)
    alphas = schedules()[0].alphas_cumprod.to(device)
    for step in range(size.steps):
        for group in optimizer.param_groups:
            group["lr"] = size.lr * min(1, (step + 1) / 100) * (1 - step / size.steps)
        chosen = torch.randint(len(y), (size.batch,), device=device)
        c = torch.where(torch.rand(size.batch, device=device) < 0.1, NULL, y[chosen])
        t = torch.randint(len(alphas), (size.batch,), device=device)
        a = alphas[t].view(-1, 1, 1, 1)
        noise = torch.randn_like(x[chosen])
        noisy = a.sqrt() * x[chosen] + (1 - a).sqrt() * noise
        optimizer.zero_grad()
        F.mse_loss(model(noisy, t, class_labels=c).sample, noise).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        share = 1 - min(size.ema, (step + 1) / (step + 10))
        with torch.no_grad():
            for kept, new in zip(mean.parameters(), model.parameters(), strict=True):
                kept.lerp_(new, share)
    return mean


def classifier(size: Size, data: Data, device: str) -> nn.Module:
    """Train what looks at the images; some noise makes it ready for what is not quite one."""
    torch.manual_seed(0)
    x, y = (part.to(device) for part in data)
    side = x.shape[-1] // 2
    model = resnet18().to(device) if size.is_cifar else nn.Sequential(
        nn.Conv2d(x.shape[1], 32, 3, padding=1), nn.ReLU(),
        nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(32 * side * side, 64), nn.ReLU(), nn.Linear(64, CLASSES),
    ).to(device)  # fmt: skip
    optimizer = torch.optim.Adam(model.parameters(), 1e-3 if size.is_cifar else 2e-3)
    for _ in range(size.looks):
        for chosen in torch.randperm(len(y), device=device).split(64):
            optimizer.zero_grad()
            given = x[chosen] + 0.1 * torch.randn_like(x[chosen])
            if size.is_cifar:
                given = torch.where(
                    torch.rand(len(chosen), 1, 1, 1, device=device) < 0.5, given.flip(3), given
                )
            F.cross_entropy(model(given), y[chosen]).backward()
            optimizer.step()
    return model.eval()


def accuracy(model: nn.Module, data: Data, device: str) -> float:
    """Share of rightly classified images."""
    x, y = data
    with torch.no_grad():
        found: Tensor = torch.cat([model(part.to(device)).argmax(1).cpu() for part in x.split(500)])
    return float((found == y).double().mean())
