# SPDX-License-Identifier: BSD-3-Clause
"""A model's forward pass as a graph, by torch.fx."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from unlearnkit.exceptions import UnsupportedModuleError


@dataclass(frozen=True)
class Graph:
    """What a model does with an example.

    Attributes
    ----------
    nodes : list of fx.Node
        In the order in which they are run.
    modules : dict of fx.Node to Module
        What the nodes call.
    calls : Counter of Module
        How often.
    read : frozenset of str
        Parameters that are read by themselves.
    shapes : dict of fx.Node to torch.Size
        Of the tensors.
    """

    nodes: list[fx.Node]
    modules: dict[fx.Node, nn.Module]
    calls: Counter[nn.Module]
    read: frozenset[str]
    shapes: dict[fx.Node, torch.Size]


class _Shapes(fx.Interpreter):
    """Runs a graph and notes the shape of each tensor."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.found: dict[fx.Node, torch.Size] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if isinstance(result, Tensor):
            self.found[n] = result.shape
        return result


@torch.no_grad()
def traced(model: nn.Module, example: Any, training: bool) -> Graph:
    """Return the graph of a model's forward pass in training or in eval mode.

    The model's flags are changed; nothing is run in training mode.

    Raises
    ------
    UnsupportedModuleError
        If the forward pass depends on data in a way that has no graph.
    """
    positional, named = arguments(example)
    try:
        bound = inspect.signature(model.forward).bind(*positional, **named)
        given = set(bound.arguments)
        bound.apply_defaults()
        fixed = {name: value for name, value in bound.arguments.items() if name not in given}
        fixed = {name: value for name, value in fixed.items() if value not in ((), {})}  # *args, **kwargs
        model.train(training)
        graph = fx.Tracer().trace(model, concrete_args=fixed)
        model.eval()
        shapes = _Shapes(fx.GraphModule(model, graph))
        shapes.run(*bound.args, *bound.kwargs.values())
    except Exception as error:  # whatever a model's own code makes of a stand-in for a tensor
        raise UnsupportedModuleError(
            f"torch.fx cannot follow the forward pass of this {type(model).__name__}, so what takes the "
            f"outputs of a layer is unknown: {error}"
        ) from error
    nodes = list(graph.nodes)
    modules = {node: model.get_submodule(str(node.target)) for node in nodes if node.op == "call_module"}
    read = frozenset(str(node.target) for node in nodes if node.op == "get_attr")
    return Graph(nodes, modules, Counter(modules.values()), read, shapes.found)


@torch.no_grad()
def output_of(model: nn.Module, example: Any) -> Any:
    """Call a model with an example."""
    positional, named = arguments(example)
    return model(*positional, **named)


def arguments(example: Any) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
    """Return what a model is called with, by position and by keyword."""
    if isinstance(example, Mapping):
        return (), example
    return (tuple(example), {}) if isinstance(example, tuple | list) else ((example,), {})
