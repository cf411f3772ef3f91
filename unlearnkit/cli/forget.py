# SPDX-License-Identifier: BSD-3-Clause
"""``unlearnkit forget``: from a checkpoint to one that has forgotten, with its edit and its report."""

from __future__ import annotations

import argparse

from unlearnkit.cli import _options as shared
from unlearnkit.cli._checkpoint import files_of
from unlearnkit.cli._edits import edit_facts, edit_line
from unlearnkit.cli._errors import DONE, DOUBTFUL, WrongUse
from unlearnkit.cli._evidence import Evidence, evidence_options
from unlearnkit.cli._files import TENSORS, Outputs
from unlearnkit.cli._fit import fitted, prepared
from unlearnkit.cli._methods import method, spelled
from unlearnkit.cli._models import subject
from unlearnkit.cli._names import Name
from unlearnkit.cli._output import Console
from unlearnkit.cli._request import Wanted
from unlearnkit.cli._values import setting

TEXT = """\
The model is built by --model, given the weights of --weights, and made to forget; the new
checkpoint has the names, shapes and dtypes of the old one. The edit alone (--edit) is small,
is bound to the old weights by their digests, and is applied elsewhere with `unlearnkit apply`."""

EXAMPLES = """\
  # a list of positions, one a line, in ids.csv; the threshold calibrated on held-out samples
  unlearnkit forget --model train.py:build --weights model.safetensors \\
      --data train.py:train_set --forget ids.csv --validation train.py:held_out \\
      --out clean.safetensors --edit edit.safetensors --report audit.html

  # a class of a table, by another method with other parameters
  unlearnkit forget --model train.py:build --weights model.safetensors \\
      --data train.csv --label target --forget-class 3 \\
      --method SalUn --set epochs=5 --set lr=0.01 --out clean.safetensors

  # rows by their key, the training data being gone but for these
  unlearnkit forget --model train.py:build --weights model.safetensors \\
      --forget-data gone.csv --label target --id customer \\
      --reference importance.safetensors --edit edit.safetensors"""


def add(commands: shared.Commands) -> None:
    """Add the command."""
    show = "make a model forget some of its training data"
    parser = shared.command(commands, "forget", show, run, TEXT, EXAMPLES)
    group = shared.model_options(parser)
    shared.weights_option(group, "--weights", "its weights (default: those it is built with)")
    shared.pickle_option(group)
    group = shared.data_options(parser, "what the model was trained on")
    shared.request_options(group)
    group.add_argument("--validation", metavar=shared.NAME, help="held-out samples, to calibrate on")
    group.add_argument(
        "--reference", metavar="FILE",
        help="in place of what to keep: the importance of all training data, that `unlearnkit measure` has written",
    )  # fmt: skip
    group = shared.method_options(parser)
    shared.loss_option(group)
    evidence_options(parser)
    group = parser.add_argument_group("files to write")
    group.add_argument("--out", metavar="FILE", help="the new checkpoint, .safetensors")
    group.add_argument("--edit", metavar="FILE", help="the edit, .safetensors")
    group.add_argument(
        "--note",
        action="append",
        default=[],
        metavar="K=V",
        help="a note kept in the edit and the report: ticket=17",
    )
    shared.run_options(parser)
    shared.output_options(parser)


def run(options: argparse.Namespace, console: Console) -> int:
    """Run the command; return its exit code."""
    estimator = method(options.method, options.set)
    name = Name.parse(options.model, "--model")
    notes = dict(setting(text, "--note") for text in options.note)
    if options.weights is not None:
        files_of(options.weights, "--weights", options.allow_pickle)
    evidence = Evidence(options)
    wanted = Wanted(options, estimator.finds_forget)
    if not (options.out or options.edit or options.report):
        raise WrongUse("nothing would be written: name --out, --edit or --report.")
    with Outputs(
        options.force, [options.weights, options.reference, *wanted.files, *evidence.files]
    ) as outputs:
        outputs.add("--out", options.out, TENSORS)
        outputs.add("--edit", options.edit, TENSORS)
        evidence.announce(outputs)
        with console.listening():
            base = subject(
                name, options.weights, "--weights", options.allow_pickle, options.device, options.seed
            )
            request = wanted.read()
            prepared(estimator, options, base.model, console)
            is_known = request.forget is not None  # or else the method finds it out
            if is_known:
                evidence.begin(base.model, request)
            request = fitted(estimator, base.model, request)
            if not is_known:
                evidence.begin(base.model, request)
            edit = estimator.edit_
            edit.info.update(notes)
            result = edit.apply(base.model)
            if options.out:
                base.save(outputs.at(options.out), result)
            if options.edit:
                edit.save(outputs.at(options.edit))
            found = evidence.gather(outputs, base.model, result, request, edit, estimator, notes)
            outputs.commit()
    doubts = [*(["the edit changes nothing"] if not edit else []), *found.unmet]
    doubts += ["the method warned that the edit damages what should be kept"] if console.collapsed else []
    code = DOUBTFUL if doubts else DONE
    rows = {
        "model": base.described(options.model),
        **request.said,
        "method": spelled(estimator),
        "edit": edit_line(edit),
        "seconds": f"{estimator.seconds_:.2f}",
        **found.rows,
        **outputs.row(),
        **({"doubtful": "; ".join(doubts)} if doubts else {}),
    }
    facts = {
        "command": "forget",
        "exit_code": code,
        "model": options.model,
        "request": request.said,
        "method": spelled(estimator),
        "seconds": estimator.seconds_,
        "edit": edit_facts(edit),
        "files": outputs.options,
        "doubts": doubts,
        **found.facts,
    }
    console.say(facts, rows, found.table)
    return code
