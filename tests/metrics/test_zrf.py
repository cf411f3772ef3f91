# SPDX-License-Identifier: BSD-3-Clause
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from unlearnkit.exceptions import DataError
from unlearnkit.metrics import jensen_shannon, mean_interval, zrf, zrf_from_logits


def logits(n, classes, seed, scale=3.0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(n, classes)) * scale)


def as_published(p, q, reduction):
    """What bad-teaching's code computes: kl_div(log p, m) is KL(m || p)."""
    m = (p + q) / 2
    return 0.5 * (F.kl_div(p.log(), m, reduction=reduction) + F.kl_div(q.log(), m, reduction=reduction))


def test_by_hand():
    p, q = torch.tensor([[0.5, 0.5]]), torch.tensor([[1.0, 0.0]])
    # m = (3/4, 1/4).
    kl_p = 0.5 * np.log(0.5 / 0.75) + 0.5 * np.log(0.5 / 0.25)
    expected = 0.5 * (kl_p + np.log(1 / 0.75))
    assert jensen_shannon(p.log(), q.log()).item() == pytest.approx(expected)
    found = zrf_from_logits(p.log(), q.log())
    assert found.value == pytest.approx(1 - expected)


@settings(max_examples=50)
@given(st.integers(1, 30), st.integers(2, 8), st.integers(0, 1000))
def test_against_scipy(n, classes, seed):
    one, other = logits(n, classes, seed), logits(n, classes, seed + 1)
    ours = jensen_shannon(one, other).numpy()
    theirs = jensenshannon(one.softmax(1).numpy(), other.softmax(1).numpy(), axis=1) ** 2
    np.testing.assert_allclose(ours, theirs, rtol=1e-7, atol=1e-10)
    np.testing.assert_allclose(ours, jensen_shannon(other, one).numpy())  # symmetric
    assert ((ours >= 0) & (ours <= np.log(2))).all()
    found = zrf_from_logits(one, other, n_bootstrap=200)
    assert found.value == pytest.approx(1 - ours.mean())
    assert found == type(found)(
        *mean_interval(1 - ours, bounds=(1 - np.log(2), 1), n_bootstrap=200), found.per_sample
    )


@pytest.mark.filterwarnings("ignore:reduction")
def test_the_published_divergence_is_another():
    one, other = logits(50, 10, 0), logits(50, 10, 1)
    p, q = one.softmax(1), other.softmax(1)
    ours = zrf_from_logits(one, other).value
    per_sample = as_published(p, q, "batchmean").item()
    default = as_published(p, q, "mean").item()
    assert ours == pytest.approx(1 - np.mean(jensenshannon(p.numpy(), q.numpy(), axis=1) ** 2))
    assert abs(1 - per_sample - ours) > 0.1  # the reverse divergence
    assert default == pytest.approx(per_sample / 10)  # divided by the classes too
    assert 1 - default > ours + 0.05  # which squeezes the score towards 1


def test_the_published_divergence_is_unbounded_and_breaks_on_zeros():
    sure, other = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    close = torch.tensor([[1 - 1e-12, 1e-12]], dtype=torch.float64)
    assert as_published(close, close.flip(1), "batchmean") > np.log(2) * 5
    assert not as_published(sure, other, "batchmean").isfinite()
    assert jensen_shannon(sure.log(), other.log()).item() == pytest.approx(np.log(2))
    assert zrf_from_logits(sure.log(), other.log()).value == pytest.approx(1 - np.log(2))
    assert zrf_from_logits(sure.log(), sure.log()).value == 1


def test_of_models():
    torch.manual_seed(0)
    one, other = nn.Linear(4, 3), nn.Linear(4, 3)
    data = torch.randn(20, 4), torch.arange(20) % 3
    found = zrf(one, other, data, confidence=0.9)
    expected = zrf_from_logits(one(data[0]).detach(), other(data[0]).detach(), confidence=0.9)
    assert found.value == pytest.approx(expected.value) and found.low == pytest.approx(expected.low)
    assert zrf(one, one, data).value == 1


def test_a_loader_that_orders_anew_is_refused():
    torch.manual_seed(0)
    data = TensorDataset(torch.randn(20, 4), torch.arange(20))
    loader = DataLoader(data, shuffle=True, generator=torch.Generator().manual_seed(0))
    with pytest.raises(DataError, match="does not shuffle"):
        zrf(nn.Linear(4, 20), nn.Linear(4, 20), loader)


@pytest.mark.parametrize(
    ("one", "other", "message"),
    [
        (torch.zeros(2, 3), torch.zeros(2, 4), r"one shape; got \[2, 3\] and \[2, 4\]"),
        (torch.zeros(0, 3), torch.zeros(0, 3), "at least one sample"),
        (torch.zeros(3), torch.zeros(3), r"shape \[N, K\]"),
        (torch.zeros(1, 2), torch.full((1, 2), torch.nan), "NaN"),
    ],
)
def test_what_cannot_be_compared_is_refused(one, other, message):
    with pytest.raises(DataError, match=message):
        zrf_from_logits(one, other)


def test_logits_with_a_graph_are_taken():
    a, b = logits(5, 3, 0), logits(5, 3, 1)
    found = zrf_from_logits(a.clone().requires_grad_(), b, n_bootstrap=10)
    assert found.value == zrf_from_logits(a, b, n_bootstrap=10).value
    assert not found.per_sample.requires_grad
