# SPDX-License-Identifier: BSD-3-Clause
"""Which of a model's layers is what: the head, the hidden layer before it, the last convolution."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from unlearnkit.data import Batch, Loss, device_of, evaluating, forward, to_device
from unlearnkit.exceptions import UnsupportedModuleError
from unlearnkit.parameters import named_modules, named_parameters, unwrap

PARAMETRIZATIONS = "parametrizations"
"""Where ``torch.nn.utils.parametrize`` keeps what a layer's weights are computed from."""


def called_layers(model: nn.Module, batch: Batch, loss: Loss | None = None) -> list[tuple[str, nn.Module]]:
    """Return the layers that a forward pass runs, in the order of their last call.

    A layer is a module with parameters of its own that runs no other such module. The pass is in
    eval mode, and leaves the model as it was.

    Parameters
    ----------
    model : nn.Module
        Plain or wrapped.
    batch : Batch
    loss : callable, optional
        ``loss(model, batch)``, where the model is not called as a classifier is.

    Returns
    -------
    list of (str, nn.Module)
        Each once, by canonical name: the one that its parameters' names begin with.
    """
    inner = unwrap(model)
    names = {module: name for name, module in named_modules(inner).items() if _owns_weights(name, module)}
    called: dict[nn.Module, None] = {}

    def note(module: nn.Module, given: Any, output: Any) -> None:
        called.pop(module, None)
        called[module] = None

    hooks = [module.register_forward_hook(note) for module in names]
    try:
        with evaluating(inner), torch.no_grad():
            (loss or forward)(inner, to_device(batch, device_of(inner)))
    finally:
        for hook in hooks:
            hook.remove()
    return [(names[module], module) for module in called if not _runs_another(module, called)]


def _owns_weights(name: str, module: nn.Module) -> bool:
    if PARAMETRIZATIONS in name.split("."):
        return False
    return PARAMETRIZATIONS in module._modules or next(module.parameters(recurse=False), None) is not None


def _runs_another(module: nn.Module, called: dict[nn.Module, None]) -> bool:
    return any(other is not module and other in called for other in module.modules())


def last_layer(model: nn.Module, batch: Batch, remedy: str, loss: Loss | None = None) -> nn.Module:
    """Return the layer that is run last; `remedy` is what an error says to do.

    Raises
    ------
    UnsupportedModuleError
        If the model calls no module with parameters.
    """
    layers = called_layers(model, batch, loss)
    if not layers:
        raise UnsupportedModuleError(
            "the model has no layer with parameters that it calls as a module, so its last one is unknown: "
            f"{remedy}."
        )
    return layers[-1][1]


def head_of(
    model: nn.Module, batch: Batch, remedy: str = "set train_head=False", loss: Loss | None = None
) -> list[str]:
    """Return the canonical names of the last layer's parameters; `loss` as of :func:`called_layers`.

    Raises
    ------
    UnsupportedModuleError
        As :func:`last_layer`.
    """
    own = {id(parameter) for parameter in last_layer(model, batch, remedy, loss).parameters()}
    return [name for name, parameter in named_parameters(model).items() if id(parameter) in own]


def before_head(layers: list[tuple[str, nn.Module]]) -> list[tuple[str, nn.Module]]:
    """Return, of :func:`called_layers`, those before the head.

    The head is the last one with a weight of two dimensions or more: what comes after it scales
    logits.
    """
    matrices = [at for at, (_, module) in enumerate(layers) if any(p.dim() > 1 for p in module.parameters())]
    return layers[: matrices[-1]] if matrices else []


def last_hidden(model: nn.Module, batch: Batch) -> str:
    """Return the name of the hidden layer: the last ``Linear`` or convolution before the head.

    Of an MLP, or a CNN with a fully connected layer, the ``Linear`` before the last; of a ResNet
    the last convolution; of a vision transformer the second ``Linear`` of the last block's MLP.

    Raises
    ------
    UnsupportedModuleError
        If there is none.
    """
    found = _last_of((nn.Linear, _ConvNd), model, batch)
    if found is None:
        raise UnsupportedModuleError(
            "the model calls no Linear and no convolution before its head, so its hidden layer is unknown: name "
            "one of its modules with layer=."
        )
    return found


def last_conv(model: nn.Module, batch: Batch) -> str | None:
    """Return the name of the last convolution before the head; None where there is none."""
    return _last_of(_ConvNd, model, batch)


def _last_of(kinds: type | tuple[type, ...], model: nn.Module, batch: Batch) -> str | None:
    layers = before_head(called_layers(model, batch))
    return next((name for name, module in reversed(layers) if isinstance(module, kinds)), None)
