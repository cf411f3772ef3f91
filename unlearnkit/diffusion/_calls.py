# SPDX-License-Identifier: BSD-3-Clause
"""How a denoising model is called: U-Nets and transformers of the diffusers library, and modules of one's own.

Legend: N samples, C channels, H x W pixels, L tokens of a prompt, E their width.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from unlearnkit.exceptions import DataError

Condition = Tensor | Mapping[str, Any] | None
"""Classes [N], embeddings [N, L, E], or what the model takes by keyword."""

Call = Callable[[nn.Module, Tensor, Tensor, Condition], Tensor]
"""``call(model, noisy, times, condition) -> prediction``, for a model with a signature of its own."""


def predict(
    model: nn.Module, noisy: Tensor, times: Tensor, condition: Condition, call: Call | None = None
) -> Tensor:
    """Return what the model predicts for noisy samples, of their shape.

    Parameters
    ----------
    model : nn.Module
        Called as ``model(noisy, times, class_labels=...)`` or ``encoder_hidden_states=...`` where its
        ``forward`` has such a parameter, with a mapping's entries by keyword, else as
        ``model(noisy, times, condition)``.
    noisy : Tensor [N, C, H, W]
    times : Tensor [N]
    condition : Tensor, mapping or None
    call : callable, optional
        Calls it otherwise.

    Raises
    ------
    DataError
        If the output is not of the samples' shape; twice the channels are a variance beside it, which
        is left out.
    """
    if call is not None:
        output = call(model, noisy, times, condition)
    elif condition is None:
        output = model(noisy, times)
    elif isinstance(condition, Mapping):
        output = model(noisy, times, **condition)
    elif name := _keyword(model, condition):
        output = model(noisy, times, **{name: condition})
    else:
        output = model(noisy, times, condition)
    found = output if isinstance(output, Tensor) else _sample_of(output)
    if found.dim() > 1 and found.shape[1] == 2 * noisy.shape[1]:
        found = found[:, : noisy.shape[1]]  # the rest is a learned variance
    if found.shape != noisy.shape:
        raise DataError(
            f"the model returned a prediction {list(found.shape)} for samples {list(noisy.shape)}: a denoising "
            "model returns one of the samples' shape. Pass call=, a function call(model, noisy, times, "
            "condition) that returns it."
        )
    return found


def guided(
    model: nn.Module,
    noisy: Tensor,
    times: Tensor,
    condition: Condition,
    null: Condition,
    guidance: float,
    call: Call | None = None,
) -> Tensor:
    """Return the prediction under classifier-free guidance, ``(1 + w) eps(c) - w eps(null)``.

    Parameters
    ----------
    null : Tensor, mapping or None
        The empty condition of each sample; see :func:`null_like`.
    guidance : float
        w; 0 is the plain prediction. The diffusers library's ``guidance_scale`` is ``1 + w``.
    model, noisy, times, condition, call
        As of :func:`predict`.
    """
    given = predict(model, noisy, times, condition, call)
    if guidance == 0:
        return given
    return (1 + guidance) * given - guidance * predict(model, noisy, times, null, call)


def null_like(null: Any, condition: Condition) -> Condition:
    """Return the empty condition for each sample of a condition.

    Parameters
    ----------
    null : int, Tensor or mapping
        The class that stands for none, or an empty prompt's embedding [L, E] or [1, L, E]. Where a
        condition is a mapping of several tensors, a mapping of those that it replaces.
    condition : Tensor or mapping

    Raises
    ------
    DataError
        If it does not fit, or is not there.
    """
    if null is None or condition is None:
        raise DataError(
            "guidance and condition_drop need null=, the empty condition: the class that stands for none, or "
            "an empty prompt's embedding [L, E]; and samples with a condition."
        )
    if isinstance(condition, Mapping):
        named = null if isinstance(null, Mapping) else {only_tensor(condition): null}
        return replaced(condition, {name: _expanded(value, condition[name]) for name, value in named.items()})
    return _expanded(null, condition)


def replaced(condition: Condition, new: Any) -> Condition:
    """Return the condition with other values: a tensor in its place, or entries of a mapping.

    Raises
    ------
    DataError
        If it is not plain which, or a value is of another shape.
    """
    if not isinstance(condition, Mapping):
        _check_alike(new, condition)
        return new
    named = new if isinstance(new, Mapping) else {only_tensor(condition): new}
    if unknown := [name for name in named if name not in condition]:
        raise DataError(f"the condition has no {unknown}: it has {list(condition)}.")
    for name, value in named.items():
        _check_alike(value, condition[name])
    return {**condition, **named}


def only_tensor(condition: Mapping[str, Any]) -> str:
    """Return the name of a mapping's only tensor.

    Raises
    ------
    DataError
        If it has several, or none.
    """
    names = [name for name, value in condition.items() if isinstance(value, Tensor)]
    if len(names) != 1:
        raise DataError(
            f"one condition in place of {names}: pass a mapping that names what it replaces, such as "
            "{'encoder_hidden_states': ...}."
        )
    return names[0]


def _expanded(null: Any, condition: Tensor) -> Tensor:
    value = torch.as_tensor(null).to(condition)
    if value.dim() == condition.dim() and len(value) == 1:
        value = value[0]
    if value.shape != condition.shape[1:]:
        raise DataError(
            f"null is of shape {list(value.shape)}, and a sample's condition of shape "
            f"{list(condition.shape[1:])}: they must agree."
        )
    return value.expand_as(condition)


def _check_alike(new: Any, old: Any) -> None:
    if isinstance(new, Tensor) and isinstance(old, Tensor) and new.shape != old.shape:
        raise DataError(
            f"a condition {list(old.shape)} is to be replaced by one of shape {list(new.shape)}: they must agree."
        )


def _keyword(model: nn.Module, condition: Tensor) -> str | None:
    """Return the parameter of ``forward`` that takes such a condition, None where it is the third in order."""
    forward = getattr(model, "forward", model)
    names = inspect.signature(forward).parameters
    wanted = "class_labels" if condition.dim() == 1 else "encoder_hidden_states"
    return wanted if wanted in names else None


def _sample_of(output: Any) -> Tensor:
    found = output[0] if isinstance(output, tuple | list) and output else getattr(output, "sample", None)
    if not isinstance(found, Tensor):
        raise DataError(
            f"the model returned a {type(output).__name__}, neither a tensor nor an object with one as sample: "
            "pass call=, a function call(model, noisy, times, condition) that returns the prediction."
        )
    return found
