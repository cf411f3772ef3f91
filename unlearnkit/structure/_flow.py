# SPDX-License-Identifier: BSD-3-Clause
"""What becomes of a layer's units on their way to the layers that take them.

Legend: O units. A unit is constant where it puts out one number, whatever the input, in training too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)

# fmt: off
NORMS = (
    nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d,
)
ACTIVATIONS = (
    nn.Identity, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Softplus,
    nn.Softsign, nn.Sigmoid, nn.LogSigmoid, nn.Tanh, nn.Hardswish, nn.Hardtanh, nn.Hardsigmoid,
)
DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
AVERAGES = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)
POOLS = (
    nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d,
    nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d,
)
# the same as functions and methods
ACTIVATING = frozenset([
    "relu", "relu_", "relu6", "leaky_relu", "leaky_relu_", "elu", "elu_", "selu", "selu_", "celu", "celu_", "gelu",
    "silu", "mish", "softplus", "softsign", "sigmoid", "sigmoid_", "log_sigmoid", "tanh", "tanh_", "hardswish",
    "hardtanh", "hardtanh_", "hardsigmoid",
])
DROPPING = frozenset(["dropout", "dropout1d", "dropout2d", "dropout3d"])
AVERAGING = frozenset(["avg_pool1d", "avg_pool2d", "avg_pool3d"])
POOLING = frozenset([
    "max_pool1d", "max_pool2d", "max_pool3d", "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d",
    "adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d",
])
# fmt: on


class LeftError(Exception):
    """The units of a layer cannot be followed; the message says why, and never reaches the user as an error."""


@dataclass(frozen=True)
class Flow:
    """The units in a tensor on its way.

    Attributes
    ----------
    dim : int
        The tensor's dimension that they lie in.
    block : int
        How many indices of it each has, one after the other.
    constant : Tensor, shape [O], bool
        Which units are constant here.
    value : Tensor, shape [O]
        What those put out; anything for the others. Both on the CPU.
    """

    dim: int
    block: int
    constant: Tensor
    value: Tensor

    def only(self, which: Tensor) -> Flow:
        """Return the same with fewer constants: those of `which` [O] alone."""
        return replace(self, constant=self.constant & which)


Shapes = Mapping[fx.Node, torch.Size]


def start(layer: nn.Module, shape: torch.Size) -> Flow:
    """Return the units that a layer puts out: those without weights are constant."""
    weight, bias = layer.get_parameter("weight").detach(), layer._parameters.get("bias")
    constant = ~weight.flatten(1).any(1).cpu()
    value = torch.zeros_like(constant, dtype=weight.dtype) if bias is None else bias.detach().cpu()
    return Flow(len(shape) - 1 if isinstance(layer, nn.Linear) else 1, 1, constant, value)


def step(flow: Flow, node: fx.Node, given: fx.Node, module: nn.Module | None, shapes: Shapes) -> Flow | None:
    """Return the units behind an operation; None behind what only asks for the number of samples.

    Parameters
    ----------
    flow : Flow
        What `given` holds.
    node, given : fx.Node
        The operation and its input.
    module : nn.Module or None
        What `node` calls, if that is a module.
    shapes : mapping of fx.Node to torch.Size
        Of all tensors.

    Raises
    ------
    LeftError
        If the units cannot be told apart behind it.
    """
    what = _described(node, module)
    if node.args[:1] != (given,) or sum(one is given for one in _nodes(node)) != 1:
        raise LeftError(f"{what} combines them with other values")
    name = type(module) if module is not None else _name(node)
    if name in ("size", "getattr", "dim"):
        if _asks_for_samples(node):
            return None
        raise LeftError(f"{what} asks for their number")
    in_place = str(name).endswith("_") or node.kwargs.get("inplace") or getattr(module, "inplace", False)
    if in_place and len(given.users) > 1:
        raise LeftError(f"{what} writes over a value that is used elsewhere")
    others = [one for one in _nodes(node) if one is not given]
    if (name in ACTIVATIONS or name in ACTIVATING) and not others:
        return replace(flow, value=_applied(node, module, flow.value))
    if name in DROPOUTS or name in DROPPING:
        return flow.only(flow.value == 0) if _drops(node, module) else flow
    if name in NORMS and module is not None:
        return _normed(flow, module, what)
    spatial = flow.dim == 1 and flow.block == 1 and len(shapes.get(node, ())) == len(shapes[given])
    if (name in POOLS or name in POOLING) and spatial:
        return flow  # what surrounds an image counts for nothing in a maximum
    if (name in AVERAGES or name in AVERAGING) and spatial:
        return flow.only(flow.value == 0)  # but it may count in a mean
    if name in ("flatten", nn.Flatten) or (name in ("view", "reshape") and _sizes(node)[1:] == (-1,)):
        return _flattened(flow, shapes[given], shapes.get(node), what)
    if name == "mean":
        return _averaged(flow, node, shapes[given], what)
    if others:
        raise LeftError(f"{what} combines them with other values")
    raise LeftError(f"{what} is not known to keep them apart")


def _nodes(node: fx.Node) -> list[fx.Node]:
    """Return the nodes among an operation's arguments, each as often as it is given."""
    found: list[fx.Node] = []
    fx.map_arg((node.args, node.kwargs), found.append)
    return found


