# SPDX-License-Identifier: BSD-3-Clause
"""The study of nulls runs, and on really retrained models finds nothing where nothing is."""

import importlib
import json
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="a source distribution has no benchmarks")


def test_it_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(FOLDER)
    study = importlib.import_module("null_calibration")
    monkeypatch.setattr(study, "REQUESTS", {"flipped 2.5 %": study.REQUESTS["flipped 2.5 %"]})
    out = tmp_path / "results" / "null.json"
    monkeypatch.setattr(
        sys, "argv", ["null_calibration.py", "--models", "6", "--epochs", "6", "--out", str(out)]
    )
    study.main()
    stored = json.loads(out.read_text())
    found = stored["requests"]["flipped 2.5 %"]
    null, untouched = found["null"], found["untouched"]
    assert stored["models"] == 6 and "torch" in stored["environment"] and found["samples"] == 28
    assert null["u_lira"]["low"] < 0.5 < null["u_lira"]["high"] and untouched["u_lira"]["low"] > 0.8
    assert (
        null["klom"]["low"] < 1.1 * null["klom"]["null"]
        and untouched["klom"]["low"] > untouched["klom"]["null"]
    )
    quality = null["forgetting_quality"]
    assert abs(quality["value"] - quality["null"]) < 0.1 and untouched["forgetting_quality"]["value"] < 0.1
    assert null["swap"]["high"] == 1 and untouched["swap"]["p_value"] < 0.05
    level = null["iam, 4 shadows"]["level"]
    assert abs(null["iam, 4 shadows"]["value"] - level) < 0.1 < level - untouched["iam, 4 shadows"]["value"]
    assert "flipped 2.5 %" in capsys.readouterr().out
