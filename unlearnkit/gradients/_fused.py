# SPDX-License-Identifier: BSD-3-Clause
"""Pairs handed to the compiled kernel, which unrolls nothing.

Legend: N samples, m images a sample, T positions, G groups, I inputs and O outputs of a group, C channels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from unlearnkit.ops import square_sum_, square_sum_is_fused
from unlearnkit.ops.workspace import Workspace


@dataclass(frozen=True)
class Convolved:
    """How a pair follows from a convolution's input and gradient; a number for each dimension of space.

    Attributes
    ----------
    stride, padding, dilation : tuple of int
        The padding is that in front: how far the input reaches behind follows from the positions.
    groups : int
    transposed : bool
        Whether the convolution is transposed: its gradient takes the part of the input.
    """

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    transposed: bool = False

    def is_fused(self, x: Tensor, g: Tensor) -> bool:
        """Tell whether the kernel does this better than torch: one position is one matrix product."""
        positions = (x if self.transposed else g).shape[3:].numel() * x.shape[1]
        return positions > 1 and (x.shape[1] == 1 or x.dim() < 6) and square_sum_is_fused(g.device)

    def add_square_sum(self, total: Tensor, x: Tensor, g: Tensor, workspace: Workspace) -> None:
        """Add sum_n (sum_t g a^T)^2 to `total`, of the weight's shape, of x and g [N, m, C, *space]."""
        if self.transposed:
            x, g = g, x
        stride, padding, dilation = self.stride, self.padding, self.dilation
        shape = tuple(total.shape)
        if x.shape[1] == 1:
            x, g = x[:, 0], g[:, 0]
        else:  # images are a dimension of space, along which the kernel reaches nowhere
            x, g = x.transpose(1, 2), g.transpose(1, 2)
            stride, padding, dilation = (1, *stride), (0, *padding), (1, *dilation)
            shape = (*shape[:2], 1, *shape[2:])

        def add(total: Tensor) -> None:
            square_sum_(total.view(shape), x, g, stride, padding, dilation, self.groups, workspace)

        with_contiguous(total, add, workspace)


def add_matrices(total: Tensor, a: Tensor, g: Tensor, workspace: Workspace) -> None:
    """Add sum_n (sum_t g a^T)^2 to `total`, with elements [G, O, I] in memory order.

    Parameters
    ----------
    a : Tensor [N, G, T, I]
    g : Tensor [N, G, T, O]
    """

    def add(total: Tensor) -> None:
        groups = total.view(a.shape[1], g.shape[-1], a.shape[-1], 1)  # [G, O, I, 1]
        for group, one in enumerate(groups):
            square_sum_(one, a[:, group].mT, g[:, group].mT, workspace=workspace)

    with_contiguous(total, add, workspace)


def with_contiguous(total: Tensor, add: Callable[[Tensor], object], workspace: Workspace) -> None:
    """Call `add` with `total`, or with a contiguous tensor that is then added to it."""
    if total.is_contiguous():
        add(total)
        return
    sums = workspace.take("sums", total.shape, total).zero_()
    add(sums)
    total.add_(sums)
