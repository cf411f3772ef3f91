# SPDX-License-Identifier: BSD-3-Clause
"""RULI beside the kernel densities of SciPy and scikit-learn; groups, null and power."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import gaussian_kde
from sklearn.neighbors import KernelDensity

from unlearnkit.exceptions import DataError, SmallSampleWarning
from unlearnkit.metrics.lira import u_lira
from unlearnkit.metrics.ruli import kernel_log_density, ruli

few = pytest.mark.filterwarnings("ignore::unlearnkit.exceptions.SmallSampleWarning")


@settings(max_examples=20)
@given(st.integers(2, 12), st.integers(1, 6), st.integers(1, 4), st.floats(0.2, 3), st.integers(0, 1000))
def test_density_is_that_of_the_independent_ones(m, b, n, width, seed):
    rng = np.random.default_rng(seed)
    fitted, x = rng.normal(0, 2, (m, n)), rng.normal(0, 2, (b, n))
    fixed, scott = kernel_log_density(fitted, x, width), kernel_log_density(fitted, x, "scott")
    for j in range(n):
        kde = KernelDensity(kernel="gaussian", bandwidth=width).fit(fitted[:, [j]])
        np.testing.assert_allclose(fixed[:, j], kde.score_samples(x[:, [j]]), rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(
            scott[:, j], gaussian_kde(fitted[:, j]).logpdf(x[:, j]), rtol=1e-6, atol=1e-9
        )


def test_density_by_hand():
    found = kernel_log_density(np.array([[0.0], [2.0]]), np.array([[1.0]]))
    assert found.item() == pytest.approx(-0.5 - np.log(2 * np.pi) / 2)


def test_a_margin_far_from_both_has_a_density():
    found = kernel_log_density(np.zeros((3, 1)), np.array([[100.0]]))
    assert found.item() == pytest.approx(-5000 - np.log(2 * np.pi) / 2)


def draw(seed, shift, m=36, n=60):
    """Margins of three sets of models; the first is set apart on the first third of the samples."""
    rng = np.random.default_rng(seed)
    center = rng.normal(0, 3, n)
    unlearned, unseen, retrained = center + rng.normal(size=(3, m, n))
    unlearned[:, : n // 3] += shift
    return unlearned, unseen, retrained


@few
def test_groups_are_judged_for_themselves():
    found = ruli(*draw(0, 2.0), groups={"vulnerable": np.arange(60) < 20, "protected": np.arange(20, 60)})
    for game in (found.privacy, found.efficacy):
        assert list(game) == ["all", "vulnerable", "protected"]
        assert game["vulnerable"].low > 0.7
        assert game["protected"].low < 0.5 < game["protected"].high
        assert game["protected"].value < game["all"].value < game["vulnerable"].value
        assert [len(one.per_sample) for one in game.values()] == [60, 20, 40]


@few
def test_the_average_hides_what_the_group_shows():
    unlearned, unseen, _ = draw(1, 3.0, n=300)
    unlearned[:, 10:] = unseen[:, 10:][::-1]
    found = ruli(unlearned, unseen, groups={"canaries": range(10)}).privacy
    assert found["all"].value < 0.55 < 0.9 < found["canaries"].value


@few
def test_null():
    found = [ruli(*draw(seed, 0.0, n=20), n_bootstrap=100) for seed in range(40)]
    for values in ([one.privacy["all"].value for one in found], [one.efficacy["all"].value for one in found]):
        assert np.mean(values) == pytest.approx(0.5, abs=3 * np.std(values) / np.sqrt(40))
    inside = [one.privacy["all"].low <= 0.5 <= one.privacy["all"].high for one in found]
    assert np.mean(inside) > 0.9


@few
def test_a_kernel_sees_what_a_gaussian_does_not():
    # Two modes against one, of equal mean and variance.
    rng = np.random.default_rng(2)
    two = rng.choice([-4.0, 4.0], (60, 10)) + rng.normal(0, 0.5, (60, 10))
    one = rng.normal(0, np.sqrt(16.25), (60, 10))
    assert ruli(two, one).privacy["all"].value > 0.7 > 0.6 > u_lira(two, one).value


@few
def test_the_games_differ_in_their_reference():
    unlearned, unseen, retrained = draw(3, 0.0)
    traces = ruli(unlearned + 2, unseen + 2, retrained)  # unlearning moved every sample
    assert traces.privacy["all"].low < 0.5 < traces.privacy["all"].high
    assert traces.efficacy["all"].low > 0.7
    assert ruli(unlearned, unseen).efficacy is None
    np.testing.assert_array_equal(
        ruli(unlearned, unseen, unseen).efficacy["all"].per_sample,
        ruli(unlearned, unseen).privacy["all"].per_sample,
    )


@few
def test_bandwidth():
    rng = np.random.default_rng(4)
    close = 0.05 * rng.normal(size=(2, 40, 20)) + np.array([0.1, 0.0])[:, None, None]
    assert ruli(*close, bandwidth="scott").privacy["all"].value > 0.85
    with pytest.raises(DataError, match="bandwidth"):
        ruli(*close, bandwidth=0)
    with pytest.raises(DataError, match="bandwidth"):
        ruli(*close, bandwidth="silverman")


def test_few_models_are_warned_of():
    with pytest.warns(SmallSampleWarning, match="29 models"):
        ruli(*np.random.default_rng(5).normal(size=(2, 29, 200)))


@pytest.mark.parametrize("group", [[], np.zeros(60, bool), [60], [-1], [0.5], np.ones(59, bool), [[1]]])
@few
def test_unusable_groups_are_refused(group):
    with pytest.raises(DataError, match="the group 'risk'"):
        ruli(*draw(6, 0.0), groups={"risk": group}, n_bootstrap=0)


@few
def test_bad_margins_are_refused():
    unlearned, unseen, retrained = draw(7, 0.0)
    with pytest.raises(DataError, match="unseen needs the margins of at least 4"):
        ruli(unlearned, unseen[:3])
    with pytest.raises(DataError, match="retrained has 59"):
        ruli(unlearned, unseen, retrained[:, 1:])
