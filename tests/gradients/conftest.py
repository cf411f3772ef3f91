# SPDX-License-Identifier: BSD-3-Clause
"""The oracle of these tests: one sample at a time, by plain autograd, and nothing of the package."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from unlearnkit.data import cross_entropy, evaluating
from unlearnkit.exceptions import FallbackWarning
from unlearnkit.gradients import PlanChanged, SquareSums
from unlearnkit.ops import _native

BAR = {torch.float64: 1e-10, torch.float32: 1e-5}


def by_loop(model, batch, loss):
    """Sum of squared gradients of single samples, in the model's dtype."""
    named = dict(model.named_parameters())
    named = {name: p for name, p in named.items() if p.requires_grad}
    sums = {name: torch.zeros_like(p, dtype=torch.float64) for name, p in named.items()}
    parts = batch.values() if isinstance(batch, dict) else batch
    n = len(next(iter(parts)))
    for i in range(n):
        if isinstance(batch, dict):
            sample = {key: value[i : i + 1] for key, value in batch.items()}
        else:
            sample = tuple(value[i : i + 1] for value in batch)
        if loss is None:
            logits = model(*sample[:-1])
            total = F.cross_entropy(logits, sample[-1])
        else:
            total = loss(model, sample).sum()
        found = torch.autograd.grad(total, list(named.values()), allow_unused=True)
        for name, gradient in zip(named, found, strict=True):
            if gradient is not None:
                sums[name] += gradient.double().square()
    return sums


@pytest.fixture
def measured():
    """Return the engine's sums, and the parameters that took the slower way."""

    def measure(model, *batches, loss=None):
        with evaluating(model), warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            engine = SquareSums(model, loss or cross_entropy)
            totals = engine.zeros()
            for batch in batches:
                engine.add(batch, totals)
        announced = [w for w in caught if issubclass(w.category, FallbackWarning)]
        assert len(announced) == bool(engine.fallback)  # said once, and only then
        return totals, set(engine.fallback)

    return measure


@pytest.fixture
def agrees(measured):
    """Assert that the engine's sums are the loop's: 1e-10 in float64, 1e-5 in float32, per parameter.

    In float32 the truth is the float64 loop on the same weights, and the bar is widened by what the
    float32 loop itself is off: where gradients cancel, plain autograd is no nearer than that.
    """

    def check(model, batch, loss=None, fallback=(), dtypes=(torch.float64, torch.float32)):
        for dtype in dtypes:
            own = copy.deepcopy(model).to(dtype).eval()
            cast = {
                key: value.to(dtype) if value.is_floating_point() else value
                for key, value in (batch if isinstance(batch, dict) else dict(enumerate(batch))).items()
            }
            cast = cast if isinstance(batch, dict) else tuple(cast.values())
            totals, slow = measured(own, cast, loss=loss)
            rounded = by_loop(own, cast, loss)
            exact = (batch if isinstance(batch, dict) else dict(enumerate(cast))).items()
            exact = {k: v.double() if v.is_floating_point() else v for k, v in exact}
            exact = exact if isinstance(batch, dict) else tuple(exact.values())
            expected = by_loop(copy.deepcopy(own).double(), exact, loss)
            assert slow == set(fallback)
            assert totals.keys() == expected.keys()
            largest = max(float(value.max()) for value in expected.values())
            for name, value in expected.items():
                assert totals[name].dtype == torch.float64 and totals[name].shape == value.shape
                # a gradient that is zero but for rounding (a bias before a norm) has no relative error
                scale = max(float(value.max()), 1e-9 * largest)
                own_rounding = float((rounded[name] - value).abs().max())
                off = float((totals[name] - value).abs().max())
                assert off <= BAR[dtype] * scale + 4 * own_rounding, (name, dtype, off / scale)

    return check


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


# the same for several batches, of which the engine may ask to begin again ------------------------

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}
VANISHES = {torch.float64: 1e-24, torch.float32: 1e-10}  # of the largest entry: rounding, squared


