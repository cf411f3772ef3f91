# SPDX-License-Identifier: BSD-3-Clause
"""Tensors computed from weights alone, ``1 + w``, ``w / w.norm()``, ``table[index]``: the chain rule.

The gradient of a sample with respect to such a tensor is found as that of a weight, and then led back
to the parameters through the autograd graph that made it.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from unlearnkit.gradients.pairs import CHUNK_BYTES, Contribution, Region, stacked
from unlearnkit.ops.workspace import Workspace


@dataclass
class Owner:
    """What fills a weight slot: a parameter, or a tensor computed from parameters.

    Attributes
    ----------
    name : str
    tensor : Tensor
    parameters : tuple of str
        Those it was computed from, without those that are measured in another way.
    pure : bool
        Nothing but parameters (and what holds for all samples) had a part in it.
    origin : str
        What kept it from being tapped when it was computed, and so is to blame if its use fails.
    tapped : bool
        An activation has met it: from then on it must not change.
    """

    name: str
    tensor: Tensor
    parameters: tuple[str, ...]
    pure: bool = True
    origin: str = ""
    tapped: bool = False

    def owns(self, tensor: Tensor) -> bool:
        """Tell whether `tensor` is it, or a view of it that autograd knows."""
        return tensor is self.tensor or (not tensor.is_leaf and tensor.dtype == self.tensor.dtype)


@dataclass
class Chained:
    """The gradients of a parameter that stem from the uses of a tensor computed from it."""

    tensor: Tensor
    parameter: Tensor
    uses: list[tuple[Region, Contribution]]
    dtype: torch.dtype

    @property
    def n(self) -> int:
        """Number of samples."""
        return self.uses[0][1].n

    def add_square_sum(self, total: Tensor, workspace: Workspace) -> None:
        """Add sum_n g_n^2."""
        entries = (self.tensor.numel() + self.parameter.numel()) * self.dtype.itemsize
        step = max(1, CHUNK_BYTES // max(1, entries))
        for start in range(0, self.n, step):
            total.add_(self.gradients(start, min(start + step, self.n), workspace).square().sum(0))

    def gradients(self, start: int, stop: int, workspace: Workspace) -> Tensor:
        """Return J^T g_n of some samples, J the Jacobian of the tensor."""
        dtype = torch.promote_types(self.dtype, self.tensor.dtype)  # a spectrum is complex
        stack = stacked(self.tensor, self.uses, start, stop, workspace, dtype).to(self.tensor.dtype)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # vmap says where it has no rule of its own, and loops
            try:
                (found,) = torch.autograd.grad(
                    self.tensor, self.parameter, stack, retain_graph=True, is_grads_batched=True
                )
            except RuntimeError:  # a custom autograd Function
                rows = [
                    torch.autograd.grad(self.tensor, self.parameter, row, retain_graph=True)[0]
                    for row in stack
                ]
                found = torch.stack(rows)
        return found.to(self.dtype)


def is_dense(tensor: Tensor) -> bool:
    """Tell whether the elements fill their memory, each once: new tensors can then have the same strides."""
    new = torch.empty_like(tensor, device="meta").stride()
    return all(a == b for a, b, size in zip(new, tensor.stride(), tensor.shape, strict=True) if size > 1)


def overlaps(tensor: Tensor) -> bool:
    """Tell whether two elements may share memory (``w.expand_as(x)``, ``w.unfold(...)``)."""
    reach = 0  # of the dimensions with smaller strides
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1 and stride <= reach and tensor.numel():
            return True
        reach += (size - 1) * stride
    return False
