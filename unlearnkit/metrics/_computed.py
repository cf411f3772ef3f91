# SPDX-License-Identifier: BSD-3-Clause
"""How each metric of the catalogue is computed for a case."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unlearnkit.exceptions import DataError
from unlearnkit.metrics import comparison
from unlearnkit.metrics._case import NO_ENDS, Case, Ends, Found, Outputs, PerSample
from unlearnkit.metrics.classification import check_logits
from unlearnkit.metrics.iam import iam
from unlearnkit.metrics.intervals import Array, percentiles, resampled_means
from unlearnkit.metrics.logistic import entropy_calls, indis, lr_calls
from unlearnkit.metrics.margins import margins_from_logits
from unlearnkit.metrics.privacy import FEATURES, svc_calls
from unlearnkit.metrics.relearning import relearn, relearning_time
from unlearnkit.metrics.uncertainty import entropy_from_logits, loss_from_logits
from unlearnkit.metrics.zrf import jensen_shannon

SETS = ("test", "retain", "forget")


class NoValueError(DataError):
    """A metric has no value in this case, though all that it needs is given."""


class CensoredError(NoValueError):
    """A measurement ended at its cap: the value is known to lie beyond, and no more."""


def _correct(logits: Tensor, labels: Tensor) -> Tensor:
    check_logits(logits, labels)
    return logits.argmax(dim=1) == labels


def _right(name: str, case: Case, outputs: Outputs) -> Array:
    return outputs.of(_correct, name)


def _svc(feature: str, case: Case, outputs: Outputs) -> NDArray[np.bool_]:
    members, nonmembers, targets = (
        FEATURES[feature](*outputs[name]) for name in ("retain", "test", "forget")
    )
    return svc_calls(members, nonmembers, targets, max_samples=case.max_samples, random_state=case.seed)


def _lr(case: Case, outputs: Outputs) -> NDArray[np.bool_]:
    forget, test = (outputs.of(loss_from_logits, name) for name in ("forget", "test"))
    if min(len(forget), len(test)) < 2:
        raise NoValueError("lr_mia and indis need two samples to be forgotten, and two unseen ones")
    return lr_calls(forget, test, random_state=case.seed)


def _entropy(case: Case, outputs: Outputs) -> NDArray[np.bool_]:
    return entropy_calls(*(outputs.of(entropy_from_logits, name) for name in ("retain", "test", "forget")))


def _check_order(one: Outputs, other: Outputs) -> None:
    if not torch.equal(one["forget"][1], other["forget"][1]):
        raise NoValueError(
            "what compares models sample by sample needs a forget loader that does not shuffle with a "
            "generator of its own"
        )


def _zrf(case: Case, outputs: Outputs) -> Array:
    own, other = outputs["forget"], case.others["incompetent"]["forget"]
    _check_order(outputs, case.others["incompetent"])
    return 1 - jensen_shannon(own[0], other[0]).numpy()


SAMPLES: dict[str, PerSample] = {
    **{name: partial(_right, name) for name in SETS},
    "ua": lambda case, outputs: 1 - outputs.of(_correct, "forget"),
    "mia": partial(_svc, "confidence"),
    **{f"mia_{name}": partial(_svc, name) for name in FEATURES if name != "confidence"},
    "lr_mia": _lr,
    "entropy_mia": _entropy,
    "zrf": _zrf,
}


def mean(name: str, case: Case, bounds: tuple[float, float] = (0.0, 1.0)) -> Found:
    """Compute a metric that is a mean over samples."""
    values = case.per_sample(name, case.model)
    return Found(float(values.mean()), case.ends(values, bounds), len(values), case.target(name))


def indiscernibility(case: Case) -> Found:
    calls = case.per_sample("lr_mia", case.model)
    low, high = case.ends(calls)
    ends: Ends = NO_ENDS
    if low is not None and high is not None:
        ends = min(indis(low), indis(high)), 1.0 if low <= 0.5 <= high else max(indis(low), indis(high))
    accuracy = case.target("lr_mia")
    return Found(indis(float(calls.mean())), ends, len(calls), None if accuracy is None else indis(accuracy))


def distance(name: str, case: Case) -> Found:
    """Compute one of "tow", "tow_mia" and "avg_gap"."""
    function = getattr(comparison, name)
    ends_of = comparison.avg_gap_ends if name == "avg_gap" else comparison.tow_ends
    keys = ["mia" if name == "tow_mia" else "forget", "retain", "test"]
    if name == "avg_gap" and "mia" in case.asked and (case.oracles or "mia" in (case.declared or {})):
        keys.append("mia")
    value = function(case.values([case.model], keys), case.expected(keys))
    ends: Ends = ends_of([case.difference(key, len(keys)) for key in keys]) if case.n_bootstrap else NO_ENDS
    target = 0.0 if name == "avg_gap" else 1.0
    if len(case.oracles) > 1:  # what one oracle has beside the others
        rest = [case.oracles[:at] + case.oracles[at + 1 :] for at in range(len(case.oracles))]
        each = zip(case.oracles, rest, strict=True)
        found = [function(case.values([one], keys), case.values(others, keys)) for one, others in each]
        target = sum(found) / len(found)
    return Found(value, ends, min(len(case.per_sample(key, case.model)) for key in keys), target)


def retained(key: str, case: Case) -> Found:
    expected = case.expected([key])
    if expected.get(key) == 0:
        raise NoValueError(f"retention_{key} divides by the oracle's accuracy on {key}, which is 0")
    value = comparison.retention(case.values([case.model], [key]), expected, key)
    pairs = np.stack(case.paired(key), axis=1)  # [N, 2]
    ends: Ends = NO_ENDS
    if case.n_bootstrap:
        own, other = resampled_means(pairs, case.n_bootstrap, case.seed).T
        ends = percentiles(own / other, case.confidence) if other.all() else NO_ENDS
    return Found(value, ends, len(pairs), 1.0)


def seconds(case: Case) -> Found:
    retrain = case.others.get("retrain_seconds")
    return Found(float(case.others["seconds"]), NO_ENDS, 1, None if retrain is None else float(retrain))


def efficiency(case: Case) -> Found:
    return Found(comparison.rte(case.others["seconds"], case.others["retrain_seconds"]), NO_ENDS, 1, 1.0)


def completeness(case: Case) -> Found:
    models = [case.model, *case.shadows]
    if len(case.model["forget"][1]) == 1 == len(case.shadows):
        raise NoValueError("iam needs two samples, or two models that never saw the one")
    original = case.others.get("original")
    for one in [*case.shadows, *([original] if original else [])]:
        _check_order(case.model, one)
    unlearned, *shadows = (one.of(margins_from_logits, "forget") for one in models)
    fitted = None if original is None else original.of(margins_from_logits, "forget")
    if not all(
        np.isfinite(phi).all() for phi in (unlearned, *shadows, *([] if fitted is None else [fitted]))
    ):
        raise NoValueError("iam needs finite margins: a class is masked with -inf")
    found = iam(
        unlearned,
        np.stack(shadows),
        fitted,
        confidence=case.confidence,
        n_bootstrap=case.n_bootstrap,
        random_state=case.seed,
    )
    return Found(found.value, (found.low, found.high), len(unlearned), found.level)


def relearned(case: Case) -> Found:
    forget, original = case.model.sets["forget"], case.others["original"].model
    oracles = [one.model for one in case.oracles]
    first = relearning_time(case.model.model, oracles[0], original, forget, random_state=case.seed)
    others = [relearn(one, forget, level=first.level, random_state=case.seed) for one in oracles[1:]]
    times = [first.oracle, *others]
    own, known = first.unlearned.steps, [time.steps for time in times if time.steps is not None]
    if own is None or len(known) < len(times) or not sum(known):
        raise CensoredError(
            f"no ratio: the model took {first.unlearned}, the oracle {', '.join(map(str, times))}"
        )
    return Found(own * len(known) / sum(known), NO_ENDS, len(case.model["forget"][1]), 1.0)
