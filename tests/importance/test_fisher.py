# SPDX-License-Identifier: BSD-3-Clause
import copy
import math
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from unlearnkit import FisherDiagonal
from unlearnkit.exceptions import (
    DataError,
    FallbackWarning,
    NondeterminismWarning,
    UnsupportedModuleError,
)
from unlearnkit.importance.base import NoSamplesError

N = 24


def network(dtype=torch.float32):
    torch.manual_seed(1)
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1),
        nn.BatchNorm2d(3),
        nn.ReLU(),
        nn.Dropout(),
        nn.Flatten(),
        nn.Linear(48, 5),
    )
    for _ in range(3):  # running statistics that are not those of any batch
        model(torch.randn(8, 1, 4, 4))
    return model.to(dtype)


def samples(dtype=torch.float32):
    draw = torch.Generator().manual_seed(2)
    X = torch.randn(N, 1, 4, 4, generator=draw, dtype=torch.float64)
    return X.to(dtype), torch.randint(5, (N,), generator=draw)


def by_hand(model, batches):
    """Sum the squared gradients of the batches' mean losses with plain autograd."""
    model = copy.deepcopy(model).double().eval()
    sums = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for X, y in batches:
        model.zero_grad()
        nn.CrossEntropyLoss()(model(X.double()), y).backward()
        for name, parameter in model.named_parameters():
            sums[name] += parameter.grad**2
    return {name: value.detach() for name, value in sums.items()}


def assert_close(found, expected, rtol=1e-5):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        floor = rtol * float(value.max())
        torch.testing.assert_close(found[name], value, rtol=rtol, atol=floor, msg=name)


# what is measured -------------------------------------------------------------------------------


def test_per_sample_is_the_sum_over_samples_of_squared_gradients():
    model, (X, y) = network(), samples()
    found = FisherDiagonal().measure(model, (X, y))
    singles = [(X[k : k + 1], y[k : k + 1]) for k in range(N)]
    assert_close(found.sums, by_hand(model, singles))
    assert (found.count, found.samples, found.kind) == (N, N, "fisher/per_sample/true")
    assert all(value.dtype == torch.float64 for value in found.sums.values())


@settings(max_examples=15)
@given(order=st.permutations(range(N)), size=st.integers(1, N))
def test_per_sample_does_not_depend_on_batches_or_order(order, size):
    model, (X, y) = network(torch.float64), samples(torch.float64)
    whole = FisherDiagonal().measure(model, (X, y))
    data = DataLoader(TensorDataset(X[order], y[order]), batch_size=size)
    assert_close(FisherDiagonal().measure(model, data).sums, whole.sums, rtol=1e-10)


@settings(max_examples=10)
@given(part=st.sets(st.integers(0, N - 1), min_size=1, max_size=N - 1))
def test_the_parts_of_a_partition_add_up_and_subtract(part):
    model, (X, y) = network(), samples()
    inside = torch.zeros(N, dtype=torch.bool)
    inside[list(part)] = True
    one, other = (FisherDiagonal().measure(model, (X[m], y[m])) for m in (inside, ~inside))
    whole = FisherDiagonal().measure(model, (X, y))
    assert_close((one + other).sums, whole.sums)
    assert_close((whole - one).sums, other.sums, rtol=1e-4)
    assert (whole - one).count == other.count


def test_batch_is_the_squared_gradient_of_each_batchs_mean_loss():
    model, (X, y) = network(), samples()
    batches = [(X[at : at + 10], y[at : at + 10]) for at in range(0, N, 10)]  # 10, 10 and 4
    found = FisherDiagonal("batch").measure(model, batches)
    assert_close(found.sums, by_hand(model, batches))
    assert (found.count, found.samples) == (3, N)  # the short one counts as a full one
    assert found.kind == "fisher/batch/true"


def test_of_single_samples_both_are_the_same():
    model, data = network(), DataLoader(TensorDataset(*samples()), batch_size=1)
    batch, exact = (FisherDiagonal(gradient).measure(model, data) for gradient in ("batch", "per_sample"))
    assert_close(batch.sums, exact.sums)
    assert batch.count == exact.count


@pytest.mark.parametrize("gradient", ["per_sample", "batch"])
def test_own_loss(gradient):
    model, (X, y) = network(), samples()

    def twice(model, batch):
        return 2 * F.cross_entropy(model(batch[0]), batch[1], reduction="none")

    plain = FisherDiagonal(gradient).measure(model, (X, y))
    found = FisherDiagonal(gradient).measure(model, (X, y), loss=twice)
    assert_close(found.sums, {name: 4 * value for name, value in plain.sums.items()})


@pytest.mark.parametrize("gradient", ["per_sample", "batch"])
def test_only_what_requires_a_gradient_is_measured(gradient):
    model = network()
    model[0].requires_grad_(False)
    model.register_parameter("unused", nn.Parameter(torch.ones(2)))
    found = FisherDiagonal(gradient).measure(model, samples())
    assert list(found.sums) == ["unused", "1.weight", "1.bias", "5.weight", "5.bias"]
    assert found.sums["unused"].tolist() == [0, 0]


class Recurrent(nn.Module):
    """Takes the engine's fallback."""

    def __init__(self):
        super().__init__()
        self.recurrent, self.last = nn.LSTM(3, 4, batch_first=True), nn.Linear(4, 2)

    def forward(self, x):
        return self.last(self.recurrent(x)[0][:, -1])


def test_sums_keep_no_graph():
    for gradient in ("per_sample", "batch"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FallbackWarning)
            data = torch.randn(6, 5, 3), torch.arange(6) % 2
            sums = FisherDiagonal(gradient).measure(Recurrent(), data).sums
        assert len(sums) == 6 and not any(value.requires_grad for value in sums.values())


