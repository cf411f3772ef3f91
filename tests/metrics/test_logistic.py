# SPDX-License-Identifier: BSD-3-Clause
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, StratifiedShuffleSplit, cross_val_score

from unlearnkit.exceptions import DataError
from unlearnkit.metrics import entropy_mia, indis, lr_mia


def test_separated_losses_are_told_apart_and_equal_ones_are_not():
    assert lr_mia(np.zeros(20), np.full(30, 5.0)) == 1
    rng = np.random.default_rng(0)
    scores = [lr_mia(*rng.exponential(size=(2, 100)), random_state=seed) for seed in range(40)]
    assert np.mean(scores) == pytest.approx(0.5, abs=0.04)


def test_it_is_sklearns_cross_validation():
    rng = np.random.default_rng(1)
    forget, test = rng.exponential(1, 100), rng.exponential(2, 100)
    losses, truth = np.concatenate([forget, test])[:, None], np.repeat([1, 0], 100)
    ours = np.mean([lr_mia(forget, test, random_state=seed) for seed in range(20)])
    folds = [StratifiedKFold(10, shuffle=True, random_state=seed) for seed in range(20)]
    theirs = np.mean([cross_val_score(LogisticRegression(), losses, truth, cv=cv) for cv in folds])
    assert ours == pytest.approx(theirs, abs=0.005)
    # The authors' ten random tenths estimate the same.
    authors = [StratifiedShuffleSplit(10, random_state=seed) for seed in range(20)]
    published = np.mean([cross_val_score(LogisticRegression(), losses, truth, cv=cv) for cv in authors])
    assert ours == pytest.approx(published, abs=0.02)


def test_sides_are_balanced():
    # 900 unseen and 100 forgotten samples of one distribution: guessing "unseen" would score 0.9.
    rng = np.random.default_rng(2)
    losses, truth = rng.exponential(size=1000), np.repeat([1, 0], [100, 900])
    naive = cross_val_score(LogisticRegression(), losses[:, None], truth, cv=10).mean()
    scores = [lr_mia(losses[:100], losses[100:], random_state=seed) for seed in range(20)]
    assert naive == pytest.approx(0.9)
    assert np.mean(scores) == pytest.approx(0.5, abs=0.06)


def test_draws_are_capped_and_seeded():
    rng = np.random.default_rng(3)
    forget, test = rng.exponential(1, 300), rng.exponential(2, 200)
    scores = [lr_mia(forget, test, max_samples=20, random_state=seed) for seed in range(6)]
    assert len(set(scores)) > 1 and all((40 * score) == pytest.approx(round(40 * score)) for score in scores)
    np.random.seed(0)
    assert lr_mia(forget, test, max_samples=20, random_state=3) == scores[3]


@settings(max_examples=15)
@given(st.integers(2, 30), st.integers(2, 30), st.integers(0, 99))
def test_accuracy_is_a_share(n, m, seed):
    rng = np.random.default_rng(seed)
    score = lr_mia(rng.random(n), rng.random(m), random_state=seed)
    assert 0 <= score <= 1 and (2 * min(n, m) * score) == pytest.approx(round(2 * min(n, m) * score))


def test_tiny_losses_show_its_weakness():
    # As the docstring says: perfectly separate, but hardly above chance, for the penalty forbids the slope.
    forget, test = np.full(50, 1e-6), np.resize([2e-6, 3e-6], 50)
    assert lr_mia(forget * 1e6, test * 1e6) == 1
    assert lr_mia(forget, test) < 0.9


def test_entropy_attack_by_an_independent_regression():
    rng = np.random.default_rng(4)
    members, nonmembers, targets = rng.exponential(0.5, 300), rng.exponential(1.5, 60), rng.exponential(1, 80)
    x, y = np.concatenate([members, nonmembers]), np.repeat([1.0, 0.0], [300, 60])
    weight = np.where(y == 1, 360 / 600, 360 / 120)

    def loss(theta):
        z = theta[0] * x + theta[1]
        return (weight * (np.logaddexp(0, z) - y * z)).sum() + theta[0] ** 2 / 2

    slope, shift = minimize(loss, [0.0, 0.0], tol=1e-10).x
    assert entropy_mia(members, nonmembers, targets) == np.mean(slope * targets + shift > 0)


def test_entropy_attack_counts_members():
    assert entropy_mia(np.zeros(30), np.full(20, 2.0), [0.0, 0.1, 1.9]) == pytest.approx(2 / 3)


def test_indis_by_hand():
    assert [indis(value) for value in (0.5, 0.75, 1.0, 0.0, 0.4)] == pytest.approx([1, 0.5, 0, 0, 0.8])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: lr_mia([1.0], [1.0, 2.0]), "at least two samples of either side; got 1 forgotten and 2"),
        (lambda: lr_mia([], [1.0, 2.0]), "forget must hold one value"),
        (lambda: lr_mia([1.0, 2.0], [np.nan, 1.0]), "test must be finite"),
        (lambda: lr_mia([1.0, 2.0], [1.0, 2.0], n_splits=1), "at least 2; got None and 1"),
        (lambda: lr_mia([1.0, 2.0], [1.0, 2.0], max_samples=1), "at least 2; got 1 and 10"),
        (lambda: entropy_mia([], [1.0], [1.0]), "members"),
        (lambda: entropy_mia([0.1], [[1.0]], [1.0]), "nonmembers"),
        (lambda: entropy_mia([0.1], [1.0], [np.inf]), "targets must be finite"),
        (lambda: indis(1.2), "fraction in"),
        (lambda: indis(float("nan")), "fraction in"),
    ],
)
def test_what_cannot_be_attacked_is_refused(call, message):
    with pytest.raises(DataError, match=message):
        call()
