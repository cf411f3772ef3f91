# SPDX-License-Identifier: BSD-3-Clause
import copy

import pytest
import torch
from torch import nn

from unlearnkit import LogitNorm
from unlearnkit.exceptions import DataError, NondeterminismWarning, UnsupportedModuleError
from unlearnkit.importance.base import NoSamplesError


def network():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(), nn.Linear(6, 3))


X, Y = torch.randn(10, 4, generator=torch.Generator().manual_seed(0)), torch.arange(10) % 3
BATCHES = [(X[:4], Y[:4]), (X[4:8], Y[4:8]), (X[8:], Y[8:])]


def test_it_is_the_absolute_gradient_of_the_mean_squared_norm():
    model = network()
    found = LogitNorm().measure(model, BATCHES)
    plain = copy.deepcopy(model).double().eval()
    expected = {name: torch.zeros_like(p) for name, p in plain.named_parameters()}
    for x, _ in BATCHES:
        plain.zero_grad()
        (plain(x.double()).norm(dim=1) ** 2).mean().backward()
        for name, parameter in plain.named_parameters():
            expected[name] += parameter.grad.abs()
    for name, value in expected.items():
        torch.testing.assert_close(found.sums[name], value.detach(), rtol=1e-4, atol=1e-5)
    assert (found.count, found.samples, found.kind) == (3, 10, "logit_norm/batch")


def test_labels_are_not_looked_at():
    one = LogitNorm().measure(network(), BATCHES).sums
    other = LogitNorm().measure(network(), [(x, y - 7) for x, y in BATCHES]).sums
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_the_model_is_left_as_it_was():
    model = network().train()
    before = copy.deepcopy(model.state_dict())
    LogitNorm().measure(model, BATCHES)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(module.training for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_shuffling_is_told_and_progress_shown(capsys):
    loader = torch.utils.data.DataLoader([(x, int(y)) for x, y in zip(X, Y, strict=True)], 4, True)
    with pytest.warns(NondeterminismWarning, match="shuffles"):
        LogitNorm().measure(network(), loader)
    LogitNorm().measure(network(), BATCHES, progress=True)
    assert "importance" in capsys.readouterr().err


def test_what_cannot_be_measured_is_refused():
    with pytest.raises(DataError, match="no loss: leave loss out"):
        LogitNorm().measure(network(), BATCHES, loss=lambda model, batch: model(batch[0])[:, 0])
    with pytest.raises(DataError, match=r"norm of the logits is nan.*NaN in the data"):
        LogitNorm().measure(network(), [(X * torch.nan, Y)])
    with pytest.raises(NoSamplesError):
        LogitNorm().measure(network(), [(X[:0], Y[:0])])
    with pytest.raises(UnsupportedModuleError, match="requires a gradient"):
        LogitNorm().measure(network().requires_grad_(False), BATCHES)
