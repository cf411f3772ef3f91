# SPDX-License-Identifier: BSD-3-Clause
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unlearnkit.exceptions import DataError
from unlearnkit.metrics import avg_gap, tow

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
