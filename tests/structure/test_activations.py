# SPDX-License-Identifier: BSD-3-Clause
"""What units put out, beside the same computed step by step."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from unlearnkit.data import evaluating
from unlearnkit.exceptions import DataError
from unlearnkit.structure import activations_of, units_of


def by_hand(model, x, before):
    """Return the expected activations of the networks in conftest.py, layer by layer."""
    act = (lambda f, z: z) if before else (lambda f, z: f(z))
    name = type(model).__name__
    if name == "Sequential":
        first = model[2](model[1](x.flatten(1)))
        second = model[4](first.relu())
        return {"1": act(F.relu, first), "4": act(F.gelu, second), "6": model[6](F.gelu(second))}
    if name == "Residual":
        stem = model.norm(model.stem(x))
        one = model.norm1(model.conv1(stem.relu()))
        two = model.norm2(model.conv2(one.relu()))
        out = model.head((two + stem.relu()).relu().mean((2, 3)))
        maps = {"stem": act(F.relu, stem), "conv1": act(F.relu, one), "conv2": two}
        return {layer: value.mean((2, 3)) for layer, value in maps.items()} | {"head": out}
    if name == "Tokens":
        patches, encoder = model.patches(x).flatten(2).mT, model.encoder
        kept = encoder.norm1(patches + encoder.self_attn(patches, patches, patches)[0])
        one = encoder.linear1(kept)
        two = encoder.linear2(F.gelu(one))
        out = model.head(encoder.norm2(kept + two).mean(1))
        tokens = {"patches": patches, "encoder.linear1": act(F.gelu, one), "encoder.linear2": two}
        return {layer: value.mean(1) for layer, value in tokens.items()} | {"head": out}
    depthwise = model.group(model.depthwise(x))
    up = model.normed(model.up(depthwise.relu()).mean((2, 3)))
    once = model.shared(model.twice(up))
    twice = model.twice(once)
    again = model.shared(model.again(twice.tanh()))
    first = model.first(model.tied(again + model.embed(torch.arange(len(x)) % 9)))
    second = model.second(first.relu())
    return {
        "depthwise": act(F.relu, depthwise).mean((2, 3)),
        "twice": (once + act(torch.tanh, twice)) / 2,
        "again": again,
        "first": (act(F.relu, first) + act(F.relu, second)) / 2,
        "head": model.head(second.relu()),
    }


@pytest.mark.parametrize("before", [False, True])
def test_they_are_what_the_units_put_out(before, network, batch):
    network, x = network.double(), batch[0].double()
    units = units_of(network, (x, batch[1]))
    with evaluating(network), torch.no_grad():
        expected = by_hand(network, x, before)
        found = activations_of(network, (x, batch[1]), units, before=before)
    assert list(found) == list(expected)
    for layer, value in expected.items():
        torch.testing.assert_close(found[layer], value, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    "activation",
    [
        nn.ReLU(inplace=True), nn.ReLU6(), nn.LeakyReLU(inplace=True), nn.PReLU(), nn.ELU(), nn.SELU(), nn.CELU(),
        nn.GELU("tanh"), nn.SiLU(inplace=True), nn.Mish(), nn.Softplus(), nn.Softsign(), nn.Sigmoid(),
        nn.LogSigmoid(), nn.Tanh(), nn.Tanhshrink(), nn.Hardswish(), nn.Hardtanh(), nn.Hardsigmoid(),
        nn.Threshold(0.1, 0.0), nn.RReLU(), nn.Softshrink(), nn.Hardshrink(),
        torch.relu, torch.relu_, F.relu, torch.Tensor.tanh_, lambda x: x.clamp(min=0), lambda x: x.clamp_min_(0),
    ],
    ids=lambda activation: getattr(activation, "__name__", str(activation)),  # no address: it differs by process
)  # fmt: skip
def test_every_activation_function_is_seen(activation):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.head = nn.Linear(3, 4), nn.Linear(4, 2)
            self.activation = activation

        def forward(self, x):
            self.kept = self.activation(self.layer(x)).clone()
            return self.head(self.kept)

    model, x = Model().double().eval(), 3 * torch.randn(5, 3, dtype=torch.float64)
    units = units_of(model, (x, x))
    found = activations_of(model, (x, x), units)["layer"]
    raw = activations_of(model, (x, x), units, before=True)["layer"]
    assert torch.equal(found, model.kept)
    assert torch.equal(raw, model.layer(x))
    assert not torch.equal(found, raw)


@pytest.mark.parametrize(
    ("dtype", "rtol"), [(torch.bfloat16, 1e-6), (torch.float32, 1e-6), (torch.float64, 1e-15)]
)
def test_means_are_rounded_as_single_precision_at_worst(dtype, rtol):
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Flatten(), nn.Linear(2 * 63 * 65, 2)).to(dtype).eval()
    x = 1000 + torch.rand(2, 1, 63, 65).to(dtype)
    for images in (x, x.to(memory_format=torch.channels_last)):
        found = activations_of(model, (images, x), units_of(model, (images, x)))["0"]
        assert found.dtype is torch.float64
        torch.testing.assert_close(found, model[0](images).double().mean((2, 3)), rtol=rtol, atol=0)


def test_a_layer_that_changes_its_ways_is_refused():
    class Fickle(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.head = nn.Linear(2, 2), nn.Linear(2, 2)

        def forward(self, x, how):
            if how.any():
                self.layer(x[:1] if bool((how == 2).all()) else x)
            return self.head(x)

    model, x = Fickle(), torch.ones(3, 2)
    units = units_of(model, (x, torch.ones(3), x))
    with pytest.raises(DataError, match=r"'layer' returned \[1, 2\] for 3 samples.*leave the layer out"):
        activations_of(model, (x, torch.full((3,), 2), x), units)
    with pytest.raises(DataError, match="'layer' was called for one batch and not for another"):
        activations_of(model, (x, torch.zeros(3), x), units)
