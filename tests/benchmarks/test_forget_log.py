# SPDX-License-Identifier: BSD-3-Clause
"""The benchmark of the log: its requests, a row of each method, its table and its picture."""

import importlib
from functools import partial
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parents[2] / "benchmarks"
pytestmark = [
    pytest.mark.skipif(not FOLDER.is_dir(), reason="a source distribution has no benchmarks"),
    pytest.mark.filterwarnings("ignore::unlearnkit.UnlearnWarning"),
]


@pytest.fixture
def study(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    module = importlib.import_module("forget_log")
    monkeypatch.setattr(module, "trained", partial(module.trained, epochs=2))
    return module


@pytest.mark.parametrize("stream", ["groups", "scattered"])
def test_requests_are_of_different_samples(stream, study):
    requests = study.STREAMS[stream](1)
    assert len(requests) == 20 and all(len(one) for one in requests)
    every = torch.cat(requests)
    assert len(every.unique()) == len(every) < len(study.TRAIN.labels) / 2
    if stream == "groups":
        assert all(len(study.TRAIN.labels[one].unique()) == 1 for one in requests)


def test_rows_table_and_picture(study, monkeypatch, tmp_path):
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(study, "REQUESTS", 2)
    monkeypatch.setattr(study, "EVERY", 1)
    quick = {name: opened for name, opened in study.METHODS.items() if "FisherReset" not in name}
    monkeypatch.setattr(study, "METHODS", quick)
    rows = list(study.study("scattered", 0))
    assert [row["request"] for row in rows if row["method"] == "retrained"] == [0, 1, 2]
    for method in study.METHODS:
        found = [row for row in rows if row["method"] == method]
        assert [row["request"] for row in found] == [1, 2] and all(0 <= row["test"] <= 1 for row in found)
        assert [row["forgotten"] for row in found] == [11 / 1100, 22 / 1100]
        assert (found[-1]["moved"] is None) == (method == "ASSD, clamped")
    rows += [row | {"stream": "groups"} for row in rows]
    assert study.table(rows).count("\n") == 1 + 2 * 5
    study.draw({"rows": rows}, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 10_000
