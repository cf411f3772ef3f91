# SPDX-License-Identifier: BSD-3-Clause
"""The study of diffusion models, on models that have hardly been trained: it runs, goes on, and reports."""

import importlib
import json
import sys
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parents[2] / "benchmarks"
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="a source distribution has no benchmarks")
METHODS = ("SalUn", "SalUn as published", "GA", "SSD")


@pytest.fixture
def run(monkeypatch, tmp_path):
    pytest.importorskip("diffusers")
    monkeypatch.syspath_prepend(FOLDER)
    monkeypatch.syspath_prepend(FOLDER / "papers")
    study = importlib.import_module("salun_ddpm")

    def command(*arguments):
        given = [
            "--size",
            "smoke",
            "--seeds",
            "1",
            "--results",
            tmp_path,
            "--work",
            tmp_path / "models",
            *arguments,
        ]
        monkeypatch.setattr(sys, "argv", ["salun_ddpm.py", *map(str, given)])
        threads = torch.get_num_threads()
        try:
            study.main()
        finally:
            torch.set_num_threads(threads)
        lines = (tmp_path / "papers_salun_ddpm.jsonl").read_text().splitlines()
        return list(map(json.loads, lines))

    return command


def test_it_runs_goes_on_and_reports(run, tmp_path, capsys):
    first = run("--methods", "SalUn", "GA")
    assert [row["method"] for row in first] == ["before", "retrained", "real images", "SalUn", "GA"]
    rows = run("--methods", *METHODS)
    assert rows[: len(first)] == first and {row["method"] for row in rows[len(first) :]} == set(METHODS[1::2])
    for row in rows:
        assert (
            row["forget"] == 4
            and 0 <= row["forgotten"] <= 1
            and 0 <= row["kept"] <= 1
            and row["frechet"] >= 0
        )
        if row["method"] not in ("before", "retrained", "real images"):
            assert 0 < row["density"] <= 1 and row["seconds"] > 0 and sum(row["seen_as"]) == 3
    table = (tmp_path / "papers_salun_ddpm_smoke.md").read_text()
    assert (
        all(f"\n| {row['method']} | " in table for row in rows)
        and table.strip() in capsys.readouterr().out + table
    )


def test_what_the_models_make_is_drawn(run, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    run("--methods", "GA")
    study = importlib.import_module("salun_ddpm")
    monkeypatch.setattr(study, "SHOWN", ("GA",))
    run("--grid", tmp_path / "grid.png")
    assert (tmp_path / "grid.png").stat().st_size > 5000
