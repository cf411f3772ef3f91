# SPDX-License-Identifier: BSD-3-Clause
"""The competition's epsilon beside a loop over its thresholds; its rules, null and power."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unlearnkit.exceptions import DataError, SmallSampleWarning
from unlearnkit.metrics.forgetting_quality import (
    competition_score,
    forgetting_epsilons,
    forgetting_quality,
    points,
)

few = pytest.mark.filterwarnings("ignore::unlearnkit.exceptions.SmallSampleWarning")


def epsilon_at(positive, negative, called, delta):
    """Return epsilon of one attack, NaN where it is dropped; `called` says what is called positive."""
    fnr = sum(not called(c) for c in positive) / len(positive)
    fpr = sum(bool(called(c)) for c in negative) / len(negative)
    if fpr == 0 and fnr == 0:
        return math.inf
    if fpr == 0 or fnr == 0:
        return math.nan
    terms = [(1 - delta - fpr) / fnr, (1 - delta - fnr) / fpr]
    logs = [math.log(term) for term in terms if term > 0]
    return max(0.0, *logs) if logs else math.nan


def by_loops(unlearned, retrained, step=1, delta=1e-5):
    """Walk over the competition's thresholds; every `step`-th window alone, for speed."""
    if np.median(retrained) > np.median(unlearned):
        positive, negative = retrained, unlearned
    else:
        positive, negative = unlearned, retrained
    ranges = np.ptp(positive), np.ptp(negative)
    if min(ranges) / max(ranges) < 0.01:
        return 50.0
    low, high = min(*positive, *negative), max(*positive, *negative)
    found = []
    for t in np.linspace(low, high, math.ceil((high - low) * 100)):
        found.append(epsilon_at(positive, negative, lambda c, t=t: c >= t, delta))
    peaky, other = (negative, positive) if ranges[0] >= ranges[1] else (positive, negative)
    width = np.ptp(peaky)
    for r in np.linspace(peaky.min() + width - 2, peaky.max() + 2, 400)[::step]:
        for left in np.linspace(r - width - 2, r - width + 2, 400)[::step]:
            found.append(epsilon_at(peaky, other, lambda c, left=left, r=r: left <= c <= r, delta))
    kept = [epsilon for epsilon in found if not math.isnan(epsilon)]
    return min(max(kept), 50.0)


def test_is_the_loop_over_all_thresholds():
    rng = np.random.default_rng(0)
    for shift, scale in ((0, 1), (0.7, 1), (0, 0.3), (-1.5, 3)):
        a, b = rng.normal(0, 1, (6, 1)), rng.normal(shift, scale, (6, 1))
        assert forgetting_epsilons(a, b) == pytest.approx([by_loops(a[:, 0], b[:, 0])], rel=1e-9)


@settings(max_examples=25)
@given(st.integers(3, 12), st.integers(3, 12), st.floats(-3, 3), st.floats(0.1, 4), st.integers(0, 1000))
def test_is_at_least_the_loop_over_some(m, k, shift, scale, seed):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(0, 1, m), rng.normal(shift, scale, k)
    found = forgetting_epsilons(a[:, None], b[:, None])[0]
    assert found >= by_loops(a, b, step=19) - 1e-9
    assert 0 <= found <= 50


@settings(max_examples=25)
@given(st.integers(3, 20), st.floats(0.5, 3), st.integers(0, 1000))
def test_it_is_the_same_either_way_round(m, scale, seed):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(0, 1, (m, 3)), rng.normal(0.5, scale, (m, 3))
    np.testing.assert_allclose(forgetting_epsilons(a, b), forgetting_epsilons(b, a))
    np.testing.assert_array_equal(forgetting_epsilons(a, b), forgetting_epsilons(a[::-1], b))


@settings(max_examples=25)
@given(st.integers(3, 30), st.sampled_from([1e-4, 1.0, 50.0]), st.integers(0, 1000))
def test_identical_arrays_have_exactly_none(m, size, seed):
    a = size * np.random.default_rng(seed).normal(size=(m, 4))
    np.testing.assert_array_equal(forgetting_epsilons(a, a), 0)
    np.testing.assert_array_equal(forgetting_epsilons(a, a[::-1]), 0)


