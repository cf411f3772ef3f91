# SPDX-License-Identifier: BSD-3-Clause
"""The operators: one typed function each, over plain tensors.

Each has a definition in torch, and a compiled kernel with the same numbers that is used where it is built
(``UNLEARNKIT_BACKEND=auto|torch|native``).
"""

import torch

from unlearnkit.ops._native import Kernel, build_info
from unlearnkit.ops.channels import channel_scores
from unlearnkit.ops.dampening import dampen_, dampening_factor, importance_ratio
from unlearnkit.ops.order import kth_value, percentile

__all__ = [
    "build_info",
    "channel_scores",
    "dampen_",
    "dampening_factor",
    "importance_ratio",
    "kth_value",
    "percentile",
]

# Checked now, so that a kernel which disagrees is said to before anything is computed.
for _kernel in Kernel.registry.values():
    _kernel.on(torch.device("cpu"))
