# SPDX-License-Identifier: BSD-3-Clause
"""Selective synaptic dampening, weight by weight."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from unlearnkit.ops import _cuda
from unlearnkit.ops._lists import addresses, check_lists, memory_order, where_run
from unlearnkit.ops._native import DTYPES, Kernel


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


def dampen_(
    weights: Iterable[Tensor],
    forget: Iterable[Tensor],
    reference: Iterable[Tensor],
    alpha: float,
    lambda_: float = 1.0,
) -> list[int]:
    """Dampen weights in place, by the factors of :func:`dampening_factor`, all tensors in one call.

    Where that is below 1 a weight becomes ``weight * factor``, rounded once to its dtype; all others
    keep their bits.

    Parameters
    ----------
    weights : iterable of Tensor, shape [...] each
        Written in the memory they have. Each element must have a place of its own.
    forget, reference : iterable of Tensor, of the weights' shapes
        Mean importances F_f and F_D. All on one device.
    alpha, lambda_ : float
        As of :func:`dampening_factor`.

    Returns
    -------
    list of int
        How many weights of each tensor were multiplied.

    Raises
    ------
    DataError
        If lists, shapes or devices do not match; nothing has been written then.
    """
    (ours, forgets, references), device = check_lists(weights=weights, forget=forget, reference=reference)
    run = _kernel.on(device)
    with torch.no_grad():
        counts: dict[int, int | Tensor] = {}
        for index, group in enumerate(zip(ours, forgets, references, strict=True)):
            if run is None or not _is_known(*group):
                counts[index] = _dampen(*group, alpha, lambda_)
        if run is not None:
            left = [index for index in range(len(ours)) if index not in counts]
            w, f, d = ([part[index] for index in left] for part in (ours, forgets, references))
            counts.update(zip(left, _run(run, w, f, d, alpha, lambda_, where_run(device)), strict=True))
    return [int(counts[index]) for index in range(len(ours))]


def _is_known(weight: Tensor, forget: Tensor, reference: Tensor) -> bool:
    """Tell whether the compiled function knows these dtypes."""
    singles = (torch.float32, torch.float64)
    return weight.dtype in DTYPES and forget.dtype == reference.dtype and forget.dtype in singles


def _dampen(weight: Tensor, forget: Tensor, reference: Tensor, alpha: float, lambda_: float) -> Tensor:
    """Do as :func:`dampen_`, with one tensor and in torch; return the count as a tensor."""
    factor = dampening_factor(forget, reference, alpha, lambda_)
    touched = factor < 1
    weight.copy_(torch.where(touched, (weight * factor).to(weight.dtype), weight))
    return touched.sum()


def _run(
    run: Callable[..., Any],
    weights: list[Tensor],
    forget: list[Tensor],
    reference: list[Tensor],
    alpha: float,
    lambda_: float,
    where: Any,
) -> list[int]:
    """Dampen with the compiled function; it takes each tensor in the order of its weights' memory."""
    orders = [memory_order(weight) for weight in weights]
    targets = [weight.detach().permute(order) for weight, order in zip(weights, orders, strict=True)]
    dense = [target.contiguous() for target in targets]  # a copy only where there are gaps
    importances = [
        [tensor.detach().permute(order).contiguous() for tensor, order in zip(part, orders, strict=True)]
        for part in (forget, reference)
    ]
    lists = [dense, *importances]
    dtypes = [[DTYPES[tensor.dtype] for tensor in part] for part in lists[:2]]
    sizes = [weight.numel() for weight in weights]
    touched: list[int] = run(*map(addresses, lists), sizes, *dtypes, float(alpha), float(lambda_), where)
    for weight, target, written in zip(weights, targets, dense, strict=True):
        if written is not target:
            target.copy_(written)
        elif not weight.is_inference():
            torch.autograd.graph.increment_version(weight)  # as torch's own writes do
    return touched


def _check(run: Callable[..., Any], device: torch.device) -> bool:
    where = where_run(device) if device.type == "cuda" else 1
    forget = torch.tensor([3.0, 2.0, 1.0, 0.0, torch.nan, 6.0, 5.0] * 10, device=device)
    reference = torch.tensor([1.0, 1.0, 0.0, 0.0, 1.0, 0.7, torch.nan] * 10, device=device)
    for dtype in DTYPES:
        for kind in (torch.float32, torch.float64):
            f, d = forget.to(kind), reference.to(kind)
            found = torch.linspace(-3, 3, len(f), device=device).to(dtype)
            expected = found.clone()
            count = int(_dampen(expected, f, d, 2.0, 1.5))
            if _run(run, [found], [f], [d], 2.0, 1.5, where) != [count] or not torch.equal(found, expected):
                return False
    return True


_kernel = Kernel("dampen", _check, _cuda.dampen)
