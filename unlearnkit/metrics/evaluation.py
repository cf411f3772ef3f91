# SPDX-License-Identifier: BSD-3-Clause
"""The metrics of one unlearned model in one call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from numpy.random import RandomState
from sklearn.utils import check_random_state
from torch import nn

from unlearnkit.exceptions import DataError, SmallSampleWarning, warn
from unlearnkit.metrics._case import Case, Outputs
from unlearnkit.metrics._catalogue import CATALOGUE, needed
from unlearnkit.metrics._computed import SAMPLES, CensoredError, NoValueError
from unlearnkit.metrics._notes import notes, small
from unlearnkit.metrics.intervals import check_settings
from unlearnkit.metrics.results import Evaluation, Score

__all__ = ["evaluate"]


def evaluate(
    model: nn.Module,
    *,
    retain: Any,
    forget: Any,
    test: Any,
    oracle: nn.Module | Sequence[nn.Module] | Mapping[str, float] | None = None,
    metrics: str | Sequence[str] = "default",
    original: nn.Module | None = None,
    shadows: nn.Module | Sequence[nn.Module] | None = None,
    incompetent: nn.Module | None = None,
    seconds: float | None = None,
    retrain_seconds: float | None = None,
    confidence: float = 0.95,
    n_bootstrap: int = 1000,
    max_samples: int | None = 2000,
    random_state: int | RandomState | None = 0,
) -> Evaluation:
    """Accuracies, membership inference and, beside an oracle, the distance to it.

    Each data set is read once a model. The target of nearly every metric is the retrained model's
    value; `Score.meaning` says which are an exception. No figure of this function proves that
    single samples left no trace: `Evaluation.notes` says what was not verified.

    Parameters
    ----------
    model : nn.Module
        The unlearned model; like all others it is left as it was found.
    retain, forget, test : DataLoader, Dataset or (X, y)
        The samples to keep, those to forget, and ones that no model was trained on. With loaders
        that do not shuffle intervals of distances are narrower: they compare sample by sample.
    oracle : nn.Module, several of them, or Mapping[str, float], optional
        A newly built model that was trained on `retain` alone. Of several the mean is the target,
        and `Score.target` of "tow" is what one of them has beside the others: no method can be told
        from retraining above it. A mapping declares values to reach, or is what this function
        returned for an oracle.
    metrics : "default", "full" or sequence of str
        "default" has the accuracies, "mia", "lr_mia", with an oracle "tow", "avg_gap" and "iam", and
        "rte" with its times; "full" all for which what they need is given, but "relearning", which
        trains. What a metric of a list needs must be given. A metric that found no value, because
        training was not back at its cap or a division has no sense, stands in the notes.
    original, incompetent : nn.Module, optional
        The model before unlearning, for "iam" and "relearning"; one of random weights, for "zrf".
    shadows : nn.Module or sequence of nn.Module, optional
        Models that were not trained on the forget set, for "iam"; in their absence the oracles.
    seconds, retrain_seconds : float, optional
        What unlearning and retraining took.
    confidence : float
        Of the intervals.
    n_bootstrap : int
        Resamples for the intervals; 0 for none, as in a search: "default" then leaves the attacks
        out, which take longer than all else, and "avg_gap" is of the accuracies alone.
    max_samples, random_state
        Of the SVC attacks, see `unlearnkit.metrics.mia`; `random_state` also of all else that draws.

    Returns
    -------
    Evaluation
        A mapping of names to numbers; its `scores` have intervals, targets and meanings.

    Raises
    ------
    DataError
        If a data set is empty, the model's output does not fit the labels, a metric is unknown or
        lacks what it needs, or the oracle's results lack a key.

    Warns
    -----
    SmallSampleWarning
        With intervals, where a set has fewer than 30 samples.
    """
    check_settings(confidence, n_bootstrap or 1)
    sets = {"test": test, "retain": retain, "forget": forget}
    oracles, declared = _oracles(oracle)
    single = {"original": original, "incompetent": incompetent}
    known: dict[int, Outputs] = {}

    def outputs(one: nn.Module) -> Outputs:
        return known.setdefault(id(one), Outputs(one, sets))

    others: dict[str, Any] = {name: outputs(one) for name, one in single.items() if one is not None}
    others |= {"seconds": seconds, "retrain_seconds": retrain_seconds}
    unseen = [shadows] if isinstance(shadows, nn.Module) else shadows  # a Sequential would yield its layers
    others["shadows"] = [outputs(one) for one in unseen] if unseen else None
    case = Case(
        model=outputs(model),
        oracles=[outputs(one) for one in oracles],
        declared=declared,
        others=others,
        asked=(),
        confidence=confidence,
        n_bootstrap=n_bootstrap,
        max_samples=max_samples,
        seed=_seed(random_state),
        samples=SAMPLES,
    )
    case.asked, left_out = _chosen(metrics, case)
    scores = {}
    for name in case.asked:
        metric = CATALOGUE[name]
        try:
            value, (low, high), n, target = metric.compute(case)
        except DataError as error:
            # What makes no sense shows in the accuracies first; of the rest the others do not suffer.
            spared = metrics in ("default", "full") and (metric.attack or isinstance(error, NoValueError))
            if not (spared or isinstance(error, CensoredError)):
                raise
            left_out[name] = str(error)
            continue
        scores[name] = Score(name, value, low, high, n, metric.meaning, target, metric.group)
    if n_bootstrap:
        for line in small(case):
            warn(line, SmallSampleWarning)
    return Evaluation(scores, notes(case, scores, left_out))


def _chosen(metrics: str | Sequence[str], case: Case) -> tuple[tuple[str, ...], dict[str, str]]:
    """Return the names of the metrics to measure, and of those left out the reason."""
    if metrics in ("default", "full"):
        tiers = ("default",) if metrics == "default" else ("default", "full")
        wanted = {name: metric for name, metric in CATALOGUE.items() if metric.tier in tiers}
        left_out = {}
        for name, metric in wanted.items():
            if lacking := [need for need in metric.needs if not case.has(need)]:
                left_out[name] = needed(lacking)
            elif (metric.attack or metric.slow) and metrics == "default" and not case.n_bootstrap:
                left_out[name] = "slow, and n_bootstrap is 0"
        if metrics == "full":
            trains = [name for name, metric in CATALOGUE.items() if metric.tier == "named"]
            left_out |= dict.fromkeys(trains, "it trains models: name it")
        return tuple(name for name in wanted if name not in left_out), left_out
    names = tuple(dict.fromkeys([metrics] if isinstance(metrics, str) else metrics))
    for name in names:
        if name not in CATALOGUE:
            raise DataError(
                f"there is no metric {name!r}: choose 'default', 'full' or among {', '.join(CATALOGUE)}"
            )
        if lacking := [need for need in CATALOGUE[name].needs if not case.has(need)]:
            raise DataError(
                f"the metric {name!r} {needed(lacking)}: pass it to evaluate, or leave the metric out"
            )
    if not names:
        raise DataError("no metric is named: metrics is 'default', 'full' or a list of names")
    return names, {}


def _oracles(oracle: Any) -> tuple[list[nn.Module], Mapping[str, float] | None]:
    if oracle is None or isinstance(oracle, Mapping):
        return [], oracle
    found = [oracle] if isinstance(oracle, nn.Module) else list(oracle)
    if not found or not all(isinstance(one, nn.Module) for one in found):
        kinds = ", ".join(type(one).__name__ for one in found) or "nothing"
        raise DataError(
            f"oracle is a model, several of them, or a mapping of metrics to values; got a list of {kinds}"
        )
    return found, None


def _seed(random_state: int | RandomState | None) -> int:
    if isinstance(random_state, int):
        return random_state
    return int(check_random_state(random_state).randint(2**31))
