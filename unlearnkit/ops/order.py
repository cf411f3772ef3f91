# SPDX-License-Identifier: BSD-3-Clause
"""Order statistics over lists of tensors."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unlearnkit.exceptions import DataError
from unlearnkit.ops import _cuda
from unlearnkit.ops._lists import addresses, in_memory, where_run
from unlearnkit.ops._native import DTYPES, Kernel


def percentile(tensors: Iterable[Tensor], q: float) -> float:
    """Return the q-th percentile over the finite values of all tensors together.

    By NumPy's ``linear`` method, bit for bit, and without the limit of ``torch.quantile`` to 2^24
    values. The compiled kernel neither joins nor copies tensors of float32 and float64.

    Parameters
    ----------
    tensors : iterable of Tensor
        Of any shapes, strides and floating-point dtypes; on one device.
    q : float
        From 0 to 100.

    Raises
    ------
    DataError
        If no value is finite, or `q` is out of range.
    """
    if not 0 <= q <= 100:
        raise DataError(f"q must be from 0 to 100, got {q!r}.")
    quantile = float(q) / 100
    n, lower, upper, dtype = _neighbours(tensors, 0, quantile)
    if n == 0:
        raise DataError("no value is finite, so there is no percentile.")
    part = (n - 1) * quantile % 1.0
    if part == 0 or upper == lower:
        return lower
    # as NumPy: in the dtype of the values, from the nearer side
    kind = np.float64 if dtype is torch.float64 else np.float32
    low, high = kind(lower), kind(upper)
    with np.errstate(over="ignore"):
        step = high - low
        return float(low + step * kind(part) if part < 0.5 else high - step * kind(1 - part))


def kth_value(tensors: Iterable[Tensor], k: int) -> float:
    """Return the k-th smallest of the finite values of all tensors together, exactly.

    Parameters
    ----------
    tensors : iterable of Tensor
        Of any shapes, strides and floating-point dtypes; on one device.
    k : int
        From 1, as in ``torch.kthvalue``, to the number of finite values, which may exceed 2^31.

    Raises
    ------
    DataError
        If there is no such value.

    Notes
    -----
    By radix selection: histograms of the values' leading bits, then of the bits that follow among
    those which agree with the value sought so far.
    """
    n, found, _, _ = _neighbours(tensors, k, 0.0) if k >= 1 else (0, 0.0, 0.0, None)
    if not 1 <= k <= n:
        raise DataError(f"k must be from 1 to the number of finite values{f', {n:,}' if n else ''}, got {k}.")
    return found


def _neighbours(
    tensors: Iterable[Tensor], k: int, quantile: float
) -> tuple[int, float, float, torch.dtype | None]:
    """Return how many values are finite, the k-th of them and the next, and the dtype of all.

    Where k is 0 it is ``1 + floor((n - 1) * quantile)``; the next to the last is the last.
    """
    given = list(tensors)
    for tensor in given:
        if not tensor.dtype.is_floating_point:
            raise DataError(f"cannot rank {tensor.dtype}: give tensors of a floating-point dtype.")
        if tensor.device != given[0].device:
            raise DataError(f"tensors are on {given[0].device} and {tensor.device}: move all to one device.")
    if not given:
        return 0, math.nan, math.nan, None
    # NumPy knows no bfloat16, and has no float32 where float64 is among the values
    parts = [in_memory(tensor).to(torch.promote_types(tensor.dtype, torch.float32)) for tensor in given]
    dtype = torch.float64 if any(part.dtype is torch.float64 for part in parts) else torch.float32
    device = parts[0].device
    run = _kernel.on(device)
    if run is None:
        return *_by_partition(parts, k, quantile), dtype
    sizes, dtypes = [part.numel() for part in parts], [DTYPES[part.dtype] for part in parts]
    found = run(addresses(parts), sizes, dtypes, dtype is torch.float64, k, quantile, where_run(device))
    return *found, dtype


def _by_partition(parts: list[Tensor], k: int, quantile: float) -> tuple[int, float, float]:
    """Do as the kernel, with NumPy: values that are not finite are left out, and -0 is 0."""
    arrays = [part[torch.isfinite(part)].cpu().numpy() for part in parts]
    values = np.concatenate(arrays)
    n = len(values)
    rank = k - 1 if k else math.floor((n - 1) * quantile)
    if not 0 <= rank < n:
        return n, math.nan, math.nan
    after = min(rank + 1, n - 1)
    values.partition([rank, after])
    return n, float(values[rank]) + 0.0, float(values[after]) + 0.0


def _check(run: Callable[..., Any], device: torch.device) -> bool:
    numbers = [3.0, -1.0, 0.5, math.nan, 2.0, math.inf, -0.0, 7.0]
    values = torch.tensor(numbers, dtype=torch.float32, device=device)
    other = torch.tensor([1.25, -8.0], dtype=torch.float64, device=device)
    single = run(addresses([values]), [8], [0], False, 0, 0.5, _one(device))
    double = run(addresses([values, other]), [8, 2], [0, 1], True, 8, 0.0, _one(device))
    return tuple(single) == _by_partition([values], 0, 0.5) and tuple(double) == _by_partition(
        [values, other], 8, 0.0
    )


def _one(device: torch.device) -> Any:
    return where_run(device) if device.type == "cuda" else 1


_kernel = Kernel("kth_value", _check, _cuda.kth_value)
