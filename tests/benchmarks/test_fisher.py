# SPDX-License-Identifier: BSD-3-Clause
"""The benchmark of the Fisher, on models of a few weights: what it says is true, and its plot can be drawn."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parents[2] / "benchmarks"
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="a source distribution has no benchmarks")


@pytest.fixture(autouse=True)
def _path(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)


@pytest.fixture
def ways():
    return importlib.import_module("_ways")


@pytest.fixture
def tasks():
    return importlib.import_module("_tasks")


MODELS = ["resnet18", "resnet50", "vit", "gpt"]
PEERS = {  # the models that a peer can do
    "opacus": {"vit", "gpt"},
    "backpack": {"resnet18", "resnet50"},
    "nngeometry": {"resnet18", "resnet50"},
}


def error(ways, task, way):
    """Largest relative error of a way against the oracle."""
    batch = task.draw("cpu")
    found = ways.WAYS[way](task.model("cpu"), task.loss)(batch)
    exact = ways.exact_squares(task.model("cpu"), task.loss, batch)
    return max(ways.relative_errors(found, exact).values())


@pytest.mark.parametrize("model", MODELS)
def test_exact_ways_are_exact(ways, tasks, model):
    task = tasks.find("tiny", model)
    assert all(error(ways, task, way) < 1e-4 for way in ("unlearnkit", "loop", "vmap"))


@pytest.mark.parametrize("model", MODELS)
def test_batch_squares_are_not_the_fisher(ways, tasks, model):
    assert error(ways, tasks.find("tiny", model), "batch-squares") > 0.1


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("way", PEERS)
def test_a_peer_is_exact_or_refuses(ways, tasks, way, model):
    pytest.importorskip(ways.LIBRARIES[way])
    task = tasks.find("tiny", model)
    if model in PEERS[way]:
        assert error(ways, task, way) < 1e-4
    else:
        with pytest.raises(Exception, match=r"BatchNorm|no value for|do not know"):
            error(ways, task, way)


def test_error_is_relative_to_each_tensor_and_forgives_rounding_of_zero(ways):
    exact = {"large": torch.tensor([4.0, 2.0]).double(), "zero": torch.zeros(1).double()}
    found = {"large": torch.tensor([4.0, 3.0]), "zero": torch.tensor([1e-9])}
    assert ways.relative_errors(found, exact) == {"large": 0.25, "zero": pytest.approx(2.5e-4)}


def test_a_missing_parameter_is_a_refusal(ways):
    with pytest.raises(ways.Refused, match="no value for 1 of 2 parameters, b among them"):
        ways.relative_errors({"a": torch.ones(1)}, {"a": torch.ones(1), "b": torch.ones(1)})


def run(*arguments):
    command = [sys.executable, str(FOLDER / "fisher.py"), "--scale", "tiny", "--rounds", "2", *arguments]
    settings = os.environ | {"PYTHONPATH": str(FOLDER.parent)}
    done = subprocess.run(command, capture_output=True, text=True, env=settings)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_script_times_ways_in_turns_and_says_which_are_exact(tmp_path):
    out = tmp_path / "new" / "fisher.json"
    printed = run("--models", "gpt", "--ways", "unlearnkit", "batch-squares", "nngeometry", "--out", str(out))
    content = json.loads(out.read_text())
    (model,) = content["models"]
    rows = {row["way"]: row for row in model["rows"]}
    assert list(rows) == ["plain", "unlearnkit", "batch-squares", "nngeometry"]
    assert rows["plain"]["ratio"] == rows["plain"]["memory_ratio"] == 1
    assert rows["unlearnkit"]["exact"] and not rows["batch-squares"]["exact"]
    assert rows["unlearnkit"]["seconds"] <= rows["unlearnkit"]["median_seconds"]
    assert {"refused", "missing"} & rows["nngeometry"].keys()
    assert model["batch"] == 4 and content["environment"]["threads"] >= 1
    assert all(way in printed for way in rows)
    table = run("--table", str(out)).splitlines()
    assert "GPT, width 16, 4 samples" in table[0]
    assert len(table) == 5  # and a line of what can be done, NNGeometry's not among it


@pytest.mark.slow
def test_sweep_can_be_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    out = tmp_path / "sweep.json"
    run("--sweep", "--ways", "unlearnkit", "--out", str(out))
    content = json.loads(out.read_text())
    assert [point["batch"] for point in content["batch"]] == [2, 4]
    assert [point["model"] for point in content["width"]] == ["resnet18/4", "resnet18/8"]
    importlib.import_module("plot").draw(content, tmp_path / "fisher.png")
    assert (tmp_path / "fisher.png").stat().st_size > 10_000


def test_labels_keep_apart(monkeypatch):
    pytest.importorskip("matplotlib")
    plot = importlib.import_module("plot")
    ends = [((1.0, height), name, "black") for height, name in ((0.5, "a"), (0.51, "b"), (0.1, "c"))]
    placed = plot.spread(ends)
    assert [name for _, (_, name, _) in placed] == ["c", "a", "b"]
    heights = [height for height, _ in placed]
    assert heights[0] == 0.1
    assert heights[2] - heights[1] == pytest.approx(plot.LABEL_GAP)


def test_gpu_script_is_valid_shell():
    assert subprocess.run(["bash", "-n", str(FOLDER / "gpu.sh")]).returncode == 0
