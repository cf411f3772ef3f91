# SPDX-License-Identifier: BSD-3-Clause
"""Watching a forward pass: what a layer puts out, and the norm and the activation that take it directly."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary

Call = tuple[str, int]
"""A layer's name, and how often it was called before in this pass."""

Seen = Callable[[Call, nn.Module | None, Tensor], None]
"""Told of each value of a layer's units: of which call, the layer or norm that made the value (None for an
activation function), and the value."""

NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)

# fmt: off
ACTIVATIONS = frozenset([
    "relu", "relu6", "leaky_relu", "rrelu", "prelu", "threshold", "_threshold", "clamp", "clamp_min", "elu",
    "celu", "selu", "gelu", "silu", "mish", "softplus", "softsign", "sigmoid", "log_sigmoid", "logsigmoid",
    "tanh", "tanhshrink", "softshrink", "hardshrink", "hardswish", "hardtanh", "hardsigmoid",
])
# fmt: on
"""Names of the functions, with which modules and methods are written too; in place they end in ``_``."""


class Watch(TorchFunctionMode):
    """Follows the outputs of layers to what takes them as they are, object by object.

    Parameters
    ----------
    layers : mapping of Module to str
        The layers and their names. Two may share one.
    seen : callable

    Attributes
    ----------
    calls : Counter of Module
        How often each module that owns parameters was called, and
    last : Module or None
        which of those without children was called last.
    """

    def __init__(self, layers: Mapping[nn.Module, str], seen: Seen) -> None:
        super().__init__()
        self.layers, self.seen = layers, seen
        self.calls: Counter[nn.Module] = Counter()
        self.last: nn.Module | None = None
        self._counts: Counter[str] = Counter()
        self._origin = WeakIdKeyDictionary()  # a tensor: the call it comes from, and its version then

    @contextmanager
    def on(self, model: nn.Module) -> Iterator[None]:
        """Watch while the context is open; no hook is left behind, even after an error."""
        with ExitStack() as stack:
            # the fused path of transformer encoders calls none of their layers
            stack.callback(torch.backends.mha.set_fastpath_enabled, torch.backends.mha.get_fastpath_enabled())
            torch.backends.mha.set_fastpath_enabled(False)
            for module in model.modules():
                if next(module.parameters(recurse=False), None) is not None:
                    stack.callback(module.register_forward_hook(self._called).remove)
            if "torch._dynamo" in sys.modules:  # else nothing is compiled
                stack.enter_context(torch.compiler.set_stance("force_eager"))
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(self)
            yield

    def _called(self, module: nn.Module, given: tuple[Any, ...], output: Any) -> None:
        self.calls[module] += 1
        if next(module.children(), None) is None:
            self.last = module
        call: Call | None = None
        if (layer := self.layers.get(module)) is not None:
            call = (layer, self._counts[layer])
            self._counts[layer] += 1
        elif isinstance(module, NORMS) and given:
            call = self.call_of(given[0])
        if call is not None and isinstance(output, Tensor):
            self._origin[output] = (call, output._version)
            self.seen(call, module, output)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "").removesuffix("_")
        # asked before the function runs, which may write its result over its input
        call = self.call_of(args[0]) if name in ACTIVATIONS and args else None
        output = func(*args, **(kwargs or {}))
        if call is not None:
            self.seen(call, None, output)
        return output

    def call_of(self, tensor: Any) -> Call | None:
        """Return the call whose units a tensor holds, unless it was written to since."""
        known = self._origin.get(tensor) if isinstance(tensor, Tensor) else None
        return known[0] if known is not None and known[1] == tensor._version else None
