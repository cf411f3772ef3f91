# SPDX-License-Identifier: BSD-3-Clause
"""The operators: one typed function each, over plain tensors.

This is the only file that names the compiled module. What that module does not provide is computed
in torch and NumPy, with the same numbers.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unlearnkit.exceptions import DataError


def build_info() -> dict[str, Any]:
    """Return how the compiled module was built; ``{"native": False}`` where there is none."""
    try:
        from unlearnkit import _C  # absent in a pure Python install
    except ImportError:
        return {"native": False}
    return dict(_C.build_info())


def importance_ratio(forget: Tensor, reference: Tensor) -> Tensor:
    """Return F_f / F_D: NaN where both are zero, infinite where only F_D is."""
    return forget / reference


def dampening_factor(forget: Tensor, reference: Tensor, alpha: float, lambda_: float = 1.0) -> Tensor:
    """Return the factor by which selective synaptic dampening multiplies each weight.

    ``min(lambda * F_D / F_f, 1)`` where ``F_f > alpha * F_D``, strictly, and 1 elsewhere. Where
    F_D = 0 < F_f that is 0; where both are zero, or one is NaN, the weight is left alone.

    Parameters
    ----------
    forget, reference : Tensor
        Mean importances F_f and F_D, of one shape.
    alpha : float
        How many times as important a weight must be for the forget set.
    lambda_ : float
        Scales the strength.

    Notes
    -----
    Foster et al., "Fast Machine Unlearning Without Retraining Through Selective Synaptic
    Dampening", arXiv 2308.07707; ``modify_weight`` of the authors' code.
    """
    # alpha = inf (nothing is selected) times F_D = 0 is NaN, which compares false as it should
    selected = forget > alpha * reference
    factor = (lambda_ * reference / forget).clamp(max=1.0)
    return torch.where(selected, factor, torch.ones_like(factor))


def percentile(tensors: Iterable[Tensor], q: float) -> float:
    """Return the q-th percentile over the finite values of all tensors together.

    By NumPy's ``linear`` method, and without the limit of ``torch.quantile`` to 2^24 values.

    Parameters
    ----------
    tensors : iterable of Tensor
    q : float
        From 0 to 100.

    Raises
    ------
    DataError
        If no value is finite.
    """
    parts = [tensor.detach().flatten() for tensor in tensors]
    parts = [part[torch.isfinite(part)] for part in parts]
    if sum(part.numel() for part in parts) == 0:
        raise DataError("no value is finite, so there is no percentile.")
    # NumPy knows no bfloat16
    arrays = [part.to(torch.promote_types(part.dtype, torch.float32)).cpu().numpy() for part in parts]
    return float(np.percentile(np.concatenate(arrays), q, overwrite_input=True))
