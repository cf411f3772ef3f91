# SPDX-License-Identifier: BSD-3-Clause
"""Watching a forward pass: every use of a weight is seen, run with a stand-in, and tapped for its gradient.

The stand-ins are detached, so autograd computes no weight gradients, only those of activations. What is
computed from weights alone is a weight in its turn. A use without a rule is run with the weight itself and
noted as unknown.
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

from unlearnkit.gradients import contractions, norms, rules  # noqa: F401  (they fill the tables of rules)
from unlearnkit.gradients._chain import Owner, is_dense, overlaps
from unlearnkit.gradients._routes import routes
from unlearnkit.gradients._use import REWRITES, RULES, Broadcast, Use, broadcast, mark_as_weight
from unlearnkit.gradients.pairs import Region

Key = tuple[str, int, str]
"""A use of a weight: the name of the first weight in it, how often that was used before, and how."""

Slot = tuple[Owner, Region]
"""What fills a slot of a use, and which part of it."""


class _Graft(torch.autograd.Function):
    """Gives a tensor without history one, in place, so that its gradient can be asked for."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, root: Tensor) -> Tensor:
        ctx.mark_dirty(tensor)
        return tensor

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[None, None]:
        return None, None


class _Spread(torch.autograd.Function):
    """A weight spread over the samples, with a history that leads to the root."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, root: Tensor) -> Tensor:
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[None, None]:
        return None, None


@dataclass
class Tap:
    """A use of weights in this forward pass."""

    key: Key
    slots: list[Slot | None]
    use: Use | Broadcast
    shape: torch.Size  # of the tensor whose gradient is taken
    dtype: torch.dtype
    dims: list[int]  # of it, where samples may lie
    versions: tuple[int, ...]
    mixed: bool  # activations go in, so the result differs from sample to sample
    routed: bool  # after samples may have been picked or reordered by data-dependent indices

    @property
    def parameters(self) -> list[str]:
        """Name the parameters that it takes part in the gradients of."""
        return [name for slot in self.slots if slot is not None for name in slot[0].parameters]

    def intact(self) -> bool:
        """Tell whether the inputs still hold what the forward pass saw."""
        return tuple(t._version for t in self.use.inputs) == self.versions


@dataclass
class Seen:
    """What a forward pass has shown."""

    taps: list[Tap] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    unknown: dict[str, str] = field(default_factory=dict)  # parameter: why it cannot be tapped
    routed: bool = False


class Listener:
    """Who is told of the gradients of a forward pass; nobody in the forward pass, where a model may call autograd."""

    def __init__(self) -> None:
        self.receive: Callable[[Tap, Tensor], None] | None = None

    def hear(self, tap: Tap, gradient: Tensor) -> None:
        """Take a gradient."""
        if self.receive is not None:
            self.receive(tap, gradient)


class Capture(TorchFunctionMode):
    """Watch the forward pass of one batch.

    Parameters
    ----------
    parameters : dict of str to Parameter
        The weights to watch.
    skip : set of str
        Those of them whose gradients are found in another way; they are seen, not tapped.
    shared : set of Key
        Uses whose result is the same for all samples (position embeddings): computed from weights alone.
    n : int
        Samples in the batch.
    root : Tensor
        A scalar that requires a gradient: everything tapped descends from it.

    Attributes
    ----------
    seen : Seen
    leaves : dict of int to Tensor
        Where the history of activations begins.
    listener : Listener
    """

    def __init__(
        self,
        parameters: dict[str, nn.Parameter],
        skip: set[str],
        shared: set[Key],
        n: int,
        root: Tensor,
    ) -> None:
        super().__init__()
        self.owners = {
            id(parameter): Owner(name, parameter, () if name in skip else (name,))
            for name, parameter in parameters.items()
        }
        self.shared, self.n, self.root = shared, n, root
        self.leaves = {id(root): root}
        self.seen = Seen()
        self.listener = Listener()

    def __torch_function__(
        self,
        func: Any,
        _types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """See one call of a torch function."""
        kwargs = kwargs or {}
        tensors = _tensors((args, kwargs))
        owned = [(owner, t) for t in tensors if (owner := self._owner(t)) is not None]
        self.leaves.update({id(t): t for t in tensors if self._is_leaf(t)})
        if not owned:
            self.seen.routed = self.seen.routed or routes(func, args, kwargs, self.n)
            return func(*args, **kwargs)
        if not torch.is_grad_enabled():
            return func(*args, **kwargs)
        pure = len(owned) == len(tensors) and all(owner.pure for owner, _ in owned)
        mixed = any(t.requires_grad and self._owner(t) is None for t in tensors)
        use = self._use(func, args, kwargs)
        origin = "" if pure else _without_rule(func)
        if use is not None:
            beside = [owner for owner, t in owned if not use.takes(t)]
            if not (pure and beside):  # else it is computed from weights alone: F.linear(token, w)
                self._give_up(beside)
                key = self._key(use, func, tensors)
                if key not in self.shared:
                    return self._tapped(use, key, mixed)
                pure, origin = True, "its rows belong to no one sample"
        elif func in REWRITES:
            with self:
                return REWRITES[func](*args, **kwargs)
        elif _is_python_function_of_torch(func):
            with self:  # look inside: F.multi_head_attention_forward calls F.linear
                return _see_through(func)(*args, **kwargs)
        return self._computed(func, args, kwargs, [owner for owner, _ in owned], pure, mixed, origin)

    def _owner(self, tensor: Tensor) -> Owner | None:
        """Return what this tensor is, or is a view of: a watched weight."""
        owner = self.owners.get(id(tensor))
        if owner is None and tensor._base is not None:
            owner = self.owners.get(id(tensor._base))
        return owner if owner is not None and owner.owns(tensor) else None

    def _is_leaf(self, tensor: Tensor) -> bool:
        """Tell whether the model has given an activation a history of its own: ``x.requires_grad_()``."""
        return tensor.requires_grad and tensor.is_leaf and self._owner(tensor) is None

    def origin(self, name: str) -> str:
        """Return why the gradient of a parameter came by a way that was not seen."""
        found = (o.origin for o in self.owners.values() if o.origin and name in o.parameters)
        return next(found, "it is used where torch's functions cannot be watched")

    def _use(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Use | Broadcast | None:
        rule = RULES.get(func)
        use = broadcast(func, args, kwargs) if rule is None else rule(*args, **kwargs)
        if use is None:
            return None
        owned = [t for t in use.weights if t is not None and self._owner(t) is not None]
        return None if not owned or any(overlaps(t) for t in owned) else use

    def _give_up(self, owners: list[Owner], why: str = "") -> None:
        for owner in owners:
            for name in owner.parameters:
                self.seen.unknown.setdefault(name, why or owner.origin or "it is the input of another layer")

    def _key(self, use: Use | Broadcast, func: Any, tensors: list[Tensor]) -> Key:
        owners = (self._owner(t) for t in use.weights if t is not None)
        first = next(owner.name for owner in owners if owner is not None)
        how = f"{getattr(func, '__name__', func)}{[t.dim() for t in tensors]}"
        return first, self._count(first), how

    def _count(self, name: str) -> int:
        order = self.seen.counts.get(name, 0)
        self.seen.counts[name] = order + 1
        return order

    # a use of weights by activations ----------------------------------------------------------------

    def _tapped(self, use: Use | Broadcast, key: Key, mixed: bool) -> Tensor:
        slots: list[Slot | None] = []
        stand_ins: list[Tensor | None] = []
        for weight in use.weights:
            owner = None if weight is None else self._owner(weight)
            if weight is None or owner is None:
                slots.append(None)
                stand_ins.append(weight)
                continue
            owner.tapped = True
            slots.append((owner, Region.of(weight, owner.tensor)) if owner.parameters else None)
            stand_ins.append(weight.detach())
        if isinstance(use, Broadcast):
            target = _Spread.apply(stand_ins[0].expand(use.shape), self.root)  # type: ignore[union-attr, no-untyped-call]
            output = use.run(target)
            dims = use.dims()
        else:
            target = self._with_history(use.run(stand_ins))
            output = use.finish(target)
            dims = use.dims(target)
        if any(slots):
            versions = tuple(t._version for t in use.inputs)
            tap = Tap(key, slots, use, target.shape, target.dtype, dims, versions, mixed, self.seen.routed)
            self.seen.taps.append(tap)
            # not self: through `seen` it holds later activations, whose graph holds this hook, a cycle that
            # runs through C++ and is never collected
            listener = self.listener
            target.register_hook(lambda gradient: listener.hear(tap, gradient))
        return output

    def _with_history(self, output: Tensor) -> Tensor:
        if output.requires_grad:
            return output
        if output._is_view():
            output = output.clone()
        grafted: Tensor = _Graft.apply(output, self.root)  # type: ignore[no-untyped-call]
        return grafted

    # what is computed from weights alone ------------------------------------------------------------

    def _computed(
        self,
        func: Any,
        args: Any,
        kwargs: dict[str, Any],
        owners: list[Owner],
        pure: bool,
        mixed: bool,
        origin: str,
    ) -> Any:
        """Run a call with the weights themselves: what it makes of weights is a weight, unless data go in."""
        changed = next((o for t in _tensors(args[:1]) if (o := self._owner(t)) is not None), None)
        version = 0 if changed is None else changed.tensor._version
        result = func(*args, **kwargs)
        if changed is not None and changed.tensor._version == version:
            changed = None
        fresh = [t for t in _tensors(result) if t.requires_grad and (self._owner(t) is None or overlaps(t))]
        if (mixed and (fresh or changed)) or (changed and changed.tapped):
            self._give_up(owners, _without_rule(func))
        elif changed is not None:  # w2[3:].zero_()
            changed.parameters, changed.pure = _union(owners), changed.pure and pure
        elif fresh and result is fresh[0] and not any(result is t for t in args):
            return self._enter(_own_memory(result), owners, pure, origin)
        else:
            for tensor in fresh:
                if tensor is _own_memory(tensor):
                    self._enter(tensor, owners, pure, origin)
        return result

    def _enter(self, tensor: Tensor, owners: list[Owner], pure: bool, origin: str) -> Tensor:
        first = owners[0].name.split("~")[0]
        name = f"{first}~{self._count(first + '~')}"
        origin = next((owner.origin for owner in owners if owner.origin), origin)
        self.owners[id(tensor)] = Owner(name, tensor, _union(owners), pure, origin)
        mark_as_weight(tensor)
        return tensor


def _without_rule(func: Any) -> str:
    return f"there is no rule for {getattr(func, '__name__', func)}"


def _union(owners: list[Owner]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for owner in owners for name in owner.parameters))


def _own_memory(tensor: Tensor) -> Tensor:
    """Return the tensor, or a copy where it is a view, or has gaps."""
    if tensor._base is None and is_dense(tensor):
        return tensor
    return tensor.clone(memory_format=torch.contiguous_format)


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
