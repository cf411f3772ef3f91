# SPDX-License-Identifier: BSD-3-Clause
"""The metrics that `evaluate` knows: what each needs, means, and how it is computed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

from unlearnkit.metrics import _computed as computed
from unlearnkit.metrics._case import Case, Found
from unlearnkit.metrics.zrf import LEAST


@dataclass(frozen=True)
class Metric:
    """A line of the catalogue; `tier` says from which choice of metrics on it is measured."""

    group: str
    compute: Callable[[Case], Found]
    meaning: str
    needs: tuple[str, ...] = ()
    tier: Literal["default", "full", "named"] = "default"
    attack: bool = False
    slow: bool = False


ORACLES = "equal to the retrained model's is good"
WEAK = f"weak evidence; {ORACLES}"
SVC = "share of the forget samples that an SVC on {} calls unseen (SalUn); " + WEAK

CATALOGUE: dict[str, Metric] = {
    "test": Metric("accuracy", partial(computed.mean, "test"), f"accuracy on unseen samples (TA); {ORACLES}"),
    "retain": Metric(
        "accuracy", partial(computed.mean, "retain"), f"accuracy on what is kept (RA); {ORACLES}"
    ),
    "forget": Metric(
        "accuracy",
        partial(computed.mean, "forget"),
        f"accuracy on what is forgotten (1 - UA); {ORACLES}, which need not be 0",
    ),
    "ua": Metric(
        "accuracy",
        partial(computed.mean, "ua"),
        f"unlearning accuracy, 1 - accuracy on forget; {ORACLES}",
        tier="full",
    ),
    "tow": Metric(
        "closeness",
        partial(computed.distance, "tow"),
        "tug of war, product of 1 - |accuracy - oracle's| over forget, retain, test (RUM); 1 is best",
        ("oracle",),
    ),
    "avg_gap": Metric(
        "closeness",
        partial(computed.distance, "avg_gap"),
        "mean |value - oracle's| of the three accuracies, and of mia where that is measured (SalUn); 0 is best",
        ("oracle",),
    ),
    "tow_mia": Metric(
        "closeness",
        partial(computed.distance, "tow_mia"),
        "tug of war with mia for the accuracy on forget (RUM); as weak as mia; 1 is best",
        ("oracle",),
        "full",
        attack=True,
    ),
    **{
        f"retention_{name}": Metric(
            "closeness",
            partial(computed.retained, name),
            f"accuracy on {name} over the oracle's (Deep Unlearn); 1 is best",
            ("oracle",),
            "full",
        )
        for name in ("retain", "forget", "test")
    },
    "zrf": Metric(
        "closeness",
        partial(computed.mean, "zrf", bounds=(LEAST, 1.0)),
        f"1 - JS divergence, in nats, from a model of random weights on forget (Bad Teaching's text); {ORACLES}",
        ("incompetent",),
        "full",
    ),
    "iam": Metric(
        "memory of single samples",
        computed.completeness,
        "mean completeness of unlearning of each sample (IAM); good is what models that never saw them have",
        ("shadows",),
        slow=True,
    ),
    "relearning": Metric(
        "relearning",
        computed.relearned,
        "steps to relearn the forget set over the oracle's (AIN); 1 is good, near 0 is hidden, not forgotten",
        ("original", "oracle model"),
        "named",
        slow=True,
    ),
    "mia": Metric("membership", partial(computed.mean, "mia"), SVC.format("its confidence"), attack=True),
    "lr_mia": Metric(
        "membership",
        partial(computed.mean, "lr_mia"),
        "accuracy of telling forgotten from unseen samples by their loss (Deep Unlearn); weak evidence; "
        "0.5 is chance, the retrained model's is good",
        attack=True,
    ),
    "indis": Metric(
        "membership",
        computed.indiscernibility,
        "1 - |lr_mia - 0.5| / 0.5 (Deep Unlearn); as weak as lr_mia; 1 is chance, the retrained model's is good",
        tier="full",
        attack=True,
    ),
    "entropy_mia": Metric(
        "membership",
        partial(computed.mean, "entropy_mia"),
        "share of the forget samples that a logistic regression on the entropy calls members (Bad Teaching, SSD); "
        + WEAK,
        tier="full",
        attack=True,
    ),
    **{
        f"mia_{name}": Metric(
            "membership",
            partial(computed.mean, f"mia_{name}"),
            SVC.format(what),
            tier="full",
            attack=True,
        )
        for name, what in {
            "correctness": "whether the model is right",
            "entropy": "the entropy",
            "m_entropy": "the modified entropy",
            "prob": "all probabilities",
        }.items()
    },
    "rte": Metric(
        "cost",
        computed.efficiency,
        "times faster than retraining (Deep Unlearn); more is better",
        ("seconds", "retrain_seconds"),
    ),
    "seconds": Metric(
        "cost",
        computed.seconds,
        "seconds to unlearn; the target is those to retrain",
        ("seconds",),
        "full",
    ),
}

FORMS = {"oracle model": "oracle= as a model", "shadows": "shadows= or oracle= as a model"}


def needed(lacking: list[str]) -> str:
    """Say what to pass for what a metric lacks."""
    return "needs " + " and ".join(FORMS.get(need, f"{need}=") for need in lacking)
