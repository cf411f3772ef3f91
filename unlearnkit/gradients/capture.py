# SPDX-License-Identifier: BSD-3-Clause
"""Watching a forward pass: every use of a weight is seen, run with a stand-in, and tapped for its gradient.

The stand-ins are detached, so autograd computes no weight gradients, only those of activations. A use
without a rule is run with the weight itself and noted as unknown.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from unlearnkit.gradients.pairs import Region
from unlearnkit.gradients import norms, rules  # noqa: F401  (they fill the table of rules)
from unlearnkit.gradients._use import RULES, Broadcast, Use, broadcast

Key = tuple[str, int]
"""A use of a weight: the name of the first weight in it, and how often that was used before."""


class _Graft(torch.autograd.Function):
    """Gives a tensor without history one, in place, so that its gradient can be asked for."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, root: Tensor) -> Tensor:
        ctx.mark_dirty(tensor)
        return tensor

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[None, None]:
        return None, None


@dataclass
class Tap:
    """A use of weights in this forward pass."""

    key: Key
    slots: list[tuple[str, Region] | None]  # which parameter fills each slot, and which part of it
    use: Use | Broadcast
    shape: torch.Size  # of the tensor whose gradient is taken
    dtype: torch.dtype
    dims: list[int]  # of it, where samples may lie
    versions: tuple[int, ...]
    routed: bool  # after samples may have been picked or reordered by data-dependent indices

    def intact(self) -> bool:
        """Tell whether the inputs still hold what the forward pass saw."""
        inputs = self.use.inputs if isinstance(self.use, Use) else ()
        return tuple(t._version for t in inputs) == self.versions


@dataclass
class Seen:
    """What a forward pass has shown."""

    taps: list[Tap] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    unknown: dict[str, str] = field(default_factory=dict)  # parameter: the function that has no rule
    routed: bool = False


