# SPDX-License-Identifier: BSD-3-Clause
"""What a data set is, and what a factory builds, as digests that another process finds again."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from unlearnkit.data import Batch, Measured, Partition, as_loader, batch_size, in_order, preserved_rng
from unlearnkit.exceptions import DataError, UnsupportedModuleError
from unlearnkit.parameters import bits, digest, named_tensors, unwrap


def digest_of(content: Any) -> str:
    """Return the digest of anything that JSON can hold: 32 hexadecimal digits."""
    return hashlib.blake2b(json.dumps(content).encode(), digest_size=16).hexdigest()


def loader_of(data: Any, name: str) -> Iterable[Batch]:
    """Return data as batches; `name` is what error messages call it.

    Raises
    ------
    DataError
        If it is no data.
    """
    if isinstance(data, Partition | Measured):
        remedy = f"pass partition.{name}" if isinstance(data, Partition) else "pass the samples"
        raise DataError(f"{name} must be data, got {type(data).__name__}: {remedy}.")
    return as_loader(data, name=name)


def fingerprint(loader: Iterable[Batch], name: str, batched: bool = False) -> tuple[str, int]:
    """Return a digest of the samples in order, and how many there are.

    Neither how a loader batches them counts, nor whether it shuffles, nor the device.

    Parameters
    ----------
    loader : iterable of batches
        It is read twice.
    name : str
        What error messages call it.
    batched : bool
        Whether the sizes of the batches count too.

    Raises
    ------
    DataError
        If there are no samples, or other ones at each walk.
    """
    ordered = in_order(loader)
    with preserved_rng(loader):
        first, second = (_walk(ordered, name, batched) for _ in range(2))
    if first[1] == 0:
        raise DataError(f"{name} is empty: it yielded no sample. Check its indices or filter.")
    if first != second:
        raise DataError(
            f"{name} yields other samples at every walk (augmentation, or a sampler that draws at random?), so "
            "there is no telling it from other data: give OracleBank(data_key=function), where function(data) "
            "returns a text that no other data has, such as a version and the indices."
        )
    return first


def is_indexed(loader: Iterable[Batch]) -> bool:
    """Tell whether training reads single samples of the data, and so batches them itself."""
    return in_order(loader) is not loader


def samples_of(loader: Iterable[Batch]) -> int | None:
    """Return how many samples there are, where that is known without reading them."""
    ordered = in_order(loader)
    if ordered is loader or not isinstance(ordered, DataLoader) or not isinstance(ordered.dataset, Sized):
        return None
    return len(ordered.dataset)


def _walk(batches: Iterable[Batch], name: str, batched: bool) -> tuple[str, int]:
    states: dict[str, Any] = {}  # of each tensor of a batch, over all batches
    forms: dict[str, str] = {}
    sizes = []
    for batch in batches:
        size = batch_size(batch)
        sizes.append(size)
        for path, value in _leaves(batch, "", name):
            has_rows = isinstance(value, Tensor) and value.dim() > 0 and len(value) == size
            form = f"{value.dtype} {list(value.shape[1:])}" if has_rows else _constant(value)
            state = states.setdefault(path, hashlib.blake2b(digest_size=16))
            if forms.get(path) != form:  # once where all are alike, however they are batched
                state.update(f"[{form}]".encode())
                forms[path] = form
            if has_rows:
                state.update(bits(value).view(-1).cpu().numpy().data)
    found = [[path, state.hexdigest()] for path, state in sorted(states.items())]
    return digest_of([found, sum(sizes), sizes if batched else []]), sum(sizes)


def _leaves(batch: Batch, path: str, name: str) -> Iterator[tuple[str, Any]]:
    """Yield what a batch holds, under a path that tells neither tuples from lists nor classes apart."""
    if isinstance(batch, Mapping):
        for key, value in batch.items():
            yield from _leaves(value, f"{path}.{key}", name)
    elif isinstance(batch, tuple | list):
        for key, value in enumerate(batch):
            yield from _leaves(value, f"{path}.{key}", name)
    elif isinstance(batch, Tensor | str | int | float | None):
        yield path, batch
    else:
        raise DataError(
            f"a batch of {name} holds a {type(batch).__name__}, which has no digest: collate tensors, or give "
            "OracleBank(data_key=function), where function(data) returns a text that no other data has."
        )


def _constant(value: Any) -> str:
    return digest(value) if isinstance(value, Tensor) else repr(value)


def form_of(build: Callable[[int], nn.Module]) -> str:
    """Return a digest of what ``build(seed)`` makes.

    It holds classes and settings as the modules' ``repr`` shows them; names, shapes and dtypes of the
    tensors, and which are frozen; and the values of those that do not depend on the seed, such as
    pretrained weights.

    Raises
    ------
    DataError
        If two calls build different models.
    UnsupportedModuleError
        If a tensor cannot be written.
    """
    model = build(0)
    own, other = named_tensors(model), named_tensors(build(1))
    tensors = []
    for name, tensor in own.items():
        if name not in other or other[name].shape != tensor.shape:
            raise DataError(f"factory builds another model at each call: {name!r} is not the same in two.")
        if tensor.layout is not torch.strided:
            raise UnsupportedModuleError(f"{name} is of layout {tensor.layout}: a bank keeps dense tensors.")
        value = digest(tensor)
        fixed = value if value == digest(other[name]) else ""
        tensors.append([name, str(tensor.dtype), list(tensor.shape), tensor.requires_grad, fixed])
    shown = re.sub(" at 0x[0-9a-fA-F]+", "", repr(unwrap(model)))
    return digest_of([shown, tensors])
