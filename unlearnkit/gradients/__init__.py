# SPDX-License-Identifier: BSD-3-Clause
"""Per-sample gradients, exact, without holding them."""

from unlearnkit.gradients._proof import refuse_batch_statistics
from unlearnkit.gradients.engine import PlanChanged, SquareSums

__all__ = ["PlanChanged", "SquareSums", "refuse_batch_statistics"]
