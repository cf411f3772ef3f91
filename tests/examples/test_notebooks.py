# SPDX-License-Identifier: BSD-3-Clause
"""The notebooks run from top to bottom, and are committed with what they show."""

import runpy

import pytest

nbformat = pytest.importorskip("nbformat")
pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

CLAIMS = {  # what the prose says, by notebook
    "images": "assert after['tow'] > 0.9 and after['forget'] < 0.2 and search.best_name_ != 'ASSD'",
    "tabular": "assert after['tow'] > 0.82 and accuracy(models['ASSD'], newcomers) > accuracy(model, newcomers) + 0.05",
    "vision_transformer": "assert found['before']['tow'] < 0.1 and found['SalUn']['tow'] > 0.9",
}
NOTEBOOKS = sorted(CLAIMS)


def shown(notebook):
    """Return the kinds of output of each code cell."""
    cells = (cell for cell in notebook.cells if cell.cell_type == "code")
    return [
        sorted({kind for output in cell.outputs for kind in output.get("data", {"text": ""})})
        for cell in cells
    ]


@pytest.fixture
def tool(examples):
    """Return what runs and strips them."""
    return runpy.run_path(str(examples / "notebooks.py"))


@pytest.mark.slow
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_runs_and_shows_what_is_committed(examples, tool, name, monkeypatch):
    for module in ("matplotlib", "pandas", *["transformers"] * (name == "vision_transformer")):
        pytest.importorskip(module)
    monkeypatch.setenv("PYTHONPATH", str(examples.parent))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    committed = nbformat.read(examples / f"{name}.ipynb", as_version=4)
    again = tool["stripped"](tool["executed"](examples / f"{name}.ipynb", CLAIMS[name]))
    assert shown(again)[:-1] == shown(committed)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_is_committed_with_outputs_and_without_what_changes(examples, tool, name):
    path = examples / f"{name}.ipynb"
    text, notebook = path.read_text(), nbformat.read(path, as_version=4)
    assert path.stat().st_size < 150_000
    assert sum("image/png" in kinds for kinds in shown(notebook)) == 1
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert tool["stripped"](notebook) == nbformat.reads(text, as_version=4)  # stripping leaves it as it is


def test_every_notebook_is_tested(examples):
    assert sorted(path.stem for path in examples.glob("*.ipynb")) == NOTEBOOKS
