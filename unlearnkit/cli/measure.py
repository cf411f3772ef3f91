# SPDX-License-Identifier: BSD-3-Clause
"""``unlearnkit measure``: the importance of every weight, to be kept for later requests."""

from __future__ import annotations

import argparse

from unlearnkit.cli import _options as shared
from unlearnkit.cli._checkpoint import files_of
from unlearnkit.cli._data import Columns, Source
from unlearnkit.cli._errors import DONE
from unlearnkit.cli._files import TENSORS, Outputs
from unlearnkit.cli._fit import loss_of
from unlearnkit.cli._methods import measure as estimator_of
from unlearnkit.cli._methods import spelled, supply
from unlearnkit.cli._models import subject
from unlearnkit.cli._names import Name
from unlearnkit.cli._output import Console
from unlearnkit.metrics import Timer

TEXT = """\
Measured once on all training data when the model is trained, an importance stands in for that data
later: `unlearnkit forget --reference importance.safetensors` needs the samples to forget alone."""

EXAMPLES = """\
  unlearnkit measure --model train.py:build --weights model.safetensors \\
      --data train.py:train_set --out importance.safetensors

  unlearnkit measure --model train.py:build --weights model.safetensors --data train.npz \\
      --importance LogitNorm --out norms.safetensors"""


def add(commands: shared.Commands) -> None:
    """Add the command."""
    show = "measure how much each weight matters for some data, and keep it"
    parser = shared.command(commands, "measure", show, run, TEXT, EXAMPLES)
    group = shared.model_options(parser)
    shared.weights_option(group, "--weights", "its weights (default: those it is built with)")
    shared.pickle_option(group)
    group = shared.data_options(parser, "what to measure on", required=True)
    group = parser.add_argument_group("importance")
    group.add_argument(
        "--importance", default="FisherDiagonal", metavar=shared.NAME,
        help="what is measured (default: %(default)s); `unlearnkit info importances` lists them",
    )  # fmt: skip
    group.add_argument(
        "--set", action="append", default=[], metavar="P=V", help="a parameter of it: --set gradient=batch"
    )
    shared.loss_option(group)
    group = parser.add_argument_group("files to write")
    group.add_argument("--out", required=True, metavar="FILE", help="the importance, .safetensors")
    shared.run_options(parser)
    shared.output_options(parser)


def run(options: argparse.Namespace, console: Console) -> int:
    """Run the command; return its exit code."""
    estimator = estimator_of(options.importance, options.set)
    name = Name.parse(options.model, "--model")
    if options.weights is not None:
        files_of(options.weights, "--weights", options.allow_pickle)
    columns = Columns(options.label, options.id)
    source = Source.parse(options.data, "--data", columns)
    with Outputs(options.force, [options.weights, source.text]) as outputs:
        outputs.add("--out", options.out, TENSORS)
        with console.listening():
            base = subject(
                name, options.weights, "--weights", options.allow_pickle, options.device, options.seed
            )
            data = source.load(columns, options.batch_size)
            if estimator.get_params().get("random_state", 0) is None:
                supply(estimator, {"random_state": options.seed})
            with Timer() as timer:
                found = estimator.measure(
                    base.model, data.loader, loss=loss_of(options), progress=console.progress
                )
            found.save(outputs.at(options.out))
            outputs.commit()
    rows = {
        "model": base.described(options.model),
        "data": source.text,
        "importance": repr(found).partition(": ")[2],
        "seconds": f"{timer.seconds:.2f}",
        "out": options.out,
    }
    facts = {
        "command": "measure",
        "exit_code": DONE,
        "model": options.model,
        "data": source.text,
        "importance": spelled(estimator),
        "kind": found.kind,
        "samples": found.samples,
        "n_weights": sum(value.numel() for value in found.sums.values()),
        "seconds": timer.seconds,
        "files": outputs.options,
    }
    console.say(facts, rows)
    return DONE
