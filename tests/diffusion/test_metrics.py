# SPDX-License-Identifier: BSD-3-Clause
"""What a classifier sees of images, and the Fréchet distance against closed forms and the plain formula."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import sqrtm
from torch import nn
from torch.nn import functional as F

from unlearnkit.diffusion import class_share, features_of, frechet_distance
from unlearnkit.diffusion.metrics import plain_frechet
from unlearnkit.exceptions import DataError, SmallSampleWarning, UnsupportedModuleError


def plainly(first, second):
    """The formula as it is written."""
    one, other = np.cov(first, rowvar=False), np.cov(second, rowvar=False)
    shift = first.mean(0) - second.mean(0)
    return shift @ shift + np.trace(one + other - 2 * sqrtm(one @ other).real)


def whitened(n, width, seed=0):
    """Samples whose mean is 0 and whose covariance is I, to the last digit."""
    drawn = np.random.default_rng(seed).normal(size=(n, width))
    return np.linalg.qr(drawn - drawn.mean(0))[0] * np.sqrt(n - 1)


@given(st.integers(0, 10_000), st.integers(1, 12))
def test_frechet_is_the_formula(seed, width):
    draw = np.random.default_rng(seed)
    first, second = (
        draw.normal(size=(10 * width + n, width)) @ draw.normal(size=(width, width)) + n for n in (20, 21)
    )
    value = frechet_distance(first, torch.from_numpy(second))
    if width > 1:
        assert value == pytest.approx(plainly(first, second), rel=1e-6, abs=1e-6)
    assert frechet_distance(second, first) == pytest.approx(value, rel=1e-9)


def test_frechet_of_known_distributions():
    x = whitened(100, 4)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-12)
    assert frechet_distance(x, x[::-1]) == pytest.approx(0, abs=1e-12)  # the order says nothing
    assert frechet_distance(x, x + np.array([3, 0, 0, 4])) == pytest.approx(25)
    a, b = np.array([1.0, 2, 3, 0]), np.array([2.0, 2, 0.5, 1])  # standard deviations
    assert frechet_distance(x * a, whitened(200, 4, 1) * b) == pytest.approx(((a - b) ** 2).sum())


@pytest.mark.filterwarnings("ignore::unlearnkit.exceptions.SmallSampleWarning")
def test_frechet_of_singular_covariances():
    x = np.random.default_rng(0).normal(size=(9, 30))
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-12)
    assert frechet_distance(x, x + 1) == pytest.approx(30)
    assert frechet_distance(x - x.mean(0), 3 * (x - x.mean(0))) == pytest.approx(4 * x.var(0, ddof=1).sum())
    wide = np.hstack([whitened(400, 5), np.zeros((400, 5))])  # features that never fire
    assert frechet_distance(wide, 2 * wide) == pytest.approx(5)
    assert frechet_distance(wide, np.zeros((2, 10))) == pytest.approx(5)


def test_frechet_is_biased_as_it_says():
    draw, width, n = np.random.default_rng(0), 16, 400
    found = [plain_frechet(*draw.normal(size=(2, n, width))) for _ in range(40)]
    assert np.mean(found) == pytest.approx(width * (width + 5) / 4 * 2 / n, rel=0.05)


def test_frechet_warns_of_few_rows():
    x = np.random.default_rng(0).normal(size=(60, 6))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        frechet_distance(x, x)
    with pytest.warns(SmallSampleWarning, match=r"6 features rests on 40 rows: it is biased .* about 0\.688"):
        frechet_distance(x, x[:40])
    with pytest.warns(SmallSampleWarning, match="singular"):
        frechet_distance(x[:6], x)


def test_frechet_refuses_what_has_none():
    x = np.zeros((60, 6))
    with pytest.raises(DataError, match="6 features a row and second 5"):
        frechet_distance(x, x[:, :5])
    for bad in (x[:1], x[:, 0], x[:, :0], np.full((60, 6), np.nan)):
        with pytest.raises(DataError, match="second must hold finite features"):
            frechet_distance(x, bad)


class Small(nn.Module):
    """A classifier whose head is not its last module, with a dropout before it."""

    def __init__(self, head=None):
        super().__init__()
        self.head = head or nn.Linear(4, 3)
        self.conv = nn.Conv2d(1, 4, 3)
        self.drop = nn.Dropout(0.5)

    def features(self, x):
        return self.drop(F.relu(self.conv(x))).mean((2, 3))

    def forward(self, x):
        return self.head(self.features(x))


def test_features_are_the_heads_input():
    model, x = Small(), torch.randn(7, 1, 5, 5)
    found = features_of(model, x, batch_size=3)
    assert found.dtype == np.float64 and model.training
    with torch.no_grad():
        wanted = model.eval().features(x)
    np.testing.assert_allclose(found, wanted.numpy(), rtol=1e-5)
    shown = nn.Sequential(nn.Upsample(scale_factor=2), nn.AvgPool2d(2), model)
    np.testing.assert_allclose(features_of(shown, x), found, rtol=1e-5)
    nn.utils.parametrizations.weight_norm(model.head)
    np.testing.assert_allclose(features_of(model.double(), x), found, rtol=1e-5)


def test_features_before_a_convolution_and_of_tokens():
    x = torch.randn(5, 1, 6, 6)
    body = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU())
    model = nn.Sequential(*body, nn.Conv2d(4, 3, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    np.testing.assert_allclose(features_of(model, x), body(x).mean((2, 3)).detach().numpy(), rtol=1e-5)

    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.head, self.scale = nn.Linear(6, 3), nn.LayerNorm(3)

        def forward(self, x):
            return self.scale(self.head(x[:, 0])).mean(1)

    np.testing.assert_allclose(features_of(Tokens(), x), x[:, 0].mean(1).numpy(), rtol=1e-5, atol=1e-7)


def test_features_are_refused_where_they_are_unknown():
    class Twice(Small):
        def forward(self, x):
            return super().forward(x) + super().forward(-x)

    model = Twice()
    with pytest.raises(UnsupportedModuleError, match="called once"):
        features_of(model, torch.randn(2, 1, 5, 5))
    assert model.training and not any(module._forward_pre_hooks for module in model.modules())
    with pytest.raises(UnsupportedModuleError, match="ends in a Linear"):
        features_of(nn.Flatten(), torch.randn(2, 1, 5, 5))
    for bad in (torch.zeros(0, 1, 5, 5), [1, 2]):
        with pytest.raises(DataError, match="at least one image"):
            features_of(Small(), bad)


class Brightness(nn.Module):
    """Takes an image for class 0, 1 or 2 by its mean."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(1, 3)
        with torch.no_grad():
            self.head.weight.copy_(torch.tensor([[-1.0], [0], [1]]))
            self.head.bias.copy_(torch.tensor([0.0, 0.5, 0]))

    def forward(self, x):
        return self.head(x.mean((1, 2, 3))[:, None])


def test_class_share_counts():
    images = torch.tensor([-1.0, -1, 0, 1]).view(-1, 1, 1, 1).expand(-1, 1, 2, 2)
    found = class_share(Brightness(), images, [0, 0, 0, 2])
    assert found.value == 0.75
    assert found.low < 0.75 < found.high
    gone = class_share(Brightness(), images, [1, 1, 2, 0], batch_size=3)
    assert gone.value == 0 and gone.high == pytest.approx(1 - 0.025 ** (1 / 4))  # 0 of 4 is not never


def test_class_share_refuses_what_does_not_fit():
    images = torch.zeros(2, 1, 2, 2)
    with pytest.raises(DataError, match="one class for each of 2 images"):
        class_share(Brightness(), images, [0])
    with pytest.raises(DataError, match="labels must lie in 0 to 2"):
        class_share(Brightness(), images, [0, 3])
