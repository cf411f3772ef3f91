# SPDX-License-Identifier: BSD-3-Clause
"""What a search saves: fifty candidates by one measurement, and the same table from every backend.

    python benchmarks/search.py [--out benchmarks/results/cpu/search.json] [--backends loky dask] [--workers 2]
        [--rounds 3] [--epochs 30] [--alphas 10] [--lambdas 5]

The demo's network is to forget a class of scikit-learn's digits. `separate` fits SSD anew for each of the
fifty settings of alpha and lambda_, applies the edit, and takes the ToW from the accuracies on the forget,
retain and validation sets; `shared` is UnlearnSearch over the same settings, with the same score, and with
max_drop=None, so that it scores all of them too. Both run in this process, on one thread, in turns; the best of
the rounds counts. Calls of `FisherDiagonal.measure` are counted: a fit makes one for each data set.

Then SSD with its fifty settings, ASSD, FisherReset and two settings of SalUn are searched together, those that
collapse not scored: in this process, in processes of joblib's loky, and on a local Dask cluster, whose workers
have one thread each. The tables are compared entry by entry, all but the seconds, and may not differ in a bit. A
backend's first search meets workers that have yet to start, or to import torch; the second finds them ready. The
start of the Dask cluster is not counted.
"""

from __future__ import annotations

import argparse
import json
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import joblib
import numpy as np
import torch
from sklearn.model_selection import ParameterGrid
from torch import nn

from _environment import environment
from unlearnkit import ASSD, SSD, FisherDiagonal, FisherReset, SalUn, UnlearnSearch
from unlearnkit.demo.digits import trained, whole_class
from unlearnkit.exceptions import UnlearnWarning
from unlearnkit.metrics import accuracy, tow
from unlearnkit.parameters import digest, named_tensors

SETS = {"forget": "forget", "retain": "retain", "test": "validation"}
Sets = dict[str, tuple[torch.Tensor, torch.Tensor]]


class Task:
    """The network, the request, and a network that never saw what is to be forgotten."""

    def __init__(self, epochs: int) -> None:
        request = whole_class(0)
        kept = request.train.where(~request.forget)
        odd = torch.arange(len(request.test.labels)) % 2 == 1
        self.sets: Sets = {
            "forget": tuple(request.forgotten),
            "retain": tuple(kept),
            "validation": tuple(request.test.where(odd)),
        }
        self.unseen = tuple(request.test.where(~odd))  # the winner is judged by these
        self.model = trained(request.train, 0, "network", epochs)
        self.oracle = trained(kept, 1, "oracle", epochs)

    def accuracies(self, model: nn.Module, **sets: Any) -> dict[str, float]:
        return {name: accuracy(model, (self.sets | sets)[role]) for name, role in SETS.items()}

    def search(self, *given: Any, **named: Any) -> UnlearnSearch:
        return UnlearnSearch(*given, **named).fit(self.model, **self.sets, oracle=self.oracle)


@contextmanager
def counted() -> Iterator[list[str]]:
    """Yield a list that gets an entry for each measurement of a Fisher diagonal in this process."""
    calls: list[str] = []
    measure = FisherDiagonal.measure

    def counting(self: FisherDiagonal, *given: Any, **named: Any) -> Any:
        calls.append(repr(self))
        return measure(self, *given, **named)

    with mock.patch.object(FisherDiagonal, "measure", counting):
        yield calls


def separate(task: Task, settings: list[dict[str, Any]]) -> tuple[list[float], float]:
    """Return the ToW of each setting, from a fit of its own, and the seconds of the fits alone."""
    goal = task.accuracies(task.oracle)
    scores, seconds = [], 0.0
    for params in settings:
        fitted = SSD(**params).fit(task.model, **task.sets)
        scores.append(tow(task.accuracies(fitted.transform(task.model)), goal))
        seconds += fitted.seconds_
    return scores, seconds


def fit_seconds(search: UnlearnSearch) -> float:
    """Return the seconds of a search's fits alone, with the measurement that they share."""
    fits = search.cv_results_["mean_fit_time"]
    return float(fits.sum() + search.best_estimator_.seconds_ - fits[search.best_index_])


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    start = time.perf_counter()
    return work(), time.perf_counter() - start


