# SPDX-License-Identifier: BSD-3-Clause
"""Half precision: what is multiplied has few bits, but what is squared and added up has not."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from unlearnkit.gradients import SquareSums

HALVES = [torch.bfloat16, torch.float16]


def loss(model, batch):
    return F.cross_entropy(model(batch[0]).float(), batch[1], reduction="none")


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 6, 3), nn.LayerNorm(6)
        self.token, self.body, self.head = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x):
        h = self.token(self.norm(self.conv(x).flatten(2).transpose(1, 2))).relu()
        return self.head(self.body(h).relu().mean(1))


def watched(model, batch):
    """Sums of squares of Linear weights, in float32, of the pairs that a plain backward pass shows."""
    inputs, pairs = {}, {}
    layers = {name: m for name, m in model.named_modules() if isinstance(m, nn.Linear)}
    hooks = []
    for name, layer in layers.items():
        hooks.append(
            layer.register_forward_hook(lambda m, i, o, name=name: inputs.update({name: i[0].detach()}))
        )
        hooks.append(layer.register_full_backward_hook(lambda m, i, o, name=name: pairs.update({name: o[0]})))
    loss(model, batch).sum().backward()
    for hook in hooks:
        hook.remove()
    model.zero_grad()
    sums = {}
    for name in layers:
        n = len(batch[1])
        x, g = (t.float().reshape(n, -1, t.shape[-1]) for t in (inputs[name], pairs[name]))
        sums[f"{name}.weight"] = torch.einsum("nto,nti->noi", g, x).square().sum(0)
        sums[f"{name}.bias"] = g.sum(1).square().sum(0)
    return sums


@pytest.mark.parametrize("dtype", HALVES)
def test_products_and_squares_are_float32(dtype):
    model = Net().to(dtype).eval()
    batch = torch.randn(32, 2, 5, 5, dtype=dtype), torch.randint(0, 4, (32,))
    engine = SquareSums(model, loss)
    totals = engine.zeros()
    engine.add(batch, totals)
    assert not engine.fallback
    for name, true in watched(model, batch).items():
        error = float((totals[name] - true).abs().max() / true.max())
        assert error < 1e-5, f"{name}: {error:.1e}"  # in halves it would be 1e-2


@pytest.mark.parametrize("dtype", HALVES)
def test_a_half_precision_model_against_its_own_single_samples(dtype, oracle):
    # a gradient of a single sample is rounded to 8 (11) bits: relatively 2^-9 (2^-12), twice that squared,
    # and activations of a batch are rounded otherwise than those of a sample alone; 16 times that is allowed
    model = Net().to(dtype).eval()
    batch = torch.randn(16, 2, 5, 5, dtype=dtype), torch.randint(0, 4, (16,))
    engine = SquareSums(model, loss)
    totals = engine.zeros()
    engine.add(batch, totals)
    bound = 16 * 2 * (2**-9 if dtype == torch.bfloat16 else 2**-12)
    for name, true in oracle(model, [batch], loss).items():
        assert float((totals[name] - true).abs().max()) <= bound * float(true.max()), name


@pytest.mark.parametrize("dtype", HALVES)
def test_rms_norm_keeps_the_epsilon_of_the_dtype(dtype, oracle, curved):
    model, x = nn.RMSNorm(6).to(dtype).eval(), 0.05 * torch.randn(8, 3, 6).to(dtype)
    engine = SquareSums(model, curved)
    totals = engine.zeros()
    engine.add((x,), totals)
    assert not engine.fallback
    true = oracle(model, [(x,)], curved)["weight"]
    assert float((totals["weight"] - true).abs().max()) <= 0.05 * float(true.max())


def test_small_gradients_do_not_vanish_when_squared():
    model = nn.Linear(3, 2).half().eval()
    batch = torch.full((4, 3), 1e-3, dtype=torch.float16), torch.zeros(4, dtype=torch.long)
    engine = SquareSums(model, lambda m, b: 1e-2 * loss(m, b))
    totals = engine.zeros()
    engine.add(batch, totals)
    assert float(totals["weight"].min()) > 0  # about 1e-11, and float16 ends at 6e-8


def test_sums_of_large_and_small_squares_are_float64():
    model = nn.Linear(1, 1, bias=False).eval()
    engine = SquareSums(model, lambda m, b: m(b[0])[:, 0] * b[1])
    totals = engine.zeros()
    engine.add((torch.ones(1, 1), torch.tensor([1e4])), totals)
    small = torch.ones(64, 1), torch.full((64,), 0.5)
    for _ in range(100):
        engine.add(small, totals)
    assert float(totals["weight"]) == 1e8 + 1600  # in float32 the sum stalls: 1e8 + 16 is next to 1e8


def test_a_float64_model_is_float64_throughout(oracle):
    model = Net().double().eval()
    batch = torch.randn(8, 2, 5, 5, dtype=torch.float64), torch.randint(0, 4, (8,))

    def double_loss(model, batch):
        return F.cross_entropy(model(batch[0]), batch[1], reduction="none")

    engine = SquareSums(model, double_loss)
    totals = engine.zeros()
    engine.add(batch, totals)
    for name, true in oracle(copy.deepcopy(model), [batch], double_loss).items():
        assert float((totals[name] - true).abs().max()) <= 1e-13 * float(true.max()), name
