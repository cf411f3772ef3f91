# SPDX-License-Identifier: BSD-3-Clause
"""The streamed regression beside scikit-learn's and NumPy's on the whole matrix of activations."""

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.preprocessing import StandardScaler
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, RandomSampler, Subset, TensorDataset

from unlearnkit import GradientSaliency, Partition, Sensitivity, select
from unlearnkit.data import ForgetRetain
from unlearnkit.exceptions import DataError, NondeterminismWarning, UnsupportedModuleError
from unlearnkit.importance._regression import Moments, regress

DOUBLE = 4 * torch.finfo(torch.float64).eps
HIDDEN = {
    "conv": ("conv.weight", "conv.bias", "norm.weight", "norm.bias"),
    "depthwise": ("depthwise.weight",),
}
HIDDEN |= {"inner": ("inner.weight", "inner.bias")}


def streamed(X, y, cuts):
    rows = torch.from_numpy(np.column_stack([X, y]))
    first, *others = [part for part in rows.tensor_split(sorted(cuts)) if len(part)]
    moments = Moments(first)
    for part in others:
        moments.add(part)
    return moments


@st.composite
def problems(draw):
    """Return X [n, D], y [n] and where the stream is cut; some columns are dead, shifted or collinear."""
    n, width = draw(st.integers(2, 40)), draw(st.integers(1, 12))
    random = np.random.default_rng(draw(st.integers(0, 10**6)))
    X = random.normal(size=(n, width)) * 10.0 ** random.integers(-3, 4, width)
    X += draw(st.sampled_from([0.0, 1.0, 1e6])) * random.normal(size=width)
    for column in range(width):
        kind = draw(st.sampled_from(["own", "own", "own", "dead", "twin"]))
        if kind == "dead":
            X[:, column] = random.normal()
        elif kind == "twin":
            X[:, column] = 2 * X[:, 0]
    y = (random.random(n) < 0.4).astype(float) if draw(st.booleans()) else random.normal(size=n)
    return X, y, draw(st.lists(st.integers(0, n), max_size=5))


def scaled(X):
    """Standardise, as scikit-learn does; what deviates by rounding alone becomes zero."""
    Z = StandardScaler().fit_transform(X)
    Z[:, X.std(0) <= DOUBLE * np.abs(X.mean(0))] = 0
    return Z


@given(problems(), st.sampled_from([1e-3, 1e-2, 1.0]))
def test_ridge_is_scikit_learns(problem, ridge):
    X, y, cuts = problem
    expected = Ridge(alpha=ridge * len(y), solver="svd").fit(scaled(X), y).coef_
    found = regress(streamed(X, y, cuts), ridge, True, DOUBLE)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6, atol=1e-8)


@given(problems())
def test_least_squares_are_the_smallest_solution(problem):
    X, y, cuts = problem
    Z = scaled(X)
    expected = np.linalg.lstsq(Z - Z.mean(0), y - y.mean(), rcond=1e-7)[0]
    found = regress(streamed(X, y, cuts), 0.0, True, DOUBLE).numpy()
    singular = np.linalg.svd(Z - Z.mean(0), compute_uv=False)
    rank = (singular > 1e-7 * singular.max()).sum()
    # squaring the matrix squares its condition, which near collinearity costs digits
    loss = (singular.max() / singular[rank - 1]) ** 2 if rank else 1.0
    np.testing.assert_allclose(found, expected, rtol=1e-9 + 1e-13 * loss, atol=1e-9 + 1e-13 * loss)


