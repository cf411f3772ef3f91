# SPDX-License-Identifier: BSD-3-Clause
"""Choosing a method and its parameters, in scikit-learn's words."""

from unlearnkit.search.search import UnlearnSearch

__all__ = ["UnlearnSearch"]