# conduct ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("gradient", ["per_sample", "batch"])
@pytest.mark.parametrize("drawn", ["true", "sampled"])
def test_the_model_and_the_caller_are_left_as_they_were(gradient, drawn):
    model = network().train()
    model[0].weight.grad = torch.ones(3, 1, 3, 3)
    before = copy.deepcopy(model.state_dict())
    state = torch.get_rng_state()
    FisherDiagonal(gradient, drawn).measure(model, samples())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training and all(module.training for module in model)
    assert bool((model[0].weight.grad == 1).all()) and model[5].weight.grad is None


@pytest.mark.parametrize("gradient", ["per_sample", "batch"])
@pytest.mark.parametrize("drawn", ["true", "sampled"])
def test_neither_no_grad_nor_autocast_reaches_it(gradient, drawn):
    model, data = network(), samples()
    fisher = FisherDiagonal(gradient, drawn, random_state=0)
    plain = fisher.measure(model, data).sums
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        found = fisher.measure(model, data).sums
    assert all(torch.equal(found[name], plain[name]) for name in plain)


@pytest.mark.parametrize("gradient", ["per_sample", "batch"])
def test_small_gradients_do_not_vanish_in_half_precision(gradient):
    def small(model, batch):
        return 1e-3 * F.cross_entropy(model(batch[0]).float(), batch[1], reduction="none")

    full = FisherDiagonal(gradient).measure(network(), samples(), loss=small).sums
    half = network(torch.bfloat16)
    found = FisherDiagonal(gradient).measure(half, samples(torch.bfloat16), loss=small).sums
    for name, value in full.items():
        assert math.isclose(float(found[name].sum()), float(value.sum()), rel_tol=0.1), name


@pytest.mark.parametrize("gradient", ["per_sample", "batch"])
def test_many_small_squares_count_beside_a_large_one(gradient):
    def linear(model, batch):
        return model(batch[0])[:, 0]  # its gradient is X

    large, small = torch.full((1, 1), 2.0**13), torch.ones(1, 1)
    data = [(large, large)] + [(small, small)] * 1000  # in float32, 2 ** 26 + 1 is 2 ** 26
    found = FisherDiagonal(gradient).measure(nn.Linear(1, 1, bias=False), data, loss=linear)
    assert found.sums["weight"].item() == 2**26 + 1000


def test_progress(capsys):
    FisherDiagonal().measure(network(), samples())
    assert capsys.readouterr().err == ""
    FisherDiagonal().measure(network(), samples(), progress=True)
    assert "importance" in capsys.readouterr().err


@pytest.mark.parametrize("gradient", ["per_sample", "batch"])
def test_silent_on_a_deterministic_loader(gradient):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        FisherDiagonal(gradient).measure(network(), samples())
        FisherDiagonal(gradient).measure(network(), DataLoader(TensorDataset(*samples()), 7))


class Noisy(TensorDataset):
    def __getitem__(self, index):
        X, y = super().__getitem__(index)
        return X + torch.randn_like(X), y


def test_warns_of_what_differs_from_walk_to_walk():
    data = TensorDataset(*samples())
    shuffled = DataLoader(data, batch_size=8, shuffle=True)
    dropping = DataLoader(data, batch_size=7, drop_last=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        FisherDiagonal().measure(network(), shuffled)
    for gradient, loader, words in (
        ("batch", shuffled, "shuffles"),
        ("per_sample", dropping, "drop_last=True"),
        ("per_sample", DataLoader(Noisy(*samples())), "augmentation"),
    ):
        with pytest.warns(NondeterminismWarning, match=words) as caught:
            FisherDiagonal(gradient).measure(network(), loader)
        assert caught[0].filename == __file__


# errors -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"gradient": "sample"}, "gradient must be 'per_sample' or 'batch', got 'sample'"),
        ({"labels": None}, "labels must be 'true', 'predicted' or 'sampled', got None"),
    ],
)
def test_parameters_are_checked(parameters, words):
    with pytest.raises(DataError, match=words):
        FisherDiagonal(**parameters).measure(network(), samples())


def test_labels_of_ones_own_and_a_loss_of_ones_own_exclude_each_other():
    with pytest.raises(DataError, match=r"labels='sampled' .* use labels='true', or leave loss out"):
        FisherDiagonal(labels="sampled").measure(network(), samples(), loss=lambda m, b: m(b[0]))


@pytest.mark.parametrize("gradient", ["per_sample", "batch"])
def test_what_cannot_be_measured_is_refused(gradient):
    fisher, (X, y) = FisherDiagonal(gradient), samples()
    with pytest.raises(NoSamplesError, match="it yielded no sample"):
        fisher.measure(network(), (X[:0], y[:0]))
    with pytest.raises(DataError, match="one value a sample"):
        fisher.measure(network(), (X, y), loss=lambda model, batch: model(batch[0]).mean())
    broken = X.clone()
    broken[1] = torch.nan
    with pytest.raises(DataError, match="loss of sample 1 of a batch is nan"):
        fisher.measure(network(), (broken, y))
    frozen = network().requires_grad_(False)
    with pytest.raises(UnsupportedModuleError, match=r"no parameter.*requires_grad_\(True\)"):
        fisher.measure(frozen, (X, y))
    broken = network()
    broken[5].bias.data[0] = torch.inf
    with pytest.raises(DataError, match=r"5\.bias holds 1 values that are NaN or infinite"):
        fisher.measure(broken, (X, y))
