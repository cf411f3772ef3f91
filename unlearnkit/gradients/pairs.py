# SPDX-License-Identifier: BSD-3-Clause
"""Per-sample gradients, held as what they are made of.

A use of a weight leaves a *contribution*: not the per-sample gradients [N, *shape] themselves, which are N
times as large as the weight, but the pair (or the indices, or the values) they follow from. What is wanted
of them (the sum of squares here) is written once over contributions, whatever layer they come from.

Legend: N samples, T positions, G groups, I inputs and O outputs of a group.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from unlearnkit.gradients._fused import Convolved, add_matrices
from unlearnkit.ops import square_sum_is_fused
from unlearnkit.ops.workspace import Workspace

CHUNK_BYTES = 64 * 2**20
"""Memory that one contribution may use at a time, beside its inputs and its result."""

TILE_BYTES = 6 * 2**20
"""Memory of a gradient's rows that are squared while they lie in the processor's cache."""


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """float32 for half precision, else the dtype itself: squares of small gradients underflow in halves."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def upcast(tensor: Tensor) -> Tensor:
    """Return the tensor in its accumulation dtype."""
    return tensor.to(accumulation_dtype(tensor.dtype))


class Contribution(Protocol):
    """What one use of a weight adds to the gradient of each sample."""

    @property
    def n(self) -> int:
        """Number of samples."""

    def add_square_sum(self, total: Tensor, workspace: Workspace) -> None:
        """Add sum_n g_n^2 to `total`, of the weight's shape."""

    def gradients(self, start: int, stop: int, workspace: Workspace) -> Tensor:
        """Return the gradients of some samples, [stop - start, *shape]."""