def test_single_threshold_by_hand():
    # 3 of 4 against 1 of 4 at or above 1: FPR = FNR = 1/4, log(0.75 / 0.25). No window does better
    # on margins 0 and 1, and every other threshold has a rate of 0.
    a, b = np.array([[0.0], [1], [1], [1]]), np.array([[0.0], [0], [0], [1]])
    assert forgetting_epsilons(a, b, delta=0.0) == pytest.approx([math.log(3)])
    assert forgetting_epsilons(a, b) == pytest.approx([math.log((0.75 - 1e-5) / 0.25)])


def test_double_threshold_by_hand():
    # One set within the other, medians equal: a window finds all but one of the inner eight and one
    # of the outer eight. A single threshold can do no better than 4 against 3.
    inner = np.array([-1.0, -0.5, -0.4, -0.1, 0.1, 0.4, 0.5, 1.0])[:, None] * 4
    outer = np.array([-9.0, -8, -7, -6, 0.9, 6, 7, 8.1])[:, None] * 4
    found = forgetting_epsilons(inner, outer, delta=0.0)[0]
    # FNR = 1/8 and FPR = 1/8 are the least that are both above 0.
    assert found == pytest.approx(math.log((1 - 1 / 8) / (1 / 8)))


def test_perfect_separation_is_the_cap():
    rng = np.random.default_rng(1)
    assert forgetting_epsilons(rng.normal(0, 1, (9, 2)), rng.normal(50, 1, (9, 2))).tolist() == [50, 50]


def test_a_zero_of_one_rate_alone_is_dropped():
    # Above 2 there is one of the first and none of the second: FPR = 0 with FNR = 1 - 1/M would be
    # an infinite epsilon. Dropped, the two sets that share all other margins are hard to tell.
    rng = np.random.default_rng(2)
    a = rng.normal(size=(40, 1))
    b = a.copy()
    a[0] = a.max() + 3
    assert forgetting_epsilons(a, b)[0] < 1.2


def test_a_far_narrower_set_is_the_cap():
    wide = np.linspace(-1, 1, 9)[:, None]
    assert forgetting_epsilons(0.0099 * wide, wide).tolist() == [50]
    assert forgetting_epsilons(wide, 0.0099 * wide).tolist() == [50]
    assert forgetting_epsilons(0 * wide, wide).tolist() == [50]
    assert forgetting_epsilons(0.02 * wide, wide)[0] < 50


def test_single_values():
    ones = np.ones((4, 1))
    assert forgetting_epsilons(ones, ones).tolist() == [0]
    assert forgetting_epsilons(ones, 2 * ones).tolist() == [50]


def test_margins_finer_than_the_thresholds():
    # All within 0.001: no threshold of 100 per unit lies between them, the margins themselves do.
    rng = np.random.default_rng(3)
    a = 1e-3 * rng.random((30, 1))
    np.testing.assert_array_equal(forgetting_epsilons(a, a), 0)
    b = 1e-3 * rng.random((30, 1)) + 2e-4
    assert 0 < forgetting_epsilons(a, b)[0] < 5


def test_margins_far_apart_take_no_more_thresholds():
    # 100 per unit would be 2e11 of them.
    rng = np.random.default_rng(10)
    a, b = 1e9 * rng.normal(size=(2, 30, 2))
    assert (forgetting_epsilons(a, b) < 5).all()
    np.testing.assert_array_equal(forgetting_epsilons(a, a), 0)


def test_many_samples_at_once():
    # The reference asserts the truth of an array here, which ends it for more than one threshold.
    with pytest.raises(ValueError, match="truth value"):
        assert np.zeros(3)
    rng = np.random.default_rng(4)
    a, b = rng.normal(size=(2, 12, 5))
    each = [forgetting_epsilons(a[:, [i]], b[:, [i]])[0] for i in range(5)]
    np.testing.assert_array_equal(forgetting_epsilons(a, b), each)


def points_by_loop(epsilon, models):
    """The competition's buckets, one after another."""
    start, worth = 0.0, 1.0
    while start + 0.5 <= math.ceil(math.log(models - 1)):
        if epsilon < start + 0.5:
            return worth
        start, worth = start + 0.5, worth / 2
    return 0.0


@settings(max_examples=60)
@given(st.floats(0, 50), st.integers(3, 600))
def test_points_are_the_buckets(epsilon, models):
    assert points(np.array([epsilon]), models).tolist() == [points_by_loop(epsilon, models)]