class Capture(TorchFunctionMode):
    """Watch the forward pass of one batch.

    Parameters
    ----------
    parameters : dict of str to Parameter
        The weights to watch.
    skip : set of str
        Those of them whose gradients are found in another way; they are seen, not tapped.
    n : int
        Samples in the batch.
    root : Tensor
        A scalar that requires a gradient: everything tapped descends from it.
    on_gradient : callable
        Called with (tap, gradient) in the backward pass.
    """

    def __init__(
        self,
        parameters: dict[str, nn.Parameter],
        skip: set[str],
        n: int,
        root: Tensor,
        on_gradient: Callable[[Tap, Tensor], None],
    ) -> None:
        super().__init__()
        self.names = {id(parameter): name for name, parameter in parameters.items()}
        self.parameters, self.skip, self.n, self.root = parameters, skip, n, root
        self.on_gradient = on_gradient
        self.seen = Seen()

    def __torch_function__(
        self, func: Any, _types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """See one call of a torch function."""
        kwargs = kwargs or {}
        watched = [(name, t) for t in _tensors((args, kwargs)) if (name := self._name(t)) is not None]
        if not watched:
            if not self.seen.routed and _routes(func, args, self.n):
                self.seen.routed = True
            return func(*args, **kwargs)
        if not torch.is_grad_enabled():
            return func(*args, **kwargs)
        use = self._use(func, args, kwargs)
        if use is not None:
            covered = {id(t) for t in (use.weights if isinstance(use, Use) else [use.weight])}
            if all(id(t) in covered or isinstance(use, Broadcast) for _, t in watched):
                return self._tapped(use)
        if _is_python_function_of_torch(func):
            with self:  # look inside: F.multi_head_attention_forward calls F.linear
                return _see_through(func)(*args, **kwargs)
        result = func(*args, **kwargs)
        if any(t.requires_grad and self._name(t) is None for t in _tensors(result)):
            for name, _ in watched:
                self.seen.unknown.setdefault(name, getattr(func, "__name__", str(func)))
        return result

    def _name(self, tensor: Tensor) -> str | None:
        """Return the name of the watched parameter that this tensor is, or is a view of."""
        name = self.names.get(id(tensor))
        if name is None and tensor._base is not None:
            name = self.names.get(id(tensor._base))
        return name

    def _use(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Use | Broadcast | None:
        rule = RULES.get(func)
        if rule is not None:
            return rule(*args, **kwargs)
        name = getattr(func, "__name__", "")
        return broadcast(name, args, kwargs) if args else None

    def _tapped(self, use: Use | Broadcast) -> Tensor:
        weights = use.weights if isinstance(use, Use) else [use.weight]
        slots: list[tuple[str, Region] | None] = []
        for weight in weights:
            name = None if weight is None else self._name(weight)
            if weight is None or name is None:
                slots.append(None)
                continue
            slots.append((name, Region.of(weight, self.parameters[name])))
        stand_ins = [
            weight if slot is None or weight is None else weight.detach()
            for slot, weight in zip(slots, weights, strict=True)
        ]
        slots = [None if slot is None or slot[0] in self.skip else slot for slot in slots]
        if isinstance(use, Broadcast):
            spread = stand_ins[0].expand(use.shape) if stand_ins[0] is not None else self.root
            target = _Spread.apply(spread, self.root)
            output = use.run(target)
            dims = use.dims()
        else:
            output = target = self._with_history(use.run(stand_ins))
            dims = use.dims(target)
        if any(slots):
            self._tap(use, slots, target, dims)
        return output

    def _with_history(self, output: Tensor) -> Tensor:
        if output.requires_grad:
            return output
        grafted: Tensor = _Graft.apply(output.clone() if output._is_view() else output, self.root)
        return grafted

    def _tap(
        self, use: Use | Broadcast, slots: list[tuple[str, Region] | None], target: Tensor, dims: list[int]
    ) -> None:
        first = next(slot[0] for slot in slots if slot is not None)
        order = self.seen.counts.get(first, 0)
        self.seen.counts[first] = order + 1
        inputs = use.inputs if isinstance(use, Use) else ()
        versions = tuple(t._version for t in inputs)
        tap = Tap((first, order), slots, use, target.shape, target.dtype, dims, versions, self.seen.routed)
        self.seen.taps.append(tap)
        on_gradient = self.on_gradient
        # not self: through `seen` it holds later activations, whose graph holds this hook, a cycle that
        # runs through C++ and is never collected
        target.register_hook(lambda gradient: on_gradient(tap, gradient))


class _Spread(torch.autograd.Function):
    """A weight spread over the samples, with a history that leads to the root."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, root: Tensor) -> Tensor:
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[None, None]:
        return None, None


def _tensors(value: Any) -> list[Tensor]:
    """All tensors of the arguments of a call, lists and tuples of them included."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, tuple | list):
        return []
    return [tensor for part in value for tensor in _tensors(part)]


def _is_python_function_of_torch(func: Any) -> bool:
    return isinstance(func, types.FunctionType) and func.__module__ == F.__name__


def _see_through(func: types.FunctionType) -> Callable[..., Any]:
    """Return the function without its own overriding, which would hand the call back to the mode."""
    scope = dict(func.__globals__)
    for name in ("has_torch_function", "has_torch_function_unary", "has_torch_function_variadic"):
        scope[name] = lambda *_: False
    seen = types.FunctionType(func.__code__, scope, func.__name__, func.__defaults__, func.__closure__)
    seen.__kwdefaults__ = func.__kwdefaults__
    return seen


_PICKS_ROWS = {
    "masked_select", "nonzero", "unique", "_pack_padded_sequence", "repeat_interleave", "unique_consecutive",
}  # fmt: skip


def _routes(func: Any, args: tuple[Any, ...], n: int) -> bool:
    """Tell whether a call picks or reorders rows by indices that depend on data.

    After that (a mixture of experts, packed sequences) a row count that happens to be a multiple of n no
    longer says which sample a row belongs to.
    """
    name = getattr(func, "__name__", "")
    if name in _PICKS_ROWS:
        return bool(args) and isinstance(args[0], Tensor) and args[0].dim() > 0
    if name == "index_select":
        return len(args) > 1 and args[1] == 0 and args[0].requires_grad
    if name != "__getitem__" or not isinstance(args[0], Tensor):
        return False
    source, index = args[0], args[1]
    first = index[0] if isinstance(index, tuple) and index else index
    if not isinstance(first, Tensor) or first.dim() == 0:
        return False
    if first.dtype in (torch.bool, torch.uint8):
        return True
    if first.dim() > 1 or not (source.requires_grad or len(source) == n):
        return False
    steps = torch.arange(len(first), device=first.device)
    return not (len(first) == n and torch.equal(first, steps))
