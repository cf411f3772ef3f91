# SPDX-License-Identifier: BSD-3-Clause
"""Finders: what divides a data set into a clean and a noisy part."""

from unlearnkit.finding.base import Finder
from unlearnkit.finding.label_issues import LabelIssues
from unlearnkit.finding.mixture import MixtureFinder

__all__ = ["Finder", "LabelIssues", "MixtureFinder"]
