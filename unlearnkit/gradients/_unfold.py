# SPDX-License-Identifier: BSD-3-Clause
"""im2col in one, two or three dimensions, with everything that a convolution can be asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from unlearnkit.ops.workspace import Workspace


def unfold(
    x: Tensor,
    kernel: Sequence[int],
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: int,
    workspace: Workspace,
    limit: Sequence[int] | None = None,
) -> Tensor:
    """Return the patches of x that a convolution multiplies with its kernel.

    Parameters
    ----------
    x : Tensor [N, C, *space]
    kernel, stride, padding, dilation : as of a convolution; padding may be ``"same"`` or ``"valid"``
    groups : int
    workspace : Workspace
        Where the patches are written.
    limit : sequence of int, optional
        How many positions to keep along each dimension: a transposed convolution with ``output_padding``
        has more room than positions.

    Returns
    -------
    Tensor [N, G, C / G * prod(kernel), T]
        The second to last dimension in the order of a weight's memory.
    """
    rank = len(kernel)
    stride, dilation = each(stride, rank), each(dilation, rank)
    before, after = paddings(padding, kernel, dilation)
    if any(before) or any(after):
        x = _padded(x, before, after, workspace)
    positions = [
        (size - d * (k - 1) - 1) // s + 1
        for size, k, s, d in zip(x.shape[2:], kernel, stride, dilation, strict=True)
    ]
    if limit is not None:
        positions = list(limit)
    steps = x.stride()[2:]
    windows = x.as_strided(  # [N, C, *kernel, *positions]
        (*x.shape[:2], *kernel, *positions),
        (
            *x.stride()[:2],
            *(step * d for step, d in zip(steps, dilation, strict=True)),
            *(step * s for step, s in zip(steps, stride, strict=True)),
        ),
    )
    patches = workspace.take("patches", windows.shape, x).copy_(windows)  # twice as fast as F.unfold
    return patches.view(len(x), groups, -1, torch.Size(positions).numel())


def _padded(x: Tensor, before: Sequence[int], after: Sequence[int], workspace: Workspace) -> Tensor:
    """Zero padding, in memory that is used again; a negative padding (of no convolution) is not meant."""
    sizes = [b + size + a for size, b, a in zip(x.shape[2:], before, after, strict=True)]
    padded = workspace.take("padded", (*x.shape[:2], *sizes), x).zero_()
    inside = padded
    for dim, (size, start) in enumerate(zip(x.shape[2:], before, strict=True), 2):
        inside = inside.narrow(dim, start, size)
    inside.copy_(x)
    return padded


def each(value: Any, rank: int) -> tuple[int, ...]:
    """Return a number for each dimension of space."""
    if isinstance(value, int):
        return (value,) * rank
    return tuple(value) * (rank if len(value) == 1 else 1)


def paddings(
    padding: Any, kernel: Sequence[int], dilation: Sequence[int]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the padding in front and behind, of each dimension of space."""
    if padding == "valid":
        padding = 0
    if padding == "same":  # an even kernel pads one more at the end
        total = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
        return tuple(t // 2 for t in total), tuple(t - t // 2 for t in total)
    both = each(padding, len(kernel))
    return both, both
