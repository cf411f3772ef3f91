# SPDX-License-Identifier: BSD-3-Clause
"""The demo's tables say what was measured."""

from pathlib import Path

import pytest
import torch

from unlearnkit import WeightEdit
from unlearnkit.demo.digits import faulty_scanner
from unlearnkit.demo.study import Outcome
from unlearnkit.demo.tables import as_text, over_seeds, rows, terminal

FIGURES = {"test": 0.881, "retain": 1.0, "forget": 0.98, "probe": 0.04, "mia": 0.01, "tow": 0.0123}


def outcome(test):
    results = {
        "original": FIGURES | {"seconds": 2.34},
        "unlearned": FIGURES | {"test": test, "tow": 0.97, "seconds": 0.5},
    }
    edit = WeightEdit.between({"w": torch.zeros(1)}, {"w": torch.ones(1)})
    return Outcome(faulty_scanner(0), 0, {}, results, edit, Path("edit"), exact=True)


def test_rows_hold_every_figure_by_model():
    table = rows(outcome(0.966))
    assert [row["original"] for row in table] == [
        "88.1 %", "100.0 %", "98.0 %", "4.0 %", "1.0 %", "0.012", "2.3"]  # fmt: skip
    assert table[0]["unlearned"] == "96.6 %"
    assert all(row[""].count("\n") == 1 for row in table)


def test_terminal_shows_story_and_figures_in_columns():
    text = terminal(outcome(0.966))
    assert text.startswith("Forget what a faulty scanner taught\n  134 of 1,347 training images")
    assert "  test accuracy                            88.1 %     96.6 %" in text
    assert max(map(len, text.splitlines())) <= 88


def test_over_seeds_names_mean_and_range():
    text = over_seeds([outcome(0.95), outcome(0.97)])
    assert "over 2 seeds: test 96.0 % (95.0 % to 97.0 %)" in text
    assert "ToW 0.970 (0.970 to 0.970)" in text


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [("tow", 0.97, "0.970"), ("seconds", 12.0, "12.0"), ("test", 1, "100.0 %")],
)
def test_figures_have_their_form(key, value, text):
    assert as_text(key, value) == text
