# SPDX-License-Identifier: BSD-3-Clause
"""A rule a function: how it uses its weights, and what it leaves of their per-sample gradients.

Rules stand at the functions of ``torch.nn.functional``, not at modules: whatever module calls
``F.linear``, a Linear, an attention layer or one of the user's own, it is the same use of a weight, and
padding modes, views and repeated calls need no cases of their own.

Legend: N samples, T positions, G groups, I inputs and O outputs of a group, C channels, E features.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from unlearnkit.exceptions import UnsupportedModuleError
from unlearnkit.gradients._fused import Convolved
from unlearnkit.gradients._unfold import each, paddings, unfold
from unlearnkit.gradients._use import RULES, Split, Use, first_dim, is_weight, leading, rule
from unlearnkit.gradients.contractions import product
from unlearnkit.gradients.pairs import Contribution, Direct, Lookup, Outer, upcast
from unlearnkit.ops.workspace import Workspace


def _product(x: Tensor, g: Tensor, shape: torch.Size) -> Outer:
    """sum_t g x^T of x [N, ..., I] and g [N, ..., O]."""

    def pair(x: Tensor, g: Tensor, workspace: Workspace) -> tuple[Tensor, Tensor]:
        return x.flatten(1, -2)[:, None], g.flatten(1, -2)[:, None]  # [N, 1, T, I], [N, 1, T, O]

    return Outer(x, g, pair, shape)


@rule(F.linear)
def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Use | None:
    """y = x W^T + b: the pair is (x, g)."""
    if input.dim() < 2 or weight.dim() != 2:
        return None

    def contribute(g: Tensor, split: Split) -> list[Contribution]:
        by_sample = split(g)  # [N, m, ..., O]
        product = _product(split(input), by_sample, weight.shape)
        return [product] if bias is None else [product, Direct(upcast(by_sample).flatten(1, -2).sum(1))]

    return Use([weight, bias], lambda w: F.linear(input, *w), leading(1), contribute, (input,))  # type: ignore[arg-type]


@rule(torch.addmm, Tensor.addmm)
def addmm(input: Tensor, mat1: Tensor, mat2: Tensor, *, beta: float = 1, alpha: float = 1) -> Use | None:
    """y = b + x W, W [I, O]: Linear with its weight transposed."""
    if beta != 1 or alpha != 1 or input.dim() != 1:
        return None

    def contribute(g: Tensor, split: Split) -> list[Contribution]:
        by_sample = split(g)
        return [
            _product(by_sample, split(mat1), mat2.shape),
            Direct(upcast(by_sample).flatten(1, -2).sum(1)),
        ]

    return Use(
        [mat2, input],
        lambda w: torch.addmm(w[1], mat1, w[0]),  # type: ignore[arg-type]
        leading(1),
        contribute,
        (mat1,),
    )


@rule(torch.matmul, Tensor.matmul, torch.mm, Tensor.mm)
def matmul(input: Tensor, other: Tensor) -> Use | None:
    """y = x W with a matrix W, as Linear; other products are contractions."""
    if other.dim() != 2 or input.dim() < 2 or not is_weight(other):
        return product(input, other)

    def contribute(g: Tensor, split: Split) -> list[Contribution]:
        return [_product(split(g), split(input), other.shape)]

    return Use([other], lambda w: torch.matmul(input, w[0]), leading(1), contribute, (input,))  # type: ignore[arg-type]


@rule(Tensor.__getitem__)
def getitem(input: Tensor, index: Any) -> Use | None:
    """Rows of a weight, by one tensor of indices: an Embedding."""
    if isinstance(index, tuple) and len(index) == 1:
        (index,) = index
    if not isinstance(index, Tensor) or index.dtype not in (torch.int64, torch.int32) or index.dim() == 0:
        return None
    rows = index % len(input)  # which may count from the end

    def contribute(g: Tensor, split: Split) -> list[Contribution]:
        at = split(rows).flatten(1)  # [N, T]
        return [Lookup(at, split(g).reshape(*at.shape, -1), input.shape)]

    return Use([input], lambda w: w[0][index], leading(input.dim() - 1), contribute, (rows,))  # type: ignore[index]


@rule(torch.index_select, Tensor.index_select)
def index_select(input: Tensor, dim: int, index: Tensor) -> Use | None:
    """Rows of a weight, by a list of indices."""
    return getitem(input, index) if dim == 0 and index.dim() == 1 else None


def _convolution(
    function: Any,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Use | None:
    """Convolution: the pair is (im2col of x, g), group by group, t an output position."""
    if input.dim() != weight.dim():  # no batch dimension
        return None
    kernel = tuple(weight.shape[2:])
    how = _convolved(kernel, stride, padding, dilation, groups)

    def pair(x: Tensor, g: Tensor, workspace: Workspace) -> tuple[Tensor, Tensor]:
        columns = unfold(x, kernel, stride, padding, dilation, groups, workspace)  # [N, G, I, T]
        outputs = g.reshape(len(g), groups, -1, columns.shape[-1])  # [N, G, O, T]
        return columns.transpose(-1, -2), outputs.transpose(-1, -2)

    return Use(
        [weight, bias],
        lambda w: function(input, *w, stride, padding, dilation, groups),
        first_dim,
        lambda g, split: _spatial(split(input), split(g), pair, weight.shape, how, bias is not None),
        (input,),
    )


def _transposed_convolution(
    function: Any,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Use | None:
    """Transposed convolution, the roles of x and g exchanged: the pair is (im2col of g, x)."""
    if input.dim() != weight.dim():
        return None
    kernel = tuple(weight.shape[2:])
    how = _convolved(kernel, stride, padding, dilation, groups, transposed=True)

    def pair(x: Tensor, g: Tensor, workspace: Workspace) -> tuple[Tensor, Tensor]:
        positions = x.shape[2:].numel()
        columns = unfold(
            g, kernel, stride, padding, dilation, groups, workspace, x.shape[2:]
        )  # [N, G, O*k, T]
        inputs = x.reshape(len(x), groups, -1, positions)  # [N, G, I, T]
        return columns.transpose(-1, -2), inputs.transpose(-1, -2)

    return Use(
        [weight, bias],
        lambda w: function(input, *w, stride, padding, output_padding, groups, dilation),
        first_dim,
        lambda g, split: _spatial(split(input), split(g), pair, weight.shape, how, bias is not None),
        (input,),
    )


def _convolved(
    kernel: tuple[int, ...], stride: Any, padding: Any, dilation: Any, groups: int, transposed: bool = False
) -> Convolved:
    rank = len(kernel)
    dilation = each(dilation, rank)
    before, _ = paddings(padding, kernel, dilation)
    return Convolved(each(stride, rank), before, dilation, groups, transposed)


def _spatial(
    x: Tensor, g: Tensor, pair: Any, shape: torch.Size, how: Convolved, has_bias: bool
) -> list[Contribution]:
    """Contributions of a convolution of x and g [N, m, C, ...]: m images a sample are positions too."""

    def images(x: Tensor, g: Tensor, workspace: Workspace) -> tuple[Tensor, Tensor]:
        m = x.shape[1]
        a, b = pair(x.flatten(0, 1), g.flatten(0, 1), workspace)  # [N * m, G, T, *]
        if m == 1:
            return a, b
        return tuple(t.unflatten(0, (-1, m)).transpose(1, 2).flatten(2, 3) for t in (a, b))

    weight = Outer(x, g, images, shape, how)
    return [weight, Direct(upcast(g).flatten(3).sum((1, 3)))] if has_bias else [weight]


for _name in ("conv1d", "conv2d", "conv3d"):
    _function = getattr(F, _name)
    RULES[_function] = lambda *args, _f=_function, **kwargs: _convolution(_f, *args, **kwargs)
for _name in ("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"):
    _function = getattr(F, _name)
    RULES[_function] = lambda *args, _f=_function, **kwargs: _transposed_convolution(_f, *args, **kwargs)


@rule(F.embedding)
def embedding(
    input: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Use | None:
    """Rows of a table: the gradient of row v is the sum over the positions that ask for it."""
    if scale_grad_by_freq:
        raise UnsupportedModuleError(
            "an Embedding with scale_grad_by_freq=True has no per-sample gradient: the scale counts an index "
            "over the whole batch. Set scale_grad_by_freq = False before unlearning."
        )

    def contribute(g: Tensor, split: Split) -> list[Contribution]:
        index, rows = split(input).flatten(1), split(g)  # [N, T], [N, m, ..., E]
        rows = rows.reshape(*index.shape, rows.shape[-1])
        if padding_idx is not None:
            rows = rows.masked_fill((index == padding_idx % weight.shape[0])[..., None], 0)
        return [Lookup(index, rows, weight.shape)]

    return Use(
        [weight],
        lambda w: F.embedding(input, w[0], padding_idx, max_norm, norm_type),  # type: ignore[arg-type]
        leading(1),
        contribute,
        (input,),
    )
