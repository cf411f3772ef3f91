# SPDX-License-Identifier: BSD-3-Clause
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import logit
from scipy.stats import norm
from sklearn.decomposition import PCA
from sklearn.mixture import GaussianMixture
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from unlearnkit.finding._clusters import OF_A_CLASS, Centres, _moments, fit_clusters
from unlearnkit.finding._look import log_odds

seeds = st.integers(0, 2**32 - 1)


def two_clouds(seed, n=80, columns=4, away=5.0):
    draw = np.random.default_rng(seed)
    rows = draw.normal(size=(n, columns))
    rows[: n // 3, 0] += away
    return rows * draw.uniform(0.1, 10, columns) + draw.normal(size=columns)


@settings(max_examples=30)
@given(seeds, st.sampled_from(["full", "diag"]), st.sampled_from([None, 2, 4]))
def test_equals_the_pipeline_of_scikit_learn(seed, covariance, pca):
    rows = two_clouds(seed)
    steps = [StandardScaler()] + [PCA(pca, whiten=True, random_state=7)] * (pca is not None)
    steps.append(GaussianMixture(2, covariance_type=covariance, n_init=2, random_state=7))
    wanted = make_pipeline(*steps).fit(rows).predict_proba(rows)
    found = fit_clusters(rows, pca=pca, covariance=covariance, n_init=2, seed=7).posteriors(rows, None)
    np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-12)


@settings(max_examples=30)
@given(seeds, st.integers(0, 5))
def test_a_row_is_less_the_mean_of_its_class_if_that_has_rows_enough(seed, classes):
    draw = np.random.default_rng(seed)
    rows, labels = draw.normal(size=(60, 3)), draw.integers(0, classes + 1, 60)
    centres = Centres.of(rows, labels)
    for row, label, found in zip(rows, labels, centres.less(rows, labels), strict=True):
        own = rows[labels == label]
        mean = own.mean(0) if len(own) >= OF_A_CLASS else rows.mean(0)
        np.testing.assert_allclose(found, row - mean)
    unknown = centres.less(rows, np.full(60, 99))
    np.testing.assert_allclose(unknown, rows - rows.mean(0))
    np.testing.assert_allclose(Centres.of(rows, None).less(rows, None), rows - rows.mean(0))


@pytest.mark.parametrize("covariance", ["full", "diag"])
def test_moments_are_those_of_the_two_groups(covariance):
    rows = two_clouds(0)
    second = np.zeros(len(rows))
    second[:20] = 1
    found = _moments(rows, second, covariance)
    for part, weight, mean, precision in zip(
        (rows[20:], rows[:20]),
        found["weights_init"],
        found["means_init"],
        found["precisions_init"],
        strict=True,
    ):
        assert weight == pytest.approx(len(part) / len(rows))
        np.testing.assert_allclose(mean, part.mean(0))
        wanted = np.cov(part.T, bias=True) if covariance == "full" else np.diag(part.var(0))
        given_back = np.linalg.inv(precision) if covariance == "full" else np.diag(1 / precision)
        np.testing.assert_allclose(given_back, wanted, atol=1e-5)


def test_a_start_is_begun_with():
    draw = np.random.default_rng(0)
    wide, narrow = draw.normal(size=(400, 1)) * 10, draw.normal(size=(100, 1)) * 0.1
    rows, narrowly = np.concatenate([wide, narrow]), np.repeat([0.0, 1.0], [400, 100])
    started = fit_clusters(rows, start=narrowly)
    assert abs(started.posteriors(rows, None)[:, 1] - narrowly).mean() < 0.1
    turned = fit_clusters(rows, start=1 - narrowly)
    np.testing.assert_allclose(
        turned.posteriors(rows, None)[:, ::-1], started.posteriors(rows, None), atol=1e-6
    )


@pytest.mark.parametrize("start", [np.zeros(80), np.ones(80), np.full(80, 0.01)])
def test_a_start_with_all_in_one_cluster_is_none(start):
    assert fit_clusters(two_clouds(0), start=start) is None


