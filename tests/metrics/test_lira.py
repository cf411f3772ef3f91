# SPDX-License-Identifier: BSD-3-Clause
"""U-LiRA beside SciPy's normal fits and scikit-learn's ROC curve; its null, power and folds."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from sklearn.metrics import roc_auc_score, roc_curve

from unlearnkit.exceptions import DataError, SmallSampleWarning
from unlearnkit.metrics._attack import Judged, attack, tpr_at
from unlearnkit.metrics.lira import gaussian_log_ratio, u_lira

few = pytest.mark.filterwarnings("ignore::unlearnkit.exceptions.SmallSampleWarning")


def draw(seed, m=32, n=40, shift=0.0, scale=1.0):
    """Margins of two sets of models: `shift` and `scale` set the first apart."""
    rng = np.random.default_rng(seed)
    center, spread = rng.normal(0, 3, n), rng.uniform(0.5, 2, n)
    first, second = rng.normal(size=(2, m, n))
    return center + spread * (shift + scale * first), center + spread * second


@settings(max_examples=20)
@given(st.integers(2, 9), st.integers(2, 9), st.integers(1, 6), st.integers(1, 5), st.integers(0, 1000))
def test_the_ratio_is_that_of_scipys_fits(m, k, b, n, seed):
    rng = np.random.default_rng(seed)
    ours, theirs, x = rng.normal(size=(m, n)), rng.normal(1, 2, (k, n)), rng.normal(size=(b, n))
    found = gaussian_log_ratio(ours, theirs, x)
    for j in range(n):
        fits = [norm(*norm.fit(one[:, j])) for one in (ours, theirs)]
        np.testing.assert_allclose(found[:, j], fits[0].logpdf(x[:, j]) - fits[1].logpdf(x[:, j]), rtol=1e-6)
        score = fits[0].pdf(x[:, j]) / (fits[0].pdf(x[:, j]) + fits[1].pdf(x[:, j]))
        np.testing.assert_allclose(
            1 / (1 + np.exp(-found[:, j].clip(-500, 500))), score, rtol=1e-6, atol=1e-12
        )


def test_a_margin_far_from_both_has_a_score():
    # As a quotient of densities it is 0 / 0.
    x = np.array([[100.0]])
    ours, theirs = np.array([[0.0], [2.0]]), np.array([[-1.0], [1.0]])
    assert norm.pdf(100, 1, 1) + norm.pdf(100, 0, 1) == 0
    assert gaussian_log_ratio(ours, theirs, x).item() == pytest.approx(99.5)


def test_pooled_variance():
    ours, theirs, x = np.random.default_rng(0).normal(size=(3, 8, 4))
    wide = ours * [1, 2, 3, 4]
    spread = [math.sqrt(np.mean([np.var(one[:, j]) for j in range(4)])) for one in (wide, theirs)]
    expected = norm.logpdf(x, wide.mean(0), spread[0]) - norm.logpdf(x, theirs.mean(0), spread[1])
    np.testing.assert_allclose(gaussian_log_ratio(wide, theirs, x, pooled=True), expected)


def test_equal_models_do_not_divide_by_zero():
    ours, theirs = np.zeros((3, 1)), np.ones((3, 1))
    assert np.isfinite(gaussian_log_ratio(ours, theirs, np.array([[0.0], [1.0], [0.5]]))).all()


@few
@settings(max_examples=25)
@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 9), st.booleans(), st.integers(0, 1000))
def test_held_out_figures_are_scikit_learns(u, r, n, ties, seed):
    rng = np.random.default_rng(seed)
    first, second = rng.normal(0.5, 1, (u, n)), rng.normal(size=(r, n))
    if ties:
        first, second = np.round(first), np.round(second)
    found = attack([Judged(first, second)], (0.01, 0.3), 0.95, 0, 0)
    labels = np.r_[np.ones(u * n), np.zeros(r * n)]
    scores = np.r_[first.ravel(), second.ravel()]
    assert found.value == pytest.approx(roc_auc_score(labels, scores))
    fpr, tpr, _ = roc_curve(labels, scores, drop_intermediate=False)
    for rate, value in found.tpr.items():
        assert value == pytest.approx(tpr[fpr <= rate + 1e-12].max())
    calls = [np.mean((s > 0) + (s == 0) / 2) for s in (first, -second)]
    assert found.balanced_accuracy == pytest.approx(np.mean(calls))
    for j in range(n):
        auc = roc_auc_score(np.r_[np.ones(u), np.zeros(r)], np.r_[first[:, j], second[:, j]])
        assert found.per_sample[j] == pytest.approx(auc)


def by_loops(folds):
    """AUC over the pairs of models and samples within folds."""
    won = cases = 0
    for fold in folds:
        for one in fold.unlearned:
            for other in fold.reference:
                for a in one:
                    for b in other:
                        won += (a > b) + (a == b) / 2
                        cases += 1
    return won / cases


@few
def test_folds_are_kept_apart():
    rng = np.random.default_rng(1)
    folds = [Judged(rng.normal(size=(u, 5)), rng.normal(size=(r, 5))) for u, r in ((2, 3), (3, 3), (1, 2))]
    found = attack(folds, (0.1,), 0.95, 0, 0)
    assert found.value == pytest.approx(by_loops(folds))
    shifted = [Judged(f.unlearned + 100 * k, f.reference + 100 * k) for k, f in enumerate(folds)]
    assert attack(shifted, (0.1,), 0.95, 0, 0).value == pytest.approx(found.value)
    assert found.n_models == (6, 8)


def test_tpr_by_hand():
    negative = np.arange(10.0)
    assert tpr_at(np.array([8.5, 9.5]), negative, 0.1) == 1.0  # one of ten may lie above
    assert tpr_at(np.array([8.5, 9.5]), negative, 0.09) == 0.5  # none
    assert tpr_at(np.array([9.0]), np.full(10, 9.0), 0.5) == 0  # a tie is not above


@few
def test_no_model_is_judged_by_its_own_fit():
    # Judged by fits on themselves, models without any difference would be told apart.
    ours, theirs = draw(2, m=4, n=300)
    fitted = attack(
        [Judged(*(gaussian_log_ratio(ours, theirs, one) for one in (ours, theirs)))], (0.1,), 0.95, 0, 0
    )
    assert fitted.value > 0.75
    assert u_lira(ours, theirs).value == pytest.approx(0.5, abs=0.07)


@few
def test_the_null_is_unbiased_and_within_its_interval():
    # Leaving single models out of one AUC would lie below 0.5.
    found = [u_lira(*draw(seed, m=12, n=20), random_state=seed, n_bootstrap=200) for seed in range(120)]
    values = np.array([one.value for one in found])
    accuracies = np.array([one.balanced_accuracy for one in found])
    for figures in (values, accuracies):
        assert abs(figures.mean() - 0.5) < 3 * figures.std() / math.sqrt(120)
    inside = np.mean([one.low <= 0.5 <= one.high for one in found])
    assert inside > 0.9
    assert np.mean([one.tpr[0.01] for one in found]) < 0.03


@few
def test_power():
    null = u_lira(*draw(3))
    shifted, narrow = u_lira(*draw(3, shift=1.0)), u_lira(*draw(3, scale=0.3))
    for told in (shifted, narrow):
        assert told.low > 0.5 and told.accuracy_low > 0.5 and told.value > null.high
        assert told.tpr[0.01] > null.tpr[0.01] and told.per_sample.mean() > 0.6
    assert u_lira(*draw(3, shift=30.0)).value == 1
    pooled = u_lira(*draw(4, m=5, n=200, shift=1.0), variance="pooled")
    assert pooled.value > u_lira(*draw(4, m=5, n=200, shift=1.0)).value  # steadier with few models


@few
def test_held_out_models_alone_are_judged():
    ours, theirs = draw(5, shift=1.0)
    held = ours[:9], theirs[:7]
    found = u_lira(torch.tensor(ours[9:]), torch.tensor(theirs[7:]), held)
    scores = [gaussian_log_ratio(ours[9:], theirs[7:], one) for one in held]
    labels = np.repeat([1, 0], [9 * 40, 7 * 40])
    assert found.value == pytest.approx(roc_auc_score(labels, np.r_[scores[0].ravel(), scores[1].ravel()]))
    assert found.n_models == (9, 7) and "per_sample" not in repr(found)


@few
def test_settings():
    ours, theirs = draw(6)
    assert u_lira(ours, theirs, n_bootstrap=0).low is None
    assert u_lira(ours, theirs, random_state=1).value == u_lira(ours, theirs, random_state=1).value
    assert u_lira(ours, theirs, folds=2, random_state=1).value != u_lira(ours, theirs, random_state=1).value
    assert u_lira(ours, theirs, rates=()).tpr == {}
    assert u_lira(ours[:4], theirs[:5], folds=50).n_models == (4, 5)


def test_few_models_and_few_cases_are_warned_of():
    ours, theirs = draw(7, m=31, n=200)
    with pytest.warns(SmallSampleWarning, match="31 models"):
        u_lira(ours, theirs)
    ours, theirs = draw(7, m=40, n=20)
    with pytest.warns(SmallSampleWarning, match=r"0\.1% FPR rests on 160 reference cases, and 1000"):
        u_lira(ours, theirs)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"unlearned": np.zeros((3, 5))}, "at least 4 models"),
        ({"reference": np.zeros((3, 5))}, "at least 4 models"),
        ({"reference": np.zeros((9, 4))}, "4 samples where"),
        ({"reference": np.full((9, 5), np.nan)}, "reference must be finite"),
        ({"held_out": (np.zeros((2, 5)), np.zeros((2, 4)))}, "held_out reference has 4 samples"),
        ({"variance": "mine"}, "variance"),
        ({"folds": 1}, "folds"),
        ({"rates": (1.0,)}, "false positive rates"),
        ({"confidence": 1.5}, "confidence"),
    ],
)
@few
def test_bad_input_is_refused(change, message):
    with pytest.raises(DataError, match=message):
        u_lira(**{"unlearned": np.zeros((9, 5)), "reference": np.zeros((9, 5)), **change})
