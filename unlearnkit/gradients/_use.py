# SPDX-License-Identifier: BSD-3-Clause
"""The two ways in which a call uses weights, and the table of rules.

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
        Given the output, the dimensions that may hold samples.
    contribute : callable
        Given the output's gradient and a :data:`Split`, a contribution for each slot (None: no weight).
    """

    weights: list[Tensor | None]
    run: Callable[[list[Tensor | None]], Tensor]
    dims: Callable[[Tensor], list[int]]
    contribute: Callable[[Tensor, Split], list[Contribution]]
    inputs: tuple[Tensor, ...] = ()


Rule = Callable[..., "Use | None"]
RULES: dict[Any, Rule] = {}


def rule(*functions: Any) -> Callable[[Rule], Rule]:
    """Register a rule for functions; it returns None for a call that it does not cover."""

    def register(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(functions, function))
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


def broadcast(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Broadcast | None:
    """Return how a weight is spread by an elementwise function, ``expand``, ``repeat`` or ``prelu``."""
    first, second = args[0], args[1] if len(args) > 1 else kwargs.get("other")
    if name in ELEMENTWISE and isinstance(first, Tensor) and isinstance(second, Tensor):
        place = 1 if is_weight(second) else 0
        weight, other = (args[1], first) if place else (first, second)
        if is_weight(other) or len(args) < 2:
            return None
        function = getattr(torch.Tensor, name)
        shape = torch.broadcast_shapes(first.shape, second.shape)

        def run(spread: Tensor) -> Tensor:
            pair = (first, spread) if place else (spread, second)
            result: Tensor = function(*pair, *args[2:], **kwargs)
            return result

        return Broadcast(weight, shape, run)
    if name in ("expand", "repeat") and isinstance(first, Tensor):
        spread: Tensor = getattr(first.detach(), name)(*args[1:], **kwargs)
        missing = spread.dim() - first.dim()
        if all(old in (1, new) for old, new in zip(first.shape, spread.shape[missing:], strict=True)):
            return Broadcast(first, spread.shape, lambda e: e)
    if name == "prelu" and isinstance(second, Tensor) and not is_weight(first) and first.dim() > 1:
        slope = [1, second.numel()] + [1] * (first.dim() - 2)
        shape = first.shape
        return Broadcast(second.view(slope), shape, lambda e: torch.where(first > 0, first, e * first))
    return None


ELEMENTWISE = {
    "add", "add_", "sub", "sub_", "mul", "mul_", "multiply", "div", "div_", "true_divide",
}  # fmt: skip


def is_weight(tensor: Tensor) -> bool:
    """Tell a weight, or a view of one, from an activation: its memory is a leaf's that requires a gradient."""
    base = tensor if tensor._base is None else tensor._base
    return base.is_leaf and base.requires_grad


def leading(count: int) -> Callable[[Tensor], list[int]]:
    """Samples may lie in any dimension but the last `count`."""
    return lambda output: list(range(output.dim() - count))


def first_dim(output: Tensor) -> list[int]:
    """Samples lie in dimension 0."""
    return [0]
