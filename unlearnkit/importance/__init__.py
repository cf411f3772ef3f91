# SPDX-License-Identifier: BSD-3-Clause
"""Importance estimators: how much each weight matters for a set of samples."""

from unlearnkit.importance.base import Importance, ImportanceEstimator
from unlearnkit.importance.fisher import FisherDiagonal
from unlearnkit.importance.saliency import LogitNorm

__all__ = ["FisherDiagonal", "Importance", "ImportanceEstimator", "LogitNorm"]
