# SPDX-License-Identifier: BSD-3-Clause
"""The study of noisy data: RLAP beside the controls that tell the causes of its gain apart.

    python benchmarks/noisy_data.py --data DIR [--work DIR] [--arms NAME ...] [--seeds 0 1 2] [--methods NAME ...]
    python benchmarks/noisy_data.py --task digits        # a minute, without a folder of data
    python benchmarks/noisy_data.py --table

A part of a small cut of CIFAR-10's training set is bad: half of the images spoilt by noise ("input"),
as in the code of RLAP's authors, or 20 % or 40 % of the labels wrong ("label20", "label40"), as the
paper says. The test set is clean. Nothing is tuned: methods and finders have their defaults, and epochs
and rates are in the paper's proportions. Every row is appended to results/cpu/noisy_data.jsonl as
soon as it is known, and what stands there is not run again; models are kept in the work folder.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from pathlib import Path
from tempfile import gettempdir
from typing import Any

import torch

from _environment import write_environment
from _noise import ARMS
from _noisy_report import report
from _noisy_rows import FINDERS, ROWS, Row, run
from _noisy_tasks import TASKS, Case, quiet
from unlearnkit.finding import Finder

RESULTS = Path(__file__).parent / "results" / "cpu"
KEY = ("task", "arm", "seed", "kind", "name")
Found = dict[str, Any]


def jobs(case: Case, arm: str) -> Iterator[tuple[str, str, Callable[[], Found]]]:
    """Yield kind, name and how to measure it: the partitions, the original, and the rows of an arm."""
    for name, factory in FINDERS.items():
        yield "partition", name, partial(_partition, case, name, factory)
    yield "model", "original", partial(_original, case)
    for row in ROWS:
        if arm in row.arms:
            yield "model", row.name, partial(_row, case, row)


def _partition(case: Case, name: str, factory: Callable[[], Finder]) -> Found:
    found, seconds = case.partition(name, factory)
    return case.quality(found) | {"find": seconds}


def _original(case: Case) -> Found:
    model, seconds = case.original
    return case.figures(model) | {"train": seconds, "epochs": case.task.recipe["epochs"]}


def _row(case: Case, row: Row) -> Found:
    model, found = run(row, case)
    return case.figures(model) | found


def measured(measure: Callable[[], Found]) -> Found:
    """Return what a job finds, or why it failed: without cleanlab, say, the others must have their turn."""
    try:
        return measure()
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}


def stored(path: Path) -> list[Found]:
    """The rows measured so far; of rows that stand for the same run the last one counts."""
    if not path.exists():
        return []
    lines = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return list({tuple(row[name] for name in KEY): row for row in lines}.values())


def main() -> None:
    """Run what is missing, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, help="folder that holds cifar-10-batches-py")
    parser.add_argument("--work", type=Path, help="folder for trained models")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--task", choices=TASKS, default="cifar")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", metavar="NAME", help="only these rows")
    parser.add_argument("--smoke", action="store_const", const="smoke", dest="task", help="for a test")
    parser.add_argument("--table", action="store_true", help="write the tables of what was measured")
    args = parser.parse_args()
    path = args.results / "noisy_data.jsonl"
    if not args.table:
        if args.task == "cifar" and args.data is None:
            parser.error("--data is needed to measure on CIFAR-10; --table writes what was measured")
        quiet()
        torch.set_num_threads(1)  # CPU seconds then say the same on a busy machine
        write_environment(args.results)
        work = args.work or (args.data or Path(gettempdir()) / "unlearnkit") / "models"
        for seed, arm in product(args.seeds, args.arms):
            key = {"task": args.task, "arm": arm, "seed": seed}
            case = Case(TASKS[args.task], arm, seed, args.data, work)
            there = [row for row in stored(path) if key.items() <= row.items()]
            done = {(row["kind"], row["name"]) for row in there if "error" not in row}
            for kind, name, measure in jobs(case, arm):
                if (kind, name) in done or (args.methods and name not in args.methods):
                    continue
                row = key | {"kind": kind, "name": name} | measured(measure)
                with open(path, "a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")
                said = [f"{at} {row[at]:.3f}" for at in ("auc", "accuracy") if at in row]
                print(args.task, arm, seed, name, *said, row.get("error", ""), flush=True)
    order = [*FINDERS, "original", *(row.name for row in ROWS)]
    known = [row for row in stored(path) if row["name"] in order]
    text = report(sorted(known, key=lambda row: order.index(row["name"])))
    (args.results / "noisy_data.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
