# SPDX-License-Identifier: BSD-3-Clause
"""The two ways in which a call uses weights, and the tables of rules.

Legend: N samples, m rows of a sample where samples are flattened.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from unlearnkit.gradients.layout import Layout
from unlearnkit.gradients.pairs import Contribution, Direct, upcast

Split = Callable[[Tensor], Tensor]
"""Makes of a tensor with samples somewhere one with samples in front: [N, m, ...]."""


@dataclass
class Use:
    """One call of a function with weights.

    Attributes
    ----------
    weights : list of Tensor or None
        What fills the weight slots of the call.
    run : callable
        The call itself, given stand-ins for the weights.
    dims : callable
        Given what `run` returned, the dimensions that may hold samples.
    contribute : callable
        Given the gradient of that and a :data:`Split`, a contribution for each slot (None: no weight).
    inputs : tuple of Tensor
        What `contribute` reads.
    finish : callable
        Makes of what `run` returned what the call returns.
    """

    weights: list[Tensor | None]
    run: Callable[[list[Tensor | None]], Tensor]
    dims: Callable[[Tensor], list[int]]
    contribute: Callable[[Tensor, Split], list[Contribution]]
    inputs: tuple[Tensor, ...] = ()
    finish: Callable[[Tensor], Tensor] = lambda output: output

    def takes(self, tensor: Tensor) -> bool:
        """Tell whether a tensor of the call fills a weight slot, as it is or rearranged."""
        here = any(tensor is t for t in self.inputs)
        return not here and any(_base(tensor) is _base(t) for t in self.weights if t is not None)


Rule = Callable[..., "Use | None"]
RULES: dict[Any, Rule] = {}
REWRITES: dict[Any, Callable[..., Any]] = {}


def rule(*functions: Any) -> Callable[[Rule], Rule]:
    """Register a rule for functions; it returns None for a call that it does not cover."""

    def register(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(functions, function))
        return function

    return register


def rewrite(*functions: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register the same computation in terms of functions that have rules."""

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        REWRITES.update(dict.fromkeys(functions, function))
        return function

    return register


@dataclass
class Broadcast:
    """A weight that is spread over an activation: ``x + p``, ``p * x``, ``p.expand(N, -1, -1)``.

    The call is run with the weight expanded to `shape`, whose gradient then holds each sample's own.
    """

    weight: Tensor
    shape: torch.Size
    run: Callable[[Tensor], Tensor]
    inputs: tuple[Tensor, ...] = ()

    @property
    def weights(self) -> list[Tensor]:
        """Return the one weight."""
        return [self.weight]

    def takes(self, tensor: Tensor) -> bool:
        """Tell whether a tensor of the call is the weight."""
        return _base(tensor) is _base(self.weight)

    def dims(self) -> list[int]:
        """Return the dimensions along which all share the weight: samples cannot lie elsewhere."""
        return [dim for dim, size in enumerate(self._aligned()) if size == 1]

    def contribute(self, g: Tensor, layout: Layout, n: int) -> Contribution:
        """Sum the gradient [*shape] over what shares the weight, but for the samples."""
        aligned = self._aligned()
        shared = [dim for dim in self.dims() if dim != layout.dim and aligned[dim] != self.shape[dim]]
        g = upcast(g)
        if shared:
            g = g.sum(shared, keepdim=True)
        return Direct(layout.by_sample(g, n).sum(1).reshape(n, *self.weight.shape))

    def _aligned(self) -> list[int]:
        return [1] * (len(self.shape) - self.weight.dim()) + list(self.weight.shape)


def broadcast(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Broadcast | None:
    """Return how a weight is spread by an elementwise function, ``expand``, ``repeat``, ``prelu``, a mask."""
    name = getattr(func, "__name__", "")
    tensors = [t for t in args if isinstance(t, Tensor)]
    if name in ELEMENTWISE and len(tensors) > 1:
        places = [place for place, t in enumerate(args) if isinstance(t, Tensor) and is_weight(t)]
        if len(places) != 1 or (places[0] == 0 and name.endswith("_")):
            return None
        (place,) = places
        shape = torch.broadcast_shapes(*(t.shape for t in tensors))
        return Broadcast(args[place], shape, lambda e: func(*args[:place], e, *args[place + 1 :], **kwargs))
    if name in ("expand", "repeat") and tensors:
        result: Tensor = getattr(args[0].detach(), name)(*args[1:], **kwargs)
        sizes = [1] * (result.dim() - args[0].dim()) + list(args[0].shape)
        if name == "expand" or all(size in (1, new) for size, new in zip(sizes, result.shape, strict=True)):
            return Broadcast(args[0], result.shape, lambda e: e)
        both = [(new // size, size) for size, new in zip(sizes, result.shape, strict=True)]  # times, size
        weight = args[0].view([part for _, size in both for part in (1, size)])
        shape = torch.Size([part for pair in both for part in pair])
        return Broadcast(weight, shape, lambda e: e.reshape(result.shape))
    if name == "prelu" and len(tensors) == 2 and not is_weight(args[0]) and args[0].dim() > 1:
        x, slope = tensors
        slope = slope.view([1, slope.numel()] + [1] * (x.dim() - 2))
        return Broadcast(slope, x.shape, lambda e: torch.where(x > 0, x, e * x))
    if name == "scaled_dot_product_attention":
        mask = kwargs.get("attn_mask")  # a relative position bias
        if isinstance(mask, Tensor) and is_weight(mask) and not any(map(is_weight, tensors)):
            query, key = args[:2]
            shape = torch.Size([*query.shape[:-1], key.shape[-2]])
            return Broadcast(mask, shape, lambda e: func(*args, **{**kwargs, "attn_mask": e}))
    return None


ELEMENTWISE = {
    "add", "add_", "sub", "sub_", "mul", "mul_", "multiply", "div", "div_", "true_divide",
    "pow", "maximum", "minimum", "where", "lerp",
}  # fmt: skip


def mark_as_weight(tensor: Tensor) -> None:
    """Note that a tensor was computed from weights alone."""
    tensor._of_weights = True  # type: ignore[attr-defined]


def is_weight(tensor: Tensor) -> bool:
    """Tell a weight, or a view of one, from an activation: its memory is a leaf's that requires a gradient."""
    base = _base(tensor)
    return tensor.requires_grad and (hasattr(base, "_of_weights") or (base.is_leaf and base.requires_grad))


def _base(tensor: Tensor) -> Tensor:
    return tensor if tensor._base is None else tensor._base


def leading(count: int) -> Callable[[Tensor], list[int]]:
    """Samples may lie in any dimension but the last `count`."""
    return lambda output: list(range(output.dim() - count))


def first_dim(output: Tensor) -> list[int]:
    """Samples lie in dimension 0."""
    return [0]