def bent(model, batch):
    """Return a loss for outputs of any shape, of which no gradient is zero or one."""
    return (model(*batch).flatten(1) * 1.3).sin().sum(1)


def nll(model, batch):
    """Cross-entropy of each sample, the mean over its positions."""
    *inputs, target = batch
    losses = F.cross_entropy(model(*inputs), target, reduction="none")
    return losses.flatten(1).mean(1) if losses.dim() > 1 else losses


def parts_of(batch):
    return list(batch.values() if isinstance(batch, dict) else batch)


def size_of(batch):
    return len(parts_of(batch)[-1])


def each(batch, function):
    """Apply a function to every tensor of a batch."""
    if isinstance(batch, dict):
        return {key: function(value) for key, value in batch.items()}
    return tuple(function(value) for value in batch)


def loop(model, batches, loss):
    """Sum of squared gradients, by plain autograd on one sample after the other."""
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    totals = {name: torch.zeros(p.shape, dtype=torch.float64) for name, p in parameters.items()}
    for batch in batches:
        for index in range(size_of(batch)):
            sample = each(batch, lambda value: value[index : index + 1])  # noqa: B023
            (value,) = loss(model, sample)
            found = torch.autograd.grad(value, list(parameters.values()), allow_unused=True)
            for total, gradient in zip(totals.values(), found, strict=True):
                if gradient is not None:
                    total += gradient.double() ** 2
    return totals


def settled(engine, batches):
    """Add up batches, and begin again where the engine asks for it."""
    for _ in range(10):
        totals = engine.zeros()
        try:
            for batch in batches:
                assert engine.add(batch, totals) == size_of(batch)
            return totals
        except PlanChanged:
            continue
    raise AssertionError("the engine does not settle")


def agree(totals, truth, dtype, tolerance=None):
    """Compare parameter by parameter, relative to the largest entry of each."""
    assert totals.keys() == truth.keys()
    largest = max(float(value.max()) for value in truth.values() if value.numel())
    for name, true in truth.items():
        assert totals[name].dtype == torch.float64
        assert totals[name].shape == true.shape
        assert not totals[name].requires_grad
        if true.numel() == 0:
            continue
        scale = float(true.max())
        error = float((totals[name] - true).abs().max())
        if scale <= VANISHES[dtype] * largest:  # zero but for rounding: a bias before a norm layer
            assert error <= VANISHES[dtype] * largest, name
        else:
            assert error <= (tolerance or TOLERANCE[dtype]) * scale, f"{name}: {error / scale:.1e}"


def checked(model, *batches, loss=nll, slow=(), tolerance=None, dtype=torch.float64):
    """Compare the engine with the loop; `slow` names what goes through the fallback, None: anything."""
    model.to(dtype)
    cast = [each(b, lambda v: v.to(dtype) if v.is_floating_point() else v) for b in batches]
    with evaluating(model), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        engine = SquareSums(model, loss)
        totals = settled(engine, cast)
        told = [w for w in caught if issubclass(w.category, FallbackWarning)]
        assert slow is None or set(engine.fallback) == set(slow), engine.fallback
        assert slow is None or len(told) == bool(slow)
        agree(totals, loop(model, cast, loss), dtype, tolerance)
    return engine


class Wrapped(nn.Module):
    """Parts, and a function that uses them."""

    def __init__(self, forward, **parts):
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)
        self._forward = forward

    def forward(self, *inputs, **named):
        return self._forward(self, *inputs, **named)


@pytest.fixture(scope="session")
def check():
    return checked


@pytest.fixture(scope="session")
def oracle():
    return loop


@pytest.fixture(scope="session")
def settle():
    return settled


@pytest.fixture(scope="session")
def curved():
    return bent


@pytest.fixture(scope="session")
def model():
    return Wrapped


@pytest.fixture(params=["auto", "torch"])
def backend(request):
    """Run a test with the compiled kernels, and with torch alone."""
    with _native.using(request.param):
        yield
