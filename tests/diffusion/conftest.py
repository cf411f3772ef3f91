# SPDX-License-Identifier: BSD-3-Clause
"""Denoising models, small enough to be checked by hand, and some of the diffusers library."""

import pytest
import torch
from torch import nn

CLASSES, NULL, SIZE = 4, 4, 4


class Denoiser(nn.Module):
    """Takes noisy [N, 2, 4, 4], times [N] and classes [N] (4 stands for none) in this order."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(CLASSES + 1, 6)
        self.time = nn.Linear(1, 6)
        self.enter = nn.Conv2d(2, 6, 3, padding=1)
        self.drop = nn.Dropout(0.3)
        self.leave = nn.Conv2d(6, 2, 3, padding=1)

    def forward(self, noisy, times, classes):
        told = self.embedding(classes) + self.time(times[:, None].to(noisy) / 100)  # [N, 6]
        return self.leave(self.drop((self.enter(noisy) + told[..., None, None]).tanh()))


@pytest.fixture
def denoiser():
    return Denoiser()


@pytest.fixture
def batch():
    """Six samples and their classes."""
    return torch.randn(6, 2, SIZE, SIZE), torch.tensor([0, 1, 2, 3, 0, 1])


@pytest.fixture
def alphas():
    """``alphas_cumprod`` of 50 steps."""
    return torch.linspace(0.999, 0.01, 50)


@pytest.fixture(scope="session")
def diffusers():
    return pytest.importorskip("diffusers")


@pytest.fixture
def unet(diffusers):
    """A U-Net for classes, as small as they come."""
    return diffusers.UNet2DModel(
        sample_size=SIZE,
        in_channels=2,
        out_channels=2,
        layers_per_block=1,
        block_out_channels=(8, 8),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        num_class_embeds=CLASSES + 1,
        norm_num_groups=4,
    )


@pytest.fixture
def text_unet(diffusers):
    """A U-Net for prompts [N, 5, 8]."""
    return diffusers.UNet2DConditionModel(
        sample_size=SIZE,
        in_channels=2,
        out_channels=2,
        layers_per_block=1,
        block_out_channels=(8, 8),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=8,
        attention_head_dim=4,
        norm_num_groups=4,
    )


@pytest.fixture
def transformer(diffusers):
    """A diffusion transformer, which predicts a variance too."""
    return diffusers.DiTTransformer2DModel(
        sample_size=SIZE,
        in_channels=2,
        out_channels=4,
        num_layers=2,
        num_attention_heads=2,
        attention_head_dim=4,
        patch_size=2,
        num_embeds_ada_norm=CLASSES,
    )
