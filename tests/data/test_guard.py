# SPDX-License-Identifier: BSD-3-Clause
import random
from contextlib import suppress

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, RandomSampler

from unlearnkit.data import aside, device_of, evaluating, preserved_rng, seed_rng


def draws():
    return random.random(), np.random.rand(), torch.rand(()).item()


def test_preserved_rng_gives_the_state_back():
    with preserved_rng():
        first = draws()
    with suppress(KeyError), preserved_rng():
        draws()
        raise KeyError
    assert draws() == first


def test_aside_keeps_the_random_numbers_of_a_source_from_the_callers():
    class Drawing:
        def __iter__(self):
            for _ in range(3):
                yield draws()

    own = torch.Generator().manual_seed(1)
    loader = DataLoader(range(100), sampler=RandomSampler(range(9), True, 80, own))
    for source in (Drawing(), loader):
        with preserved_rng(source):
            alone = list(source)
        with preserved_rng(source):
            expected = [draws() for _ in alone]
        before = own.get_state()
        with preserved_rng(source):
            both = [(item, draws()) for item in aside(source)]
        assert [item for item, _ in both] == alone  # as if nobody else had drawn
        assert [drawn for _, drawn in both] == expected
        assert torch.equal(own.get_state(), before)
        assert len({str(item) for item in alone}) > 2


def test_generators_of_loaders_are_preserved_and_seeded():
    own = torch.Generator().manual_seed(1)
    loaders = [
        DataLoader(range(20), shuffle=True, generator=own),
        DataLoader(range(20), sampler=RandomSampler(range(20), generator=own)),
        [1, 2],
    ]
    before = own.get_state()
    with preserved_rng(*loaders):
        orders = []
        for _ in range(2):
            seed_rng(3, *loaders)
            orders.append((draws(), [list(loader) for loader in loaders[:2]]))
        assert orders[0] == orders[1] and not torch.equal(before, own.get_state())
    assert torch.equal(before, own.get_state())


class Odd(nn.Module):
    """Has all that a forward pass may change."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(5, 3, max_norm=0.1)
        self.norm = nn.BatchNorm1d(3)
        self.drop = nn.Dropout()
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))
        self.register_buffer("last", None)

    def forward(self, x):
        self.calls += 1
        self.last = x
        return self.drop(self.norm(self.embed(x)))


def state(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("fails", [False, True])
def test_evaluating_leaves_no_trace(fails):
    model = Odd().train()
    model.drop.eval()
    model.norm.weight.requires_grad_(False)
    gradient = torch.ones(5, 3)
    model.embed.weight.grad = gradient
    buffer, before = model.norm.running_mean, state(model)
    expected = torch.rand(3, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)

    with suppress(KeyError), evaluating(model) as found:
        assert found is model
        assert not any(module.training for module in model.modules())
        assert model.embed.weight.grad is None
        model.train()
        model.norm.weight.requires_grad_(True)
        model(torch.tensor([0, 1, 2])).sum().backward()
        model.norm.running_mean = torch.ones(3)
        if fails:
            raise KeyError

    assert {name: torch.equal(t, before[name]) for name, t in model.state_dict().items()} == (
        dict.fromkeys(before, True)
    )
    assert model.norm.running_mean is buffer and model.last is None
    assert model.training and model.norm.training and not model.drop.training
    assert not model.norm.weight.requires_grad and model.embed.weight.requires_grad
    assert model.embed.weight.grad is gradient and bool((gradient == 1).all())
    assert torch.equal(torch.rand(3), expected)


def test_device_of_the_first_tensor():
    assert device_of(nn.Linear(2, 2, device="meta")) == torch.device("meta")
    assert device_of(nn.BatchNorm1d(2, affine=False)) == torch.device("cpu")
    assert device_of(nn.Flatten()) == torch.device("cpu")
