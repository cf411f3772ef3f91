# SPDX-License-Identifier: BSD-3-Clause
"""What the operators over lists of tensors share: checks, and tensors in the order of their memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from unlearnkit.exceptions import DataError

CPU = torch.device("cpu")


def check_lists(**lists: Iterable[Tensor]) -> tuple[list[list[Tensor]], torch.device]:
    """Return lists of real dense tensors, which match one another, and the device of all (CPU if empty).

    Raises
    ------
    DataError
        If they differ in length, shapes or devices, or if one holds something else.
    """
    given = {name: list(tensors) for name, tensors in lists.items()}
    first, *others = given
    for name in others:
        if len(given[name]) != len(given[first]):
            raise DataError(
                f"{first} holds {len(given[first])} tensors and {name} {len(given[name])}: give one for one."
            )
    device = None
    for name, tensors in given.items():
        for index, (tensor, model) in enumerate(zip(tensors, given[first], strict=True)):
            if not isinstance(tensor, Tensor):
                raise DataError(f"{name}[{index}] is a {type(tensor).__name__}: give a torch.Tensor.")
            if tensor.layout is not torch.strided or not tensor.dtype.is_floating_point:
                raise DataError(
                    f"{name}[{index}] is {tensor.dtype} of layout {tensor.layout}: give a dense tensor of a "
                    "floating-point dtype."
                )
            if tensor.shape != model.shape:
                raise DataError(
                    f"{name}[{index}] has shape {list(tensor.shape)} and {first}[{index}] "
                    f"{list(model.shape)}: give tensors of one shape."
                )
            device = device or tensor.device
            if tensor.device != device:
                raise DataError(
                    f"{name}[{index}] is on {tensor.device} and {first}[0] on {device}: move all to one device."
                )
    return list(given.values()), device or CPU


def memory_order(tensor: Tensor) -> list[int]:
    """Return the dimensions from the largest stride to the smallest; permuted so, dense means contiguous."""
    if tensor.is_contiguous():
        return list(range(tensor.dim()))
    strides = tensor.stride()
    return sorted(range(tensor.dim()), key=lambda dim: (-strides[dim], dim))


def in_memory(tensor: Tensor) -> Tensor:
    """Return a contiguous tensor of the same elements in another order; a copy only where there are gaps."""
    tensor = tensor.detach().resolve_neg()
    return tensor.permute(memory_order(tensor)).contiguous()


def addresses(tensors: Sequence[Tensor]) -> list[int]:
    """Return where each begins."""
    return [tensor.data_ptr() for tensor in tensors]


def where_run(device: torch.device) -> Any:
    """Return what the compiled functions are given last: how many threads, or which GPU."""
    return device if device.type == "cuda" else torch.get_num_threads()
