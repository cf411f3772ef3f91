# SPDX-License-Identifier: BSD-3-Clause
"""The benchmark of a diffusion model's memory: that it runs, each fit in a process, and that edits agree."""

import importlib
import json
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("diffusers")
FOLDER = Path(__file__).parents[2] / "benchmarks"
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="a source distribution has no benchmarks")


@pytest.fixture
def study(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module("diffusion_memory")


def test_attention_alone_is_trained_where_it_is_asked_for(study):
    size = study.SIZES["tiny"]
    assert all(".attn2." in name for name in study.fitted(study.unet_of(size), size, "*attn2*"))


def test_it_runs(study, monkeypatch, tmp_path, capsys):
    out = tmp_path / "new" / "found.json"
    command = ["diffusion_memory.py", "--size", "tiny", "--trained", "full", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", command)
    study.main()
    assert "peak_mib" in capsys.readouterr().out
    found = json.loads(out.read_text())
    plain, checkpointed = found["rows"]
    assert not plain["checkpointing"] and checkpointed["checkpointing"] and checkpointed["same_edit"] is True
    assert plain["changed"] == checkpointed["changed"] > 0
    for row in (plain, checkpointed):
        assert row["peak_mib"] >= 0 and row["seconds"] > 0 and 3 < row["weights_mib"] < 4
    assert found["environment"]["torch"] == torch.__version__ and found["blocks"] == [32, 32, 64]
