# SPDX-License-Identifier: BSD-3-Clause
"""The command line: what it understands, prints and returns."""

import subprocess
import sys

import pytest
import torch

import unlearnkit
from unlearnkit import WeightEdit, cli


@pytest.fixture
def saved(tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Linear(2, 2))
    factors = {"0.weight": torch.full((2, 3), 0.5), "1.bias": torch.tensor([1.0, 0.5])}
    path = tmp_path / "edit.safetensors"
    WeightEdit.from_factors(model, factors, {"ticket": "17"}).save(path)
    return path


def refused(arguments, capsys):
    """Return what argparse says when it exits with status 2."""
    with pytest.raises(SystemExit) as end:
        cli.main(arguments)
    assert end.value.code == 2
    return capsys.readouterr().err


def test_version(capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out == f"unlearnkit {unlearnkit.__version__}\n"


def test_config_prints_the_configuration(capsys):
    assert cli.main(["config"]) == 0
    assert f"torch          {torch.__version__}" in capsys.readouterr().out


def test_edit_show(saved, capsys):
    assert cli.main(["edit", "show", str(saved)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "WeightEdit: 7 of 14 weights (50.00 %), most in 0",
        "  0.weight             6 of            6  100.00 %",
        "  1.bias               1 of            2   50.00 %",
        "  ticket: 17",
    ]


def test_edit_show_of_an_empty_edit(tmp_path, capsys):
    model = torch.nn.Linear(3, 2)
    WeightEdit.between(model, model).save(tmp_path / "empty")
    assert cli.main(["edit", "show", str(tmp_path / "empty")]) == 0
    assert capsys.readouterr().out == "WeightEdit: 0 of 8 weights (nothing to change)\n"


def test_an_error_is_one_line_and_status_1(tmp_path, capsys):
    assert cli.main(["edit", "show", str(tmp_path / "missing")]) == 1
    out, error = capsys.readouterr()
    assert out == ""
    assert error.startswith("unlearnkit: ")
    assert "missing" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "COMMAND"),
        (["edit"], "show"),
        (["edit", "show"], "FILE"),
        (["demo", "--seeds", "0"], "'0' is not a whole number from 1 on"),
        (["demo", "--seeds", "-1"], "'-1' is not a whole number from 1 on"),
        (["demo", "--seed", "one"], "invalid int value: 'one'"),
        (["forget"], "invalid choice: 'forget'"),
    ],
)
def test_misuse_is_explained(arguments, message, capsys):
    assert message in refused(arguments, capsys)


@pytest.mark.parametrize(
    ("arguments", "called"),
    [
        (["demo"], ("unlearnkit-demo", 0, 3, None)),
        (["demo", "--seed", "4", "--seeds", "2", "--out", "here", "--picture", "a.png"],
         ("here", 4, 2, "a.png")),
    ],
)  # fmt: skip
def test_demo_gets_its_options(arguments, called, monkeypatch):
    calls = []
    monkeypatch.setattr(cli.demo, "run", lambda *given: calls.append(given))
    assert cli.main(arguments) == 0
    assert calls == [called]


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path, capsys):
    file = tmp_path / "file"
    file.touch()
    assert cli.main(["demo", "--out", str(file)]) == 1
    assert "file" in capsys.readouterr().err


def test_module_can_be_run():
    command = [sys.executable, "-m", "unlearnkit.cli", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == f"unlearnkit {unlearnkit.__version__}\n"