@pytest.mark.parametrize(("n", "width"), [(50, 7), (200, 40), (9, 8)])
def test_unscaled_least_squares_are_numpys_with_an_intercept(n, width):
    random = np.random.default_rng(n)
    X, y = random.normal(size=(n, width)) * random.uniform(0.1, 10, width) + 3, random.integers(0, 2, n)
    expected = np.linalg.lstsq(np.column_stack([X, np.ones(n)]), y.astype(float), rcond=None)[0][:-1]
    found = regress(streamed(X, y, [n // 3]), 0.0, False, DOUBLE)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-7, atol=1e-10)


def test_more_units_than_samples_share_the_smallest_solution():
    random = np.random.default_rng(0)
    X, y = random.normal(size=(10, 30)), random.integers(0, 2, 10).astype(float)
    found = regress(streamed(X, y, [3, 4]), 0.0, False, DOUBLE).numpy()
    np.testing.assert_allclose(found, LinearRegression().fit(X, y).coef_, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose((X - X.mean(0)) @ found, y - y.mean(), atol=1e-10)


@given(st.integers(0, 10**6), st.lists(st.integers(0, 60), max_size=6))
def test_moments_keep_their_digits_far_from_zero(seed, cuts):
    random = np.random.default_rng(seed)
    X = random.normal(size=(60, 4))
    shifted = streamed(X + 1e8, np.zeros(60), cuts)
    exact = (X + 1e8) - 1e8
    np.testing.assert_allclose(shifted.scatter[:-1, :-1], np.cov(exact.T) * 59, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(shifted.mean[:-1] - 1e8, exact.mean(0), atol=1e-6)
    assert shifted.count == 60


def test_a_tiny_penalty_needs_no_cholesky_factor():
    X = np.random.default_rng(0).normal(size=(30, 3))
    X = np.column_stack([X, X])
    y = X[:, 0] - X[:, 1]
    found = regress(streamed(X, y, []), 1e-15, True, DOUBLE).numpy()
    expected = np.linalg.lstsq(scaled(X), y - y.mean(), rcond=1e-7)[0]
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-9)


def materialised(model, batches, before=False):
    """Return the activations [N, O] of the network in conftest.py, in eval mode."""
    model = copy.deepcopy(model).eval()
    act = (lambda f, z: z) if before else (lambda f, z: f(z))
    with torch.no_grad():
        x = torch.cat([x for x, _ in batches])
        conv = model.norm(model.conv(x))
        depthwise = model.depthwise(conv.relu())
        first = model.inner(depthwise.flatten(1))
        second = model.again(first.tanh())
        found = {
            "conv": act(F.relu, conv).mean((2, 3)),
            "depthwise": depthwise.mean((2, 3)),
            "inner": (act(torch.tanh, first) + act(torch.tanh, second)) / 2,
        }
        logits = model.head(second.tanh()) * model.temperature
        losses = F.cross_entropy(logits, torch.cat([y for _, y in batches]), reduction="none")
    return {layer: value.double().numpy() for layer, value in found.items()}, losses.double().numpy()


def assert_sums(measured, expected, rtol=1e-6, atol=1e-9):
    """Each unit's own share its coefficient, and what is no unit's has none."""
    owned = set()
    for layer, coefficients in expected.items():
        for name in HIDDEN[layer]:
            found = (
                measured.sums[name].flatten(1)
                if measured.sums[name].dim() > 1
                else measured.sums[name][:, None]
            )
            np.testing.assert_allclose(
                found.numpy(), np.broadcast_to(coefficients[:, None], found.shape), rtol=rtol, atol=atol
            )
            owned.add(name)
    assert all(bool((v == -math.inf).all()) for name, v in measured.sums.items() if name not in owned)


@pytest.fixture
def double(model, data):
    """The network in float64, and its data."""
    roles = [[(x.double(), y) for x, y in batches] for batches in (data.forget, data.retain)]
    return model.double(), *roles


@pytest.mark.parametrize("target", ["component", "posterior", "error"])
@pytest.mark.parametrize("ridge", [1e-2, 0.5])
def test_it_is_the_ridge_regression_at_every_layer(target, ridge, double):
    model, forget, retain = double
    X, losses = materialised(model, [*forget, *retain])
    noise = torch.rand(48)
    roles = ForgetRetain(forget, retain)
    if target == "component":
        y = np.repeat([1.0, 0.0], [19, 29])
    elif target == "error":
        y = losses
    else:
        x, labels = (torch.cat(parts) for parts in zip(*forget, *retain, strict=True))
        partition = Partition.of(DataLoader(TensorDataset(x, labels), 7), noise, 0.6)
        roles, y = ForgetRetain.resolve((partition,)), noise.double().numpy()
    found = Sensitivity(target, ridge).locate(model, roles)
    assert (found.kind, found.count, found.samples, found.is_signed) == (f"sensitivity/{target}", 1, 48, True)
    expected = {
        layer: Ridge(alpha=ridge * 48, solver="svd").fit(scaled(value), y).coef_ for layer, value in X.items()
    }
    assert_sums(found, expected)


def test_the_published_setting_is_least_squares_on_preactivations(double):
    model, forget, retain = double
    X, _ = materialised(model, [*forget, *retain], before=True)
    y = np.repeat([1.0, 0.0], [19, 29])
    published = Sensitivity.published("depthwise")
    found = published.locate(model, ForgetRetain(forget, retain))
    with_intercept = np.column_stack([X["depthwise"], np.ones(48)])
    expected = np.linalg.lstsq(with_intercept, y, rcond=None)[0][:-1]
    assert_sums(found, {"depthwise": expected}, rtol=1e-7)
    scores = published.scores(model, found)["depthwise.weight"].flatten(1)[:, 0]
    assert scores.argsort().tolist() == np.abs(expected).argsort().tolist()
    # of the others the columns are dependent: 9 taps make 12 channels, and 48 units see 48 samples
    expected = {
        layer: np.linalg.lstsq(value - value.mean(0), y - y.mean(), rcond=1e-7)[0]
        for layer, value in X.items()
    }
    assert_sums(Sensitivity.published().locate(model, ForgetRetain(forget, retain)), expected, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_batches_and_precision_matter_little(dtype, model, data):
    model = model.to(dtype)
    forget, retain = ([(x.to(dtype), y) for x, y in batches] for batches in (data.forget, data.retain))
    X, _ = materialised(model, [*forget, *retain])
    y = np.repeat([1.0, 0.0], [19, 29])
    expected = {layer: Ridge(alpha=0.48).fit(scaled(value), y).coef_ for layer, value in X.items()}
    joined = [tuple(torch.cat(parts) for parts in zip(*batches, strict=True)) for batches in (forget, retain)]
    single = [[(x[i : i + 1], y[i : i + 1]) for i in range(len(y))] for x, y in joined]
    tolerance = 1e-3 if dtype is torch.float32 else 0.05
    for roles in (ForgetRetain(forget, retain), ForgetRetain(joined[:1], joined[1:]), ForgetRetain(*single)):
        found = Sensitivity().measure(model, roles)
        for layer in ("conv", "depthwise") if dtype is torch.bfloat16 else X:
            np.testing.assert_allclose(
                found.sums[HIDDEN[layer][0]].flatten(1)[:, 0], expected[layer], atol=tolerance
            )


def test_a_huge_offset_costs_no_digits(double):
    model, forget, retain = double
    roles = ForgetRetain(forget, retain)
    expected = Sensitivity(features="preactivation").measure(model, roles)
    with torch.no_grad():
        model.norm.bias += 1e6
        model.depthwise.weight.zero_()
    found = Sensitivity(features="preactivation").measure(model, roles)
    torch.testing.assert_close(found.sums["conv.bias"], expected.sums["conv.bias"], rtol=1e-6, atol=1e-8)


def test_dead_units_score_zero_and_take_no_part(model, data):
    with torch.no_grad():
        model.norm.weight[3] = 0  # puts out its bias
        model.norm.bias[3] = 0.7
        model.norm.bias[5] = -1e3  # dead after the activation function
    found = Sensitivity(ridge=0.0).measure(model, data.roles).sums["conv.bias"]
    assert found[3] == found[5] == 0
    assert int((found != 0).sum()) == 10
    X = materialised(model, [*data.forget, *data.retain])[0]["conv"]
    alive = [j for j in range(12) if j not in (3, 5)]
    y = np.repeat([1.0, 0.0], [19, 29])
    expected = LinearRegression().fit(scaled(X[:, alive]), y).coef_
    np.testing.assert_allclose(found[alive].numpy(), expected, rtol=1e-2, atol=1e-4)


def test_a_loss_of_ones_own_runs_the_model_and_is_the_error(double):
    model, forget, retain = double

    def loss(model, batch):
        return F.cross_entropy(model(batch["image"]), batch["kind"], reduction="none").square()

    def named(batches):
        return [{"image": x, "kind": y} for x, y in batches]

    roles = ForgetRetain(named(forget), named(retain))
    X, losses = materialised(model, [*forget, *retain])
    expected = {
        layer: Ridge(alpha=0.48, solver="svd").fit(scaled(value), losses**2).coef_
        for layer, value in X.items()
    }
    assert_sums(Sensitivity("error").measure(model, roles, loss=loss), expected)
    plain = Sensitivity().measure(model, ForgetRetain(forget, retain))
    own = Sensitivity().measure(model, roles, loss=loss)
    assert all(torch.equal(value, own.sums[name]) for name, value in plain.sums.items())


def test_scores_keep_the_order_and_put_units_before_the_rest(model, data):
    signed, absolute = Sensitivity(), Sensitivity(mode="absolute")
    found = signed.locate(model, data.roles)
    owned = [name for names in HIDDEN.values() for name in names]
    for estimator, value_of in ((signed, torch.clone), (absolute, torch.abs)):
        scores = estimator.scores(model, found)
        assert list(scores) == list(found.sums)
        values = value_of(torch.cat([found.sums[name].view(-1) for name in owned]))
        shifted = torch.cat([scores[name].view(-1) for name in owned])
        assert bool((shifted > 0).all())
        order = values.argsort(stable=True)
        assert bool((shifted[order].diff() >= 0).all())
        assert len(shifted.unique()) == len(values.unique())
        assert not any(score.any() for name, score in scores.items() if name not in owned)
        mask = select(scores, 0.05, "channel", model=model)
        assert all(mask.counts[name] == 0 for name in scores if name not in owned)
    best = max(
        found.sums, key=lambda name: float(found.sums[name].max()) if found.sums[name].numel() else -math.inf
    )
    assert signed.scores(model, found)[best].max() == max(
        float(score.max()) for score in signed.scores(model, found).values() if score.numel()
    )


def test_a_unit_that_fires_for_noise_comes_first_and_one_that_fires_for_clean_last():
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2))
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(3))
        model[0].bias.zero_()
    x, noisy = torch.rand(40, 3), torch.arange(40) % 4 == 0
    x[noisy, 1] += 2
    x[~noisy, 2] += 2
    data = (x, torch.zeros(40, dtype=torch.long))
    for source in (
        Partition.of(data, noisy),
        ForgetRetain.resolve((Partition.of(data, noisy),)),
        DataLoader(Subset(TensorDataset(*data), noisy.nonzero()[:, 0].tolist())),  # the rest is clean
    ):
        found = Sensitivity().measure(model, source).sums["0.bias"]
        assert found[1] > 0.1 and found[2] < -0.1 and abs(found[0]) < 0.05
    estimator = Sensitivity()
    mask = select(estimator.scores(model, estimator.measure(model, source)), 0.2, "channel", model=model)
    assert mask["0.weight"].all(1).tolist() == [False, True, False]


def test_the_measurement_is_kept_as_others_are(tmp_path, model, data):
    found = Sensitivity().measure(model, data.roles)
    found.save(tmp_path / "found.safetensors")
    read = type(found).load(tmp_path / "found.safetensors")
    assert read.kind == found.kind
    assert all(torch.equal(value, read.sums[name]) for name, value in found.sums.items())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"target": "noise"}, "target must be one of 'component', 'posterior', 'error', got 'noise'"),
        ({"mode": None}, "mode must be one of 'signed', 'absolute', got None"),
        ({"features": "logits"}, "features must be one of 'activation', 'preactivation'"),
        ({"standardise": "yes"}, "standardise must be one of True, False, got 'yes'"),
        ({"ridge": -1.0}, r"ridge must be a number from 0 on, got -1\.0"),
        ({"ridge": math.nan}, "got nan"),
        ({"ridge": True}, "got True"),
        ({"layers": 3}, "layers must be a pattern of layer names or a list of them, got 3"),
        ({"layers": ["conv", 3]}, r"got \['conv', 3\]"),
        ({"target": "posterior"}, r"a Partition holds: pass Partition\.of"),
    ],
)
def test_bad_parameters_are_refused(arguments, words, model, data):
    with pytest.raises(DataError, match=words):
        Sensitivity(**arguments).measure(model, data.roles)


