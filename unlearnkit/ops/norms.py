# SPDX-License-Identifier: BSD-3-Clause
"""Per-sample gradients of the weights and biases of norm layers.

Legend: N samples, C channels, T positions or rows, D numbers of a row.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from unlearnkit.ops._native import DTYPES, Kernel


def plane_sums(x: Tensor, g: Tensor, center: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``sum_t g (x - center) scale`` and ``sum_t g`` of every sample and channel.

    With the statistics of a BatchNorm in eval mode, these are the gradients of one sample's loss with
    respect to its weight and bias.

    Parameters
    ----------
    x, g : Tensor [N, C, *space]
        The layer's input, and the gradient with respect to its output; of one floating dtype.
    center, scale : Tensor [C] or [N, C]
        What is subtracted from each channel, and what it is multiplied with then.

    Returns
    -------
    products, sums : Tensor [N, C]
    """
    run = _plane_sums.on(x.device)
    if run is None or x.dtype not in (torch.float32, torch.float64):
        return _plane_sums_in_torch(x, g, center, scale)
    return _run_planes(run, x, g, center, scale, torch.get_num_threads())


def row_sums(x: Tensor, g: Tensor, size: int, eps: float, is_centered: bool = True) -> tuple[Tensor, Tensor]:
    """Return ``sum_t g xhat`` and ``sum_t g`` of every sample, xhat being the normalised rows of x.

    These are the gradients of one sample's loss with respect to weight and bias of a LayerNorm or, if not
    `is_centered`, an RMSNorm.

    Parameters
    ----------
    x, g : Tensor [N, ..., *D]
        The layer's input, and the gradient with respect to its output; of one floating dtype.
    size : int
        D, the numbers in a row: the trailing dimensions that are normalised together.
    eps : float
        Added to the variance (or the mean square) of a row.
    is_centered : bool
        Whether the mean of a row is subtracted.

    Returns
    -------
    products, sums : Tensor [N, D]
    """
    run = _row_sums.on(x.device)
    if run is None or x.dtype not in (torch.float32, torch.float64) or x.numel() == 0:
        return _row_sums_in_torch(x, g, size, eps, is_centered)
    return _run_rows(run, x, g, size, eps, is_centered, torch.get_num_threads())


def _plane_sums_in_torch(x: Tensor, g: Tensor, center: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    x, g = x[..., None].flatten(2), g[..., None].flatten(2)  # [N, C, T]
    return (g * ((x - center[..., None]) * scale[..., None])).sum(2), g.sum(2)


def _row_sums_in_torch(
    x: Tensor, g: Tensor, size: int, eps: float, is_centered: bool
) -> tuple[Tensor, Tensor]:
    shape = (len(x), x.shape[1:].numel() // size, size)
    x, g = x.reshape(shape), g.reshape(shape)  # [N, T, D]
    if is_centered:
        x = x - x.mean(2, keepdim=True)
    xhat = x * (x.square().mean(2, keepdim=True) + eps).rsqrt()
    return (g * xhat).sum(1), g.sum(1)


def _run_planes(
    run: Callable[..., None], x: Tensor, g: Tensor, center: Tensor, scale: Tensor, threads: int
) -> tuple[Tensor, Tensor]:
    x, g, center, scale = x.contiguous(), g.contiguous(), center.contiguous(), scale.contiguous()
    products, sums = x.new_empty(x.shape[:2]), x.new_empty(x.shape[:2])
    run(*_addresses(x, g, center, scale, products, sums), DTYPES[x.dtype], *x.shape[:2],
        x.shape[2:].numel(), center.dim() == 1, threads)  # fmt: skip
    return products, sums


def _run_rows(
    run: Callable[..., None], x: Tensor, g: Tensor, size: int, eps: float, is_centered: bool, threads: int
) -> tuple[Tensor, Tensor]:
    x, g = x.contiguous(), g.contiguous()
    products, sums = x.new_empty(len(x), size), x.new_empty(len(x), size)
    run(*_addresses(x, g, products, sums), DTYPES[x.dtype], len(x), x[0].numel() // size, size, eps,
        is_centered, threads)  # fmt: skip
    return products, sums


def _addresses(*tensors: Tensor) -> list[int]:
    return [tensor.data_ptr() for tensor in tensors]


def _planes_agree(run: Callable[..., None], device: torch.device) -> bool:
    x, g = _waves(2, 3, 7, device=device), _waves(2, 3, 7, device=device, shift=1.0)
    center, scale = x[0, :, 0], g[1, :, 1]
    found = _run_planes(run, x, g, center, scale, 1)
    return _all_close(found, _plane_sums_in_torch(x, g, center, scale))


def _rows_agree(run: Callable[..., None], device: torch.device) -> bool:
    x, g = _waves(2, 3, 37, device=device), _waves(2, 3, 37, device=device, shift=1.0)
    return all(
        _all_close(_run_rows(run, x, g, 37, 1e-3, flag, 1), _row_sums_in_torch(x, g, 37, 1e-3, flag))
        for flag in (True, False)
    )


def _waves(*shape: int, device: torch.device, shift: float = 0.0) -> Tensor:
    """Return some numbers, without a random generator."""
    return torch.arange(torch.Size(shape).numel(), device=device).mul(0.7).add(shift).sin().view(shape)


def _all_close(found: Any, wanted: Any) -> bool:
    return all(torch.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in zip(found, wanted, strict=True))


_plane_sums = Kernel("plane_sums", _planes_agree, devices=("cpu",))
_row_sums = Kernel("row_sums", _rows_agree, devices=("cpu",))
