# SPDX-License-Identifier: BSD-3-Clause
"""UnlearnSearch: which method, with which parameters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import inf, nan
from numbers import Integral, Real
from typing import Any, TypeVar

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted
from torch import nn

from unlearnkit.base import Unlearner
from unlearnkit.data import ForgetRetain, Measured, preserved_rng, sample_of, shared
from unlearnkit.edit import WeightEdit
from unlearnkit.exceptions import DataError, UnlearnWarning, warn
from unlearnkit.metrics import accuracy
from unlearnkit.parameters import unwrap
from unlearnkit.search._candidates import Candidate, Grid, candidates_of, grids_of, named_estimators
from unlearnkit.search._results import table
from unlearnkit.search._scoring import Scorer, Scoring
from unlearnkit.search._spread import spread
from unlearnkit.search._work import Job, Row

M = TypeVar("M", bound=nn.Module)

WATCHED = 512
"""On how many retain samples a candidate is looked at before it is scored."""


class UnlearnSearch(BaseEstimator):
    """Search over parameters and over estimators for what comes closest to a retrained model.

    What several candidates would each measure (the Fisher information, say) is measured once; their
    edits are applied to one copy of the model, scored, and taken back by value. Candidates that ruin
    the retain set are not scored further. joblib spreads the work: ``n_jobs``, or any backend that is
    active, such as Dask's or Ray's.

    Parameters
    ----------
    estimator : estimator, list of estimators, or dict of estimators by name
        What to search over. In a list each goes by the name of its class.
    param_grid : dict or list of dicts, optional
        Values to try by parameter, as of scikit-learn's ``GridSearchCV``. With several estimators a dict
        of such grids by estimator; one without a grid is tried as it is.
    n_iter : int, optional
        Draw so many settings from each estimator's grid, whose values may then be distributions with an
        ``rvs`` method, as of ``RandomizedSearchCV``. Left out: the whole grid.
    scoring : str, callable, list or dict, default="tow"
        What to compare by; higher is better. ``"tow"`` and ``"neg_avg_gap"`` compare with the oracle;
        ``"retain"`` and ``"test"`` are accuracies, the latter on `validation`; ``"neg_seconds"``,
        ``"neg_density"`` what a fit costs and changes. Or ``scorer(model) -> float`` on a copy of the model
        that has forgotten. Several in a list, or in a dict by name.
    refit : bool or str, default=True
        The score whose best candidate becomes ``best_estimator_``; with several scores it must be named.
        It is the very fit that was scored, not a new one. False: only the table.
    n_jobs : int, optional
        Processes at a time, as joblib counts them. Leave it at one where the model is on a GPU.
    n_repeats : int, default=1
        Fit each candidate that draws at random so often, with other seeds: a split of the table each.
    max_drop : float or None, default=0.1
        A candidate that loses more accuracy than this on a sample of the retain set has collapsed. It is
        not scored, nor repeated. None: all are scored.
    error_score : "raise" or float, default=nan
        Raise the error of a candidate, or give it this score and go on.
    random_state : int, optional
        Of the draws, and the seed of estimators that have none.
    progress : bool, default=False
        Show a progress bar.

    Attributes
    ----------
    cv_results_ : dict of arrays
        Columns as of scikit-learn's: ``params``, ``param_*``, ``mean_test_*``, ``std_test_*``,
        ``rank_test_*``, ``split*_test_*``, ``mean_fit_time``, ``mean_score_time``; a split is a repeat.
        And ``estimator`` (its name), ``is_pareto`` (no other is as good in all scores and better in
        one), ``n_changed`` (weights), ``collapsed``, ``error``, ``warnings``.
    best_estimator_ : Unlearner
        Fitted; its ``edit_`` is the result.
    best_params_, best_score_, best_index_
        Of it. The score was used to choose, so it flatters: judge the result on samples that are in none
        of the three sets.
    best_name_ : str
        Which estimator it is.
    n_measurements_ : int
        How many measurements were made, those that only one candidate needs included.
    scores_ : list of str
        The names of the scores.

    Notes
    -----
    Random state belongs to a process, so candidates in threads of one process take turns: a Dask
    cluster needs a process a worker. Workers that compute with another number of threads add up in
    another order, and their last bits may differ.

    Examples
    --------
    >>> from unlearnkit import SSD, FisherReset, UnlearnSearch
    >>> search = UnlearnSearch([SSD(), FisherReset()], {"SSD": {"alpha": [1, 3, 10, 30]}})
    >>> # search.fit(model, retain, forget, validation=held_out, oracle=retrained)
    """

    def __init__(
        self,
        estimator: Unlearner | Sequence[Unlearner] | Mapping[str, Unlearner],
        param_grid: Grid | Mapping[str, Grid] | None = None,
        *,
        n_iter: int | None = None,
        scoring: str | Scorer | Sequence[str] | Mapping[str, str | Scorer] = "tow",
        refit: bool | str = True,
        n_jobs: int | None = None,
        n_repeats: int = 1,
        max_drop: float | None = 0.1,
        error_score: float | str = nan,
        random_state: int | None = 0,
        progress: bool = False,
    ) -> None:
        self.estimator = estimator
        self.param_grid = param_grid
        self.n_iter = n_iter
        self.scoring = scoring
        self.refit = refit
        self.n_jobs = n_jobs
        self.n_repeats = n_repeats
        self.max_drop = max_drop
        self.error_score = error_score
        self.random_state = random_state
        self.progress = progress

    def fit(
        self,
        model: nn.Module,
        *data: Any,
        retain: Any = None,
        forget: Any = None,
        validation: Any = None,
        oracle: nn.Module | Iterable[nn.Module] | Mapping[str, float] | None = None,
    ) -> UnlearnSearch:
        """Try every candidate; the model itself is left bit by bit as it was.

        Parameters
        ----------
        model, *data, retain, forget
            As of any estimator's ``fit``.
        validation : DataLoader, Dataset or (X, y), optional
            Held-out samples: what candidates are scored on beside retain and forget, and what
            estimators calibrate themselves with. Keep others back to judge the winner by.
        oracle : nn.Module, several of them, or mapping, optional
            A newly built model that was trained on retain alone; of several, as from ``OracleBank.models``,
            the mean accuracies count. Or the accuracies to come close to, under "forget", "retain" and "test".

        Returns
        -------
        self

        Raises
        ------
        TypeError
            If the arguments are none of the forms of ``fit``.
        DataError
            If a parameter or a score is unknown, data is missing, or no candidate could be scored.
        """
        for name in [name for name in vars(self) if name.endswith("_")]:
            delattr(self, name)
        seed = self._seed()
        candidates, scoring, keeps = self._plan(seed)
        if not isinstance(model, nn.Module):
            raise TypeError(
                f"the first argument of fit is the model, a torch.nn.Module; got {type(model).__name__}."
            )
        roles = ForgetRetain.resolve(data, retain, forget, validation)
        scoring.check(roles, oracle)
        _warn_of_overlap(roles)
        with preserved_rng(roles.forget, roles.retain, roles.validation):
            inner = unwrap(model)
            watched, floor = self._watched(inner, roles)
            raises = self.error_score == "raise"
            goal = scoring.goal(oracle, roles)
            job = Job(inner, roles, scoring, goal, watched, floor, seed, self.n_repeats, keeps, raises)
            rows, best, self.n_measurements_ = spread(job, candidates, self.n_jobs, self.progress)
        self.scores_ = scoring.names
        error_score = nan if raises else float(self.error_score)
        self.cv_results_ = table(rows, scoring.names, self.n_repeats, error_score)
        self._report(rows)
        if keeps is not None and best is not None:
            self.best_index_ = int(np.nanargmax([row.mean(keeps) for row in rows]))
            row = rows[self.best_index_]
            self.best_estimator_, self.best_score_ = best, row.mean(keeps)
            self.best_name_, self.best_params_ = row.candidate.name, row.candidate.params
            for text in row.warnings:
                warn(f"the best candidate: {text}", UnlearnWarning)
        return self

    def transform(self, model: M) -> M:
        """Return a copy of `model` that has forgotten as the best candidate does."""
        return self._best().transform(model)

    @property
    def edit_(self) -> WeightEdit:
        """The best candidate's edit."""
        return self._best().edit_

    def to_frame(self) -> Any:
        """Return the results as a pandas frame, best first: a row a candidate.

        Raises
        ------
        ImportError
            If pandas is not installed.
        """
        check_is_fitted(self, "cv_results_")
        try:
            import pandas as pd
        except ModuleNotFoundError as error:
            raise ImportError(
                "a frame needs pandas, which is not installed: pip install 'unlearnkit[report]'"
            ) from error
        frame = pd.DataFrame(self.cv_results_)
        first = self.refit if isinstance(self.refit, str) else self.scores_[0]
        return frame.sort_values(f"rank_test_{first}", kind="stable")

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "cv_results_")

    def _best(self) -> Unlearner:
        check_is_fitted(self, "cv_results_")
        if not hasattr(self, "best_estimator_"):
            raise DataError(
                "refit=False keeps no estimator: set refit=True, or fit the one that you choose."
                if not self.refit
                else "every score is NaN, so no candidate is the best: cv_results_ has the table."
            )
        return self.best_estimator_

    def _plan(self, seed: int) -> tuple[list[Candidate], Scoring, str | None]:
        """Check the parameters; return candidates, scores, and the score that decides."""
        for name, low in (("n_iter", 1), ("n_repeats", 1)):
            value = getattr(self, name)
            if name == "n_iter" and value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < low:
                raise DataError(f"{name} must be a whole number from {low} on, got {value!r}.")
        drop: Any = self.max_drop
        if drop is not None and not (isinstance(drop, Real) and 0 <= float(drop) <= 1):
            raise DataError(f"max_drop is a loss of accuracy, a fraction from 0 to 1, or None; got {drop!r}.")
        score: Any = self.error_score
        if score != "raise" and not isinstance(score, Real):
            raise DataError(f"error_score must be 'raise' or a number, got {score!r}.")
        scoring = Scoring.of(self.scoring)
        keeps: str | None = None
        if isinstance(self.refit, str):
            keeps = "neg_avg_gap" if self.refit == "avg_gap" else self.refit
            if scoring.is_one and keeps in scoring.scorers:
                keeps = scoring.names[0]
        elif self.refit:
            keeps = scoring.names[0]
        if keeps is not None and (
            keeps not in scoring.names or (len(scoring.names) > 1 and not isinstance(self.refit, str))
        ):
            raise DataError(
                f"with several scores refit= names the one that decides, {scoring.names}, or is False; got "
                f"{self.refit!r}."
                if len(scoring.names) > 1
                else f"refit must be True, False or {scoring.names[0]!r}, got {self.refit!r}."
            )
        estimators = named_estimators(self.estimator)
        is_one = isinstance(self.estimator, Unlearner)
        grids = grids_of(self.param_grid, list(estimators), is_one)
        candidates = candidates_of(estimators, grids, self.n_iter, seed)
        return candidates, scoring, keeps

    def _seed(self) -> int:
        seed: Any = self.random_state
        if seed is None:
            return int(np.random.SeedSequence().generate_state(1)[0])
        if not isinstance(seed, Integral) or seed < 0:
            raise DataError(f"random_state must be None or a whole number, 0 or more, got {seed!r}.")
        return int(seed)

    def _watched(self, model: nn.Module, roles: ForgetRetain) -> tuple[Any, float]:
        """Return retain samples to notice a collapse on, and the accuracy below which it is one."""
        if self.max_drop is None or roles.retain is None or isinstance(roles.retain, Measured):
            return None, -inf
        part = list(sample_of(roles.retain, WATCHED))
        try:
            return part, accuracy(model, part) - self.max_drop
        except DataError:  # a task without classes
            return None, -inf

    def _report(self, rows: Sequence[Row]) -> None:
        """Say what failed.

        Raises
        ------
        DataError
            If no candidate could be scored.
        """
        failed, collapsed = [row for row in rows if row.error], sum(row.collapsed for row in rows)
        if not any(row.scores for row in rows):
            why = f"{len(failed)} failed" if failed else ""
            why += (" and " if failed and collapsed else "") + (f"{collapsed} collapsed" if collapsed else "")
            first = f" The first error: {failed[0].error}" if failed else ""
            raise DataError(
                f"none of {len(rows)} candidates could be scored: {why}.{first} Candidates that lose more than "
                f"max_drop={self.max_drop} of the accuracy on retain have collapsed: choose milder settings, or "
                "max_drop=None."
                if collapsed
                else f"none of {len(rows)} candidates could be scored: {why}.{first}"
            )
        if failed:
            warn(
                f"{len(failed)} of {len(rows)} candidates failed; cv_results_['error'] says how. The first, "
                f"{failed[0].candidate.name} with {failed[0].candidate.params}: {failed[0].error}",
                UnlearnWarning,
            )


def _warn_of_overlap(roles: ForgetRetain) -> None:
    """Warn where samples to choose by are not held out."""
    if roles.validation is None:
        return
    for name in ("retain", "forget"):
        source = getattr(roles, name)
        if not isinstance(source, Measured) and (common := shared(source, roles.validation)):
            warn(
                f"{common:,} samples of validation are in {name} too: scores on them say little. Pass samples "
                "that the model was not trained on.",
                UnlearnWarning,
            )
