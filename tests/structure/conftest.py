# SPDX-License-Identifier: BSD-3-Clause
"""Networks of all sorts, and a batch that each takes."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F


class Residual(nn.Module):
    """A block as ResNets have it, whose sum is written over the second norm's output."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.conv1, self.norm1 = nn.Conv2d(6, 5, 3, padding=1, bias=False), nn.BatchNorm2d(5)
        self.conv2, self.norm2 = nn.Conv2d(5, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.relu = nn.ReLU(inplace=True)
        self.head = nn.Linear(6, 4)

    def forward(self, x):
        x = self.relu(self.norm(self.stem(x)))
        y = self.norm2(self.conv2(self.relu(self.norm1(self.conv1(x)))))
        y += x
        return self.head(self.relu(y).mean((2, 3)))


class Tokens(nn.Module):
    """Patches, an encoder layer, and a head."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 2, stride=2)
        self.encoder = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True, activation="gelu")
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        return self.head(self.encoder(self.patches(x).flatten(2).mT).mean(1))


class Mixed(nn.Module):
    """Layers whose units can be told apart beside layers whose units cannot."""

    def __init__(self):
        super().__init__()
        self.depthwise = nn.Conv2d(3, 6, 3, groups=3)
        self.group = nn.GroupNorm(2, 6)
        self.up = nn.ConvTranspose2d(6, 5, 2)
        self.normed = nn.utils.parametrizations.weight_norm(nn.Linear(5, 7))
        self.twice = nn.Linear(7, 7)
        self.shared = nn.BatchNorm1d(7)
        self.again = nn.Linear(7, 7, bias=False)
        self.embed = nn.Embedding(9, 7)
        self.tied = nn.Linear(7, 9, bias=False)
        self.tied.weight = self.embed.weight
        self.first = nn.Linear(9, 9)
        self.second = nn.Linear(9, 9, bias=False)
        self.second.weight = self.first.weight
        self.unused = nn.Linear(2, 2)
        self.flat = nn.Linear(3, 3)
        self.head = nn.Linear(9, 4)

    def forward(self, x):
        x = F.relu(self.group(self.depthwise(x)))
        x = self.normed(self.up(x).mean((2, 3)))
        x = self.shared(self.twice(x))
        x = self.twice(x).tanh()
        x = self.shared(self.again(x))
        x = self.tied(x + self.embed(torch.arange(len(x)) % 9))
        x = self.second(self.first(x).relu()).relu()
        return self.flat(x.reshape(-1, 3)).mean() + self.head(x)


def mlp():
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(192, 7),
        nn.BatchNorm1d(7),
        nn.ReLU(),
        nn.Linear(7, 5),
        nn.GELU(),
        nn.Linear(5, 4),
    )


NETWORKS = {"mlp": mlp, "residual": Residual, "tokens": Tokens, "mixed": Mixed}


@pytest.fixture(params=NETWORKS)
def network(request):
    """In training mode, with statistics that are those of no batch."""
    torch.manual_seed(1)
    model = NETWORKS[request.param]()
    for _ in range(2):
        model(torch.randn(16, 3, 8, 8))
    return model


@pytest.fixture
def batch():
    draw = torch.Generator().manual_seed(2)
    return torch.randn(6, 3, 8, 8, generator=draw), torch.zeros(6, dtype=torch.long)
