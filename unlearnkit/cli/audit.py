# SPDX-License-Identifier: BSD-3-Clause
"""``unlearnkit audit``: what one checkpoint has forgotten of what another one knew."""

from __future__ import annotations

import argparse

from unlearnkit.cli import _options as shared
from unlearnkit.cli._checkpoint import files_of
from unlearnkit.cli._edits import edit_facts, edit_line
from unlearnkit.cli._errors import DONE, DOUBTFUL
from unlearnkit.cli._evidence import Evidence, evidence_options
from unlearnkit.cli._files import Outputs
from unlearnkit.cli._models import subject
from unlearnkit.cli._names import Name
from unlearnkit.cli._output import Console
from unlearnkit.cli._request import Wanted
from unlearnkit.cli._values import setting
from unlearnkit.edit import WeightEdit

TEXT = """\
Base and result are two checkpoints of one model, before and after. What turned the one into the
other does not matter: the edit between them is worked out. With --require the exit code tells a
pipeline whether the result is good enough. Good is equal to a model that was trained anew without
the forgotten samples (--oracle), not a forget accuracy of zero."""

EXAMPLES = """\
  unlearnkit audit --model train.py:build --base model.safetensors --result clean.safetensors \\
      --data train.py:train_set --forget ids.csv --test train.py:test_set \\
      --oracle retrained.safetensors --require 'tow>=0.95' \\
      --report audit.html --report audit.json"""


def add(commands: shared.Commands) -> None:
    """Add the command."""
    show = "measure what was forgotten and what was kept, and report it"
    parser = shared.command(commands, "audit", show, run, TEXT, EXAMPLES)
    group = shared.model_options(parser)
    shared.weights_option(group, "--base", "the checkpoint before", required=True)
    shared.weights_option(group, "--result", "the checkpoint after", required=True)
    shared.pickle_option(group)
    group = shared.data_options(parser, "what the model was trained on")
    shared.request_options(group)
    shared.loss_option(group)
    evidence_options(parser)
    group = parser.add_argument_group("what to say in the report")
    group.add_argument("--method", default="", metavar="TEXT", help="what made the result of the base")
    group.add_argument("--note", action="append", default=[], metavar="K=V", help="a note, such as ticket=17")
    shared.run_options(parser)
    shared.output_options(parser)
    parser.set_defaults(always=True, validation=None)


def run(options: argparse.Namespace, console: Console) -> int:
    """Run the command; return its exit code."""
    name = Name.parse(options.model, "--model")
    notes = dict(setting(text, "--note") for text in options.note)
    for option, path in (("--base", options.base), ("--result", options.result)):
        files_of(path, option, options.allow_pickle)
    evidence = Evidence(options)
    wanted = Wanted(options)
    with Outputs(options.force, [options.base, options.result, *wanted.files, *evidence.files]) as outputs:
        evidence.announce(outputs)
        with console.listening():
            base, result = (
                subject(name, path, option, options.allow_pickle, options.device, options.seed)
                for option, path in (("--base", options.base), ("--result", options.result))
            )
            edit = WeightEdit.between(base.model, result.model, notes)
            request = wanted.read()
            evidence.begin(base.model, request)
            found = evidence.gather(outputs, base.model, result.model, request, edit, options.method, notes)
            outputs.commit()
    code = DOUBTFUL if found.unmet else DONE
    rows = {
        "base": base.described(options.model),
        "result": options.result,
        **request.said,
        "edit": edit_line(edit),
        **found.rows,
        **outputs.row(),
        **({"doubtful": "; ".join(found.unmet)} if found.unmet else {}),
    }
    facts = {
        "command": "audit",
        "exit_code": code,
        "model": options.model,
        "request": request.said,
        "edit": edit_facts(edit),
        "files": outputs.options,
        "doubts": found.unmet,
        **found.facts,
    }
    console.say(facts, rows, found.table)
    return code
