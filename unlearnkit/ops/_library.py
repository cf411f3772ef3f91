# SPDX-License-Identifier: BSD-3-Clause
"""The operators as torch's dispatcher knows them: ``torch.ops.unlearnkit.*``.

For ``torch.compile`` and ``torch.export``, which cannot look into a compiled kernel. Eager code calls the
functions of `unlearnkit.ops` themselves, and spares the dispatcher's microseconds. None has a gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from unlearnkit.ops.channels import channel_scores
from unlearnkit.ops.dampening import dampen_
from unlearnkit.ops.norms import plane_sums, row_sums
from unlearnkit.ops.order import kth_value, percentile
from unlearnkit.ops.squares import square_sum_

_library = torch.library.Library("unlearnkit", "DEF")  # what it registers lives as long as it does


def _register(schema: str, function: Callable[..., object], shapes: Callable[..., object]) -> None:
    """Register an operator: its signature, one function for every device, and one that knows shapes alone.

    The last is registered as what computes on meta tensors, which fake tensors use too. To that
    ``torch.library.register_fake`` adds the line it was called from, at 30 ms in the first call (it goes
    through all loaded modules): a quarter of what the import of this library takes.
    """
    name = _library.define(schema)
    for key, run in (("CPU", function), ("CUDA", function), ("Meta", shapes)):
        _library.impl(name, run, key)


def _square_sum_(
    total: Tensor,
    x: Tensor,
    g: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int = 1,  # the dispatcher leaves out what equals its default
    precision: str = "float32",
) -> None:
    square_sum_(total, x, g, stride, padding, dilation, groups, precision=precision)


def _changes_in_place(*_: object) -> None:
    pass


_register(
    "square_sum_(Tensor(a!) total, Tensor x, Tensor g, int[] stride, int[] padding, int[] dilation, "
    "int groups=1, str precision='float32') -> ()",
    _square_sum_,
    _changes_in_place,
)


def _two(x: Tensor, columns: int) -> tuple[Tensor, Tensor]:
    return x.new_empty(len(x), columns), x.new_empty(len(x), columns)


_register(
    "plane_sums(Tensor x, Tensor g, Tensor center, Tensor scale) -> (Tensor, Tensor)",
    plane_sums,
    lambda x, *_: _two(x, x.shape[1]),
)
_register(
    "row_sums(Tensor x, Tensor g, int size, float eps, bool is_centered=True) -> (Tensor, Tensor)",
    row_sums,
    lambda x, g, size, *_: _two(x, size),
)


def _numbers(like: Sequence[Tensor], values: object, dtype: torch.dtype) -> Tensor:
    """Return what eager callers get as Python numbers: a graph may hold only tensors of unknown value."""
    return torch.tensor(values, dtype=dtype, device=like[0].device)


_register(
    "percentile(Tensor[] tensors, float q) -> Tensor",
    lambda tensors, q: _numbers(tensors, percentile(tensors, q), torch.float64),
    lambda tensors, q: tensors[0].new_empty((), dtype=torch.float64),
)
_register(
    "kth_value(Tensor[] tensors, int k) -> Tensor",
    lambda tensors, k: _numbers(tensors, kth_value(tensors, k), torch.float64),
    lambda tensors, k: tensors[0].new_empty((), dtype=torch.float64),
)


def _dampen_(
    weights: Sequence[Tensor],
    forget: Sequence[Tensor],
    reference: Sequence[Tensor],
    alpha: float,
    lambda_: float = 1.0,
) -> Tensor:
    return _numbers(weights, dampen_(weights, forget, reference, alpha, lambda_), torch.int64)


_register(
    "dampen_(Tensor(a!)[] weights, Tensor[] forget, Tensor[] reference, float alpha, float lambda_=1.0) -> Tensor",
    _dampen_,
    lambda weights, *_: weights[0].new_empty(len(weights), dtype=torch.int64),
)


def _scores(weights: Sequence[Tensor], gradients: Sequence[Tensor], h: int | None = None) -> list[Tensor]:
    """Return the shapes of `channel_scores`."""
    pairs = zip(weights, gradients, strict=True)
    dtypes = [torch.promote_types(torch.promote_types(w.dtype, g.dtype), torch.float32) for w, g in pairs]
    rows = [len(w) if w.dim() else 1 for w in weights]
    return [w.new_empty(n, dtype=dtype) for w, n, dtype in zip(weights, rows, dtypes, strict=True)]


_register(
    "channel_scores(Tensor[] weights, Tensor[] gradients, int? h=None) -> Tensor[]", channel_scores, _scores
)
