# SPDX-License-Identifier: BSD-3-Clause
"""The study behind the defaults of `ASSD()`: which importance, denominator and percentile.

    python benchmarks/assd_defaults.py --data DIR [--work DIR] [--tasks NAME ...] [--seeds 3]
    python benchmarks/assd_defaults.py --table

Each (task, seed) has an original, a newly built model that was trained without the forget set
(the oracle), and one measurement an importance, which serves all denominators and percentiles.
A run appends a JSON line to results/cpu/assd_defaults.jsonl; what stands there is not run again.
Models are kept in the work folder.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

from torch import nn

from _data import (
    Request,
    Splits,
    cifar10,
    dataco,
    digits,
    forget_class,
    forget_flipped,
    forget_random,
)
from _environment import write_environment
from _models import digits_cnn, mlp, small_cnn, trained
from unlearnkit import ASSD, FisherDiagonal, Importance
from unlearnkit.data import as_loader, sample_of
from unlearnkit.exceptions import UnlearnWarning
from unlearnkit.metrics import Timer, evaluate

RESULTS = Path(__file__).parent / "results" / "cpu" / "assd_defaults.jsonl"
IMPORTANCES = ("per_sample", "batch")
DENOMINATORS = ("full", "retain")
PERCENTILES = ("paper", "calibrated", "calibrated to 0", 99, 97, 95, 90, 80)


class Task(NamedTuple):
    """What is trained, how, and what is to be forgotten with a given seed."""

    splits: Callable[[Path], Splits]
    factory: Callable[[], nn.Module]
    recipe: dict[str, Any]
    request: Callable[[Splits, int], Request]


CLASS = forget_class  # the class is the seed
RANDOM_2, RANDOM_10 = (partial(forget_random, share=share) for share in (0.02, 0.1))
FLIPPED = partial(forget_flipped, share=0.025)
DIGITS = (lambda _: digits(), digits_cnn, {"epochs": 25, "lr": 0.1, "batch_size": 32})
CIFAR = (cifar10, small_cnn, {"epochs": 12, "lr": 0.05, "batch_size": 64})
DATACO = (dataco, partial(mlp, 114, 3), {"epochs": 25, "lr": 0.1, "batch_size": 1024})
TASKS = {
    "digits class": Task(*DIGITS, CLASS),
    "digits random 10 %": Task(*DIGITS, RANDOM_10),
    "digits flipped 2.5 %": Task(*DIGITS, FLIPPED),
    "cifar class": Task(*CIFAR, CLASS),
    "cifar random 2 %": Task(*CIFAR, RANDOM_2),
    "cifar random 10 %": Task(*CIFAR, RANDOM_10),
    "cifar flipped 2.5 %": Task(*CIFAR, FLIPPED),
    "dataco flipped 2.5 %": Task(*DATACO, FLIPPED),
}
ORIGINAL, ORACLE = "untouched", "oracle"


class MeasuredOnce(FisherDiagonal):
    """A Fisher diagonal that measures each loader once: all settings share the measurement."""

    def __init__(self, gradient: str = "per_sample") -> None:
        super().__init__(gradient)
        self.known: dict[int, Importance] = {}

    def measure(self, model: nn.Module, data: Any, *args: Any, **named: Any) -> Importance:
        """Return what was measured on this very loader, or measure it."""
        if id(data) not in self.known:
            self.known[id(data)] = super().measure(model, data, *args, **named)
        return self.known[id(data)]


def run(task: Task, seed: int, folder: Path, work: Path, done: set[str]) -> Iterator[dict]:
    """Yield a row a setting that is not in `done`."""
    request = task.request(task.splits(folder), seed)
    retain, forget = as_loader(request.retain), as_loader(request.forget)
    part = sample_of(retain, 1500)  # accuracy on it is known to a percent, in a third of the time
    sets = {"retain": part, "forget": forget, "test": request.test}
    model = trained(work, task.factory, request.train, seed, **task.recipe)
    with Timer() as timer:
        oracle = trained(work, task.factory, request.retain, seed + 1000, **task.recipe)
    expected = evaluate(oracle, **sets)
    if ORACLE not in done:
        yield {"setting": ORACLE, "seconds": timer.seconds, **expected, "tow": 1.0}
    if ORIGINAL not in done:
        yield {"setting": ORIGINAL, "seconds": 0.0, **evaluate(model, **sets, oracle=expected)}
    for importance in IMPORTANCES:
        settings = {
            f"{importance}, {against}, {percentile}": (against, percentile)
            for against, percentile in product(DENOMINATORS, PERCENTILES)
        }
        if settings.keys() <= done:
            continue
        fisher = MeasuredOnce(importance)
        with Timer() as measuring:
            for data in (retain, forget):
                fisher.measure(model, data)
        for name, (against, percentile) in settings.items():
            if name in done:
                continue
            calibrated = str(percentile).startswith("calibrated")
            assd = ASSD(
                importance=fisher,
                against=against,
                percentile="calibrated" if calibrated else percentile,
                target=0.0 if percentile == "calibrated to 0" else None,
            )
            with Timer() as fitting:
                assd.fit(model, retain, forget, validation=request.validation)
            results = evaluate(assd.transform(model), **sets, oracle=expected)
            yield {
                "setting": name,
                "seconds": measuring.seconds + fitting.seconds,
                "density": assd.edit_.density,
                **results,
            }


def stored() -> list[dict]:
    """The rows measured so far."""
    if not RESULTS.exists():
        return []
    return [json.loads(line) for line in RESULTS.read_text(encoding="utf-8").splitlines()]


def table(rows: list[dict]) -> str:
    """Mean ToW and its standard deviation over seeds, best setting first, as Markdown."""
    tow: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        if row["setting"] != ORACLE:
            tow[row["setting"]][row["task"]].append(row["tow"])
    tasks = [task for task in TASKS if any(task in columns for columns in tow.values())]
    complete = {name: columns for name, columns in tow.items() if columns.keys() == set(tasks)}
    overall = {name: mean(map(mean, columns.values())) for name, columns in complete.items()}
    head = ["importance, denominator, percentile", "mean", *tasks]
    lines = ["| " + " | ".join(head) + " |", "| --- |" + " ---: |" * (len(head) - 1)]
    for name in sorted(complete, key=overall.__getitem__, reverse=True):
        cells = [name, f"{overall[name]:.3f}", *(_spread(complete[name][task]) for task in tasks)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _spread(values: list[float]) -> str:
    return f"{mean(values):.3f}" + (f" ± {stdev(values):.3f}" if len(values) > 1 else "")


def main() -> None:
    """Run what is missing, or print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, help="folder of the data sets")
    parser.add_argument("--work", type=Path, help="folder for trained models")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS), metavar="NAME")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--table", action="store_true", help="print the table of what was measured")
    args = parser.parse_args()
    if not args.table:
        if args.data is None:
            parser.error("--data is needed to measure; --table prints what was measured")
        warnings.simplefilter("ignore", UnlearnWarning)
        write_environment(RESULTS.parent)
        done = defaultdict(set)
        for row in stored():
            done[row["task"], row["seed"]].add(row["setting"])
        for seed, name in product(range(args.seeds), args.tasks):
            work = args.work or args.data / "models"
            for row in run(TASKS[name], seed, args.data, work, done[name, seed]):
                row = {"task": name, "seed": seed} | row
                print(name, seed, row["setting"], f"ToW {row['tow']:.3f}", flush=True)
                with open(RESULTS, "a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")
    text = table(stored())
    RESULTS.with_suffix(".md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
