# SPDX-License-Identifier: BSD-3-Clause
"""KLoM beside a loop with NumPy's histogram and SciPy's entropy; its floor, ceiling and warnings."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import entropy

from unlearnkit.exceptions import DataError, SmallSampleWarning
from unlearnkit.metrics.klom import klom, klom_by_set, klom_per_sample

few = pytest.mark.filterwarnings("ignore::unlearnkit.exceptions.SmallSampleWarning")


def by_loops(unlearned, oracles, bins=20, clip=100.0, least=1e-5):
    scores = []
    for i in range(unlearned.shape[1]):
        a, b = np.clip(unlearned[:, i], -clip, clip), np.clip(oracles[:, i], -clip, clip)
        low, high = min(a.min(), b.min()), max(a.max(), b.max())
        edges = np.linspace(low, high if high > low else low + 1, bins + 1)
        p, q = np.histogram(a, edges)[0] / len(a), np.histogram(b, edges)[0] / len(b)
        scores.append(sum(x * math.log(x / max(y, least)) for x, y in zip(p, q, strict=True) if x > 0))
    return scores


@settings(max_examples=40)
@given(
    st.integers(2, 30), st.integers(2, 30), st.integers(1, 8), st.integers(2, 25), st.booleans(),
    st.integers(0, 10_000),
)  # fmt: skip
def test_is_the_sum_of_its_definition(m, k, n, bins, ties, seed):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(0, 40, (m, n)), rng.normal(5, 60, (k, n))
    if ties:  # many margins at an edge
        a, b = np.round(a / 20), np.round(b / 20)
    np.testing.assert_allclose(klom_per_sample(a, b, bins=bins), by_loops(a, b, bins), rtol=1e-9, atol=1e-12)


def test_is_scipys_entropy_where_no_bin_is_empty():
    rng = np.random.default_rng(0)
    a, b = rng.uniform(0, 1, (4000, 3)) ** 2, rng.uniform(0, 1, (3000, 3))
    for i, found in enumerate(klom_per_sample(a, b, bins=5)):
        both = np.concatenate([a[:, i], b[:, i]])
        counts = [np.histogram(x[:, i], 5, (both.min(), both.max()))[0] for x in (a, b)]
        assert found == pytest.approx(entropy(*counts))


def test_two_bins_by_hand():
    # Unlearned 3 of 4 in the upper bin, oracles 1 of 4.
    unlearned, oracles = np.array([[0.0], [1], [1], [1]]), np.array([[0.0], [0], [0], [1]])
    expected = 0.25 * math.log(0.25 / 0.75) + 0.75 * math.log(0.75 / 0.25)
    assert klom_per_sample(unlearned, oracles, bins=2) == pytest.approx([expected])


def test_an_empty_bin_of_the_oracles_costs_its_floor():
    assert klom_per_sample(np.ones((2, 1)), np.zeros((2, 1)), bins=4) == pytest.approx([math.log(1e5)])
    assert klom_per_sample(np.ones((2, 1)), np.zeros((2, 1)), least=0.5) == pytest.approx([math.log(2)])


def test_the_largest_margin_is_counted():
    # numpy.digitize puts a value equal to the last edge into bin B + 1: it would be dropped, here a
    # half of the unlearned models, and with it all of the divergence.
    unlearned, oracles = np.array([[0.0], [1.0]]), np.array([[0.0], [0.0]])
    assert np.digitize(unlearned[:, 0], np.linspace(0, 1, 21)).tolist() == [1, 21]
    found = klom_per_sample(unlearned, oracles)
    assert found == pytest.approx([0.5 * math.log(0.5) + 0.5 * math.log(0.5 / 1e-5)])


def test_margins_are_cut():
    far = klom_per_sample(np.array([[250.0], [100.0]]), np.array([[-100.0], [-1e9]]))
    assert far == pytest.approx(klom_per_sample(np.full((2, 1), 100.0), np.full((2, 1), -100.0)))
    assert klom_per_sample(np.full((2, 1), 150.0), np.full((3, 1), 900.0)) == pytest.approx([0.0])


@settings(max_examples=20)
@given(st.integers(2, 20), st.integers(1, 5), st.integers(0, 1000))
def test_equal_sets_have_none(m, n, seed):
    a = np.random.default_rng(seed).normal(size=(m, n))
    np.testing.assert_allclose(klom_per_sample(a, a), 0, atol=1e-12)
    np.testing.assert_allclose(klom_per_sample(a, a[::-1]), 0, atol=1e-12)


def test_one_distribution_lies_at_the_floor_and_another_above_it():
    rng = np.random.default_rng(1)
    center, spread = rng.normal(0, 3, 200), rng.uniform(0.5, 2, 200)
    drawn = lambda m, shift=0.0: center + shift + spread * rng.normal(size=(m, 200))  # noqa: E731
    oracles, originals = drawn(200), drawn(200, 4.0)
    # With as many models as a half has, the null is what the floor measures.
    null = klom_per_sample(drawn(100), drawn(100))
    done, partly = klom(drawn(200), oracles, originals), klom(drawn(200, 1.5), oracles, originals)
    assert done.floor == pytest.approx(null.mean(), rel=0.1)
    assert done.floor_p95 == pytest.approx(np.quantile(null, 0.95), rel=0.15)
    assert done.value < done.floor and done.p95 < done.floor_p95
    assert done.high < partly.low < partly.value < partly.ceiling < 12
    assert partly.low > partly.floor > partly.null
    assert done.low < done.null < done.high or done.null == pytest.approx(done.value, rel=0.1)
    assert done.null_p95 == pytest.approx(done.p95, rel=0.25)
    assert partly.ceiling_p95 > partly.ceiling


@few
def test_with_few_models_the_floor_hides_what_the_null_shows():
    # Halves of 32 have 16 models, and a divergence of 4 from these alone.
    rng = np.random.default_rng(6)
    first, second = rng.normal(size=(2, 32, 300))
    moved = klom(first + 0.8, second)
    assert moved.null < moved.low < moved.value < moved.floor
    same = klom(first, second)
    assert same.null == pytest.approx(same.value, rel=0.1)


def test_more_models_lower_the_floor():
    rng = np.random.default_rng(2)
    floors = [klom_per_sample(*rng.normal(size=(2, m, 200))).mean() for m in (16, 100, 1000)]
    assert floors[0] > 2 and 0.2 < floors[1] < 0.5 and floors[2] < 0.05


@few
def test_summary():
    a, b, c = np.random.default_rng(3).normal(size=(3, 10, 30))
    found = klom(torch.tensor(a), torch.tensor(b), torch.tensor(c))
    each = np.array(by_loops(a, b))
    assert found.value == pytest.approx(each.mean()) and found.p95 == pytest.approx(np.quantile(each, 0.95))
    assert found.ceiling == pytest.approx(np.mean(by_loops(c, b)))
    assert found.low < found.value < found.high and found.n_models == (10, 10)
    assert "floor=" in repr(found) and "per_sample" not in repr(found)
    bare = klom(a, b[:3], n_bootstrap=0)
    assert bare.low is bare.high is bare.floor is bare.floor_p95 is bare.ceiling is bare.ceiling_p95 is None
    assert klom(a, b, random_state=1).floor != klom(a, b, random_state=2).floor


@few
def test_by_set():
    a, b = np.random.default_rng(4).normal(size=(2, 8, 20))
    found = klom_by_set({"forget": a, "retain": b}, {"forget": b, "retain": b}, {"forget": a, "retain": a})
    assert list(found) == ["forget", "retain"] and found["retain"].value == pytest.approx(0)
    assert found["forget"].value == klom(a, b).value == found["retain"].ceiling or found["forget"].ceiling
    with pytest.raises(DataError, match="name the same"):
        klom_by_set({"forget": a}, {"test": b})


def test_few_models_are_warned_of():
    rng = np.random.default_rng(5)
    with pytest.warns(SmallSampleWarning, match=r"15 models.*hardly more than chance"):
        klom(rng.normal(size=(15, 5)), rng.normal(size=(100, 5)))
    with pytest.warns(SmallSampleWarning, match=r"99 models.*null"):
        klom(rng.normal(size=(120, 5)), rng.normal(size=(99, 5)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"unlearned": np.zeros((1, 5))}, "at least 2 models"),
        ({"oracles": np.zeros((1, 5))}, "at least 2 models"),
        ({"oracles": np.zeros((9, 4))}, "4 samples where"),
        ({"originals": np.zeros((9, 4))}, "4 samples where"),
        ({"unlearned": np.full((9, 5), np.nan)}, "45 NaN"),
        ({"unlearned": np.zeros(5)}, r"\[M, N\]"),
        ({"bins": 1}, "bins"),
        ({"clip": 0}, "clip"),
        ({"least": 0}, "least"),
        ({"n_splits": 0}, "n_splits"),
    ],
)
@few
def test_bad_input_is_refused(change, message):
    with pytest.raises(DataError, match=message):
        klom(**{"unlearned": np.zeros((9, 5)), "oracles": np.zeros((9, 5)), **change})
