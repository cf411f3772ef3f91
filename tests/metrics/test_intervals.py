# SPDX-License-Identifier: BSD-3-Clause
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from unlearnkit.exceptions import DataError, SmallSampleWarning
from unlearnkit.metrics import bootstrap_interval, mean_interval, t_interval
from unlearnkit.metrics.intervals import resampled_means


def test_a_share_has_the_binomials_quantiles():
    # Resampling 70 of 100 is a binomial draw; its quantiles are known.
    found = mean_interval(np.arange(100) < 70, n_bootstrap=200_000)
    assert found.value == 0.7
    assert found[1:] == pytest.approx(stats.binom.ppf([0.025, 0.975], 100, 0.7) / 100, abs=0.0051)


def test_all_alike_is_clopper_and_pearson():
    found = mean_interval(np.ones(12), confidence=0.9)
    expected = stats.binomtest(12, 12).proportion_ci(0.9, "exact")
    assert found == pytest.approx((1.0, expected.low, expected.high))
    assert mean_interval(np.zeros(12), bounds=(-1, 1))[1:] == pytest.approx(
        (-(1 - 0.025 ** (1 / 12)), 1 - 0.025 ** (1 / 12))
    )
    assert mean_interval(np.full(3, 0.4), bounds=None) == pytest.approx((0.4, 0.4, 0.4))


@pytest.mark.parametrize("kind", ["shares", "numbers"])
def test_against_scipy(kind):
    rng = np.random.default_rng(1)
    values = rng.random(80) < 0.8 if kind == "shares" else rng.normal(0.5, 0.1, 300).clip(0, 1)
    theirs = stats.bootstrap(
        (values.astype(float),),
        np.mean,
        n_resamples=20_000,
        method="percentile",
        rng=np.random.default_rng(2),
    ).confidence_interval
    ours = mean_interval(values, n_bootstrap=20_000)
    by_loop = bootstrap_interval(np.mean, values, n_bootstrap=4000)
    assert ours[1:] == pytest.approx((theirs.low, theirs.high), abs=0.004)
    assert by_loop[1:] == pytest.approx((theirs.low, theirs.high), abs=0.013)  # one of 80 is 0.0125


def test_two_samples_are_resampled_each_for_itself():
    rng = np.random.default_rng(3)
    first, second = rng.normal(1, 1, 400), rng.normal(0, 1, 100)
    found = bootstrap_interval(lambda a, b: a.mean() - b.mean(), first, second, n_bootstrap=4000)
    half = 1.96 * np.sqrt(first.var() / 400 + second.var() / 100)
    assert found.value == pytest.approx(first.mean() - second.mean())
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.06)


def test_columns_of_a_sample_stay_paired():
    rng = np.random.default_rng(4)
    column = rng.random(50) < 0.5
    means = resampled_means(np.stack([column, 1 - column, rng.random(50) < 0.3], axis=1), 500)  # [B, 3]
    np.testing.assert_allclose(means[:, 0] + means[:, 1], 1)
    assert np.abs(means[:, 0] - means[:, 2]).max() > 0.05
    many = rng.random(500)
    means = resampled_means(np.stack([many, 2 * many], axis=1), 50)
    np.testing.assert_allclose(2 * means[:, 0], means[:, 1])


def test_few_and_many_values_resample_alike():
    # 64 distinct values are drawn as counts, 65 as rows; the spread is that of theory both ways.
    for distinct in (2, 64, 65, 400):
        values = np.resize(np.linspace(0, 1, distinct), 4000)
        means = resampled_means(values[:, None], 3000)[:, 0]
        assert means.std() == pytest.approx(values.std() / np.sqrt(4000), rel=0.05)
        assert means.mean() == pytest.approx(values.mean(), abs=4 * values.std() / np.sqrt(4000 * 3000))


@pytest.mark.parametrize(("n", "share"), [(40, 0.5), (60, 0.85), (200, 0.95), (15, 1.0)])
def test_coverage_of_a_share(n, share):
    rng = np.random.default_rng(5)
    cover = []
    for seed in range(400):
        found = mean_interval(rng.random(n) < share, n_bootstrap=400, random_state=seed)
        cover.append(found.low <= share <= found.high)
    assert np.mean(cover) > 0.91


@settings(max_examples=50)
@given(
    st.lists(st.floats(0, 1), min_size=1, max_size=40), st.sampled_from([0.5, 0.9, 0.99]), st.integers(0, 9)
)
def test_interval_holds_the_mean_widens_and_repeats(values, confidence, seed):
    found = mean_interval(values, confidence=confidence, random_state=seed, n_bootstrap=500)
    assert found == mean_interval(values, confidence=confidence, random_state=seed, n_bootstrap=500)
    wide = mean_interval(values, confidence=0.999, random_state=seed, n_bootstrap=500)
    slack = 1e-12
    assert -slack <= wide.low <= found.low + slack and found.high - slack <= wide.high <= 1 + slack
    assert wide.low - slack <= found.value <= wide.high + slack


def test_random_states_of_every_kind():
    values = np.random.default_rng(6).random(50)
    states = [np.random.RandomState(1), np.random.RandomState(1), np.random.RandomState(2)]
    first, same, other = (mean_interval(values, random_state=state) for state in states)
    assert first == same != other
    assert mean_interval(values, random_state=None).value == first.value


def test_t_interval_is_scipys():
    values = [0.91, 0.88, 0.95, 0.90]
    low, high = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    assert t_interval(values) == pytest.approx((np.mean(values), low, high))


def test_two_seeds_are_few():
    with pytest.warns(SmallSampleWarning, match="three are the least"):
        found = t_interval([0.8, 0.9])
    assert found[1:] == pytest.approx((0.85 - 12.706 * 0.05, 0.85 + 12.706 * 0.05), abs=1e-3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        t_interval([0.8, 0.9, 0.85])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mean_interval([]), "at least one"),
        (lambda: mean_interval([[0.1]]), r"\[1, 1\]"),
        (lambda: mean_interval([0.1, np.nan]), "1 that are not finite"),
        (lambda: mean_interval([0.1, 1.2]), "got 0.1 to 1.2: say bounds="),
        (lambda: mean_interval([0.1], confidence=95), "0.95 for 95 %"),
        (lambda: mean_interval([0.1, 0.2], n_bootstrap=0), "n_bootstrap"),
        (lambda: bootstrap_interval(np.mean), "got the shapes"),
        (lambda: bootstrap_interval(np.mean, []), "at least one row"),
        (lambda: bootstrap_interval(lambda a: 1 / a.sum(), [0, 0, 0, 1]), "resamples without a value"),
        (lambda: t_interval([0.3]), "at least two finite values"),
        (lambda: t_interval([0.3, np.inf]), "at least two finite values"),
    ],
)
@pytest.mark.filterwarnings("ignore:divide by zero")
def test_what_has_no_interval_is_refused(call, message):
    with pytest.raises(DataError, match=message):
        call()