def test_what_cannot_be_compared_is_refused(model, data):
    (x, y), stored = data.forget[0], GradientSaliency().measure(model, data.forget)
    empty = [(x[:0], y[:0])]
    for roles, words in (
        (ForgetRetain(data.forget), "got nothing for the retain set"),
        (ForgetRetain(data.forget, stored), "got an Importance for the retain set"),
        (ForgetRetain(stored, data.retain), "got an Importance for the forget set"),
        (ForgetRetain(empty, data.retain), "the forget set: the data is empty"),
        (ForgetRetain(data.forget, empty), "there is nothing to keep"),
    ):
        with pytest.raises(DataError, match=words):
            Sensitivity().measure(model, roles)
    with pytest.raises(DataError, match="an activation of layer 'conv' is NaN or infinite"):
        Sensitivity().measure(model, ForgetRetain([(x * math.nan, y)], data.retain))


def test_samples_are_read_once_each_or_a_warning_tells(model, data):
    dataset = TensorDataset(*data.forget[0])
    expected = Sensitivity().measure(model, data.roles)
    whole = DataLoader(
        TensorDataset(*(torch.cat(parts) for parts in zip(*data.forget, strict=True))), 4, shuffle=True
    )
    found = Sensitivity().measure(model, ForgetRetain(whole, data.retain))
    for name, value in expected.sums.items():
        torch.testing.assert_close(found.sums[name], value, rtol=1e-3, atol=1e-5)
    drawn = DataLoader(dataset, 4, sampler=RandomSampler(dataset, replacement=True))
    with pytest.warns(NondeterminismWarning, match="draws samples at random"):
        Sensitivity().measure(model, ForgetRetain(drawn, data.retain))


