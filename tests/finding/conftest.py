# SPDX-License-Identifier: BSD-3-Clause
"""An attribution that is made up, clouds of samples, and a small network on digits with noise in them."""

from functools import cache

import pytest
import torch
from sklearn.base import BaseEstimator
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

from unlearnkit.data import in_order


class Inputs(BaseEstimator):
    """The samples themselves as their attribution; counts its walks."""

    def __init__(self):
        self.walks = 0

    def stream(self, model, data, loss=None):
        self.walks += 1
        for x, *_ in in_order(data):
            yield x.flatten(1)


@pytest.fixture
def inputs():
    return Inputs()


@pytest.fixture(scope="session")
def clouds():
    return _clouds


@pytest.fixture(scope="session")
def model_of():
    return _model_of


@pytest.fixture(scope="session")
def digits_after():
    """Return a function: kind of noise, epochs -> a trained network, its data, which samples are noisy."""

    @cache
    def made(kind, epochs):
        with torch.random.fork_rng():
            data, is_noisy = _noisy_digits(kind)
            return _trained_on(data, epochs), data, is_noisy

    return made


def _clouds(n=300, away=6.0, columns=5, share=0.3, seed=0):
    """Return X [n, columns], y [n] and which samples lie in the second cloud.

    Their label is one that :func:`_model_of` does not predict.
    """
    draw = torch.Generator().manual_seed(seed)
    second = torch.rand(n, generator=draw) < share
    X = torch.randn(n, columns, generator=draw)
    X[second, 0] += away
    y = torch.where(second, 1, 0)
    return X, y, second


def _model_of(columns=5, classes=3):
    """Return a network that predicts class 0 of all that :func:`_clouds` makes."""
    model = nn.Sequential(nn.Linear(columns, 4), nn.ReLU(), nn.Linear(4, classes))
    with torch.no_grad():
        model[2].weight.mul_(0.1)
        model[2].bias.copy_(torch.tensor([2.0, *[0.0] * (classes - 1)]))
    return model


def _noisy_digits(kind, seed=0):
    """Return (X, y) of 1,000 digits, and which of them are noisy: a half of images, or a share of labels."""
    images, labels = load_digits(return_X_y=True)
    draw = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(labels), generator=draw)[:1000]
    X = torch.tensor(images / 16, dtype=torch.float32)[chosen].view(-1, 1, 8, 8)
    X, y = (X - X.mean()) / X.std(), torch.tensor(labels)[chosen]
    is_noisy = torch.zeros(len(y), dtype=torch.bool)
    if kind == "images":
        is_noisy[:500] = True
        X[:500] = (X[:500] + 4.5 * torch.randn(X[:500].shape, generator=draw)).clamp(0, 1)
    elif kind != "clean":
        wrong = int(1000 * kind)
        is_noisy[:wrong] = True
        y[:wrong] = (y[:wrong] + torch.randint(1, 10, (wrong,), generator=draw)) % 10
    return (X, y), is_noisy


def _trained_on(data, epochs, seed=0):
    """Return a small network with BatchNorm, trained for some epochs."""
    X, y = data
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(256, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    for _ in range(epochs):
        for part in torch.randperm(len(y)).split(64):
            optimizer.zero_grad()
            F.cross_entropy(model(X[part]), y[part]).backward()
            optimizer.step()
    return model.eval()
