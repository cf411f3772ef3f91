# SPDX-License-Identifier: BSD-3-Clause
"""How attributions behave: towards the model, the data, the caller, and bad arguments."""

import pytest
import torch
from sklearn.base import clone
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, Sampler, SubsetRandomSampler, TensorDataset

from unlearnkit import GradCAM, GradientActivation
from unlearnkit.exceptions import DataError, NondeterminismWarning, UnsupportedModuleError
from unlearnkit.importance.base import NoSamplesError
from unlearnkit.testing._state import difference, model_state, random_state, surroundings
from unlearnkit.testing._task import Broken, FailingLoader

N, K = 11, 4


def convnet():
    return nn.Sequential(
        nn.Conv2d(3, 5, 3, padding=1), nn.BatchNorm2d(5), nn.ReLU(True),
        nn.Conv2d(5, 6, 3, padding=1), nn.ReLU(True), nn.Dropout(),
        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 7), nn.ReLU(True), nn.Linear(7, K),
    )  # fmt: skip


def made(build):
    """Return a network in float64, in training mode, and data [N, 3, 4, 6]."""
    torch.manual_seed(1)
    X = torch.randn(N, 3, 4, 6, dtype=torch.float64)
    return build().double(), (X, torch.randint(K, (N,)))


class Keyed(nn.Module):
    """Takes and returns a mapping."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, pixel_values):
        return {"logits": self.net(pixel_values)}


def test_mappings_give_what_pairs_give():
    model, (X, y) = made(convnet)
    for estimator in (GradCAM(), GradientActivation("8", "max")):
        named = clone(estimator).set_params(layer=f"net.{estimator.layer}" if estimator.layer else None)
        found = named.measure(Keyed(model), [{"labels": y, "pixel_values": X}])
        assert torch.equal(found, estimator.measure(model, (X, y)))


def test_samples_come_in_the_order_of_their_indices():
    model, (X, y) = made(convnet)
    data, whole = TensorDataset(X, y), GradCAM().measure(model, (X, y))
    shuffled = DataLoader(data, batch_size=4, shuffle=True)
    torch.testing.assert_close(GradCAM().measure(model, shuffled), whole)
    some = DataLoader(data, batch_size=4, sampler=SubsetRandomSampler([7, 2, 9]))
    torch.testing.assert_close(GradCAM().measure(model, some), whole[[7, 2, 9]])

    class Stream(IterableDataset):
        def __iter__(self):
            return iter(data)

    torch.testing.assert_close(GradCAM().measure(model, DataLoader(Stream(), batch_size=3)), whole)
    batches = [(X[:0], y[:0]), (X[:6], y[:6]), (X[:0], y[:0]), (X[6:], y[6:])]
    torch.testing.assert_close(GradCAM().measure(model, batches), whole)


@pytest.mark.parametrize("estimator", [GradCAM(features="summary"), GradientActivation(target="max")])
def test_the_model_is_untouched_between_batches_after_all_and_after_an_error(estimator):
    model, (X, y) = made(convnet)
    model.train()
    model(X).sum().backward()
    model[0].bias.requires_grad_(False)

    def state():
        return model_state(model) | random_state() | surroundings()

    before = state()
    for rows in estimator.stream(model, DataLoader(TensorDataset(X, y), 4, shuffle=True)):
        assert difference(before, state()) is None
        assert not rows.requires_grad
    assert difference(before, state()) is None
    with pytest.raises(Broken):
        estimator.measure(model, FailingLoader((X, y)))
    with pytest.raises(RuntimeError):
        estimator.measure(model, [(X, y), (X[:, :2], y)])
    walk = estimator.stream(model, [(X, y), (X, y)])
    next(walk)
    del walk  # left before its end
    assert difference(before, state()) is None
    if isinstance(estimator, GradCAM):
        estimator.maps(model, (X, y))
        assert difference(before, state()) is None


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_callers_may_have_switched_gradients_off(mode):
    model, data = made(convnet)
    for estimator in (GradCAM(), GradientActivation(target="margin")):
        whole = estimator.measure(model, data)
        with mode():
            made_here = tuple(part.clone() for part in data)
            rows = [*estimator.stream(model, [made_here, made_here])]
            assert torch.is_grad_enabled() is False
        assert all(torch.equal(part, whole) for part in rows)
        assert torch.equal(estimator.measure(model, made_here), whole)
        assert torch.equal(estimator.measure(model.requires_grad_(False), data), whole)


@pytest.mark.parametrize(
    ("estimator", "words"),
    [
        (GradCAM("conv"), r"layer='conv' is no module of the model.*would do, the last ones first: 10, 8, 3"),
        (GradCAM(""), "layer must be the name of a module, or None, got ''"),
        (GradientActivation(3), "got 3"),
        (GradCAM(target="max"), "target must be 'label', 'predicted', 'margin' or 'loss', got 'max'"),
        (GradientActivation(target="class"), "'max' or 'loss', got 'class'"),
        (GradCAM(features="mean"), "features must be 'channels', 'map' or 'summary', got 'mean'"),
        (GradientActivation(signed=1), "signed must be True or False, got 1"),
    ],
)
def test_bad_parameters_are_refused(estimator, words):
    model, data = made(convnet)
    with pytest.raises(DataError, match=words):
        estimator.measure(model, data)


def test_parameters_are_refused_before_the_first_batch_is_asked_for():
    model, data = made(convnet)
    with pytest.raises(DataError, match="target must be"):
        GradCAM(target="all").stream(model, data)


class Odd(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.unused, self.last = nn.Linear(72, 5), nn.Linear(2, 2), nn.Linear(5, K)
        self.order = nn.TransformerEncoderLayer(5, 1, 5)

    def forward(self, x):
        x = self.first(x.flatten(1))
        with torch.no_grad():
            x = self.order(torch.stack([x, x]))[0]
        return self.last(x)


def test_layers_that_cannot_serve_are_refused():
    model, data = made(Odd)
    with pytest.raises(DataError, match=r"'unused' is not run.*would do, the last ones first: last, order"):
        GradientActivation("unused").measure(model, data)
    with pytest.raises(DataError, match=r"'order' has the shape \[2, \d+, 5\].*batch_first=True"):
        GradientActivation("order").measure(model, data)
    with pytest.raises(UnsupportedModuleError, match=r"does not depend on layer='first'.*no_grad"):
        GradientActivation("first").measure(model, data)
    with pytest.raises(UnsupportedModuleError, match=r"hidden layer is unknown: name one of its modules"):
        GradCAM().measure(nn.Sequential(nn.Flatten(), nn.Linear(72, K)).double(), data)


def test_data_that_cannot_serve_is_refused():
    model, (X, y) = made(convnet)
    with pytest.raises(NoSamplesError):
        GradCAM().measure(model, (X[:0], y[:0]))
    with pytest.raises(DataError, match="a label lies outside the model's 4 classes"):
        GradCAM().measure(model, (X, y + 1))
    spoilt = X.clone()
    spoilt[6] = torch.nan
    with pytest.raises(DataError, match="attribution of sample 6 of a batch is not finite"):
        GradientActivation().measure(model, (spoilt, y))
    one = nn.Sequential(nn.Flatten(), nn.Linear(72, 5), nn.Linear(5, 1)).double()
    with pytest.raises(DataError, match=r"compares classes, and the model has one output.*'loss'"):
        GradientActivation(target="margin").measure(one, (X, y * 0))
    flat = nn.Sequential(one, nn.Flatten(0))
    with pytest.raises(DataError, match=r"looks at logits \[N, K\].*shape \[8\].*target='loss'"):
        GradientActivation().measure(flat, (X, y))
    mixing = nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False), convnet()).double()
    for look in (GradCAM().measure, GradCAM().maps):
        with pytest.raises(UnsupportedModuleError, match="BatchNorm without running statistics"):
            look(mixing, (X, y))
    with pytest.warns(NondeterminismWarning, match="drop_last"):
        GradCAM().measure(model, DataLoader(TensorDataset(X, y), 4, sampler=Drawn(N), drop_last=True))
    with torch.no_grad():
        model[0].weight[0, 0] = torch.nan
    with pytest.raises(DataError, match=r"0\.weight holds"):
        GradCAM().measure(model, (X, y))


def test_samples_of_several_sizes_have_channels_alike_and_maps_that_differ():
    model = nn.Sequential(
        nn.Conv2d(3, 5, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, K)
    )
    batches = [(torch.randn(2, 3, size, 6), torch.arange(2)) for size in (4, 5)]
    assert GradCAM().measure(model, batches).shape == (4, 5)
    assert GradCAM(features="summary").measure(model, batches).shape == (4, 4)
    with pytest.raises(DataError, match=r"rows of 8 features, and then of 12.*features='channels'"):
        GradCAM(features="map").measure(model, batches)


class Drawn(Sampler):
    def __init__(self, count):
        self.count = count

    def __iter__(self):
        return iter(range(self.count))

    def __len__(self):
        return self.count


def test_estimators_are_scikit_learns(capsys):
    assert repr(GradCAM()) == "GradCAM()"
    assert repr(GradientActivation("fc", target="max")) == "GradientActivation(layer='fc', target='max')"
    assert clone(GradCAM(features="map")).get_params() == {
        "features": "map", "layer": None, "target": "label",
    }  # fmt: skip
    model, data = made(convnet)
    GradCAM().measure(model, data, progress=True)
    assert "attribution" in capsys.readouterr().err


@pytest.mark.parametrize(
    "wrap", [lambda m: nn.DataParallel(m).cpu(), lambda m: torch.compile(m, backend="eager")]
)
def test_wrapped_models_have_the_layers_of_plain_ones(wrap):
    model, data = made(convnet)
    for estimator in (GradCAM(), GradientActivation("8")):
        assert torch.equal(estimator.measure(wrap(model), data), estimator.measure(model, data))
