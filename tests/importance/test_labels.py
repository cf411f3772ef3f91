# SPDX-License-Identifier: BSD-3-Clause
"""Whose labels ``FisherDiagonal(labels=...)`` takes."""

from collections import namedtuple

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from unlearnkit import FisherDiagonal

Pair = namedtuple("Pair", "X y")


def network():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 5))


def samples():
    draw = torch.Generator().manual_seed(2)
    return torch.randn(24, 6, generator=draw), torch.randint(5, (24,), generator=draw)


def assert_close(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-7, msg=name)


@pytest.mark.parametrize("gradient", ["per_sample", "batch"])
def test_predicted_labels_replace_the_datas(gradient):
    model, (X, y) = network(), samples()
    with torch.no_grad():
        predicted = model(X).argmax(1)
    expected = FisherDiagonal(gradient).measure(model, (X, predicted))
    found = FisherDiagonal(gradient, labels="predicted").measure(model, (X, y))
    assert_close(found.sums, expected.sums)
    assert found.kind == f"fisher/{gradient}/predicted"


def test_sampled_labels_follow_the_seed_alone():
    model, data = network(), samples()

    def measured(seed):
        return FisherDiagonal(labels="sampled", random_state=seed).measure(model, data).sums

    first, again, other, unseeded = measured(0), measured(0), measured(1), measured(None)
    assert all(torch.equal(first[name], again[name]) for name in first)
    for different in (other, unseeded):
        assert any(not torch.equal(first[name], different[name]) for name in first)


def test_sampled_labels_average_to_the_true_fisher():
    torch.manual_seed(3)
    model, X = nn.Linear(3, 3), torch.randn(4, 3)
    chances = model(X).softmax(1).detach()
    true = torch.zeros(3, 3, dtype=torch.float64)  # sum_n sum_k p_nk (dl/dW)^2, dl/dW = (p - e_k) x
    for k in range(3):
        gradient = chances - F.one_hot(torch.tensor(k), 3)
        true += torch.einsum("n,no,ni->oi", chances[:, k], gradient**2, X**2)
    copies = 2000
    data = (X.repeat(copies, 1), torch.zeros(4 * copies, dtype=torch.long))
    found = FisherDiagonal(labels="sampled", random_state=0).measure(model, data)
    torch.testing.assert_close(found.sums["weight"] / copies, true, rtol=0.05, atol=0)


class Pixels(nn.Module):
    """A class for every pixel: [N, K, T], or [N, T, K] in a mapping as transformers does."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(1, 3)

    def forward(self, x):
        return self.layer(x)  # [N, T, K]


@pytest.mark.parametrize("drawn", ["predicted", "sampled"])
def test_labels_of_mappings_have_classes_last_and_ignored_ones_stay(drawn):
    torch.manual_seed(0)
    model, x = Pixels(), torch.randn(4, 3, 1)
    target = torch.full((4, 3), -100)
    target[:, 0] = 1
    fisher = FisherDiagonal(labels=drawn, random_state=0)
    found = fisher.measure(model, [{"x": x, "labels": target}])
    torch.manual_seed(0)
    alone = fisher.measure(model, [{"x": x[:, :1], "labels": target[:, :1]}])
    if drawn == "predicted":
        assert_close(found.sums, alone.sums)
    assert float(found.sums["layer.weight"].sum()) > 0


def test_labels_of_named_tuples():
    model, (X, y) = network(), samples()
    fisher = FisherDiagonal(labels="predicted")
    assert_close(fisher.measure(model, [Pair(X, y)]).sums, fisher.measure(model, (X, y)).sums)
