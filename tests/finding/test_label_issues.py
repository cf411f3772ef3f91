# SPDX-License-Identifier: BSD-3-Clause
import sys

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from unlearnkit import DataError, LabelIssues
from unlearnkit.data import in_order

WRONG = torch.arange(0, 300, 7)


@pytest.fixture
def task():
    """Return a model that is right about three clouds, and data in which one label in seven is wrong."""
    y = torch.arange(300) % 3
    X = 4 * torch.eye(3)[y] + torch.randn(300, 3)
    y[WRONG] = (y[WRONG] + 1) % 3
    model = nn.Linear(3, 3, bias=False)
    nn.init.eye_(model.weight)
    return model, TensorDataset(X, y)


def test_finds_what_cleanlab_finds(task):
    filters = pytest.importorskip("cleanlab.filter")
    model, data = task
    X, y = data.tensors
    shares = model(X).softmax(1).detach().double()
    wanted = filters.find_label_issues(y.numpy(), shares.numpy())
    found = LabelIssues().find(model, data)
    assert found.is_noisy.tolist() == wanted.tolist()
    assert found.is_noisy[WRONG].float().mean() > 0.8
    torch.testing.assert_close(found.noise, 1 - shares[torch.arange(300), y].float())
    torch.testing.assert_close(
        found.losses, nn.functional.cross_entropy(model(X), y, reduction="none").detach()
    )


def test_a_loader_that_shuffles_is_read_in_order(task):
    pytest.importorskip("cleanlab")
    model, data = task
    wanted = LabelIssues().find(model, data)
    found = LabelIssues().find(model, DataLoader(data, batch_size=32, shuffle=True))
    assert torch.equal(found.is_noisy, wanted.is_noisy)
    assert torch.equal(torch.cat([y for _, y in in_order(found.forget)]), data.tensors[1][found.indices])


@pytest.mark.parametrize("kind", [torch.Tensor, np.asarray, np.ndarray.tolist])
def test_probabilities_of_cross_validation_take_the_place_of_the_models(task, kind):
    pytest.importorskip("cleanlab")
    model, data = task
    X, _ = data.tensors
    learned = nn.Linear(3, 3)  # knows nothing: all it finds is in pred_probs
    shares = model(X).softmax(1).detach().numpy()
    given = torch.from_numpy(shares) if kind is torch.Tensor else kind(shares)
    found = LabelIssues(given).find(learned, data)
    assert found.indices.tolist() == LabelIssues().find(model, data).indices.tolist()


class Pixels(nn.Module):
    def forward(self, x):
        return torch.stack([x, -x], 1)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (np.full((299, 3), 1 / 3), r"\[300, 3\], got \[299, 3\]"),
        (np.full((300, 2), 1 / 2), r"\[300, 3\], got \[300, 2\]"),
        (np.full((300, 3), 0.9), "of sum 1"),
        (np.full((300, 3), np.nan), "must be probabilities"),
    ],
)
def test_probabilities_that_do_not_fit_are_refused(task, given, said):
    pytest.importorskip("cleanlab")
    with pytest.raises(DataError, match=said):
        LabelIssues(given).find(*task)


def test_what_cleanlab_refuses_is_said(task):
    pytest.importorskip("cleanlab")
    with pytest.raises(DataError, match="filter_by='fancy'"):
        LabelIssues(filter_by="fancy").find(*task)


def test_only_a_classification_has_label_issues(task):
    pytest.importorskip("cleanlab")
    with pytest.raises(DataError, match="one class label a sample"):
        LabelIssues().find(Pixels(), (torch.zeros(4, 3), torch.zeros(4, 3).long()))
    with pytest.raises(DataError, match="leave loss out"):
        LabelIssues().find(*task, loss=lambda model, batch: model(batch[0]).sum(1))


def test_without_cleanlab_it_says_how_to_get_it(task, monkeypatch):
    monkeypatch.setitem(sys.modules, "cleanlab", None)
    monkeypatch.setitem(sys.modules, "cleanlab.filter", None)
    with pytest.raises(ImportError, match=r"unlearnkit\[cleanlab\]"):
        LabelIssues().find(*task)
