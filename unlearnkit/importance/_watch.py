# SPDX-License-Identifier: BSD-3-Clause
"""Outputs inside a model, and gradients there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn

from unlearnkit.exceptions import UnsupportedModuleError


class Watch:
    """The outputs of modules, in the graph, as they are before what follows may write to them.

    A module that is called several times has the output of its last call.

    Attributes
    ----------
    outputs : dict of str to Tensor
        By name, in the order of the calls. Of an output that is a tuple, the first tensor.
    """

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        self.modules = modules
        self.outputs: dict[str, Tensor] = {}
        self.hooks: list[Any] = []

    def __enter__(self) -> Watch:
        for name, module in self.modules.items():
            self.hooks.append(module.register_forward_hook(self._hook(name)))
        return self

    def __exit__(self, *error: object) -> None:
        for hook in self.hooks:
            hook.remove()

    def _hook(self, name: str) -> Callable[[nn.Module, Any, Any], Any]:
        def note(module: nn.Module, given: Any, output: Any) -> Any:
            many = isinstance(output, tuple | list) and len(output) > 0
            found = output[0] if many else output
            if not isinstance(found, Tensor) or not found.is_floating_point():
                return None
            kept = found.clone() if found.requires_grad else found.detach().clone().requires_grad_()
            self.outputs.pop(name, None)
            self.outputs[name] = kept
            passed = kept.clone()  # an in-place ReLU writes to this one
            if not many:
                return passed
            rest = (passed, *output[1:])
            return type(output)(*rest) if hasattr(output, "_fields") else type(output)(rest)

        return note


def gradient_at(name: str, activation: Tensor, scores: Tensor) -> Tensor:
    """Return the gradient of scores [S, N] at an activation [N, ...]; of several, the largest.

    One pass backwards serves all samples: in eval mode no sample's score depends on another.

    Raises
    ------
    UnsupportedModuleError
        If the scores do not depend on it; `name` is what it is called there.
    """

    def of(score: Tensor) -> Tensor:
        found = None
        if score.requires_grad:
            (found,) = torch.autograd.grad(score, activation, retain_graph=True, allow_unused=True)
        if found is None:
            raise UnsupportedModuleError(
                f"the model's output does not depend on layer={name!r} in a way that has a gradient: name a layer "
                "that the output is computed from, outside of torch.no_grad()."
            )
        return found

    return reduce(torch.maximum, map(of, scores.sum(1)))
