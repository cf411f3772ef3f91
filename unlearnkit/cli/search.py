# SPDX-License-Identifier: BSD-3-Clause
"""``unlearnkit search``: which method, with which parameters."""

from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence
from math import isnan
from pathlib import Path
from typing import Any

import numpy as np

from unlearnkit.cli import _options as shared
from unlearnkit.cli._checkpoint import files_of
from unlearnkit.cli._edits import edit_facts, edit_line
from unlearnkit.cli._errors import DONE, DOUBTFUL, WrongUse
from unlearnkit.cli._files import TABLES, TENSORS, Outputs
from unlearnkit.cli._fit import prepared
from unlearnkit.cli._grid import estimators_of, grids_of
from unlearnkit.cli._methods import spelled
from unlearnkit.cli._models import subject
from unlearnkit.cli._names import Name
from unlearnkit.cli._oracles import check_oracles, oracle_option, oracles_of
from unlearnkit.cli._output import Console, table
from unlearnkit.cli._request import Wanted
from unlearnkit.search import UnlearnSearch

TEXT = """\
Every candidate is fitted and scored on what is kept, what is forgotten and --validation; what
several of them would measure is measured once. The best one's edit is written. It was chosen by
its score, which therefore flatters: judge it with `unlearnkit audit` on other samples."""

EXAMPLES = """\
  unlearnkit search --model train.py:build --weights model.safetensors \\
      --data train.py:train_set --forget ids.csv --validation train.py:held_out \\
      --oracle retrained.safetensors --method SSD --grid alpha=1,3,10,30,100 \\
      --table candidates.csv --edit best.safetensors --out clean.safetensors

  # several methods; 20 draws each; accuracies to come close to in place of an oracle
  unlearnkit search ... --method SSD --method SalUn --grid 'SSD.alpha=loguniform(1, 100)' \\
      --grid SalUn.lr=0.001,0.01 --n-iter 20 --oracle forget=0,retain=0.99,test=0.97"""


def add(commands: shared.Commands) -> None:
    """Add the command."""
    show = "try methods and parameters, and keep the best"
    parser = shared.command(commands, "search", show, run, TEXT, EXAMPLES)
    group = shared.model_options(parser)
    shared.weights_option(group, "--weights", "its weights (default: those it is built with)")
    shared.pickle_option(group)
    group = shared.data_options(parser, "what the model was trained on")
    shared.request_options(group)
    group.add_argument(
        "--validation", metavar=shared.NAME, help="held-out samples, to score and calibrate on"
    )
    group.add_argument(
        "--reference", metavar="FILE", help="the importance of all training data, for SSD and ASSD"
    )
    group = parser.add_argument_group("candidates")
    group.add_argument(
        "--method",
        action="append",
        default=[],
        metavar=shared.NAME,
        help="one method (default: ASSD); may be repeated",
    )
    group.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="P=V",
        help="a parameter, of all methods that have it, or SSD.P=V",
    )
    group.add_argument(
        "--grid", action="append", default=[], metavar="P=V,V",
        help="values to try, of all methods that have the parameter, or SSD.P=V,V; with --n-iter also uniform(a, b), "
        "loguniform(a, b) and randint(a, b)",
    )  # fmt: skip
    group.add_argument("--n-iter", type=shared.count, metavar="N", help="draw so many of each method's grid")
    shared.loss_option(group)
    group = parser.add_argument_group("search")
    group.add_argument(
        "--scoring", action="append", default=[], metavar="SCORE",
        help="tow (default), avg_gap, retain, test, neg_seconds or neg_density; of several the first decides",
    )  # fmt: skip
    oracle_option(group)
    group.add_argument(
        "--n-jobs", type=int, metavar="N", help="processes, as joblib counts them (default: one)"
    )
    group.add_argument(
        "--n-repeats", type=shared.count, default=1, metavar="N", help="fits of what draws at random"
    )
    group.add_argument(
        "--max-drop", type=float, default=0.1, metavar="X",
        help="how much accuracy on what is kept a candidate may lose (default: %(default)s)",
    )  # fmt: skip
    group = parser.add_argument_group("files to write")
    group.add_argument("--out", metavar="FILE", help="the best candidate's checkpoint, .safetensors")
    group.add_argument("--edit", metavar="FILE", help="its edit, .safetensors")
    group.add_argument("--table", metavar="FILE", help="all candidates, .csv")
    shared.run_options(parser)
    shared.output_options(parser)


