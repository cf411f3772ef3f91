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
from unlearnkit.metrics.comparison import avg_gap, tow
from unlearnkit.metrics.evaluation import evaluate
from unlearnkit.metrics.privacy import confidence_mia, mia
from unlearnkit.metrics.timing import Timer

__all__ = [
    "Timer",
    "accuracy",
    "accuracy_from_logits",
    "avg_gap",
    "confidence_from_logits",
    "confidence_mia",
    "evaluate",
    "mia",
    "predict_logits",
    "tow",
]
