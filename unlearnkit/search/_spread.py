# SPDX-License-Identifier: BSD-3-Clause
"""Measuring once what candidates share, and spreading them over processes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from typing import NamedTuple

from joblib import Parallel, delayed, effective_n_jobs
from tqdm import tqdm

from unlearnkit.base import Unlearner
from unlearnkit.exceptions import DataError
from unlearnkit.search._candidates import Candidate
from unlearnkit.search._work import Job, Measurement, Row, Task, draws, measure, run, seeded

PORTIONS = 2
"""Of candidates a worker: more even the load, and send the model more often."""


class Spread(NamedTuple):
    """The rows in the order of the candidates, the best fit of them, and how often was measured."""

    rows: list[Row]
    best: Unlearner | None
    n_measurements: int


def spread(job: Job, candidates: Sequence[Candidate], n_jobs: int | None, progress: bool) -> Spread:
    """Fit and score every candidate.

    Parameters
    ----------
    job : Job
    candidates : sequence of Candidate
    n_jobs : int or None
        As of joblib.
    progress : bool
        Show a bar; over processes, joblib's own lines.
    """
    keys = [_keys(job, candidate) for candidate in candidates]
    common = [
        key
        for key, fits in Counter(key for row in keys for key in row).items()
        if fits > 1 and key is not None
    ]
    measured: dict[int, Measurement] = {}
    owners = [
        (key, each, repeat)
        for each, row in zip(candidates, keys, strict=True)
        for repeat, key in enumerate(row)
    ]
    for number, key in enumerate(common):
        _, candidate, repeat = next(owner for owner in owners if owner[0] == key)
        try:
            measured[number] = measure(seeded(candidate.estimator, job.seed, repeat), job.model, job.roles)
        except Exception:  # a loss of the user's may raise anything
            if job.raises:
                raise  # else each of its candidates finds out, and says so in its row
    numbers = {key: number for number, key in enumerate(common) if number in measured}
    tasks = [
        Task(each, [numbers.get(key) for key in row]) for each, row in zip(candidates, keys, strict=True)
    ]
    workers = effective_n_jobs(n_jobs)
    if workers == 1:
        with tqdm(total=len(tasks), desc="search", disable=not progress) as bar:
            parts = [run(job, tasks, measured, bar.update)]
    else:
        size = min(len(tasks), PORTIONS * workers)
        portions = [tasks[at::size] for at in range(size)]  # neighbours of a grid cost alike: deal them out
        parts = Parallel(n_jobs=n_jobs, verbose=10 if progress else 0)(
            delayed(run)(job, portion, _part(measured, portion)) for portion in portions
        )
    rows = sorted((row for part, _ in parts for row in part), key=lambda row: row.candidate.index)
    bests = [best for _, best in parts if best is not None]
    best = max(bests, key=lambda each: (each.score, -each.row), default=None)
    return Spread(
        rows, None if best is None else best.fitted, len(measured) + sum(row.measured for row in rows)
    )


def _keys(job: Job, candidate: Candidate) -> list[Hashable]:
    """Return what each fit of a candidate depends on in its measurement."""
    repeats = job.repeats if draws(candidate.estimator) else 1
    fits = [seeded(candidate.estimator, job.seed, repeat) for repeat in range(repeats)]
    try:
        for fit in fits:
            fit._prepare()
        return [fit._shares() for fit in fits]
    except DataError:
        return [None] * repeats  # its parameters are wrong: it will say so in its row


def _part(measured: dict[int, Measurement], tasks: Sequence[Task]) -> dict[int, Measurement]:
    needed = {key for task in tasks for key in task.measurements}
    return {key: found for key, found in measured.items() if key in needed}
