# SPDX-License-Identifier: BSD-3-Clause
"""Importance estimators: how much each weight matters for a set of samples."""

from unlearnkit.importance._attribution import Attribution
from unlearnkit.importance.attribution import GradCAM, GradientActivation
from unlearnkit.importance.base import Importance
from unlearnkit.importance.chance import RandomScore
from unlearnkit.importance.critmem import CritMem
from unlearnkit.importance.depth import LayerDepth
from unlearnkit.importance.estimator import ImportanceEstimator
from unlearnkit.importance.fisher import FisherDiagonal
from unlearnkit.importance.gradient import GradientSaliency, WeightedSaliency
from unlearnkit.importance.names import named
from unlearnkit.importance.ratio import FisherRatio
from unlearnkit.importance.saliency import LogitNorm
from unlearnkit.importance.sensitivity import Sensitivity

__all__ = [
    "Attribution",
    "CritMem",
    "FisherDiagonal",
    "FisherRatio",
    "GradCAM",
    "GradientActivation",
    "GradientSaliency",
    "Importance",
    "ImportanceEstimator",
    "LayerDepth",
    "LogitNorm",
    "RandomScore",
    "Sensitivity",
    "WeightedSaliency",
    "named",
]
