# SPDX-License-Identifier: BSD-3-Clause
"""``unlearnkit info``, and its older names ``config`` and ``edit show``."""

import json

import pytest
import torch

from unlearnkit import FisherDiagonal, WeightEdit
from unlearnkit.cli._methods import IMPORTANCES, METHODS


@pytest.fixture
def saved(tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Linear(2, 2))
    factors = {"0.weight": torch.full((2, 3), 0.5), "1.bias": torch.tensor([1.0, 0.5])}
    path = tmp_path / "edit.safetensors"
    WeightEdit.from_factors(model, factors, {"ticket": "17"}).save(path)
    return path


@pytest.mark.parametrize("command", ["info", "config"])
def test_the_installation(run, command):
    ran = run(command)
    assert ran.code == 0
    assert f"torch          {torch.__version__}" in ran.out


def test_the_installation_as_json(run):
    assert run("info", "--json").json["versions"]["torch"] == torch.__version__


def test_edit_show(saved, run):
    assert run("edit", "show", saved).out.splitlines() == [
        "WeightEdit: 7 of 14 weights (50.00 %), most in 0",
        "  0.weight             6 of            6  100.00 %",
        "  1.bias               1 of            2   50.00 %",
        "  ticket: 17",
    ]


def test_edit_show_of_an_empty_edit(tmp_path, run):
    model = torch.nn.Linear(3, 2)
    WeightEdit.between(model, model).save(tmp_path / "empty")
    assert run("edit", "show", tmp_path / "empty").out == "WeightEdit: 0 of 8 weights (nothing to change)\n"


def test_a_missing_edit_is_one_line_and_status_1(tmp_path, run):
    ran = run("edit", "show", tmp_path / "missing")
    assert (ran.code, ran.out) == (1, "")
    assert "missing" in ran.err
    assert ran.err.count("\n") == 1


def test_files_are_told_apart(saved, folder, run):
    model, data = torch.nn.Linear(3, 2), (torch.randn(8, 3), torch.randint(2, (8,)))
    FisherDiagonal().measure(model, data).save("importance.safetensors")
    assert run("info", saved, "--json").json["tensors"]["1.bias"] == {"changed": 1, "total": 2}
    assert run("info", "importance.safetensors", "--json").json["measured"] == "fisher/per_sample/true"
    assert run("info", "importance.safetensors").out.startswith(
        "importance  fisher/per_sample/true of 8 weights"
    )
    ran = run("info", "model.safetensors")
    assert ran.out.startswith("checkpoint  4 tensors, 163 numbers")
    assert "2.weight  [3, 16]  float32" in ran.out


@pytest.mark.parametrize(("what", "known"), [("methods", METHODS), ("importances", IMPORTANCES)])
def test_lists(run, what, known):
    assert json.loads(run("info", what, "--json").out).keys() - {"warnings"} == known.keys()
    lines = run("info", what).out.splitlines()
    assert len(lines) == 1 + len(known)
    assert all(len(line.split()) > 3 for line in lines)


@pytest.mark.parametrize("name", [*METHODS, *IMPORTANCES])
def test_every_name_says_its_parameters(run, name):
    ran = run("info", name.lower())
    assert ran.code == 0
    assert ran.out.startswith(f"{name}(")
    for parameter in (METHODS.get(name) or IMPORTANCES[name])().get_params(deep=False):
        assert parameter in ran.out


def test_an_unknown_name_is_explained(run):
    ran = run("info", "sald")
    assert ran.code == 2
    assert "sald is neither a file nor a name" in ran.err
