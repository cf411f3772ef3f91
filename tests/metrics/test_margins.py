# SPDX-License-Identifier: BSD-3-Clause
"""Margins: their definition, their range, and the same samples for every model."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from unlearnkit.exceptions import DataError
from unlearnkit.metrics.margins import margins, margins_from_logits


def test_by_hand():
    # p = (2, 1, 1) / 4: log(p / (1 - p)) is 0 for the first class and log(1/3) for the others.
    logits = torch.tensor([[math.log(2), 0.0, 0.0]]).repeat(2, 1)
    found = margins_from_logits(logits, torch.tensor([0, 2]))
    assert found.dtype == torch.float64
    assert found.tolist() == pytest.approx([0.0, math.log(1 / 3)], abs=1e-7)


@settings(max_examples=30)
@given(st.integers(1, 12), st.integers(2, 6), st.integers(0, 1000))
def test_is_the_logit_of_the_probability(n, k, seed):
    rng = np.random.default_rng(seed)
    logits, labels = torch.tensor(3 * rng.normal(size=(n, k))), torch.tensor(rng.integers(k, size=n))
    p = logits.softmax(1)[range(n), labels].numpy()
    np.testing.assert_allclose(margins_from_logits(logits, labels), np.log(p / (1 - p)), rtol=1e-9, atol=1e-9)
    moved = margins_from_logits(logits + 5, labels)
    np.testing.assert_allclose(moved, margins_from_logits(logits, labels), atol=1e-9)


@pytest.mark.parametrize("size", [30.0, 1e3, 1e30])
def test_a_large_margin_stays_exact(size):
    # Through a probability, even of float64, these would be infinite from 37 on.
    found = margins_from_logits(torch.tensor([[size, 0.0], [0.0, size]]), torch.tensor([0, 0]))
    assert found.tolist() == [pytest.approx(size), pytest.approx(-size)]


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (torch.zeros(2, 1), torch.zeros(2).long(), "two classes"),
        (torch.zeros(2, 3), torch.tensor([0, 3]), "0 to 2"),
        (torch.tensor([[math.nan, 0.0]]), torch.tensor([0]), "NaN"),
        (torch.zeros(0, 3), torch.zeros(0).long(), "at least one sample"),
    ],
)
def test_unusable_logits_are_refused(logits, labels, message):
    with pytest.raises(DataError, match=message):
        margins_from_logits(logits, labels)


def test_of_models_in_the_order_given():
    models = [nn.Linear(3, 4) for _ in range(3)]
    models[1].train()
    X, y = torch.randn(7, 3), torch.randint(4, (7,))
    found = margins(models, DataLoader(TensorDataset(X, y), batch_size=3))
    assert found.shape == (3, 7) and found.dtype == torch.float64
    for row, model in zip(found, models, strict=True):
        np.testing.assert_allclose(row, margins_from_logits(model(X).detach(), y), atol=1e-5)
    assert models[1].training and not found.requires_grad
    np.testing.assert_allclose(margins(models[0], (X, y)), found[:1], atol=1e-5)
    np.testing.assert_allclose(margins(iter(models), (X, y)), found, atol=1e-5)


def test_a_shuffling_loader_gives_all_models_the_same_order():
    model = nn.Linear(2, 3)
    loader = DataLoader(TensorDataset(torch.randn(40, 2), torch.randint(3, (40,))), 8, shuffle=True)
    found = margins([model, model], loader)
    np.testing.assert_array_equal(found[0], found[1])


def test_nothing_to_measure_is_refused():
    with pytest.raises(DataError, match="at least one model"):
        margins([], (torch.zeros(1, 2), torch.zeros(1).long()))
    with pytest.raises(DataError, match="yielded none"):
        margins(nn.Linear(2, 2), (torch.zeros(0, 2), torch.zeros(0).long()))
