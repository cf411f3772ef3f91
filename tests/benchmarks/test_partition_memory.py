# SPDX-License-Identifier: BSD-3-Clause
"""The benchmark of a partition's memory: that its samples stay the same, and that it runs."""

import importlib
import json
import sys
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parents[2] / "benchmarks"
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="a source distribution has no benchmarks")


@pytest.fixture
def study(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module("partition_memory")


def test_every_walk_makes_the_same_samples(study):
    data = study.Made(2300)
    first, second = list(data), list(data)
    assert [len(y) for _, y in first] == [1000, 1000, 300] and len(data) == 3
    for (X, y), (again, labels) in zip(first, second, strict=True):
        assert torch.equal(X, again) and torch.equal(y, labels)
    X, _, noisy = data.batch(1)
    assert X[noisy].min() == 0 and X[noisy].max() == 1 and X[~noisy].max() > 1
    assert not torch.equal(first[0][0], first[1][0])


def test_it_runs(study, tmp_path, monkeypatch, capsys):
    out = tmp_path / "results" / "memory.json"
    monkeypatch.setattr(sys, "argv", ["partition_memory.py", "--samples", "3000", "--out", str(out)])
    study.main()
    row = json.loads(out.read_text())["row"]
    assert row["samples"] == 3000 and row["auc"] > 0.99
    assert 0 < row["peak_before_bytes"] <= row["peak_bytes"]
    assert "peak_bytes" in capsys.readouterr().out
