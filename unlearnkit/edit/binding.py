# SPDX-License-Identifier: BSD-3-Clause
"""Writing changes to a model: all of them to the model they were made for, or none."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from unlearnkit.edit.change import Change
from unlearnkit.exceptions import EditMismatchError, UnsupportedModuleError
from unlearnkit.parameters import digest, named_tensors

_REMEDY = (
    "Apply the edit to the model it was made from or to an exact copy of it; for another model, "
    "make another edit (fit on that model, or WeightEdit.between)"
)


def bound_tensors(changes: Mapping[str, Change], model: nn.Module) -> dict[str, Tensor]:
    """Return the tensors that the changes are for, once each is known to be the right one.

    Parameters
    ----------
    changes : mapping of str to Change
        By canonical name.
    model : torch.nn.Module
        Plain or wrapped.

    Returns
    -------
    dict of str to torch.Tensor
        The model's own tensors, under the names of `changes`.

    Raises
    ------
    EditMismatchError
        If a tensor is missing or has another shape or dtype than the change was made for; else,
        if one has other values. The first such tensor is named.
    TypeError
        If `model` is no module.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"an edit applies to a torch.nn.Module, got {type(model).__name__}; to edit a state "
            "dict, load it into its model (model.load_state_dict) and edit that"
        )
    tensors = named_tensors(model)
    digests: dict[str, str] = {}
    for name, change in changes.items():
        if name not in tensors:
            raise EditMismatchError(f"the model has no tensor {name!r}. {_REMEDY}")
        if difference := other_form(tensors[name], change.shape, change.dtype):
            raise EditMismatchError(
                f"tensor {name!r} of the model {difference} in the edit. {_REMEDY}; a model that "
                "is converted (half, bfloat16, quantised) is edited before its conversion"
            )
        digests[name] = digest(tensors[name])
    wrong = [name for name, change in changes.items() if digests[name] != change.before]
    if wrong:
        done = [name for name, change in changes.items() if digests[name] == change.after]
        raise EditMismatchError(_other_values(wrong, done, digests, changes))
    return {name: tensors[name] for name in changes}


def write_all(changes: Mapping[str, Change], tensors: Mapping[str, Tensor]) -> dict[str, Change]:
    """Write every change and return the changes that take it back; after an error none is written.

    Parameters
    ----------
    changes : mapping of str to Change
        What to write.
    tensors : mapping of str to torch.Tensor
        A tensor for each change, of the values that it replaces: what `bound_tensors` returned,
        or its copies. Others are left alone.

    Returns
    -------
    dict of str to Change
        The way back.

    Raises
    ------
    UnsupportedModuleError
        If a tensor cannot be written, or shares its memory with others unseen by PyTorch.
    """
    back = {name: change.reversed(tensors[name]) for name, change in changes.items()}
    try:
        with torch.no_grad():
            for name, change in changes.items():
                _write(name, change, tensors[name])
        for name, change in changes.items():
            if digest(tensors[name]) != change.after:
                raise UnsupportedModuleError(
                    f"tensor {name!r} shares its memory, with another tensor or within itself (an "
                    "expanded view), so it cannot hold the values of the edit. Nothing was "
                    "changed; give it memory of its own (tensor.clone()), and tie weights by "
                    "assigning the same Parameter"
                )
    except BaseException:  # an interrupt, too, must not leave half an edit behind
        for name, change in back.items():
            with contextlib.suppress(UnsupportedModuleError):  # it refused the edit just as well
                _write(name, change, tensors[name])
        raise
    return back


def other_form(tensor: Tensor, shape: Iterable[int], dtype: torch.dtype) -> str | None:
    """Say how a tensor differs from a shape and a dtype: ``"has shape ..., but ..."``."""
    if tensor.shape != tuple(shape):
        return f"has shape {list(tensor.shape)}, but {list(shape)}"
    if tensor.dtype != dtype:
        return f"is {tensor.dtype}, but {dtype}"
    return None


def _write(name: str, change: Change, tensor: Tensor) -> None:
    try:
        change.write(tensor)
    except RuntimeError as error:
        raise UnsupportedModuleError(
            f"tensor {name!r} cannot be written in place, so nothing was changed: {error}"
        ) from error


def _other_values(
    wrong: list[str], done: list[str], digests: Mapping[str, str], changes: Mapping[str, Change]
) -> str:
    """Say why digests do not match, where names, shapes and dtypes do."""
    if len(done) == len(changes):
        return (
            "this edit is already applied: the model holds its new values in all "
            f"{len(done)} tensors. There is nothing to do; to go back, apply the undo that apply_ "
            "returned"
        )
    name = wrong[0]
    text = (
        f"tensor {name!r} of the model holds other values than those that the edit replaces "
        f"(digest {digests[name]}, expected {changes[name].before}); {len(wrong)} of "
        f"{len(changes)} tensors differ"
    )
    if done:
        text += f", {len(done)} of them hold the edit's new values already"
    return f"{text}. {_REMEDY}"
