# SPDX-License-Identifier: BSD-3-Clause
"""Which rows of an activation belong to which sample.

Mostly dimension 0, but not always: sequence-first models keep the samples in dimension 1, attention
flattens them into [T * N, E], a windowed transformer into [N * windows, T, E]. Guessing would be silently
wrong, so it is observed: of a batch of two samples, the loss of one has zero gradient at the other's rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Layout:
    """Samples along dimension `dim`: one index each, or blocks of m, sample-major or sample-minor."""

    dim: int = 0
    flat: bool = False
    minor: bool = False

    def fits(self, shape: torch.Size, n: int) -> bool:
        """Tell whether a tensor of this shape can hold n samples so."""
        if self.dim >= len(shape):
            return False
        return shape[self.dim] % n == 0 if self.flat else shape[self.dim] == n

    def as_held(self, shape: torch.Size, n: int) -> Layout:
        """Return the simplest layout that is the same one for a tensor of this shape."""
        return Layout(self.dim) if shape[self.dim] == n else self

    def by_sample(self, tensor: Tensor, n: int) -> Tensor:
        """Return a view [N, m, *other dimensions in order], m = 1 where samples are not flattened."""
        if self.minor:
            split = tensor.unflatten(self.dim, (-1, n))  # [..., m, N, ...]
            return split.movedim((self.dim + 1, self.dim), (0, 1))
        split = tensor.unflatten(self.dim, (n, -1))  # [..., N, m, ...]
        return split.movedim((self.dim, self.dim + 1), (0, 1))


def candidates(shape: torch.Size, n: int, dims: list[int]) -> list[Layout]:
    """List the ways in which `dims` of a tensor may hold n samples, likeliest first."""
    exact = [Layout(dim) for dim in dims if shape[dim] == n]
    flat = [
        Layout(dim, flat=True, minor=minor)
        for dim in dims
        if shape[dim] % n == 0 and shape[dim] > n
        for minor in (False, True)
    ]
    return exact + flat


def consistent(found: list[Layout], touched: dict[int, Tensor], n: int) -> list[Layout]:
    """Keep the layouts under which each sample's loss touches that sample's rows alone.

    Parameters
    ----------
    found : list of Layout
    touched : dict of int to bool Tensor
        For some samples of the batch, where the gradient of its loss is not zero.
    n : int
        Samples in the batch.
    """

    def holds(layout: Layout) -> bool:
        for own, mask in touched.items():
            rows = layout.by_sample(mask, n)  # [N, m, ...]
            others = torch.cat([rows[:own], rows[own + 1 :]])
            if bool(others.any()):
                return False
        return True

    return [layout for layout in found if holds(layout)]