def test_points_by_hand():
    # M = 512: ceil(log 511) = 7, so 14 buckets.
    found = points(np.array([0, 0.49, 0.5, 1.2, 6.99, 7.0, 50]), 512)
    assert found.tolist() == [1, 1, 0.5, 0.25, 2.0**-13, 0, 0]


@pytest.mark.parametrize("models", [16, 64, 256])
def test_the_null_does_not_vanish(models):
    # Two sets of one distribution: about 1.5 and a quality of 0.19, however many models.
    rng = np.random.default_rng(5)
    epsilons = forgetting_epsilons(*rng.normal(0, 2, (2, models, 150)))
    assert 1.3 < epsilons.mean() < 1.8
    assert 0.14 < points(epsilons, models).mean() < 0.25
    assert (epsilons >= math.log(2) - 1e-3).mean() > 3 / 8  # the three largest margins alone see to that


def test_at_one_threshold_the_null_vanishes():
    rng = np.random.default_rng(6)
    found = []
    for m in (16, 256, 4096):
        a, b = rng.normal(size=(2, m, 200))
        fnr, fpr = (a < 0).mean(0), (b >= 0).mean(0)
        found.append(np.maximum(np.log((1 - fpr) / fnr), np.log((1 - fnr) / fpr)).clip(0).mean())
    assert found[0] > found[1] > found[2] and found[2] < 0.05


@few
def test_null_and_power():
    rng = np.random.default_rng(7)
    center = rng.normal(0, 3, 60)
    retrained, same = center + rng.normal(size=(2, 32, 60))
    done = forgetting_quality(same, retrained)
    assert done.low < done.null < done.high
    assert done.epsilon == pytest.approx(done.null_epsilon, abs=0.3)
    shifted = forgetting_quality(same + 1.5, retrained)
    narrow = forgetting_quality(center + 0.1 * (same - center), retrained)
    for told in (shifted, narrow):
        assert told.high < told.null and told.epsilon > told.null_epsilon + 0.5


@few
def test_summary():
    rng = np.random.default_rng(8)
    a, b = rng.normal(size=(2, 20, 30))
    found = forgetting_quality(torch.tensor(a), torch.tensor(b), n_permutations=2)
    epsilons = forgetting_epsilons(a, b)
    np.testing.assert_array_equal(found.per_sample, epsilons)
    assert found.value == np.mean([points_by_loop(e, 20) for e in epsilons])
    assert found.epsilon == epsilons.mean() and found.n_models == (20, 20)
    assert found.low < found.value < found.high and "null=" in repr(found)
    bare = forgetting_quality(a, b, n_permutations=0, n_bootstrap=0)
    assert bare.null is bare.null_epsilon is bare.low is bare.high is None
    fewer = forgetting_quality(a, b[:9], n_permutations=1)
    assert fewer.n_models == (20, 9) and fewer.value == points(fewer.per_sample, 9).mean()


def test_final_score():
    assert competition_score(0.2, 0.9, 0.8, 1.0, 0.8) == pytest.approx(0.18)
    assert competition_score(0.2, 1.0, 0.9, 0.9, 0.9) > 0.2
    for bad in ((1.2, 1, 1, 1, 1), (0.5, -0.1, 1, 1, 1), (0.5, 1, 1, 0, 1), (0.5, 1, 1, 1, math.nan)):
        with pytest.raises(DataError, match="fraction"):
            competition_score(*bad)


def test_few_models_are_warned_of():
    with pytest.warns(SmallSampleWarning, match="16 models"):
        forgetting_quality(*np.random.default_rng(9).normal(size=(2, 16, 3)), n_permutations=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"unlearned": np.zeros((2, 5))}, "at least 3 models"),
        ({"retrained": np.zeros((9, 4))}, "4 samples where"),
        ({"retrained": np.full((9, 5), np.inf)}, "45 NaN or infinite"),
        ({"delta": 1.0}, "delta"),
        ({"n_permutations": -1}, "n_permutations"),
    ],
)
@few
def test_bad_input_is_refused(change, message):
    with pytest.raises(DataError, match=message):
        forgetting_quality(**{"unlearned": np.zeros((9, 5)), "retrained": np.zeros((9, 5)), **change})


def test_margins_of_any_size_fit_into_memory():
    def epsilon(scale):
        near, far = [[0.0], [1.0], [2.0], [3 * scale]], [[0.5], [1.5], [scale], [2 * scale]]
        return forgetting_epsilons(near, far)[0]

    assert epsilon(1e9) == epsilon(1e7) == epsilon(1e3)