def test_a_partition_must_fit_and_tell_samples_apart(model, data):
    x, y = data.forget[0]
    partition = Partition.of((x, y), torch.linspace(0.1, 0.9, 8))
    for change, words in ((partition.forget, "4 values for the forget set, and another number of samples"),):
        partition.noise, partition.is_noisy = torch.rand(9), torch.arange(9) < 4
        assert change is partition.forget
        with pytest.raises(DataError, match="5 values for the retain set, and another number"):
            Sensitivity("posterior").measure(model, partition)
        partition.is_noisy = torch.arange(9) < 3
        with pytest.raises(DataError, match=words.replace("4", "3")):
            Sensitivity("posterior").measure(model, partition)
    even = Partition.of((x, y), torch.full((8,), 0.5), losses=None)
    even.retain = even.forget
    even.noise, even.is_noisy = torch.full((16,), 0.5), torch.arange(16) < 8
    with pytest.raises(DataError, match=r"the target is 0\.5 for every sample"):
        Sensitivity("posterior").measure(model, even)


def test_models_without_units_to_tell_apart_are_refused(data):
    x, y = data.forget[0]
    head = nn.Sequential(nn.Flatten(), nn.Linear(16, 5))
    roles = ForgetRetain([(x, y)], data.retain)
    with pytest.raises(UnsupportedModuleError, match="no linear layer or convolution before its output"):
        Sensitivity().measure(head, roles)
    up = nn.Sequential(nn.ConvTranspose2d(1, 2, 2), nn.Flatten(), nn.Linear(50, 5))
    with pytest.raises(UnsupportedModuleError, match="apart; 0: of a transposed convolution"):
        Sensitivity().measure(up, roles)
    frozen = nn.Sequential(nn.Flatten(), nn.Linear(16, 3), nn.ReLU(), nn.Linear(3, 5))
    frozen[1].requires_grad_(False)
    with pytest.raises(UnsupportedModuleError, match="no linear layer or convolution before"):
        Sensitivity().measure(frozen, roles)
    frozen[1].bias.requires_grad_(True)
    found = Sensitivity().measure(frozen, roles)
    assert found.sums["1.bias"].isfinite().all() and "1.weight" not in found.sums
    frozen[1].requires_grad_(True)
    with pytest.raises(
        UnsupportedModuleError, match="layers='fc' matches none of the layers that have units: 1"
    ):
        Sensitivity(layers="fc").measure(frozen, roles)
    found = Sensitivity(layers=["[01]"]).measure(frozen, roles)
    assert found.sums["1.weight"].isfinite().all()
