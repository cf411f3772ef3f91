# SPDX-License-Identifier: BSD-3-Clause
"""The operators: one typed function each, over plain tensors.

Each has a definition in torch, and a compiled kernel with the same numbers that is used where it is built
(``UNLEARNKIT_BACKEND=auto|torch|native``).
"""

from unlearnkit.ops._native import build_info
from unlearnkit.ops.dampening import dampening_factor, importance_ratio
from unlearnkit.ops.norms import plane_sums, row_sums
from unlearnkit.ops.order import percentile
from unlearnkit.ops.squares import square_sum_, square_sum_is_fused

__all__ = [
    "build_info",
    "dampening_factor",
    "importance_ratio",
    "percentile",
    "plane_sums",
    "row_sums",
    "square_sum_",
    "square_sum_is_fused",
]
