# SPDX-License-Identifier: BSD-3-Clause
"""Scores of channels: the rows of a weight, an output channel or neuron each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from unlearnkit.exceptions import DataError
from unlearnkit.ops import _cuda
from unlearnkit.ops._lists import addresses, check_lists, memory_order, where_run
from unlearnkit.ops._native import DTYPES, Kernel


def channel_scores(
    weights: Iterable[Tensor],
    gradients: Iterable[Tensor],
    h: int | Sequence[int | None] | None = None,
) -> list[Tensor]:
    """Return for each channel of each tensor the mean of its `h` largest ``|theta * g|``.

    A channel is an index of the first dimension: a row of ``tensor.flatten(1)``. For input channels
    give transposed views; strided rows are read by way of a copy.

    Parameters
    ----------
    weights, gradients : iterable of Tensor, shape [C, ...] each
        In pairs of one shape, on one device. A vector [C] has rows of one weight.
    h : int or sequence of int, optional
        How many values of a row count, one number for all tensors or one each; all of them where
        the row has no more, or where left out. Ties need no care: equal values give equal means.

    Returns
    -------
    list of Tensor, shape [C] each
        In float32, or in float64 where a weight or gradient is. NaN where a row has a NaN among
        its top (it ranks above all numbers), or has no weight at all.

    Raises
    ------
    DataError
        If lists, shapes or devices do not match, or `h` is less than 1.

    Notes
    -----
    The channel criterion of DEL: Torkzadehmahani et al., "Improved Localized Machine Unlearning
    Through the Lens of Memorization", arXiv 2412.02432, algorithm 1. Products are rounded to the
    result's dtype, and summed in float64.
    """
    (ours, theirs), device = check_lists(weights=weights, gradients=gradients)
    tops = _tops(h, len(ours))
    pairs = [_rows(w.detach(), g.detach()) for w, g in zip(ours, theirs, strict=True)]
    run = _kernel.on(device)
    if run is None:
        return [_reference(w, g, top) for (w, g), top in zip(pairs, tops, strict=True)]
    # [C]
    scores = [torch.empty(len(w), dtype=w.dtype, device=device) for w, _ in pairs]
    rows, lengths = [len(w) for w, _ in pairs], [w.shape[1] for w, _ in pairs]
    lists = (addresses([w for w, _ in pairs]), addresses([g for _, g in pairs]), addresses(scores))
    used = [length if top is None else top for length, top in zip(lengths, tops, strict=True)]
    run(*lists, rows, lengths, used, [DTYPES[w.dtype] for w, _ in pairs], where_run(device))
    return scores


def _tops(h: int | Sequence[int | None] | None, count: int) -> list[int | None]:
    tops = [h] * count if h is None or isinstance(h, int) else list(h)
    if len(tops) != count:
        raise DataError(f"h holds {len(tops)} numbers for {count} tensors: give one number, or one for each.")
    for top in tops:
        if top is not None and top < 1:
            raise DataError(f"h must be 1 or more, got {top}; leave it out for the mean of all.")
    return tops


def _rows(weight: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Return both as contiguous rows [C, L] of one dtype; within a row the order is free."""
    dtype = torch.promote_types(torch.promote_types(weight.dtype, gradient.dtype), torch.float32)
    if weight.dim() == 0:
        weight, gradient = weight[None], gradient[None]
    order = [0, *(dim for dim in memory_order(weight) if dim)]
    shape = [len(weight), weight[0].numel() if len(weight) else 0]
    weight, gradient = (
        tensor.permute(order).to(dtype).contiguous().resolve_neg().view(shape)
        for tensor in (weight, gradient)
    )
    return weight, gradient


def _reference(weight: Tensor, gradient: Tensor, h: int | None) -> Tensor:
    """Return the scores [C] of rows [C, L], in torch."""
    values = (weight * gradient).abs()
    if h is not None and h < values.shape[1]:
        values = values.topk(h, sorted=False).values
    return values.double().mean(1).to(values.dtype)


def _check(run: Callable[..., Any], device: torch.device) -> bool:
    where = where_run(device) if device.type == "cuda" else 1
    for dtype in (torch.float32, torch.float64):
        # [2, 40], with ties
        weight = (torch.arange(80, device=device, dtype=dtype) % 7 - 3).view(2, 40)
        gradient = (torch.arange(80, device=device, dtype=dtype) % 11 / 8).view(2, 40)
        for h in (3, 40):
            found = torch.full((2,), -1.0, dtype=dtype, device=device)
            lists = ([weight.data_ptr()], [gradient.data_ptr()], [found.data_ptr()])
            run(*lists, [2], [40], [h], [DTYPES[dtype]], where)
            if not torch.allclose(found, _reference(weight, gradient, h), rtol=1e-6, atol=0):
                return False
    return True


_kernel = Kernel("channel_scores", _check, _cuda.channel_scores)
