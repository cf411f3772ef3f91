# SPDX-License-Identifier: BSD-3-Clause
"""The metrics that `evaluate` knows: what each needs, means, and how it is computed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from unlearnkit.exceptions import DataError
from unlearnkit.metrics import comparison
from unlearnkit.metrics._case import NO_ENDS, Case, Ends, Found, Outputs, PerSample
from unlearnkit.metrics.classification import check_logits
from unlearnkit.metrics.intervals import Array, percentiles, resampled_means
from unlearnkit.metrics.logistic import entropy_calls, indis, lr_calls
from unlearnkit.metrics.privacy import FEATURES, svc_calls
from unlearnkit.metrics.uncertainty import entropy_from_logits, loss_from_logits
from unlearnkit.metrics.zrf import LEAST, check_same_samples, jensen_shannon

SETS = ("test", "retain", "forget")


class NoValueError(DataError):
    """A metric has no value in this case, though all that it needs is given."""


@dataclass(frozen=True)
class Metric:
    """A line of the catalogue; `tier` says from which choice of metrics on it is measured."""

    group: str
    compute: Callable[[Case], Found]
    meaning: str
    needs: tuple[str, ...] = ()
    tier: Literal["default", "full", "named"] = "default"
    attack: bool = False


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


def _zrf(case: Case, outputs: Outputs) -> Array:
    own, other = outputs["forget"], case.others["incompetent"]["forget"]
    check_same_samples(own[1], other[1])
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


def _mean(name: str, case: Case, bounds: tuple[float, float] = (0.0, 1.0)) -> Found:
    """Compute a metric that is a mean over samples."""
    values = case.per_sample(name, case.model)
    return Found(float(values.mean()), case.ends(values, bounds), len(values), case.target(name))


def _indis(case: Case) -> Found:
    calls = case.per_sample("lr_mia", case.model)
    low, high = case.ends(calls)
    ends: Ends = NO_ENDS
    if low is not None and high is not None:
        ends = min(indis(low), indis(high)), 1.0 if low <= 0.5 <= high else max(indis(low), indis(high))
    accuracy = case.target("lr_mia")
    return Found(indis(float(calls.mean())), ends, len(calls), None if accuracy is None else indis(accuracy))


def _distance(name: str, case: Case) -> Found:
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


def _retention(key: str, case: Case) -> Found:
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


def _seconds(case: Case) -> Found:
    retrain = case.others.get("retrain_seconds")
    return Found(float(case.others["seconds"]), NO_ENDS, 1, None if retrain is None else float(retrain))


def _rte(case: Case) -> Found:
    return Found(comparison.rte(case.others["seconds"], case.others["retrain_seconds"]), NO_ENDS, 1, 1.0)


ORACLES = "equal to the retrained model's is good"
WEAK = f"weak evidence; {ORACLES}"
SVC = "share of the forget samples that an SVC on {} calls unseen (SalUn); " + WEAK

CATALOGUE: dict[str, Metric] = {
    "test": Metric("accuracy", partial(_mean, "test"), f"accuracy on unseen samples (TA); {ORACLES}"),
    "retain": Metric("accuracy", partial(_mean, "retain"), f"accuracy on what is kept (RA); {ORACLES}"),
    "forget": Metric(
        "accuracy",
        partial(_mean, "forget"),
        f"accuracy on what is forgotten (1 - UA); {ORACLES}, which need not be 0",
    ),
    "ua": Metric(
        "accuracy",
        partial(_mean, "ua"),
        f"unlearning accuracy, 1 - accuracy on forget; {ORACLES}",
        tier="full",
    ),
    "mia": Metric("membership", partial(_mean, "mia"), SVC.format("its confidence"), attack=True),
    "tow": Metric(
        "closeness",
        partial(_distance, "tow"),
        "tug of war, product of 1 - |accuracy - oracle's| over forget, retain, test (RUM); 1 is best",
        ("oracle",),
    ),
    "avg_gap": Metric(
        "closeness",
        partial(_distance, "avg_gap"),
        "mean |value - oracle's| of the three accuracies, and of mia where that is measured (SalUn); 0 is best",
        ("oracle",),
    ),
    "lr_mia": Metric(
        "membership",
        partial(_mean, "lr_mia"),
        "accuracy of telling forgotten from unseen samples by their loss (Deep Unlearn); weak evidence; "
        "0.5 is chance, the retrained model's is good",
        attack=True,
    ),
    "rte": Metric(
        "cost",
        _rte,
        "times faster than retraining (Deep Unlearn); more is better",
        ("seconds", "retrain_seconds"),
    ),
    "seconds": Metric(
        "cost", _seconds, "seconds to unlearn; the target is those to retrain", ("seconds",), "full"
    ),
    "tow_mia": Metric(
        "closeness",
        partial(_distance, "tow_mia"),
        "tug of war with mia for the accuracy on forget (RUM); as weak as mia; 1 is best",
        ("oracle",),
        "full",
        attack=True,
    ),
    **{
        f"retention_{name}": Metric(
            "closeness",
            partial(_retention, name),
            f"accuracy on {name} over the oracle's (Deep Unlearn); 1 is best",
            ("oracle",),
            "full",
        )
        for name in ("retain", "forget", "test")
    },
    "indis": Metric(
        "membership",
        _indis,
        "1 - |lr_mia - 0.5| / 0.5 (Deep Unlearn); 1 is chance; as weak as lr_mia",
        tier="full",
        attack=True,
    ),
    "entropy_mia": Metric(
        "membership",
        partial(_mean, "entropy_mia"),
        "share of the forget samples that a logistic regression on the entropy calls members (Bad Teaching, SSD); "
        + WEAK,
        tier="full",
        attack=True,
    ),
    **{
        f"mia_{name}": Metric(
            "membership", partial(_mean, f"mia_{name}"), SVC.format(what), tier="full", attack=True
        )
        for name, what in {
            "correctness": "whether the model is right",
            "entropy": "the entropy",
            "m_entropy": "the modified entropy",
            "prob": "all probabilities",
        }.items()
    },
    "zrf": Metric(
        "closeness",
        partial(_mean, "zrf", bounds=(LEAST, 1.0)),
        f"1 - JS divergence, in nats, from a model of random weights on forget (Bad Teaching's text); {ORACLES}",
        ("incompetent",),
        "full",
    ),
}