def differing(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """Return the columns in which two tables of results differ, all but those of a clock."""
    if list(first) != list(second):
        return sorted(set(first) ^ set(second)) or ["order of columns"]
    return [name for name in first if not name.endswith("_time") and not _same(first[name], second[name])]


def _same(first: Any, second: Any) -> bool:
    if isinstance(first, np.ndarray) and first.dtype.kind == "f":
        return bool(np.array_equal(first, second, equal_nan=True))
    if isinstance(first, np.ma.MaskedArray):
        return first.tolist() == second.tolist()  # what is masked is None
    return list(first) == list(second)


def fifty(task: Task, grid: Mapping[str, Any], rounds: int) -> dict[str, Any]:
    """Time a search over settings of SSD beside fits of their own."""
    settings = list(ParameterGrid(grid))
    ways: dict[str, list[dict[str, float]]] = {"separate": [], "shared": []}
    for _ in range(rounds):
        with counted() as apart:
            (scores, fits), spent = timed(lambda: separate(task, settings))
        ways["separate"].append({"seconds": spent, "fits": fits})
        with counted() as together:
            search, spent = timed(lambda: task.search(SSD(), grid, max_drop=None))
        ways["shared"].append({"seconds": spent, "fits": fit_seconds(search)})
    best = {
        way: {name: min(row[name] for row in rows) for name in ("seconds", "fits")}
        for way, rows in ways.items()
    }
    unseen = task.accuracies(search.transform(task.model), validation=task.unseen)
    return {
        "candidates": len(settings),
        "rounds": ways,
        "best_of_rounds": best,
        "times_faster": {name: best["separate"][name] / best["shared"][name] for name in ("seconds", "fits")},
        "measurements": search.n_measurements_,
        "fisher_measured": {"separate": len(apart), "shared": len(together)},
        "scores_equal": scores == search.cv_results_["mean_test_score"].tolist(),
        "winner": {"params": search.best_params_, "tow": search.best_score_},
        "winner_on_unseen": tow(unseen, task.accuracies(task.oracle, validation=task.unseen)),
    }


@contextmanager
def workers(backend: str, count: int) -> Iterator[None]:
    """Make joblib spread its work over so many processes."""
    with ExitStack() as stack:
        if backend == "dask":
            from distributed import Client, LocalCluster

            where: dict[str, Any] = {"dashboard_address": None, "silence_logs": "ERROR"}
            cluster = stack.enter_context(LocalCluster(count, threads_per_worker=1, processes=True, **where))
            stack.enter_context(Client(cluster))
        stack.enter_context(joblib.parallel_config(backend, n_jobs=count))
        yield


def everywhere(task: Task, grid: Mapping[str, Any], backends: list[str], count: int) -> dict[str, Any]:
    """Search over four estimators in this process and through each backend, and compare the tables."""
    estimators = {"ssd": SSD(), "assd": ASSD(), "reset": FisherReset(), "salun": SalUn(epochs=2, lr=0.05)}
    given = (estimators, {"ssd": grid, "salun": {"budget": [0.1, 0.5]}})
    alone, spent = timed(lambda: task.search(*given))
    rows = [{"backend": "none", "workers": 1, "seconds": [spent], "measurements": alone.n_measurements_}]
    for backend in backends:
        seconds, differ = [], []
        with workers(backend, count):
            for _ in range(2):
                search, spent = timed(lambda: task.search(*given))
                seconds.append(spent)
                differ.append(differing(alone.cv_results_, search.cv_results_))
        row = {"backend": backend, "workers": count, "seconds": seconds}
        row |= {"measurements": search.n_measurements_, "differing": differ}
        row |= {"winner_same": digests(task, alone) == digests(task, search)}
        rows.append(row)
    winner = {"estimator": alone.best_name_, "params": alone.best_params_, "tow": alone.best_score_}
    collapsed = int(alone.cv_results_["collapsed"].sum())
    return {
        "candidates": len(alone.cv_results_["params"]),
        "collapsed": collapsed,
        "winner": winner,
        "rows": rows,
    }


def digests(task: Task, search: UnlearnSearch) -> list[str]:
    """Return digests of all weights, as the winner leaves them."""
    return [digest(tensor) for tensor in named_tensors(search.transform(task.model)).values()]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path)
    parser.add_argument("--backends", nargs="*", choices=["loky", "dask"], default=["loky", "dask"])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--alphas", type=int, default=10)
    parser.add_argument("--lambdas", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"  # of the workers, which add up in another order on more
    grid = {
        "alpha": [round(float(alpha), 3) for alpha in np.geomspace(2, 9, options.alphas)],
        "lambda_": [round(float(strength), 3) for strength in np.geomspace(0.1, 1, options.lambdas)],
    }
    warnings.simplefilter("ignore", UnlearnWarning)  # many settings of a grid collapse
    task = Task(options.epochs)
    found = fifty(task, grid, options.rounds)
    print(f"{found['candidates']} settings of SSD, the best of {options.rounds} rounds")
    for way, best in found["best_of_rounds"].items():
        print(
            f"  {way:8} {best['seconds']:6.2f} s, of which fits {best['fits']:6.2f} s; "
            f"FisherDiagonal.measure was called {found['fisher_measured'][way]} times"
        )
    faster = found["times_faster"]
    print(
        f"  {faster['seconds']:.1f} times faster, the fits {faster['fits']:.1f} times; "
        f"{found['measurements']} measurement; scores equal: {found['scores_equal']}"
    )
    spread = everywhere(task, grid, options.backends, options.workers)
    print(
        f"{spread['candidates']} candidates of four estimators, of which {spread['collapsed']} collapsed; "
        f"the winner: {spread['winner']}"
    )
    for row in spread["rows"]:
        took = ", then ".join(f"{spent:.2f} s" for spent in row["seconds"])
        differ = row.get("differing")
        said = "" if differ is None else f"; columns that differ: {differ}; same winner: {row['winner_same']}"
        print(f"  {row['backend']:5} {row['workers']} worker(s): {took}{said}")
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        about = {"what": "searches on the digits CNN", "environment": environment(), "grid": grid}
        content = {**about, "ssd": found, "four_estimators": spread}
        options.out.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
