# SPDX-License-Identifier: BSD-3-Clause
"""The swap test beside a loop over thresholds; what cancels, its null and its power."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ks_2samp
from torch import nn

from unlearnkit.exceptions import DataError, SmallSampleWarning
from unlearnkit.metrics.margins import margins
from unlearnkit.metrics.swap import swap_quality, swap_quality_of_models

few = pytest.mark.filterwarnings("ignore::unlearnkit.exceptions.SmallSampleWarning")


def by_loops(split, swap):
    """Largest advantage over every threshold, in both directions."""
    (forget, test), (forget_swap, test_swap) = split, swap
    values = [x for part in (forget, test, forget_swap, test_swap) for x in np.ravel(part)]
    best = 0.0
    for t in values:
        says = [np.mean([x >= t for x in np.ravel(part)]) for part in (forget, test, forget_swap, test_swap)]
        first = says[0] - says[1]  # split: forgotten less unseen
        second = says[3] - says[2]  # swap: there the test set was forgotten
        best = max(best, abs(first + second) / 2)
    return best


@few
@settings(max_examples=40)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 3), st.booleans(), st.integers(0, 1000))
def test_is_the_loop_over_thresholds(f, t, m, ties, seed):
    rng = np.random.default_rng(seed)
    split = rng.normal(0.5, 1, (m, f)), rng.normal(size=(m, t))
    swap = rng.normal(size=(m + 1, f)), rng.normal(0.5, 1, (m + 1, t))
    if ties:
        split, swap = (tuple(np.round(one) for one in pair) for pair in (split, swap))
    found = swap_quality(split, swap, n_permutations=0, n_bootstrap=0)
    assert found.value == pytest.approx(1 - by_loops(split, swap))
    assert found.n_samples == (f, t)


def test_of_equal_sizes_it_is_the_kolmogorov_smirnov_distance():
    rng = np.random.default_rng(0)
    a, b, c, d = rng.normal(size=(4, 200)) + np.array([0.4, 0, 0, 0.4])[:, None]
    found = swap_quality((a, b), (c, d), n_permutations=0)
    assert 1 - found.value == pytest.approx(ks_2samp(np.r_[a, d], np.r_[b, c]).statistic)


@few
def test_by_hand():
    # At 1: F forgotten 2/2, T unseen 1/2, T forgotten 1/2, F unseen 0: (1/2 + 1/2) / 2.
    found = swap_quality(([1.0, 2.0], [0.0, 1.0]), ([0.0, 0.5], [0.0, 1.0]), n_permutations=0)
    assert found.value == 0.5 and found.threshold == 1.0


def test_retraining_gets_exactly_one():
    # The same model in both splits, however different the two sets are.
    rng = np.random.default_rng(1)
    forget, test = rng.normal(-9, 1, 150), rng.normal(9, 3, 120)
    found = swap_quality((forget, test), (forget, test))
    assert found.value == 1 and found.p_value == 1 and found.null == pytest.approx(1)


def draw(seed, left=0.0, n=300, m=1):
    """Two different sets; what was forgotten keeps `left` of its margin."""
    rng = np.random.default_rng(seed)
    forget, test = rng.normal(0, 2, n), rng.normal(1.5, 2, n)
    noise = rng.normal(0, 0.7, (4, m, n))
    return (forget + left + noise[0], test + noise[1]), (forget + noise[2], test + left + noise[3])


def test_the_difference_of_the_sets_cancels():
    split, swap = draw(2)
    plain = ks_2samp(split[0][0], split[1][0]).statistic  # what ordinary membership inference sees
    assert plain > 0.2
    assert swap_quality(split, swap).value > 0.93


def test_null_is_held_and_a_trace_is_found():
    done = [swap_quality(*draw(seed), random_state=seed, n_bootstrap=0) for seed in range(60)]
    assert np.mean([one.value - one.null for one in done]) == pytest.approx(0, abs=0.005)
    assert np.mean([one.p_value <= 0.05 for one in done]) <= 0.12
    assert np.mean([one.p_value for one in done]) == pytest.approx(0.5, abs=0.12)
    told = swap_quality(*draw(3, left=1.0))
    assert told.high < told.null and told.p_value < 0.01 and told.low < told.value < told.high


def test_several_models_are_averaged():
    one, many = (swap_quality(*draw(4, m=m), n_permutations=50) for m in (1, 8))
    assert one.null < many.null < 1 and many.value > 0.97
    assert swap_quality(*draw(4, left=1.0, m=8)).p_value < 0.01


def test_the_best_attack_counts():
    split, swap = draw(5, left=1.0)
    blind = draw(6)
    both = [
        tuple({"margin": a, "other": b} for a, b in zip(x, y, strict=True))
        for x, y in zip((split, swap), blind, strict=True)
    ]
    found = swap_quality(*both)
    assert found.attack == "margin" and found.value == swap_quality(split, swap).value
    assert 1 - found.advantages["other"] == pytest.approx(swap_quality(*blind).value)
    assert found.p_value < 0.01


@few
def test_decisions_are_an_attack_of_one_threshold():
    found = swap_quality((torch.tensor([1.0, 1, 0]), [0, 0, 1]), ([0, 0, 0], [1, 1, 0]), n_permutations=0)
    assert found.value == pytest.approx(1 - (2 / 3 - 1 / 3 + 2 / 3) / 2)


def test_interval_covers_the_true_supremum():
    truth = 1 - swap_quality(*draw(999, left=1.0, n=50_000), n_permutations=0, n_bootstrap=0).value
    found = [
        swap_quality(*draw(seed, left=1.0, n=200), n_permutations=0, n_bootstrap=200) for seed in range(80)
    ]
    assert np.mean([one.low <= 1 - truth <= one.high for one in found]) > 0.88
    assert all(one.low <= one.value <= one.high for one in found)


@few
def test_of_models():
    models = [nn.Linear(3, 4) for _ in range(3)]
    forget, test = ((torch.randn(n, 3), torch.randint(4, (n,))) for n in (20, 30))
    found = swap_quality_of_models(models[:2], models[2], forget, test)
    phi = [margins(models, data) for data in (forget, test)]
    assert found == swap_quality((phi[0][:2], phi[1][:2]), (phi[0][2:], phi[1][2:]))


def test_few_samples_are_warned_of():
    with pytest.warns(SmallSampleWarning, match="99 samples"):
        swap_quality((np.zeros(200), np.zeros(99)), (np.zeros(200), np.zeros(99)))


@pytest.mark.parametrize(
    ("split", "swap", "message"),
    [
        (([0.0], [0.0]), ([0.0, 1.0], [0.0]), "forget of swap has 2 samples"),
        (([0.0], [0.0]), ([0.0], [0.0, 1.0]), "test of swap has 2 samples"),
        (([np.nan], [0.0]), ([0.0], [0.0]), "forget of split must be finite"),
        (({"a": [0.0]}, {"a": [0.0]}), ({"b": [0.0]}, {"a": [0.0]}), "same attacks"),
        (({}, {}), ({}, {}), "same attacks"),
        (({"a": [0.0], "b": [0, 1]},) * 2, ({"a": [0.0], "b": [0, 1]},) * 2, "same samples"),
        ((np.zeros((1, 1, 1)), [0.0]), ([0.0], [0.0]), r"\[M, N\]"),
    ],
)
@few
def test_bad_input_is_refused(split, swap, message):
    with pytest.raises(DataError, match=message):
        swap_quality(split, swap)