@settings(max_examples=30)
@given(seeds, st.sampled_from(["full", "diag"]))
def test_distances_are_those_of_the_fitted_normal_distributions(seed, covariance):
    """Without PCA and on one column, both have a closed form in the two means and deviations."""
    rows = two_clouds(seed, columns=1)
    clusters = fit_clusters(rows, covariance=covariance)
    mixture = clusters.mixture
    (m, o), (v, w) = mixture.means_[:, 0], mixture.covariances_.ravel()
    assert clusters.distance == pytest.approx(abs(m - o) / np.sqrt((v + w) / 2))
    x = np.linspace(-30, 30, 200_001)
    overlap = np.trapezoid(np.sqrt(norm.pdf(x, m, v**0.5) * norm.pdf(x, o, w**0.5)), x)
    assert clusters.bhattacharyya == pytest.approx(-np.log(overlap), rel=1e-3)


@settings(max_examples=30)
@given(seeds, st.floats(0.05, 20), st.floats(0, 5))
def test_between_the_extremes_the_probability_is_monotone(seed, wider, away):
    draw = np.random.default_rng(seed)
    rows = np.concatenate([draw.normal(size=(60, 1)), wider * draw.normal(size=(40, 1)) + away])
    clusters = fit_clusters(rows, seed=0)
    low, high = clusters.extremes()
    x = np.linspace(rows.min() - 9, rows.max() + 9, 2001)
    steps = np.diff(clusters.posteriors(x.clip(low, high)[:, None], None)[:, 0])
    assert (steps >= -1e-9).all() or (steps <= 1e-9).all()
    inside = x[(x > low) & (x < high)]  # nothing more is given away: the turning point itself is kept
    assert len(inside) == 0 or min(abs(inside[0] - max(low, x[0])), abs(inside[-1] - min(high, x[-1]))) < 0.1


def test_columns_that_do_not_vary_are_left_out():
    rows = two_clouds(0)
    padded = np.insert(rows, [0, 2, 4], [3.0, 0.0, 1e6], axis=1)
    padded[0, 3] = 1e-30  # of a column of zeros: it varies after all
    clusters = fit_clusters(padded)
    assert clusters.columns.tolist() == [False, True, True, True, True, True, False]
    same = fit_clusters(np.delete(padded, [0, 6], axis=1))
    np.testing.assert_allclose(clusters.posteriors(padded, None), same.posteriors(padded[:, 1:6], None))


@pytest.mark.parametrize("rows", [np.ones((9, 3)), np.zeros((1, 3)), np.zeros((0, 3)), np.zeros((9, 0))])
def test_without_any_difference_there_are_no_clusters(rows):
    assert fit_clusters(rows) is None


@given(st.lists(st.floats(1e-12, 600), min_size=1, max_size=20))
def test_log_odds_are_those_of_the_probability(losses):
    losses = np.array(losses)
    p = np.exp(-losses)
    sane = (losses > 1e-4) & (losses < 30)  # elsewhere 1 - p has no digits left
    np.testing.assert_allclose(log_odds(losses)[sane], -logit(p[sane]), rtol=1e-6, atol=1e-6)
    found = log_odds(losses)
    assert np.isfinite(found).all()
    assert (np.diff(found[np.argsort(losses)]) >= 0).all()


def test_losses_of_other_tasks_have_no_odds():
    below = np.array([-1.0, 0.0, 3.0])
    np.testing.assert_array_equal(log_odds(below), below)
    assert np.isfinite(log_odds(np.array([0.0, 0.0, 2.0]))).all()
    assert np.isfinite(log_odds(np.zeros(3))).all()


@pytest.mark.parametrize("seed", range(5))
def test_features_of_any_scale_have_a_start(seed):
    draw = np.random.default_rng(seed)
    rows = np.exp(draw.normal(0, 8, (50, 10)))  # what is nearly singular has an inverse that is not symmetric
    rows[:, 5:] = rows[:, :5] * (1 + 1e-6 * draw.normal(size=(50, 5)))
    found = fit_clusters(rows, start=(draw.random(50) < 0.2).astype(float)).posteriors(rows, None)
    assert np.isfinite(found).all()
