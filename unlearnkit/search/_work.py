# SPDX-License-Identifier: BSD-3-Clause
"""Fitting and scoring candidates, one after another, on one copy of the model."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isnan, nan
from typing import Any, NamedTuple

import numpy as np
from sklearn.base import clone
from torch import nn

from unlearnkit.base import Unlearner
from unlearnkit.data import Batch, ForgetRetain, preserved_rng
from unlearnkit.exceptions import UnlearnWarning
from unlearnkit.metrics import Timer, accuracy
from unlearnkit.parameters import copy_of
from unlearnkit.search._candidates import Candidate
from unlearnkit.search._scoring import Scoring

_ONE_AT_A_TIME = threading.RLock()
"""Random state belongs to a process, so threads of one take turns."""

REPEAT = 0x5EED


@dataclass(frozen=True)
class Job:
    """What all candidates have in common.

    Attributes
    ----------
    model : nn.Module
    roles : ForgetRetain
    scoring : Scoring
    goal : mapping or None
        The oracle's accuracies.
    watched : list of batches, or None
        Retain samples on which a candidate must not collapse.
    floor : float
        The accuracy there below which it has.
    seed, repeats : int
        The seed of estimators that have none, and how often those that draw are fitted.
    keeps : str or None
        The score whose best estimator is kept.
    raises : bool
        Whether an error ends the search.
    """

    model: nn.Module
    roles: ForgetRetain
    scoring: Scoring
    goal: Mapping[str, float] | None
    watched: Iterable[Batch] | None
    floor: float
    seed: int
    repeats: int
    keeps: str | None
    raises: bool


class Measurement(NamedTuple):
    """What ``_measure`` returned, and the seconds that it took."""

    found: Any
    seconds: float


class Task(NamedTuple):
    """A candidate, and by repeat the number of the shared measurement that it uses, or None."""

    candidate: Candidate
    measurements: list[int | None]


@dataclass
class Row:
    """What became of a candidate; lists have an entry a repeat."""

    candidate: Candidate
    scores: list[dict[str, float]] = field(default_factory=list)
    fit_seconds: list[float] = field(default_factory=list)
    score_seconds: list[float] = field(default_factory=list)
    changed: list[int] = field(default_factory=list)
    measured: int = 0
    collapsed: bool = False
    error: str = ""
    warnings: list[str] = field(default_factory=list)

    def mean(self, name: str) -> float:
        """Return the mean of a score; NaN where the candidate failed or collapsed."""
        return float(np.mean([scores[name] for scores in self.scores])) if self.scores else nan


class Best(NamedTuple):
    """The candidate whose score is highest, as it was fitted; of equals the first."""

    score: float
    row: int
    fitted: Unlearner


def run(
    job: Job,
    tasks: Sequence[Task],
    measured: Mapping[int, Measurement],
    done: Callable[[], object] = lambda: None,
) -> tuple[list[Row], Best | None]:
    """Return a row for each candidate, and the best of them.

    An edit is written into one copy of the model, scored, and taken back by value, so that no
    candidate finds a bit of another.

    Parameters
    ----------
    job : Job
    tasks : sequence of Task
    measured : mapping of int to Measurement
        What candidates share.
    done : callable
        Called after each candidate.
    """
    with _ONE_AT_A_TIME, preserved_rng(job.roles.forget, job.roles.retain, job.roles.validation):
        model = copy_of(job.model)
        rows: list[Row] = []
        best: Best | None = None
        for candidate, numbers in tasks:
            known = [None if number is None else measured[number] for number in numbers]
            row, fitted = _tried(job, model, candidate, known)
            rows.append(row)
            if fitted is not None and job.keeps is not None:
                score = row.mean(job.keeps)
                if not isnan(score) and (best is None or score > best.score):
                    best = Best(score, candidate.index, fitted)
            done()
        return rows, best


def measure(estimator: Unlearner, model: nn.Module, roles: ForgetRetain) -> Measurement:
    """Do the part of a fit that candidates may share."""
    with Timer() as timer:
        found = estimator._measure_apart(model, roles)
    return Measurement(found, timer.seconds)


def seeded(estimator: Unlearner, seed: int, repeat: int) -> Unlearner:
    """Return a clone with the seed of a repeat: the estimator's own in the first, if it has one."""
    copy: Unlearner = clone(estimator)
    if not draws(estimator):
        return copy
    own = copy.get_params(deep=False)["random_state"]
    first = seed if own is None else own
    if repeat:
        first = int(np.random.SeedSequence([first, REPEAT, repeat]).generate_state(1)[0])
    return copy.set_params(random_state=first)


def draws(estimator: Unlearner) -> bool:
    """Tell whether a repeat can come out differently."""
    return "random_state" in estimator.get_params(deep=False)


def _tried(
    job: Job, model: nn.Module, candidate: Candidate, known: Sequence[Measurement | None]
) -> tuple[Row, Unlearner | None]:
    """Fit and score a candidate in each of its repeats; return the first fit, if all went well."""
    row, first = Row(candidate), None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UnlearnWarning)
        for repeat, measurement in enumerate(known):
            fitted = seeded(candidate.estimator, job.seed, repeat)
            try:
                _once(job, model, fitted, measurement, row)
            except Exception as error:
                if job.raises:
                    raise
                row.error = f"{type(error).__name__}: {error}"
            if row.error or row.collapsed:
                row.scores, first = [], None
                break
            first = first or fitted
    row.warnings = list(
        dict.fromkeys(str(w.message) for w in caught if issubclass(w.category, UnlearnWarning))
    )
    if row.scores:
        row.scores *= job.repeats // len(row.scores)  # what draws nothing would come out the same again
    return row, first


def _once(job: Job, model: nn.Module, fitted: Unlearner, known: Measurement | None, row: Row) -> None:
    fitted._prepare()
    fitted._check(job.roles)
    with Timer() as fitting:
        if known is None:
            known = measure(fitted, model, job.roles)
            row.measured += known.found is not None
            shared_seconds = 0.0
        else:
            shared_seconds = known.seconds
        fitted._fit_apart(model, job.roles, known.found)
    fitted.seconds_ = fitting.seconds + shared_seconds  # what a fit of its own takes
    row.fit_seconds.append(fitting.seconds)
    row.changed.append(fitted.edit_.n_changed)
    undo = fitted.edit_.apply_(model)
    try:
        with Timer() as scoring:
            row.collapsed = job.watched is not None and not accuracy(model, job.watched) >= job.floor
            if not row.collapsed:
                row.scores.append(job.scoring.scores(model, fitted, job.roles, job.goal))
    finally:
        undo.apply_(model)
    row.score_seconds.append(scoring.seconds)
