# SPDX-License-Identifier: BSD-3-Clause
"""What an edit does to one tensor: which elements it replaces, by which bits.

Positions count the tensor's elements in C order, whatever its strides, so a change made on a
contiguous tensor fits its channels-last twin.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from unlearnkit.parameters import bits, digest


@dataclass(frozen=True, eq=False)
class Change:
    """New values for some elements of one tensor, bound to the values they replace.

    Attributes
    ----------
    shape : tuple of int
        Shape of the whole tensor, of ``numel`` elements.
    before, after : str
        `unlearnkit.parameters.digest` of the whole tensor without and with the change.
    index : torch.Tensor of int32 or int64, shape [n_changed], or None
        Ascending flat positions of the changed elements. None where the whole tensor takes no
        more bytes than its changed elements and their positions.
    values : torch.Tensor, shape [n_changed], or [numel] where ``index`` is None
        New values on the CPU, in the tensor's dtype.
    n_changed : int
        How many elements get other bits.
    is_buffer : bool
        Whether the tensor is a buffer, not a parameter.
    """

    shape: tuple[int, ...]
    before: str
    after: str
    index: Tensor | None
    values: Tensor
    n_changed: int
    is_buffer: bool = False

    @classmethod
    def between(cls, before: Tensor, after: Tensor, is_buffer: bool = False) -> Change | None:
        """Return what turns `before` into `after`; None where every bit agrees.

        Parameters
        ----------
        before, after : torch.Tensor, shape [...]
            Dense, of one shape and dtype, on any device, with any strides.
        is_buffer : bool, default=False
            Kept with the change.
        """
        differs = bits(before) != bits(after.to(before.device))
        if differs.dim() > 1:  # complex128: two words an element
            differs = differs.any(1)
        n_changed = int(differs.count_nonzero())
        if n_changed == 0:
            return None
        small = torch.int32 if before.numel() < 2**31 else torch.int64
        width = before.element_size()
        index = None
        if n_changed * (width + small.itemsize) < before.numel() * width:
            index = differs.nonzero().view(-1).to("cpu", small)
        return cls(
            shape=tuple(before.shape),
            before=digest(before),
            after=digest(after),
            index=index,
            values=_read(after, index),
            n_changed=n_changed,
            is_buffer=is_buffer,
        )

    @property
    def dtype(self) -> torch.dtype:
        """The tensor's dtype."""
        return self.values.dtype

    @property
    def numel(self) -> int:
        """How many elements the whole tensor has."""
        return torch.Size(self.shape).numel()

    def reversed(self, tensor: Tensor) -> Change:
        """Return the change that brings the present values of `tensor` back."""
        return replace(self, before=self.after, after=self.before, values=_read(tensor, self.index))

    def write(self, tensor: Tensor) -> None:
        """Replace the changed elements of `tensor` in the memory it has.

        The tensor object, its storage and its strides stay, so optimizers and tied modules that
        refer to it see the new values.
        """
        target, values = tensor.detach(), self.values.to(tensor.device)
        if self.index is None:
            target.copy_(values.view(self.shape))
            return
        index = self.index.to(tensor.device, torch.int64)
        if not target.is_complex():  # indexed writing knows these words, not every dtype
            values = bits(values)
            target = target.view(values.dtype)
        if target.is_contiguous():
            target.view(-1)[index] = values
        else:
            target[torch.unravel_index(index, self.shape)] = values

    def to_parts(self, name: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Return the change of the tensor `name` as what JSON and safetensors can hold.

        Complex values are stored as pairs of real ones.
        """
        row = {
            "shape": list(self.shape),
            "dtype": str(self.dtype).removeprefix("torch."),
            "before": self.before,
            "after": self.after,
            "n_changed": self.n_changed,
            "is_buffer": self.is_buffer,
        }
        values = torch.view_as_real(self.values) if self.dtype.is_complex else self.values
        tensors = {f"{name}:values": values}
        if self.index is not None:
            tensors[f"{name}:index"] = self.index
        return row, tensors

    @classmethod
    def from_parts(cls, name: str, row: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Change:
        """Rebuild what `to_parts` made.

        Raises
        ------
        KeyError, TypeError, ValueError
            If the parts are not a change that can be applied.
        """
        values, index = tensors[f"{name}:values"], tensors.get(f"{name}:index")
        dtype = getattr(torch, row["dtype"])
        if dtype.is_complex:
            values = torch.view_as_complex(values)
        change = cls(
            shape=tuple(row["shape"]),
            before=row["before"],
            after=row["after"],
            index=index,
            values=values,
            n_changed=row["n_changed"],
            is_buffer=row["is_buffer"],
        )
        if dtype != change.dtype:
            raise ValueError(f"tensor {name!r} is {dtype}, its new values are {change.dtype}")
        if flaw := change._flaw():
            raise ValueError(f"tensor {name!r} has {flaw}")
        return change

    def _flaw(self) -> str | None:
        """Say what would make the change write amiss; None where it is sound."""
        size, kept = self.numel, self.numel if self.index is None else self.n_changed
        if not 0 < self.n_changed <= size:
            return f"{self.n_changed} changed elements of {size}"
        if self.values.shape != (kept,):
            return f"new values of shape {list(self.values.shape)}, expected [{kept}]"
        if self.index is None:
            return None
        if self.index.shape != (kept,) or self.index.dtype not in (torch.int32, torch.int64):
            return f"positions of shape {list(self.index.shape)} and {self.index.dtype}"
        if bool((self.index[1:] <= self.index[:-1]).any()):
            return "positions that are not in ascending order, or that occur twice"
        first, last = int(self.index[0]), int(self.index[-1])
        if first < 0 or last >= size:
            return f"positions from {first} to {last} among {size} elements"
        return None


def _read(tensor: Tensor, index: Tensor | None) -> Tensor:
    """Return a copy, on the CPU, of the elements at `index` (all where None): shape [k]."""
    words = bits(tensor)
    if index is not None:
        words = words[index.to(words.device, torch.int64)]
    return words.view(tensor.dtype).view(-1).to("cpu", copy=True)
