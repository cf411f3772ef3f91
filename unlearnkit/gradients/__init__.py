# SPDX-License-Identifier: BSD-3-Clause
"""Per-sample gradients, exact, without holding them."""

from unlearnkit.gradients.engine import PlanChanged, SquareSums

__all__ = ["PlanChanged", "SquareSums"]
