# SPDX-License-Identifier: BSD-3-Clause
"""Run the notebooks anew, and keep their outputs but nothing that changes from run to run.

`python examples/notebooks.py` rewrites all of them in place; names of some restrict it to those.
"""

import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).parent


def executed(path, *more):
    """Return a notebook after running it, and code cells `more` after it, in its own folder."""
    notebook = nbformat.read(path, as_version=4)
    notebook.cells += [nbformat.v4.new_code_cell(source) for source in more]
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(HERE)}}).execute()
    return notebook


def stripped(notebook):
    """Return it without times, versions, ids of its own and output to stderr."""
    notebook.metadata = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    for number, cell in enumerate(notebook.cells):
        cell.metadata, cell.id = {}, f"cell-{number}"
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    return notebook


if __name__ == "__main__":
    for path in sorted(HERE.glob("*.ipynb")):
        if len(sys.argv) < 2 or path.stem in sys.argv[1:]:
            nbformat.write(stripped(executed(path)), path)
            print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB")
