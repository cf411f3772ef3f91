# SPDX-License-Identifier: BSD-3-Clause
"""Where an edit's new values come from: another state, values at positions, or factors."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

from unlearnkit.edit.binding import other_form
from unlearnkit.edit.change import Change
from unlearnkit.exceptions import DataError, EditMismatchError, UnsupportedModuleError
from unlearnkit.parameters import digest, named_parameters, named_tensors

_Given = TypeVar("_Given")


def state_of(source: nn.Module | Mapping[str, Tensor]) -> tuple[dict[str, Tensor], set[str]]:
    """Return a state's tensors by canonical name, and which of them are known to be buffers."""
    if isinstance(source, nn.Module):
        tensors = named_tensors(source)
        return tensors, set(tensors) - set(named_parameters(source))
    if isinstance(source, Mapping):
        return dict(source), set()
    raise TypeError(f"a state is a torch.nn.Module or a dict of tensors by name, got {type(source).__name__}")


def check_same_form(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> None:
    """Raise EditMismatchError, naming the first difference, unless names, shapes, dtypes agree."""
    for name in {**before, **after}:
        if name not in before or name not in after:
            lacks, names = ("after", after) if name in before else ("before", before)
            raise EditMismatchError(
                f"the states are not of one model: `{lacks}` has no tensor {name!r}"
                f"{_hint(name, names)}. Give two modules of one architecture, or clones of "
                "unlearnkit.parameters.named_tensors(model)"
            )
        if difference := other_form(before[name], after[name].shape, after[name].dtype):
            raise EditMismatchError(
                f"the states are not of one model: tensor {name!r} of `before` {difference} in "
                "`after`. Give two states of one architecture and dtype"
            )


def edited(
    state: tuple[Mapping[str, Tensor], set[str]],
    given: Mapping[str, _Given],
    make: Callable[[str, Tensor, _Given], Tensor],
) -> tuple[dict[str, Change], int]:
    """Return what changes where each named tensor is replaced by ``make(name, tensor, given)``.

    The second result is the number of weights of the whole state, buffers left out. Tensors are
    taken one at a time, so only one new tensor is in memory at once.

    Raises
    ------
    EditMismatchError
        If a name is not one of `tensors`.
    UnsupportedModuleError
        If a tensor of a sparse layout changes.
    """
    tensors, buffers = state
    for name in given:
        if name not in tensors:
            raise EditMismatchError(
                f"the model has no tensor {name!r}{_hint(name, tensors)}. Use the names of "
                "unlearnkit.parameters.named_tensors(model); a tied weight goes by its first name"
            )
    changes = {}
    for name, tensor in tensors.items():
        if name in given:
            change = _change(name, tensor, make(name, tensor, given[name]), name in buffers)
            if change is not None:
                changes[name] = change
    return changes, sum(t.numel() for name, t in tensors.items() if name not in buffers)


def with_values(name: str, tensor: Tensor, given: tuple[Tensor, Tensor]) -> Tensor:
    """Return the tensor with ``given = (index [k], values [k])`` written at its flat positions."""
    index, values = (torch.as_tensor(part, device=tensor.device).detach() for part in given)
    if index.dim() != 1 or index.shape != values.shape:
        raise DataError(
            f"values for {name!r}: positions of shape {list(index.shape)} and values of shape "
            f"{list(values.shape)}; expected [k] for both"
        )
    if index.is_floating_point() or index.is_complex() or index.dtype is torch.bool:
        raise DataError(
            f"values for {name!r}: positions are {index.dtype}, expected integers; for a mask use "
            "mask.flatten().nonzero().flatten()"
        )
    outside = index[(index < 0) | (index >= tensor.numel())]
    if outside.numel():
        raise DataError(
            f"values for {name!r}: position {int(outside[0])} is outside of the tensor's "
            f"{tensor.numel()} elements (0 to {tensor.numel() - 1}, counted in C order)"
        )
    ordered = index.sort().values
    if (ordered[1:] == ordered[:-1]).any():
        raise DataError(f"values for {name!r}: a position occurs twice; give each position once")
    _check_cast(name, values.dtype, tensor.dtype)
    flat = tensor.detach().reshape(-1).clone()
    flat[index.long()] = values.to(tensor.dtype)
    return flat.view(tensor.shape)


def scaled(name: str, tensor: Tensor, factor: Tensor) -> Tensor:
    """Return ``tensor * factor``, rounded once, and the tensor's own bits where the factor is 1."""
    if factor.shape != tensor.shape:
        raise DataError(
            f"factors for {name!r} have shape {list(factor.shape)}, expected one a weight: "
            f"{list(tensor.shape)}"
        )
    factor = factor.detach().to(tensor.device)
    finite = factor.isfinite()
    if not finite.all():
        raise DataError(
            f"factors for {name!r}: {int((~finite).sum())} of {factor.numel()} are not finite; "
            "use 1 where a weight shall stay (a ratio of two zero importances is no number)"
        )
    product = tensor.detach() * factor
    _check_cast(name, product.dtype, tensor.dtype)
    return torch.where(factor == 1, tensor.detach(), product.to(tensor.dtype))


def _hint(name: str, names: Iterable[str]) -> str:
    """Return ``" (did you mean ...?)"`` where a name resembles a known one, else nothing."""
    close = difflib.get_close_matches(name, list(names), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _check_cast(name: str, given: torch.dtype, wanted: torch.dtype) -> None:
    if not torch.can_cast(given, wanted):
        raise DataError(f"new values for {name!r} are {given}, which do not fit into {wanted}")


def _change(name: str, before: Tensor, after: Tensor, is_buffer: bool) -> Change | None:
    if before.layout is torch.strided:
        return Change.between(before, after, is_buffer)
    if digest(before) != digest(after):
        raise UnsupportedModuleError(
            f"tensor {name!r} of layout {before.layout} changes, but an edit replaces elements of "
            "dense tensors alone: keep it fixed, or hold it dense (tensor.to_dense())"
        )
    return None