def _name(node: fx.Node) -> str:
    return str(node.target) if node.op == "call_method" else getattr(node.target, "__name__", "")


def _described(node: fx.Node, module: nn.Module | None) -> str:
    return f"{node.target} ({type(module).__name__})" if module is not None else f"{_name(node) or node.op}()"


def _asks_for_samples(node: fx.Node) -> bool:
    name, rest = _name(node), node.args[1:]
    if name == "size" and rest == (0,):
        return True
    whole = (name == "size" and not rest) or (name == "getattr" and rest == ("shape",))
    return whole and all(_name(user) == "getitem" and user.args[1] == 0 for user in node.users)


def _sizes(node: fx.Node) -> tuple[Any, ...]:
    """Return the shape that a view is given, of which a number would be that of the channels."""
    first = node.args[1] if len(node.args) > 1 else None
    return tuple(first) if isinstance(first, list | tuple) else tuple(node.args[1:])


def _applied(node: fx.Node, module: nn.Module | None, value: Tensor) -> Tensor:
    """Return what an activation function makes of values [O]."""
    value = value.clone()  # it may work in place
    with torch.no_grad():
        if module is not None:
            result: Tensor = module(value)
        elif node.op == "call_method":
            result = getattr(value, str(node.target))(*node.args[1:], **node.kwargs)
        else:
            function: Callable[..., Any] = node.target  # type: ignore[assignment]
            result = function(value, *node.args[1:], **node.kwargs)
    return result


def _drops(node: fx.Node, module: nn.Module | None) -> bool:
    if module is not None:
        return bool(getattr(module, "p", 1.0))
    return bool(node.kwargs.get("training", True) and node.kwargs.get("p", 0.5) != 0)


def _normed(flow: Flow, norm: nn.Module, what: str) -> Flow:
    weight, bias = norm._parameters.get("weight"), norm._parameters.get("bias")
    if flow.dim != 1 or flow.block != 1:
        raise LeftError(f"{what} has other channels")
    if weight is None or bias is None:  # in training it depends on the batch
        return flow.only(torch.zeros_like(flow.constant))
    return replace(flow, constant=weight.detach().cpu() == 0, value=bias.detach().cpu())


def _flattened(flow: Flow, before: torch.Size, after: torch.Size | None, what: str) -> Flow:
    if after == before:
        return flow
    if flow.dim != 1 or after != (before[0], math.prod(before[1:])):
        raise LeftError(f"{what} rearranges them")
    return replace(flow, block=flow.block * math.prod(before[2:]))


def _averaged(flow: Flow, node: fx.Node, shape: torch.Size, what: str) -> Flow:
    dims = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else None)
    keep = node.kwargs.get("keepdim", node.args[2] if len(node.args) > 2 else False)
    listed = [dims] if isinstance(dims, int) else dims
    if not isinstance(listed, list | tuple) or not all(isinstance(one, int) for one in listed):
        raise LeftError(f"{what} takes the mean of them")
    gone = {int(one) % len(shape) for one in listed}
    if gone & {0, flow.dim} or not listed:
        raise LeftError(f"{what} takes the mean of them")
    return flow if keep else replace(flow, dim=flow.dim - sum(one < flow.dim for one in gone))
