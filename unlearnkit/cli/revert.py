# SPDX-License-Identifier: BSD-3-Clause
"""``unlearnkit revert``: an edit, taken back with the help of the checkpoint that it was made for."""

from __future__ import annotations

import argparse

from unlearnkit.cli import _options as shared
from unlearnkit.cli._bound import applied, bare, check_ties
from unlearnkit.cli._checkpoint import files_of, read
from unlearnkit.cli._edits import edit_facts, edit_line
from unlearnkit.cli._errors import DONE
from unlearnkit.cli._files import TENSORS, Outputs
from unlearnkit.cli._output import Console
from unlearnkit.edit import WeightEdit
from unlearnkit.parameters import digest

TEXT = """\
An edit's file holds no way back: the values that it replaced are what was to be forgotten. They
come from the base, the checkpoint that it was made for. In the result, only the tensors that the
edit touched are put back, after a check that they hold the edit's values to the bit; what later
edits did to other tensors stays."""

EXAMPLES = """\
  unlearnkit revert --result clean.safetensors --edit edit.safetensors \\
      --base model.safetensors --out restored.safetensors"""

NOT_BEFORE = "it holds the edit already; --base is the checkpoint from before it."
NOT_AFTER = "it holds the values from before the edit, so there is nothing to take back."


def add(commands: shared.Commands) -> None:
    """Add the command."""
    show = "take an edit back out of a checkpoint"
    parser = shared.command(commands, "revert", show, run, TEXT, EXAMPLES)
    group = parser.add_argument_group("what")
    shared.weights_option(group, "--result", "the checkpoint that the edit was applied to", required=True)
    group.add_argument("--edit", required=True, metavar="FILE", help="the edit")
    shared.weights_option(group, "--base", "the checkpoint as it was before", required=True)
    shared.pickle_option(group)
    group.add_argument("--out", required=True, metavar="FILE", help="the restored checkpoint, .safetensors")
    shared.output_options(parser)


def run(options: argparse.Namespace, console: Console) -> int:
    """Run the command; return its exit code."""
    for option, path in (("--result", options.result), ("--base", options.base)):
        files_of(path, option, options.allow_pickle)
    with Outputs(options.force, [options.result, options.base, options.edit]) as outputs:
        outputs.add("--out", options.out, TENSORS)
        with console.listening():
            edit = WeightEdit.load(options.edit)
            before = read(options.base, "--base", options.allow_pickle)
            original = {name: digest(tensor) for name, tensor in before.tensors.items()}
            base = bare(before, edit)
            check_ties(before, base.names or {}, edit)
            undo = applied(edit, base.model, options.base, NOT_BEFORE)
            after = read(options.result, "--result", options.allow_pickle)
            result = bare(after, edit)
            applied(undo, result.model, options.result, NOT_AFTER)
            same = original == {name: digest(tensor) for name, tensor in after.tensors.items()}
            result.save(outputs.at(options.out))
            outputs.commit()
    others = "" if same else "; other tensors differ from it, and were left as they are in the result"
    rows = {
        "result": options.result,
        "edit": f"{options.edit}, {edit_line(edit)}",
        "out": f"{options.out}, {'every bit as' if same else 'the edited tensors as'} in {options.base}{others}",
    }
    facts = {
        "command": "revert",
        "exit_code": DONE,
        "edit": edit_facts(edit),
        "equals_base": same,
        "files": outputs.options,
    }
    console.say(facts, rows)
    return DONE