def run(options: argparse.Namespace, console: Console) -> int:
    """Run the command; return its exit code."""
    estimators = estimators_of(options.method or ["ASSD"], options.set)
    grids = grids_of(estimators, options.grid)
    scores = ["neg_avg_gap" if name == "avg_gap" else name for name in options.scoring or ["tow"]]
    name = Name.parse(options.model, "--model")
    if options.weights is not None:
        files_of(options.weights, "--weights", options.allow_pickle)
    check_oracles(options)
    if len(options.oracle) > 1:
        raise WrongUse("a search compares with one --oracle; give the others to `unlearnkit audit`.")
    compared = [name for name in options.scoring or ["tow"] if name in ("tow", "avg_gap", "neg_avg_gap")]
    if compared and not options.oracle:
        raise WrongUse(
            f"--scoring {compared[0]} compares with a retrained model: give --oracle, its weights or what is to be "
            "reached (--oracle forget=0.1,retain=0.99,test=0.97), or score by --scoring retain or test alone."
        )
    wanted = Wanted(options)
    search = UnlearnSearch(
        estimators,
        grids,
        n_iter=options.n_iter,
        scoring=scores[0] if len(scores) == 1 else scores,
        refit=len(scores) == 1 or scores[0],
        n_jobs=options.n_jobs,
        n_repeats=options.n_repeats,
        max_drop=options.max_drop,
        random_state=options.seed,
        progress=console.progress,
    )
    with Outputs(
        options.force, [options.weights, options.reference, *options.oracle, *wanted.files]
    ) as outputs:
        outputs.add("--out", options.out, TENSORS)
        outputs.add("--edit", options.edit, TENSORS)
        outputs.add("--table", options.table, TABLES)
        with console.listening():
            base = subject(
                name, options.weights, "--weights", options.allow_pickle, options.device, options.seed
            )
            request = wanted.read()
            for estimator in estimators.values():
                prepared(estimator, options, base.model, Console(quiet=True))
            search.fit(
                base.model,
                retain=request.retain,
                forget=request.forget,
                validation=request.validation,
                oracle=oracles_of(options),
            )
            if options.out:
                base.save(outputs.at(options.out), search.transform(base.model))
            if options.edit:
                search.edit_.save(outputs.at(options.edit))
            rows = _rows(search, scores)
            if options.table:
                _write(outputs.at(options.table), rows)
            outputs.commit()
    edit, best = search.edit_, search.best_estimator_
    code = DONE if edit else DOUBTFUL
    said = {
        "model": base.described(options.model),
        **request.said,
        "candidates": f"{len(rows)}, from {search.n_measurements_} measurements",
        "best": f"{spelled(best)}, {scores[0]} {search.best_score_:.4f}",
        "edit": edit_line(edit),
        **outputs.row(),
        **({} if edit else {"doubtful": "the best edit changes nothing"}),
    }
    facts = {
        "command": "search",
        "exit_code": code,
        "model": options.model,
        "request": request.said,
        "candidates": rows,
        "n_measurements": search.n_measurements_,
        "best": {"method": spelled(best), "params": search.best_params_, scores[0]: search.best_score_},
        "edit": edit_facts(edit),
        "files": outputs.options,
    }
    console.say(facts, said, table(list(rows[0]), [_cells(row) for row in rows]))
    return code


def _rows(search: UnlearnSearch, names: Sequence[str]) -> list[dict[str, Any]]:
    """Return the candidates, best first: their method and parameters, scores, size, time, and what went wrong."""
    found, rows = search.cv_results_, []
    for at in np.argsort(found[f"rank_test_{search.scores_[0]}"], kind="stable"):
        params = ", ".join(f"{name}={value!r}" for name, value in found["params"][at].items())
        means = [float(found[f"mean_test_{name}"][at]) for name in search.scores_]
        row: dict[str, Any] = {"candidate": f"{found['estimator'][at]}({params})"}
        row |= {name: None if isnan(mean) else mean for name, mean in zip(names, means, strict=True)}
        changed = found["n_changed"][at]
        row["changed"] = None if isnan(changed) else float(changed)
        row["seconds"] = float(found["mean_fit_time"][at])
        row["trouble"] = "collapsed" if found["collapsed"][at] else str(found["error"][at] or "")
        rows.append(row)
    return rows


def _cells(row: dict[str, Any]) -> list[str]:
    shown = {**row, "changed": None if row["changed"] is None else f"{row['changed']:,.0f}"}
    return [f"{one:.4f}" if isinstance(one, float) else str(one or "") for one in shown.values()]


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
