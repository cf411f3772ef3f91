# SPDX-License-Identifier: BSD-3-Clause
"""The operators: one typed function each, over plain tensors.

Each has a definition in torch, and a compiled kernel with the same numbers that is used where it is built
and agrees with torch on a few numbers, which is checked at import (``UNLEARNKIT_BACKEND=auto|torch|native``
overrides that). For ``torch.compile`` and ``torch.export`` they are also ``torch.ops.unlearnkit.*``.
"""

from unlearnkit.ops import _library  # noqa: F401  (registers them)
from unlearnkit.ops._native import backend, build_info, check_cpu, kernel_states
from unlearnkit.ops.channels import channel_scores
from unlearnkit.ops.dampening import dampen_, dampening_factor, importance_ratio
from unlearnkit.ops.norms import plane_sums, row_sums
from unlearnkit.ops.order import kth_value, percentile
from unlearnkit.ops.squares import square_sum_, square_sum_is_fused

__all__ = [
    "backend",
    "build_info",
    "channel_scores",
    "dampen_",
    "dampening_factor",
    "importance_ratio",
    "kernel_states",
    "kth_value",
    "percentile",
    "plane_sums",
    "row_sums",
    "square_sum_",
    "square_sum_is_fused",
]

check_cpu()
