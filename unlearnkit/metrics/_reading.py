# SPDX-License-Identifier: BSD-3-Clause
"""Batches as a loader makes them, quicker where the samples lie in tensors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    SequentialSampler,
    Subset,
    TensorDataset,
    default_collate,
)

from unlearnkit.data import Batch


def batches(loader: Iterable[Batch]) -> Iterable[Batch]:
    """Return the batches of a loader: the same samples in the same batches.

    A ``DataLoader`` takes samples one by one and stacks them, which costs more than the forward
    pass of a small model. What it would make of tensors in order is cut out of them.
    """
    if not (type(loader) is DataLoader and loader.collate_fn is default_collate and not loader.num_workers):
        return loader
    sampler: Any = loader.batch_sampler
    if type(sampler) is not BatchSampler or type(sampler.sampler) is not SequentialSampler:
        return loader
    rows: Tensor | None = None
    dataset: Any = loader.dataset
    while type(dataset) is Subset:
        indices = torch.as_tensor(dataset.indices, dtype=torch.long)
        rows, dataset = indices if rows is None else indices[rows], dataset.dataset
    if type(dataset) is not TensorDataset:
        return loader
    return _cut(dataset.tensors, rows, sampler.batch_size, sampler.drop_last)


def _cut(tensors: tuple[Tensor, ...], rows: Tensor | None, size: int, drop_last: bool) -> Iterator[Batch]:
    total = len(tensors[0]) if rows is None else len(rows)
    for at in range(0, total - size + 1 if drop_last else total, size):
        chosen = slice(at, at + size) if rows is None else rows[at : at + size]
        yield [
            tensor[chosen if isinstance(chosen, slice) else chosen.to(tensor.device)] for tensor in tensors
        ]