@dataclass
class Outer:
    """g_n = sum_t g[n, :, t] a[n, :, t]^T: Linear, convolutions, matrix products.

    Attributes
    ----------
    x, g : Tensor [N, ...]
        The input, and the gradient of the summed loss with respect to the output.
    unroll : callable
        Makes of some samples of both the pair a [n, G, T, I] and g [n, G, T, O]. Not before it is needed:
        of a convolution, a is its input copied once for every tap of the kernel.
    shape : torch.Size
        The weight's shape; its elements are [G, O, I] in memory order.
    convolved : Convolved, optional
        What the pair is, where x and g are those of a convolution: [N, m, C, *space].
    """

    x: Tensor
    g: Tensor
    unroll: Callable[[Tensor, Tensor, Workspace], tuple[Tensor, Tensor]]
    shape: torch.Size
    convolved: Convolved | None = None

    @property
    def n(self) -> int:
        """Number of samples."""
        return len(self.x)

    def add_square_sum(self, total: Tensor, workspace: Workspace) -> None:
        """Add the sum over n of (sum_t g a^T)^2 to `total`, in a compiled kernel where there is one."""
        if self.convolved is not None and self.convolved.is_fused(self.x, self.g):
            for start, stop in self._casts():
                x, g = upcast(self.x[start:stop]), upcast(self.g[start:stop])
                self.convolved.add_square_sum(total, x, g, workspace)
        elif self.convolved is None and self.n > 0 and square_sum_is_fused(self.g.device):
            for start, stop in self._casts():
                a, g = self._pair(start, stop, workspace)
                if a.shape[2] == 1:
                    total.add_(_outer_square_sum(a, g, workspace).view(self.shape))
                else:
                    add_matrices(total, a, g, workspace)
        else:
            total.add_(self.square_sum(workspace))

    def _casts(self) -> Iterator[tuple[int, int]]:
        """Yield ranges of samples: all, or, if they must be cast, as many as CHUNK_BYTES hold."""
        size = (self.x[:1].numel() + self.g[:1].numel()) * accumulation_dtype(self.g.dtype).itemsize
        is_cast = accumulation_dtype(self.g.dtype) != self.g.dtype
        step = max(1, CHUNK_BYTES // max(size, 1)) if is_cast else max(self.n, 1)
        for start in range(0, self.n, step):
            yield start, min(start + step, self.n)

    def square_sum(self, workspace: Workspace) -> Tensor:
        """Sum over n of (sum_t g a^T)^2. Where T = 1, that is the one product (g^2)^T (a^2)."""
        total: Tensor | None = None
        for start, stop in self._chunks(workspace):
            part = _outer_square_sum(*self._pair(start, stop, workspace), workspace)  # [G, O, I]
            total = part if total is None else total.add_(part)
        if total is None:
            return torch.zeros(self.shape, dtype=accumulation_dtype(self.g.dtype), device=self.g.device)
        return total.reshape(self.shape)

    def gradients(self, start: int, stop: int, workspace: Workspace) -> Tensor:
        """Return sum_t g a^T of some samples."""
        a, g = self._pair(start, stop, workspace)
        return torch.matmul(g.transpose(-1, -2), a).reshape(stop - start, *self.shape)

    def _pair(self, start: int, stop: int, workspace: Workspace) -> tuple[Tensor, Tensor]:
        return self.unroll(upcast(self.x[start:stop]), upcast(self.g[start:stop]), workspace)

    def _chunks(self, workspace: Workspace) -> Iterator[tuple[int, int]]:
        if self.n == 0:
            return
        a, _ = self._pair(0, 1, workspace)  # [1, G, T, I]
        gradient = self.shape.numel() * a.element_size()
        entries = a.numel() + (0 if a.shape[2] == 1 or gradient > TILE_BYTES // 8 else self.shape.numel())
        step = max(1, CHUNK_BYTES // max(1, entries * a.element_size()))
        for start in range(0, self.n, step):
            yield start, min(start + step, self.n)


def _outer_square_sum(a: Tensor, g: Tensor, workspace: Workspace) -> Tensor:
    """Return sum_n (sum_t g a^T)^2 [G, O, I] of a [N, G, T, I] and g [N, G, T, O]."""
    n, groups, positions, inputs = a.shape
    if positions == 1:
        a2, g2 = a[:, :, 0].square(), g[:, :, 0].square()  # [N, G, I], [N, G, O]
        return torch.matmul(g2.permute(1, 2, 0), a2.permute(1, 0, 2))
    outputs = g.shape[-1]
    if groups == 1 and a.device.type == "cpu" and outputs * inputs * a.element_size() > TILE_BYTES // 8:
        return _tiled_square_sum(a[:, 0], g[:, 0], workspace)[None]
    w = workspace.take("gradients", (n * groups, outputs, inputs), a)
    torch.bmm(g.flatten(0, 1).transpose(1, 2), a.flatten(0, 1), out=w)  # [N * G, O, I]
    return w.square_().view(n, groups, outputs, inputs).sum(0)


def _tiled_square_sum(a: Tensor, g: Tensor, workspace: Workspace) -> Tensor:
    """Return sum_n (sum_t g a^T)^2 [O, I], rows of one sample's gradient at a time: they stay in the cache."""
    outputs, inputs = g.shape[-1], a.shape[-1]
    total = a.new_zeros(outputs, inputs)
    rows = min(outputs, max(16, TILE_BYTES // (inputs * a.element_size())))
    for start in range(0, outputs, rows):
        part = total[start : start + rows]
        w = workspace.take("gradients", part.shape, a)
        for sample, gradient in zip(a, g[..., start : start + rows], strict=True):  # [T, I], [T, rows]
            torch.mm(gradient.t(), sample, out=w)
            part.addcmul_(w, w)
    return total


@dataclass
class Direct:
    """The gradients themselves, [N, *shape]: biases, norm layers, parameters that broadcast."""

    values: Tensor

    @property
    def n(self) -> int:
        """Number of samples."""
        return len(self.values)

    def add_square_sum(self, total: Tensor, workspace: Workspace) -> None:
        """Add sum_n g_n^2."""
        total.add_(self.values.square().sum(0))

    def gradients(self, start: int, stop: int, workspace: Workspace) -> Tensor:
        """Return the gradients of some samples."""
        return self.values[start:stop]


@dataclass
class Lookup:
    """Rows of a table [V, ...]: g_n[v] = sum of g[n, t] over the positions t where index[n, t] = v.

    Repeated indices of one sample are added before they are squared.
    """

    index: Tensor  # [N, T]
    g: Tensor  # [N, T, D]
    shape: torch.Size  # [V, ...], D numbers a row

    @property
    def n(self) -> int:
        """Number of samples."""
        return len(self.index)

    def add_square_sum(self, total: Tensor, workspace: Workspace) -> None:
        """Merge equal (sample, index), square, and add up: no [N, V, D] is made."""
        size = self.shape[0]
        g = upcast(self.g)
        sample = torch.arange(self.n, device=self.index.device)[:, None]
        keys, inverse = torch.unique(self.index + sample * size, return_inverse=True)
        merged = g.new_zeros(len(keys), g.shape[-1])  # [U, D]
        merged.index_add_(0, inverse.flatten(), g.flatten(0, 1))
        sums = g.new_zeros(size, g.shape[-1]).index_add_(0, keys % size, merged.square_())
        total.add_(sums.reshape(self.shape))

    def gradients(self, start: int, stop: int, workspace: Workspace) -> Tensor:
        """Return the gradients of some samples, as tables."""
        index, g = self.index[start:stop], upcast(self.g[start:stop])
        tables = g.new_zeros(len(index) * self.shape[0], g.shape[-1])
        sample = torch.arange(len(index), device=index.device)[:, None]
        tables.index_add_(0, (index + sample * self.shape[0]).flatten(), g.flatten(0, 1))
        return tables.reshape(len(index), *self.shape)


@dataclass(frozen=True)
class Region:
    """The part of a parameter that a use has seen, as strides into it: ``w.t()``, a row block, all of it."""

    size: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int

    @classmethod
    def of(cls, view: Tensor, parameter: Tensor) -> Region:
        """Describe `view`, which shares the parameter's memory."""
        offset = int(view.storage_offset()) - int(parameter.storage_offset())
        return cls(tuple(view.shape), view.stride(), offset)

    def within(self, tensor: Tensor, leading: int | None = None) -> Tensor:
        """Return this part of `tensor`, which has the parameter's strides; `leading`: of a stack of them."""
        if leading is None:
            return tensor.as_strided(self.size, self.stride, tensor.storage_offset() + self.offset)
        return tensor.as_strided(
            (leading, *self.size),
            (tensor.stride(0), *self.stride),
            tensor.storage_offset() + self.offset,
        )


@torch.no_grad()
def add_square_sum(
    total: Tensor,
    uses: list[tuple[Region, Contribution]],
    workspace: Workspace,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Add sum_n (sum of all uses' g_n)^2 to `total`, a tensor with the parameter's strides.

    A parameter used once, or in parts that do not overlap, is squared use by use. Otherwise (a module
    called twice, a tied weight) the gradients of a sample are added over its uses, in `dtype`, before they are
    squared.
    """
    if len(uses) == 1 or _disjoint(total, [region for region, _ in uses]):
        for region, contribution in uses:
            contribution.add_square_sum(region.within(total), workspace)
        return
    n = uses[0][1].n
    step = max(1, min(n, CHUNK_BYTES // max(1, total.numel() * dtype.itemsize)))
    for start in range(0, n, step):
        total.add_(stacked(total, uses, start, min(start + step, n), workspace, dtype).square().sum(0))


def stacked(
    like: Tensor,
    uses: list[tuple[Region, Contribution]],
    start: int,
    stop: int,
    workspace: Workspace,
    dtype: torch.dtype,
) -> Tensor:
    """Return the gradients of some samples, added over all uses: [stop - start, *like.shape]."""
    # every gradient with the parameter's own strides, so that every region finds its place
    stack = torch.zeros(stop - start, like.numel(), dtype=dtype, device=like.device)
    for region, contribution in uses:
        region.within(stack, stop - start).add_(contribution.gradients(start, stop, workspace))
    return Region(tuple(like.shape), like.stride(), 0).within(stack, stop - start)


def _disjoint(total: Tensor, regions: list[Region]) -> bool:
    """Tell whether no element of the parameter lies in two regions."""
    if sum(torch.Size(region.size).numel() for region in regions) > total.numel():
        return False
    seen = torch.zeros_like(total, dtype=torch.int8)
    for region in regions:
        region.within(seen).add_(1)
    return bool((seen <= 1).all())
