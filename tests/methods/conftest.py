# SPDX-License-Identifier: BSD-3-Clause
"""A trained network, and the published rule of SSD and ASSD, written a second time in NumPy."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

CLASS = 3


@pytest.fixture(scope="session")
def digits():
    """Digits as (X, y): 1,000 to train on, sorted by class, and 797 held out; a class is to go."""
    images, labels = load_digits(return_X_y=True)
    X = torch.tensor(images / 16, dtype=torch.float32).view(-1, 1, 8, 8)
    y = torch.tensor(labels)
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
    train, held_out = order[:1000], order[1000:]
    train = train[y[train].argsort(stable=True)]
    gone = y[train] == CLASS
    return SimpleNamespace(
        train=(X[train], y[train]),
        held_out=(X[held_out], y[held_out]),
        forget=(X[train[gone]], y[train[gone]]),
        retain=(X[train[~gone]], y[train[~gone]]),
        gone=gone,
    )


@pytest.fixture(scope="session")
def trained(digits):
    """Return a small network with BatchNorm that knows its training set well."""
    X, y = digits.train
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(128, 32),
            nn.ReLU(),
            nn.Linear(32, 10),
        )
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        for _ in range(12):
            for chosen in torch.randperm(len(y)).split(64):
                optimizer.zero_grad()
                F.cross_entropy(model(X[chosen]), y[chosen]).backward()
                optimizer.step()
    return model.eval()


@pytest.fixture
def model(trained):
    """A copy of the trained network."""
    return copy.deepcopy(trained)


def batches(data, size=64):
    """Cut (X, y) into batches."""
    return list(zip(*(part.split(size) for part in data), strict=True))


def importances(model, data):
    """Sum over batches of (gradient of the batch's mean loss)^2, over the number of batches."""
    model, total = copy.deepcopy(model).eval(), {}
    for X, y in data:
        model.zero_grad()
        nn.CrossEntropyLoss()(model(X), y).backward()
        for name, parameter in model.named_parameters():
            square = parameter.grad.numpy().astype(np.float64) ** 2
            total[name] = total.get(name, 0) + square / len(data)
    return total


def adaptive_alpha(forget, reference, p):
    """The p-th percentile of F_f / F_D over all weights, NaN and infinite ones dropped."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = np.concatenate([(forget[name] / reference[name]).ravel() for name in forget])
    ratios[np.isinf(ratios)] = np.nan
    return np.nanpercentile(ratios, p)


def dampened(model, forget, reference, alpha, lambda_=1.0):
    """Every weight after `modify_weight` of the authors' code."""
    after = {}
    for name, parameter in model.named_parameters():
        weight = parameter.detach().numpy().copy()
        chosen = forget[name] > alpha * reference[name]
        factor = lambda_ * reference[name][chosen] / forget[name][chosen]
        weight[chosen] = weight[chosen] * np.minimum(factor, 1)
        after[name] = weight
    return after


def assert_weights(model, expected, atol=1e-6):
    """Compare a model's parameters with arrays."""
    for name, parameter in model.named_parameters():
        np.testing.assert_allclose(parameter.detach().numpy(), expected[name], 0, atol, err_msg=name)


@pytest.fixture
def published():
    """Return the functions above."""
    return SimpleNamespace(
        batches=batches,
        importances=importances,
        adaptive_alpha=adaptive_alpha,
        dampened=dampened,
        assert_weights=assert_weights,
    )
