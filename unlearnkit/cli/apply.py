# SPDX-License-Identifier: BSD-3-Clause
"""``unlearnkit apply``: an edit, applied to the checkpoint that it was made for."""

from __future__ import annotations

import argparse

from unlearnkit.cli import _options as shared
from unlearnkit.cli._bound import applied, bare, check_ties
from unlearnkit.cli._checkpoint import files_of, read
from unlearnkit.cli._edits import edit_facts, edit_line
from unlearnkit.cli._errors import DONE
from unlearnkit.cli._files import TENSORS, Outputs
from unlearnkit.cli._models import subject
from unlearnkit.cli._names import Name
from unlearnkit.cli._output import Console
from unlearnkit.edit import WeightEdit

TEXT = """\
The edit is bound to the weights that it was made for: another checkpoint is refused, the first
tensor that differs named. The code of the model is not needed, unless weights are tied."""

EXAMPLES = """\
  unlearnkit apply --weights model.safetensors --edit edit.safetensors --out clean.safetensors"""

DONE_ALREADY = "the edit is applied to it already; `unlearnkit revert` takes it back."


def add(commands: shared.Commands) -> None:
    """Add the command."""
    show = "apply a saved edit to a checkpoint"
    parser = shared.command(commands, "apply", show, run, TEXT, EXAMPLES)
    group = parser.add_argument_group("what")
    shared.weights_option(group, "--weights", "the checkpoint that the edit was made for", required=True)
    group.add_argument("--edit", required=True, metavar="FILE", help="the edit")
    group.add_argument(
        "--model", metavar=shared.NAME, help="what builds the model; needed where weights are tied"
    )
    shared.pickle_option(group)
    group.add_argument("--out", required=True, metavar="FILE", help="the new checkpoint, .safetensors")
    shared.output_options(parser)


def run(options: argparse.Namespace, console: Console) -> int:
    """Run the command; return its exit code."""
    name = Name.parse(options.model, "--model") if options.model is not None else None
    files_of(options.weights, "--weights", options.allow_pickle)
    with Outputs(options.force, [options.weights, options.edit]) as outputs:
        outputs.add("--out", options.out, TENSORS)
        with console.listening():
            edit = WeightEdit.load(options.edit)
            if name is not None:
                base = subject(name, options.weights, "--weights", options.allow_pickle, None, 0)
            else:
                checkpoint = read(options.weights, "--weights", options.allow_pickle)
                base = bare(checkpoint, edit)
                check_ties(checkpoint, base.names or {}, edit)
            applied(edit, base.model, options.weights, DONE_ALREADY)
            base.save(outputs.at(options.out))
            outputs.commit()
    rows = {"weights": options.weights, "edit": f"{options.edit}, {edit_line(edit)}", "out": options.out}
    facts = {"command": "apply", "exit_code": DONE, "edit": edit_facts(edit), "files": outputs.options}
    console.say(facts, rows)
    return DONE
