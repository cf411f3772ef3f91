# SPDX-License-Identifier: BSD-3-Clause
"""The benchmark of a search: that it counts, that it notices tables that differ, and that it runs."""

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from unlearnkit import SSD, FisherDiagonal

FOLDER = Path(__file__).parents[2] / "benchmarks"
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="a source distribution has no benchmarks")


@pytest.fixture
def study(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module("search")


@pytest.fixture
def task(study):
    return study.Task(epochs=1)


def test_measurements_are_counted(study, task):
    with study.counted() as calls:
        SSD(alpha=1).fit(task.model, **task.sets)
    assert len(calls) == 2  # the forget set and all that was trained on
    FisherDiagonal().measure(task.model, task.unseen)
    assert len(calls) == 2  # no more at the end of the block


def test_sets_share_no_sample(task):
    rows = torch.cat([X.flatten(1) for X, _ in (*task.sets.values(), task.unseen)])
    assert len(rows.unique(dim=0)) == len(rows) > 1600
    assert not (task.sets["retain"][1] == task.sets["forget"][1][0]).any()


def table():
    return {
        "mean_fit_time": np.array([1.0, 2.0]),
        "param_alpha": np.ma.array([1.0, 2.0], mask=[False, True], dtype=object),
        "params": [{"alpha": 1.0}, {}],
        "mean_test_score": np.array([0.5, np.nan]),
        "collapsed": np.array([False, True]),
    }


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("param_alpha", np.ma.array([1.0, 2.0], mask=[False, False], dtype=object)),
        ("params", [{"alpha": 1.0}, {"alpha": 1.0}]),
        ("mean_test_score", np.array([np.nextafter(0.5, 1), np.nan])),
        ("mean_test_score", np.array([0.5, 0.5])),
        ("collapsed", np.array([False, False])),
    ],
)
def test_tables_that_differ_are_noticed(study, name, value):
    clock = {"mean_fit_time": np.array([3.0, 4.0])}
    assert study.differing(table(), table() | clock) == []
    assert study.differing(table(), table() | clock | {name: value}) == [name]
    assert study.differing(table(), {**table(), "more": 1}) == ["more"]


def test_it_runs(study, tmp_path, monkeypatch, capsys):
    out = tmp_path / "new" / "search.json"
    small = ["--epochs", "2", "--rounds", "1", "--alphas", "2", "--lambdas", "2", "--backends"]
    monkeypatch.setattr(sys, "argv", ["search.py", *small, "--out", str(out)])
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # which it sets
    study.main()
    found = json.loads(out.read_text())
    assert found["ssd"]["candidates"] == 4 and found["ssd"]["scores_equal"]
    assert (
        found["ssd"]["fisher_measured"] == {"separate": 8, "shared": 2} and found["ssd"]["measurements"] == 1
    )
    assert [row["backend"] for row in found["four_estimators"]["rows"]] == ["none"]
    assert "times faster" in capsys.readouterr().out
