# SPDX-License-Identifier: BSD-3-Clause
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from unlearnkit.exceptions import DataError, UnsupportedModuleError
from unlearnkit.gradients.reference import (
    looped,
    loss_values,
    measured_parameters,
    per_sample_losses,
    plain_eager,
    swapped,
    vmapped,
    zeros,
)


class Net(nn.Module):
    """A bit of everything: a table, a convolution, a norm, a tied head."""

    def __init__(self):
        super().__init__()
        self.embed, self.conv = nn.Embedding(6, 4), nn.Conv1d(4, 4, 2)
        self.norm, self.head = nn.BatchNorm1d(4), nn.Linear(4, 6, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x, scale):
        h = self.embed(x).transpose(1, 2) * scale[:, None, None]
        return self.head(self.norm(self.conv(h)).relu().mean(2))


def loss(model, batch):
    *inputs, target = batch
    return F.cross_entropy(model(*inputs), target, reduction="none")


@pytest.fixture
def net():
    return Net().double().eval()


@pytest.fixture
def batch():
    return (
        torch.randint(0, 6, (5, 4)),
        torch.rand(5, dtype=torch.float64),
        torch.randint(0, 6, (5,)),
    )


def alone(net, batch, parameters):
    """One sample at a time, by backward."""
    rows = []
    for index in range(5):
        net.zero_grad()
        loss(net, tuple(part[index : index + 1] for part in batch)).sum().backward()
        rows.append({name: p.grad.clone() for name, p in parameters.items()})
    net.zero_grad()
    return rows


def test_looped(net, batch):
    parameters = measured_parameters(net)
    net.conv.weight.grad = mark = torch.ones_like(net.conv.weight)
    found = list(looped(net, loss, batch, parameters))
    assert net.conv.weight.grad is mark
    assert bool((mark == 1).all())
    for row, true in zip(found, alone(net, batch, parameters), strict=True):
        assert row.keys() == true.keys()
        for name, value in row.items():
            assert torch.allclose(value, true[name], rtol=1e-12)
            assert not value.requires_grad


@pytest.mark.parametrize("memory", [1, 2**28])
def test_vmapped(monkeypatch, net, batch, memory):
    monkeypatch.setattr("unlearnkit.gradients.reference.VMAP_BYTES", memory)
    parameters = measured_parameters(net)
    parts = list(vmapped(net, loss, batch, parameters))
    assert len(parts) == (5 if memory == 1 else 1)
    rows = alone(net, batch, parameters)
    for name, p in parameters.items():
        found = torch.cat([part[name] for part in parts])
        assert not found.requires_grad  # or the graph of every batch would be kept
        assert torch.allclose(found, torch.stack([row[name] for row in rows]), rtol=1e-9)
        assert net.get_parameter(name) is p


def test_vmapped_of_some_parameters_and_a_dict(net, batch):
    named = dict(zip(("x", "scale", "labels"), batch, strict=True))
    own = {"conv.bias": net.conv.bias}

    def of_dict(model, batch):
        return F.cross_entropy(model(batch["x"], batch["scale"]), batch["labels"], reduction="none")

    (part,) = vmapped(net, of_dict, named, own)
    assert part.keys() == own.keys()
    rows = alone(net, batch, measured_parameters(net))
    assert torch.allclose(part["conv.bias"], torch.stack([row["conv.bias"] for row in rows]))


def test_a_model_that_vmap_cannot_run(batch):
    net = nn.LSTM(1, 2, batch_first=True)

    def of_lstm(model, batch):
        return model(batch[1][:, None, None].float())[0].sum((1, 2)).item()

    with pytest.raises(UnsupportedModuleError, match=r"torch\.func\.vmap"):
        list(vmapped(net, of_lstm, batch, measured_parameters(net)))


