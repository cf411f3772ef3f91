# SPDX-License-Identifier: BSD-3-Clause
"""Which units of a model can be spared: where they go, and whether all that takes them can do without.

Legend: O units of a layer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from unlearnkit.structure._flow import LAYERS, NORMS, Flow, LeftError, start, step
from unlearnkit.structure._graph import Graph

CONSTANT = "what they put out is not zero, and varies in training or does not fit into the next layer's bias"


@dataclass(frozen=True)
class Route:
    """Where the units of a layer go: through norms, to the layers that take them."""

    norms: set[nn.Module]
    takers: dict[nn.Module, Flow]

    def spared(self) -> Tensor:
        """Return which units [O] can be spared: constants that each taker can do without."""
        return torch.stack([_can_take(taker, flow) for taker, flow in self.takers.items()]).all(0)

    def agrees(self, other: Route) -> Tensor:
        """Return which units [O] put out the same in another mode.

        Raises
        ------
        LeftError
            If they go elsewhere there.
        """
        places = [{t: (f.dim, f.block) for t, f in route.takers.items()} for route in (self, other)]
        if self.norms != other.norms or places[0] != places[1]:
            raise LeftError("they go elsewhere in training")
        return torch.stack(
            [flow.value == other.takers[taker].value for taker, flow in self.takers.items()]
        ).all(0)


def plans(model: nn.Module, graphs: list[Graph]) -> tuple[list[tuple[nn.Module, Tensor, Route]], list[str]]:
    """Return which units [O] of which layers can be spared, and what is to say of those that cannot."""
    found: list[tuple[nn.Module, Tensor, Route]] = []
    left: list[str] = []
    for name, layer in model.named_modules():
        if not isinstance(layer, nn.Linear | _ConvNd):
            continue
        blank = _blank(layer)  # [O]
        try:
            # what Python decides by the mode stands in one graph or the other
            routes = [_route(graph, layer, model) for graph in graphs]
            dead = routes[0].spared() & routes[1].spared() & routes[0].agrees(routes[1])
        except LeftError as error:
            if count := int(blank.sum()):
                left.append(f"{count:,} of {name}, for {error}")
            continue
        if count := int((blank & ~dead).sum()):
            left.append(f"{count:,} of {name}, for {CONSTANT}")
        if bool(dead.all()):
            dead[0] = False  # a layer without any is none
        if bool(dead.any()):
            found.append((layer, dead, routes[0]))
    return found, left


def _blank(layer: nn.Module) -> Tensor:
    """Return which units [O] have weights of zero."""
    weight = layer._parameters.get("weight")
    return torch.zeros(0, dtype=torch.bool) if weight is None else ~weight.detach().flatten(1).any(1).cpu()


def _route(graph: Graph, layer: nn.Module, model: nn.Module) -> Route:
    """Follow the units of a layer to all that takes them.

    Raises
    ------
    LeftError
        If something does that keeps them in place.
    """
    _check(graph, layer, model)
    (node,) = (node for node, module in graph.modules.items() if module is layer)
    norms: set[nn.Module] = set()
    takers: dict[nn.Module, Flow] = {}
    open_ends = [(node, start(layer, graph.shapes[node]))]
    while open_ends:
        given, flow = open_ends.pop()
        for user in given.users:
            if user.op == "output":
                raise LeftError("they are outputs of the model")
            module = graph.modules.get(user)
            if type(module) in LAYERS and module is not None:
                _check(graph, module, model)
                if flow.dim != (len(graph.shapes[given]) - 1 if isinstance(module, nn.Linear) else 1):
                    raise LeftError(f"{user.target} takes them one by one")
                takers[module] = flow
                continue
            if type(module) in NORMS and module is not None:
                _check(graph, module, model)
                norms.add(module)
            following = step(flow, user, given, module, graph.shapes)
            if following is not None:
                open_ends.append((user, following))
    if not takers:
        raise LeftError("no layer takes them")
    return Route(norms, takers)


def _check(graph: Graph, module: nn.Module, model: nn.Module) -> None:
    """Check that a module is all that a call of it shows: called once, with parameters of its own.

    Raises
    ------
    LeftError
        If not.
    """
    name = next(name for name, one in model.named_modules() if one is module)
    own = {id(p) for p in module._parameters.values() if p is not None}
    others = {id(p) for one in model.modules() if one is not module for p in one._parameters.values()}
    if type(module) not in (*LAYERS, *NORMS) or "weight" not in module._parameters:
        raise LeftError(f"{name} is a {type(module).__name__} of a kind that is not known")
    if graph.calls[module] != 1:
        raise LeftError(f"{name} is not called once, and by itself")
    if getattr(module, "groups", 1) != 1:
        raise LeftError(f"{name} has groups")
    if own & others or any(read.rpartition(".")[0] == name for read in graph.read):
        raise LeftError(f"a parameter of {name} is used elsewhere")
    if module._forward_hooks or module._forward_pre_hooks:
        raise LeftError(f"{name} has a hook")


def _can_take(layer: Any, flow: Flow) -> Tensor:
    """Return which units [O] a layer that takes them can do without."""
    whole = isinstance(layer, nn.Linear) or layer.padding_mode != "zeros" or set(layer.padding) == {0}
    if layer._parameters.get("bias") is None or not whole:  # at the border a constant is none
        return flow.only(flow.value == 0).constant
    return flow.constant
