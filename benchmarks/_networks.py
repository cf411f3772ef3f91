# SPDX-License-Identifier: BSD-3-Clause
"""The networks that the Fisher is timed on: ResNets, a vision transformer, a language model.

Written so that every peer can follow as far as it is able: each parameter belongs to a module that uses it,
every activation is a module, nothing works in place, and there is no dropout.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Residual(nn.Module):
    """Convolutions beside a shortcut (He et al., 2016, figure 5).

    Two of 3 x 3, or the bottleneck: 1 x 1, 3 x 3, and 1 x 1 to four times the width. Each is followed by
    BatchNorm.
    """

    def __init__(self, inputs: int, width: int, stride: int, bottleneck: bool) -> None:
        super().__init__()
        outputs = 4 * width if bottleneck else width
        sizes, kernels = (inputs, width, outputs), (3, 3)
        if bottleneck:
            sizes, kernels = (inputs, width, width, outputs), (1, 3, 1)
        layers: list[nn.Module] = []
        for place, ((before, after), kernel) in enumerate(zip(pairwise(sizes), kernels, strict=True)):
            # the first 3 x 3 has the stride
            step = stride if place == int(bottleneck) else 1
            layers += [*normed(before, after, kernel, step), nn.ReLU()]
        self.body = nn.Sequential(*layers[:-1])
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(*normed(inputs, outputs, 1, stride))
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, inputs, H, W] to [N, outputs, H / stride, W / stride]."""
        return self.relu(self.body(x) + self.shortcut(x))


def normed(inputs: int, outputs: int, kernel: int, stride: int = 1) -> list[nn.Module]:
    """Convolution that keeps the size (but for the stride), and BatchNorm."""
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
    return [convolution, nn.BatchNorm2d(outputs)]


def resnet(depths: tuple[int, ...], bottleneck: bool, width: int = 64, classes: int = 10) -> nn.Module:
    """ResNet with the CIFAR stem (3 x 3, no pooling)."""
    layers: list[nn.Module] = [*normed(3, width, 3), nn.ReLU()]
    before = width
    for stage, depth in enumerate(depths):
        for block in range(depth):
            stride = 2 if stage > 0 and block == 0 else 1
            layers.append(Residual(before, width * 2**stage, stride, bottleneck))
            before = width * 2**stage * (4 if bottleneck else 1)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, classes))


def resnet18(width: int = 64) -> nn.Module:
    """For [N, 3, 32, 32]; 11,173,962 weights."""
    return resnet((2, 2, 2, 2), bottleneck=False, width=width)


def resnet50(width: int = 64) -> nn.Module:
    """For [N, 3, 32, 32]; 23,520,842 weights."""
    return resnet((3, 4, 6, 3), bottleneck=True, width=width)


class Attention(nn.Module):
    """Multi-head self-attention."""

    def __init__(self, width: int, heads: int, causal: bool) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, T, width] to the same shape."""
        q, k, v = self.qkv(x).chunk(3, -1)
        mixed = F.scaled_dot_product_attention(
            self._heads(q), self._heads(k), self._heads(v), is_causal=self.causal
        )
        return self.out(mixed.transpose(1, 2).flatten(2))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # [N, heads, T, width / heads]


class Block(nn.Module):
    """A transformer block with the norms first, as in ViT and GPT-2."""

    def __init__(self, width: int, heads: int, causal: bool) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads, causal)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, T, width] to the same shape."""
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Positions(nn.Module):
    """Adds to every position a vector of its own, which all samples share."""

    def __init__(self, length: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(0.02 * torch.randn(length, width))

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, T, width] to the same shape."""
        return x + self.weight


class ClassToken(nn.Module):
    """Puts one more position, which all samples share, before the others."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(0.02 * torch.randn(1, width))

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, T, width] to [N, T + 1, width]."""
        return torch.cat([self.weight.expand(x.shape[0], -1, -1), x], 1)


class Patches(nn.Module):
    """Square patches of an image, each mapped to a vector."""

    def __init__(self, patch: int, width: int) -> None:
        super().__init__()
        self.map = nn.Conv2d(3, width, patch, patch)

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, 3, H, W] to [N, T, width]."""
        return self.map(x).flatten(2).transpose(1, 2)


class First(nn.Module):
    """Keeps the first position alone."""

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, T, width] to [N, width]."""
        return x[:, 0]


def vit(image: int, patch: int, width: int, depth: int, heads: int, classes: int = 1000) -> nn.Module:
    """Vision transformer for [N, 3, image, image] (Dosovitskiy et al., 2021)."""
    positions = (image // patch) ** 2 + 1
    return nn.Sequential(
        Patches(patch, width), ClassToken(width), Positions(positions, width),
        *(Block(width, heads, causal=False) for _ in range(depth)),
        nn.LayerNorm(width), First(), nn.Linear(width, classes),
    )  # fmt: skip


def gpt(length: int, width: int, depth: int, heads: int, symbols: int = 256) -> nn.Module:
    """GPT-2's blocks over bytes, for [N, length]; its head is not tied to its embedding."""
    return nn.Sequential(
        nn.Embedding(symbols, width), Positions(length, width),
        *(Block(width, heads, causal=True) for _ in range(depth)),
        nn.LayerNorm(width), nn.Linear(width, symbols, bias=False),
    )  # fmt: skip
