# SPDX-License-Identifier: BSD-3-Clause
"""Which calls pick or reorder rows by indices that depend on data.

After one of them (a mixture of experts, packed sequences) a row count that happens to be a multiple of n no
longer says which sample a row belongs to.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_PICK = {
    "masked_select",
    "nonzero",
    "unique",
    "_pack_padded_sequence",
    "unique_consecutive",
    "msort",
}
_ORDER = {"sort", "argsort"}
_FETCH = {"index_select", "gather", "take_along_dim"}


def routes(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], n: int) -> bool:
    """Tell whether a call on a batch of n samples is one of them."""
    if not args or not isinstance(args[0], Tensor) or args[0].dim() == 0:
        return False
    name, source = getattr(func, "__name__", ""), args[0]
    if name in _PICK:
        return True
    if name == "repeat_interleave":
        return any(isinstance(part, Tensor) for part in (*args[1:], *kwargs.values()))
    if name == "where":
        return len(args) + len(kwargs) == 1
    if name in _ORDER:
        dim = kwargs.get("dim", args[1] if len(args) > 1 else -1)
        return dim in (0, -source.dim()) and len(source) % n == 0
    if name in _FETCH:
        dim = kwargs.get("dim", args[1] if len(args) > 1 else 0)
        return dim in (0, -source.dim()) and _holds_samples(source, n)
    if name != "__getitem__":
        return False
    parts = args[1] if isinstance(args[1], tuple) else (args[1],)
    first = next((part for part in parts if part is not None), None)  # x[None, rows]
    return isinstance(first, Tensor) and _picks(source, first, n)


def _picks(source: Tensor, index: Tensor, n: int) -> bool:
    if index.dtype in (torch.bool, torch.uint8):
        return index.dim() > 0
    if index.dim() != 1 or not _holds_samples(source, n):
        return False
    steps = torch.arange(len(index), device=index.device)
    return not (len(index) == n and torch.equal(index, steps))


def _holds_samples(source: Tensor, n: int) -> bool:
    """Tell activations and batches from tables."""
    return source.requires_grad or len(source) == n
