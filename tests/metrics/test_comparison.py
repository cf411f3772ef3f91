# SPDX-License-Identifier: BSD-3-Clause
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unlearnkit.exceptions import DataError
from unlearnkit.metrics import avg_gap, mean_interval, retention, rte, tow, tow_mia
from unlearnkit.metrics.comparison import avg_gap_ends, tow_ends

FRACTION = st.floats(0, 1)
RESULTS = st.fixed_dictionaries({"forget": FRACTION, "retain": FRACTION, "test": FRACTION})
ORACLE = {"forget": 0.5, "retain": 1.0, "test": 0.75}


def test_tow_by_hand():
    unlearned = {"forget": 0.75, "retain": 0.5, "test": 0.75}
    assert tow(unlearned, ORACLE) == 0.75 * 0.5 * 1


def test_tow_of_a_model_that_kept_what_retraining_forgets():
    kept = {"forget": 1.0, "retain": 1.0, "test": 1.0}
    assert tow(kept, {"forget": 0.0, "retain": 1.0, "test": 1.0}) == 0


def test_avg_gap_is_the_papers_table_1():
    # SalUn, 10 % random, CIFAR-10: the row's Avg. Gap follows from the other columns.
    retrain = {"forget": 1 - 0.0524, "retain": 1.0, "test": 0.9426, "mia": 0.1288}
    salun = {"forget": 1 - 0.0285, "retain": 0.9962, "test": 0.9393, "mia": 0.1439}
    assert avg_gap(salun, retrain) == pytest.approx((2.39 + 0.38 + 0.33 + 1.51) / 400)


def test_avg_gap_leaves_mia_out_where_one_side_lacks_it():
    unlearned = {"forget": 0.8, "retain": 1.0, "test": 0.75, "mia": 0.9}
    assert avg_gap(unlearned, ORACLE) == pytest.approx(0.1)


@given(RESULTS, RESULTS)
def test_range_symmetry_and_identity(one, other):
    score = tow(one, other)
    assert 0 <= score <= 1
    assert score == tow(other, one)
    assert tow(one, one) == 1 and avg_gap(one, one) == 0
    equal = all(abs(one[key] - other[key]) < 1e-12 for key in one)
    assert equal or score < 1


@given(RESULTS, RESULTS)
def test_the_mean_gap_bounds_tow(one, other):
    # prod(1 - d_i) >= 1 - sum(d_i), with the three gaps' sum 3 * avg_gap.
    assert tow(one, other) >= 1 - 3 * avg_gap(one, other) - 1e-12


@pytest.mark.parametrize("function", [tow, avg_gap])
def test_a_missing_key_is_refused(function):
    with pytest.raises(DataError, match="oracle model's results lack 'test'"):
        function(ORACLE, {"forget": 0.5, "retain": 1.0})


@pytest.mark.parametrize("function", [tow, avg_gap])
@pytest.mark.parametrize("value", [75.0, -0.1, float("nan")])
def test_percent_is_refused(function, value):
    with pytest.raises(DataError, match="divide percent by 100"):
        function(ORACLE | {"test": value}, ORACLE)


def test_tow_mia_by_hand():
    unlearned = {"mia": 0.3, "forget": 0.0, "retain": 0.9, "test": 0.75}
    assert tow_mia(unlearned, ORACLE | {"mia": 0.5}) == pytest.approx(0.8 * 0.9 * 1)
    with pytest.raises(DataError, match="oracle model's results lack 'mia'"):
        tow_mia(unlearned, ORACLE)


def test_retention_by_hand():
    unlearned = {"forget": 0.75, "retain": 0.5, "test": 0.75}
    assert [retention(unlearned, ORACLE, key) for key in ("retain", "forget", "test")] == [0.5, 1.5, 1]
    with pytest.raises(DataError, match="divides by the oracle's accuracy, which is 0"):
        retention(unlearned, ORACLE | {"forget": 0.0}, "forget")
    with pytest.raises(DataError, match="divide percent by 100"):
        retention(unlearned, ORACLE | {"forget": 50.0}, "forget")


def test_rte_is_how_many_times_faster():
    assert rte(2.0, 60.0) == 30
    for wrong in ((0.0, 1.0), (1.0, -1.0), (1.0, float("inf")), (float("nan"), 1.0)):
        with pytest.raises(DataError, match="must be a positive number"):
            rte(*wrong)


def test_ends_by_hand():
    differences = [(-0.1, 0.2), (0.1, 0.3), (-0.4, -0.2)]
    assert tow_ends(differences) == pytest.approx((0.8 * 0.7 * 0.6, 1 * 0.9 * 0.8))
    assert avg_gap_ends(differences) == pytest.approx((0.3 / 3, 0.9 / 3))
    assert tow_ends([(-1.3, 0.5)]) == (0, 1)


DIFFERENCE = st.tuples(st.floats(-1, 1), st.floats(-1, 1)).map(lambda pair: tuple(sorted(pair)))


@given(st.lists(DIFFERENCE, min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_ends_hold_every_value_within(differences, random):
    inside = [random.uniform(*ends) for ends in differences]
    low, high = tow_ends(differences)
    assert low - 1e-12 <= np.prod([1 - abs(gap) for gap in inside]) <= high + 1e-12
    low, high = avg_gap_ends(differences)
    assert low - 1e-12 <= np.mean(np.abs(inside)) <= high + 1e-12


@pytest.mark.parametrize("same", [True, False])
def test_coverage_of_tow(same):
    # Forget, retain and test of two models whose true accuracies are known. Percentiles of resampled
    # distances would never cover the 1 of two models that are alike.
    rng = np.random.default_rng(0)
    oracle = np.array([0.7, 0.95, 0.85])
    model = oracle if same else np.array([0.9, 0.93, 0.8])
    truth = np.prod(1 - np.abs(model - oracle))
    sizes, cover, percentiles = (60, 200, 150), [], []
    for _ in range(400):
        ends, resampled = [], np.ones(200)
        for n, a, b in zip(sizes, model, oracle, strict=True):
            differences = (rng.random(n) < a).astype(float) - (rng.random(n) < b)
            ends.append(
                mean_interval(differences, bounds=(-1, 1), confidence=1 - 0.1 / 3, n_bootstrap=600)[1:]
            )
            resampled *= 1 - np.abs(rng.choice(differences, (200, n)).mean(axis=1))
        low, high = tow_ends(ends)
        cover.append(low <= truth <= high)
        percentiles.append(np.quantile(resampled, 0.95) >= truth)
    assert np.mean(cover) > 0.9 - 3 * np.sqrt(0.9 * 0.1 / 400)  # by chance alone it would be so once in 740
    if same:
        assert np.mean(percentiles) < 0.05