def test_vmap_complains_to_nobody():
    net = nn.Bilinear(2, 2, 2)
    x = torch.randn(4, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        parts = list(vmapped(net, lambda net, b: net(*b).sum(1), (x, x), measured_parameters(net)))
    assert parts[0]["weight"].shape == (4, 2, 2, 2)


def test_swapped_puts_everything_back_after_an_error(net):
    lstm = nn.LSTM(2, 2)
    both = nn.ModuleList([net, lstm])
    parameters = measured_parameters(both)
    values = {name: p.detach() + 1 for name, p in parameters.items()}
    weights, table = lstm._flat_weights, net.embed.weight

    def fail():
        with swapped(both, parameters, values):
            assert net.embed.weight is net.head.weight is values["0.embed.weight"]
            assert lstm._flat_weights[0] is values["1.weight_ih_l0"]
            raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        fail()
    assert net.embed.weight is net.head.weight is table
    assert lstm._flat_weights is weights


@pytest.mark.parametrize("reentrant", [True, False])
def test_looped_through_checkpoints(reentrant):
    class Saved(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 2)

        def forward(self, x):
            return self.b(checkpoint(torch.tanh, self.a(x), use_reentrant=reentrant))

    net = Saved()
    plain = nn.Sequential(net.a, nn.Tanh(), net.b)
    x, y = torch.randn(3, 3), torch.tensor([0, 1, 1])
    found = list(looped(net, loss, (x, y), measured_parameters(net)))
    true = list(looped(plain, loss, (x, y), measured_parameters(plain)))
    for row, other in zip(found, true, strict=True):
        for value, expected in zip(row.values(), other.values(), strict=True):
            assert torch.allclose(value, expected)
    assert net.a.weight.grad is None


def test_losses_must_be_one_a_sample_and_finite(net, batch):
    assert per_sample_losses(net, loss, batch).shape == (5,)
    with pytest.raises(DataError, match=r"shape \[5\], got shape \[\].*reduction='none'"):
        per_sample_losses(net, lambda m, b: loss(m, b).mean(), batch)
    with pytest.raises(DataError, match="got float"):
        per_sample_losses(net, lambda m, b: 1.0, batch)
    batch[1][3] = float("inf")
    with pytest.raises(DataError, match="the loss of sample 3 of a batch is nan"):
        per_sample_losses(net, loss, batch)


def test_loss_values_of_a_model_that_needs_gradients(net, batch):
    values = loss_values(net, loss, batch)
    assert not values.requires_grad

    def penalty(model, batch):
        scale = batch[1].clone().requires_grad_()
        losses = loss(model, (batch[0], scale, batch[2]))
        (slope,) = torch.autograd.grad(losses.sum(), scale, create_graph=True)
        return losses + slope.square()

    punished = loss_values(net, penalty, batch)
    assert not punished.requires_grad
    assert bool((punished >= values).all())


def test_what_is_measured(net):
    net.conv.requires_grad_(False)
    assert list(measured_parameters(net)) == ["embed.weight", "norm.weight", "norm.bias"]
    with pytest.raises(UnsupportedModuleError, match="requires_grad_"):
        measured_parameters(net.requires_grad_(False))
    net.wave = nn.Parameter(torch.zeros(2, dtype=torch.complex64))
    with pytest.raises(UnsupportedModuleError, match="parameter wave is complex"):
        measured_parameters(net)


def test_totals_have_the_strides_of_their_parameters():
    conv = nn.Conv2d(2, 3, 3).to(memory_format=torch.channels_last)
    totals = zeros(dict(conv.named_parameters()))
    assert totals["weight"].dtype == torch.float64
    assert totals["weight"].stride() == conv.weight.stride()
    assert not totals["weight"].requires_grad


def test_plain_eager_gives_everything_back():
    net = nn.GRU(2, 2)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        with plain_eager(net):
            assert torch.is_grad_enabled()
            assert not torch.is_autocast_enabled("cpu")
            assert not torch.backends.mha.get_fastpath_enabled()
        assert not torch.is_grad_enabled()
        assert torch.is_autocast_enabled("cpu")
        assert torch.backends.mha.get_fastpath_enabled()
