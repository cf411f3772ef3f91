# SPDX-License-Identifier: BSD-3-Clause
import json
from dataclasses import replace

import pytest

from unlearnkit import DataError
from unlearnkit.log.entries import Budget, Drift, Entry, drift_of

ENTRY = Entry(
    number=1,
    request_id="a",
    method="ASSD()",
    n_forget=5,
    n_new=4,
    n_left_out=0,
    reference="stored",
    seconds=0.5,
    n_changed=30,
    n_total=100,
    distance=2.0,
    forget_accuracy=(1.0, 0.5),
    forget_loss=(0.1, 0.9),
    validation_accuracy=(0.9, 0.875),
    validation_loss=None,
    warnings=("so so",),
    result="0" * 32,
    started="2026-01-01T00:00:00+00:00",
    samples_checksum="",
)


def test_an_entry_goes_through_json():
    assert Entry.from_dict(json.loads(json.dumps(ENTRY.to_dict()))) == ENTRY
    assert repr(ENTRY) == "Entry 1, 'a': 5 samples, 30 of 100 weights"
    assert repr(replace(ENTRY, status="undone")).endswith(", undone")
    assert ENTRY.drop == pytest.approx(0.025) and replace(ENTRY, validation_accuracy=None).drop is None


def test_drift_of_what_stands():
    entries = [ENTRY, replace(ENTRY, number=2, status="undone"), replace(ENTRY, number=3, n_changed=90)]
    assert drift_of(entries, 80, 10.0) == Drift(2, 8, 80, ENTRY.drop + ENTRY.drop, 1.0, 0.4)
    assert drift_of(entries, 80, 10.0).forgotten == 0.1
    nothing = drift_of([], None, 0.0)
    assert nothing == Drift(0, 0, None, None, 0.0, 0.0) and nothing.forgotten is None


def test_an_accuracy_that_is_not_known_counts_for_nothing():
    entries = [ENTRY, replace(ENTRY, validation_accuracy=None)]
    assert drift_of(entries, None, 1.0).drop == ENTRY.drop
    assert drift_of(entries[1:], None, 1.0).drop is None


def test_budget():
    drift = Drift(2, 30, 100, 0.06, 1.0, 0.4)
    assert Budget(None, None).exceeded(drift) == Budget(0.06, 0.3).exceeded(drift) == []
    assert len(Budget(0.05, 0.2).exceeded(drift)) == 2
    assert "fallen by 6.0% since the base, more than max_drop=0.05" in Budget(0.05, None).exceeded(drift)[0]
    assert Budget(0.0, 0.0).exceeded(Drift(0, 0, None, None, 0.0, 0.0)) == []
    with pytest.raises(
        DataError, match="max_drop must be a fraction from 0 to 1, or None for no bound, got -1"
    ):
        Budget(-1, None)
