# SPDX-License-Identifier: BSD-3-Clause
"""Selective synaptic dampening, weight by weight."""

from __future__ import annotations

import torch
from torch import Tensor


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
