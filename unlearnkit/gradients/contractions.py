# SPDX-License-Identifier: BSD-3-Clause
"""Products of an activation with a weight of any shape: ``einsum``, ``bmm``, and what can be written as one.

Every index of a contraction of x with w is of one of four kinds: in both and in the result (G, groups), in
both but not in the result (I, inputs), in w and the result (O, outputs), in x and the result (T, positions,
samples among them). So w is a matrix [O, I] per group, and the per-sample gradient the pair's sum_t g x^T.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from unlearnkit.gradients._use import Split, Use, is_weight, leading, rewrite, rule
from unlearnkit.gradients.pairs import Contribution, Outer
from unlearnkit.ops.workspace import Workspace

LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


def contraction(x: Tensor, w: Tensor, x_in: str, w_in: str, out: str) -> Use | None:
    """Return the use of w in ``einsum(f"{x_in},{w_in}->{out}", x, w)``, None where an index is of no kind."""
    if any(len(set(indices)) < len(indices) for indices in (x_in, w_in, out)):
        return None  # a diagonal
    t = "".join(i for i in out if i in x_in and i not in w_in)
    o = "".join(i for i in out if i in w_in and i not in x_in)
    g = "".join(i for i in out if i in w_in and i in x_in)
    i = "".join(i for i in x_in if i in w_in and i not in out)
    sizes = dict(zip(w_in, w.shape, strict=True))
    fits = all(sizes.get(index, size) == size for index, size in zip(x_in, x.shape, strict=True))
    if not t or len(t + g + i) < len(x_in) or len(g + o + i) < len(w_in) or not fits:
        return None
    shape = torch.Size(sizes[index] for index in g + o + i)

    def contribute(gradient: Tensor, split: Split) -> list[Contribution]:
        inputs = x.permute([x_in.index(index) for index in t + g + i])
        return [Outer(split(inputs), split(gradient), pair, shape)]

    def pair(x: Tensor, y: Tensor, workspace: Workspace) -> tuple[Tensor, Tensor]:
        return matrices(x), matrices(y)

    def matrices(part: Tensor) -> Tensor:
        """[N, m, *T, *G, *rest] to [N, G, T, rest]; one of the positions T is in [N, m] already."""
        groups, rest = part.shape[len(t) + 1 :][: len(g)], part.shape[len(t + g) + 1 :]
        return part.reshape(
            len(part), part.shape[1 : len(t) + 1].numel(), groups.numel(), rest.numel()
        ).transpose(1, 2)

    return Use(
        [w.permute([w_in.index(index) for index in g + o + i])],
        lambda weights: torch.einsum(f"{x_in},{g + o + i}->{t + g + o}", x, weights[0]),
        leading(len(g + o)),
        contribute,
        (x,),
        lambda output: output.permute([(t + g + o).index(index) for index in out]),
    )


@rule(torch.einsum)
def einsum(equation: Any, *operands: Any) -> Use | None:
    """Two operands, one of them a weight; the activation may have an ellipsis."""
    if len(operands) == 1 and isinstance(operands[0], list | tuple):
        operands = tuple(operands[0])
    if not isinstance(equation, str) or len(operands) != 2 or sum(map(is_weight, operands)) != 1:
        return None
    left, arrow, out = equation.replace(" ", "").partition("->")
    (x_in, x), (w_in, w) = sorted(
        zip(left.split(","), operands, strict=True), key=lambda pair: is_weight(pair[1])
    )
    more = [letter for letter in LETTERS if letter not in equation][: x.dim() - len(x_in.replace("...", ""))]
    x_in, out = (part.replace("...", "".join(more)) for part in (x_in, out))
    if not arrow or "." in w_in + x_in + out or (len(x_in), len(w_in)) != (x.dim(), w.dim()):
        return None
    return contraction(x, w, x_in, w_in, out)


@rule(torch.bmm, Tensor.bmm)
def bmm(input: Tensor, mat2: Tensor) -> Use | None:
    """A product per group."""
    return product(input, mat2)


def product(left: Tensor, right: Tensor) -> Use | None:
    """Return the use of the weight in ``left @ right``, where that is not a matrix on the right."""
    if is_weight(left) == is_weight(right):
        return None
    weight, x = (left, right) if is_weight(left) else (right, left)
    if x.dim() < max(2, weight.dim()):
        return None
    # "...ij,...jk->...ik", the batch indices of the weight being the last of those of x
    batch = LETTERS[3 : 1 + x.dim()]
    own = batch[x.dim() - weight.dim() :] if weight.dim() > 2 else ""
    if weight is right:
        w_in = own + ("bc" if right.dim() > 1 else "b")
        return contraction(x, weight, batch + "ab", w_in, batch + ("ac" if right.dim() > 1 else "a"))
    w_in = own + ("ab" if left.dim() > 1 else "b")
    return contraction(x, weight, batch + "bc", w_in, batch + ("ac" if left.dim() > 1 else "c"))


@rewrite(torch.baddbmm, Tensor.baddbmm)
def baddbmm(input: Tensor, batch1: Tensor, batch2: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    """beta b + alpha x w."""
    return torch.add(_times(input, beta), torch.bmm(batch1, batch2), alpha=alpha)


@rewrite(torch.addmm, Tensor.addmm)
def addmm(input: Tensor, mat1: Tensor, mat2: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    """beta b + alpha x w, where that is not a Linear."""
    return torch.add(_times(input, beta), torch.mm(mat1, mat2), alpha=alpha)


@rewrite(torch.addcmul, Tensor.addcmul)
def addcmul(input: Tensor, tensor1: Tensor, tensor2: Tensor, *, value: float = 1) -> Tensor:
    """a + value b c."""
    return torch.add(input, torch.mul(tensor1, tensor2), alpha=value)


@rewrite(torch.mv, Tensor.mv, torch.dot, Tensor.dot, torch.inner, Tensor.inner)
def inner(input: Tensor, other: Tensor) -> Tensor:
    """Products with a vector."""
    return torch.matmul(input, other if other.dim() < 2 else other.transpose(-1, -2))


@rewrite(torch.tensordot)
def tensordot(a: Tensor, b: Tensor, dims: Any = 2, out: None = None) -> Tensor:
    """A contraction of the last dimensions of a with the first of b, or of those named."""
    if isinstance(dims, Tensor):
        dims = dims.tolist()
    if isinstance(dims, int):
        dims = list(range(a.dim() - dims, a.dim())), list(range(dims))
    first, second = ([dims] if isinstance(dims, int) else dims for dims in dims)
    a_in, b_in = list(LETTERS[: a.dim()]), list(LETTERS[a.dim() : a.dim() + b.dim()])
    for p, q in zip(first, second, strict=True):
        b_in[q] = a_in[p]
    kept = [i for i in a_in if i not in b_in] + [i for i in b_in if i not in a_in]
    return torch.einsum(f"{''.join(a_in)},{''.join(b_in)}->{''.join(kept)}", a, b)


@rewrite(F.bilinear)
def bilinear(input1: Tensor, input2: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x W y + b: Linear of the outer product of x and y."""
    outer = input1[..., :, None] * input2[..., None, :]
    return F.linear(outer.flatten(-2), weight.flatten(1), bias)


@rewrite(Tensor.expand_as)
def expand_as(input: Tensor, other: Tensor) -> Tensor:
    """A weight spread over the samples."""
    return input.expand(other.shape)


@rewrite(torch.broadcast_to, Tensor.broadcast_to)
def broadcast_to(input: Tensor, size: Any) -> Tensor:
    """A weight spread over the samples."""
    return input.expand(size)


@rewrite(torch.tile, Tensor.tile)
def tile(input: Tensor, *dims: Any) -> Tensor:
    """A weight repeated."""
    sizes = list(dims[0]) if isinstance(dims[0], tuple | list) else list(dims)
    return input.repeat([1] * (input.dim() - len(sizes)) + sizes)


def _times(tensor: Tensor, factor: float) -> Tensor:
    return tensor if factor == 1 else factor * tensor
