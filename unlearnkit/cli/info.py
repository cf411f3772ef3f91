# SPDX-License-Identifier: BSD-3-Clause
"""``unlearnkit info``: the installation, a method and its parameters, or what a file holds."""

from __future__ import annotations

import argparse
import inspect
import json
from pathlib import Path
from typing import Any

from sklearn.base import BaseEstimator

from unlearnkit.cli import _options as shared
from unlearnkit.cli._checkpoint import ENTRY, PICKLES, read, tensors_of
from unlearnkit.cli._edits import edit_facts, edit_line, edit_table
from unlearnkit.cli._errors import DONE, WrongUse, near
from unlearnkit.cli._methods import IMPORTANCES, METHODS
from unlearnkit.cli._output import Console, table
from unlearnkit.config import configuration, show_config
from unlearnkit.edit import WeightEdit
from unlearnkit.importance import Importance
from unlearnkit.importance.names import NAMES
from unlearnkit.parameters import digest

TEXT = """\
Without WHAT: versions, kernels and devices, to paste into a bug report. WHAT is `methods` or
`importances` for a list, one of their names for its parameters, or a file: an edit, an importance
or a checkpoint."""

EXAMPLES = """\
  unlearnkit info
  unlearnkit info methods
  unlearnkit info SSD
  unlearnkit info edit.safetensors"""


def add(commands: shared.Commands) -> None:
    """Add the command, and two older names of parts of it."""
    show = "say what is installed, what a method's parameters are, or what a file holds"
    parser = shared.command(commands, "info", show, run, TEXT, EXAMPLES)
    parser.add_argument("what", nargs="?", metavar="WHAT", help="a list, a name or a file")
    shared.pickle_option(parser)
    shared.output_options(parser, force=False)

    parser = shared.command(commands, "config", "the same as info without a name", run)
    parser.set_defaults(what=None)

    parser = shared.command(commands, "edit", "look into a saved weight edit", run)
    verbs = parser.add_subparsers(metavar="show", required=True)
    verb = verbs.add_parser("show", help="print what the edit changes, and its notes")
    verb.add_argument("file", metavar="FILE", help="a file that WeightEdit.save wrote")
    verb.set_defaults(run=_show_edit)


def run(options: argparse.Namespace, console: Console) -> int:
    """Run the command; return its exit code."""
    if options.what is None:
        if options.as_json:
            console.say(configuration(), {})
        else:
            show_config()
        return DONE
    name, path = options.what.lower(), Path(options.what)
    names = {known.lower(): kind for known, kind in {**METHODS, **IMPORTANCES}.items()}
    if name == "methods":
        _list(METHODS, {}, console)
    elif name == "importances":
        _list(IMPORTANCES, {type(make()).__name__: short for short, make in NAMES.items()}, console)
    elif path.exists():
        _of_file(options.what, path, console, options.allow_pickle)
    elif name in names:
        _of_class(names[name], console)
    else:
        known = ["methods", "importances", *METHODS, *IMPORTANCES]
        raise WrongUse(
            f"{options.what} is neither a file nor a name{near(options.what, known)}. Try `unlearnkit info methods`."
        )
    return DONE


def _show_edit(options: argparse.Namespace, console: Console) -> int:
    edit = WeightEdit.load(options.file)
    console.say({}, {}, [repr(edit), *edit_table(edit)])
    return DONE


def _list(classes: dict[str, type[Any]], short: dict[str, str], console: Console) -> None:
    rows = []
    for name in sorted(classes, key=str.lower):
        first = (inspect.getdoc(classes[name]) or "").partition("\n\n")[0]
        needs = getattr(classes[name], "needs_retain", short.get(name, ""))
        rows.append([name, needs, " ".join(first.split())])
    head = ["name", "needs to keep" if classes is METHODS else "short", "what it is"]
    facts = {
        name: {"needs_retain" if classes is METHODS else "short": needs, "what": what}
        for name, needs, what in rows
    }
    console.say(facts, {}, table(head, rows))


def _of_class(kind: type[BaseEstimator], console: Console) -> None:
    defaults = kind().get_params(deep=False)
    text = inspect.getdoc(kind) or ""
    console.say(
        {"name": kind.__name__, "parameters": defaults, "text": text},
        {},
        [repr(kind()), "", *text.splitlines()],
    )


def _of_file(text: str, path: Path, console: Console, allow_pickle: bool) -> None:
    kind = ""
    if path.is_file() and path.suffix.lower() not in PICKLES and not path.name.endswith(".json"):
        metadata = tensors_of(path)[1]
        kind = json.loads(metadata[ENTRY])["kind"] if ENTRY in metadata else ""
    if kind == "unlearnkit.WeightEdit":
        edit = WeightEdit.load(path)
        console.say(
            {"file": text, "kind": kind, **edit_facts(edit)}, {"edit": edit_line(edit)}, edit_table(edit)
        )
    elif kind == "unlearnkit.Importance":
        found = Importance.load(path)
        facts = {"kind": kind, "measured": found.kind, "samples": found.samples, "count": found.count}
        console.say({"file": text, **facts}, {"importance": repr(found).partition(": ")[2]})
    else:
        checkpoint = read(text, "info", allow_pickle)
        tensors = checkpoint.tensors
        rows = [[name, str(list(t.shape)), str(t.dtype)[6:], digest(t)] for name, t in tensors.items()]
        facts = {
            name: {"shape": list(t.shape), "dtype": str(t.dtype)[6:], "digest": digest(t)}
            for name, t in tensors.items()
        }
        said = {"checkpoint": f"{len(tensors)} tensors, {checkpoint.n_weights:,} numbers"}
        console.say(
            {"file": text, "kind": "checkpoint", "tensors": facts},
            said,
            table(["name", "shape", "dtype", "digest"], rows),
        )
