# SPDX-License-Identifier: BSD-3-Clause
"""Metrics of unlearning: plain functions on models and data, or on arrays of logits.

The target of every one of them is the value that a *retrained* model has, not 0 and not 1.
"""

from unlearnkit.metrics.classification import (
    accuracy,
    accuracy_from_logits,
    confidence_from_logits,
    predict_logits,
)
from unlearnkit.metrics.comparison import avg_gap, retention, rte, tow, tow_mia
from unlearnkit.metrics.evaluation import evaluate
from unlearnkit.metrics.forgetting_quality import (
    ForgettingQuality,
    competition_score,
    forgetting_epsilons,
    forgetting_quality,
)
from unlearnkit.metrics.iam import IAM, iam, iam_of_models, iam_signal
from unlearnkit.metrics.intervals import Interval, bootstrap_interval, mean_interval, t_interval
from unlearnkit.metrics.klom import KLoM, klom, klom_by_set, klom_per_sample
from unlearnkit.metrics.lira import Attack, u_lira
from unlearnkit.metrics.logistic import entropy_mia, indis, lr_mia
from unlearnkit.metrics.margins import margins, margins_from_logits
from unlearnkit.metrics.privacy import confidence_mia, mia, svc_mia
from unlearnkit.metrics.relearning import Relearning, RelearningTime, relearn, relearning_time
from unlearnkit.metrics.results import Evaluation, Score
from unlearnkit.metrics.ruli import RULI, ruli
from unlearnkit.metrics.swap import SwapQuality, swap_quality, swap_quality_of_models
from unlearnkit.metrics.timing import PeakMemory, Timer
from unlearnkit.metrics.uncertainty import (
    entropy_from_logits,
    loss_from_logits,
    modified_entropy_from_logits,
)
from unlearnkit.metrics.zrf import ZRF, jensen_shannon, zrf, zrf_from_logits

__all__ = [
    "IAM",
    "RULI",
    "ZRF",
    "Attack",
    "Evaluation",
    "ForgettingQuality",
    "Interval",
    "KLoM",
    "PeakMemory",
    "Relearning",
    "RelearningTime",
    "Score",
    "SwapQuality",
    "Timer",
    "accuracy",
    "accuracy_from_logits",
    "avg_gap",
    "bootstrap_interval",
    "competition_score",
    "confidence_from_logits",
    "confidence_mia",
    "entropy_from_logits",
    "entropy_mia",
    "evaluate",
    "forgetting_epsilons",
    "forgetting_quality",
    "iam",
    "iam_of_models",
    "iam_signal",
    "indis",
    "jensen_shannon",
    "klom",
    "klom_by_set",
    "klom_per_sample",
    "loss_from_logits",
    "lr_mia",
    "margins",
    "margins_from_logits",
    "mean_interval",
    "mia",
    "modified_entropy_from_logits",
    "predict_logits",
    "relearn",
    "relearning_time",
    "retention",
    "rte",
    "ruli",
    "svc_mia",
    "swap_quality",
    "swap_quality_of_models",
    "t_interval",
    "tow",
    "tow_mia",
    "u_lira",
    "zrf",
    "zrf_from_logits",
]
