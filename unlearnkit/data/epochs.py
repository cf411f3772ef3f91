# SPDX-License-Identifier: BSD-3-Clause
"""Data as training reads it: epoch after epoch, each in an order of its own that a seed fixes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor
from torch.utils.data import ConcatDataset, DataLoader, Subset, TensorDataset, default_collate

from unlearnkit.data.batches import Batch, batch_size, to_device
from unlearnkit.data.loaders import Part, read_indices
from unlearnkit.exceptions import DataError


class EmptyError(DataError):
    """There is no sample; whoever knows what the data is for can say more."""


class Epochs:
    """A data source whose every walk is shuffled anew.

    A ``DataLoader`` that reads each sample of a map-style data set once is read by indices: in
    batches of `size`, which the loader's own collation and workers make. Anything else (a stream,
    a sampler that draws at random, a list of batches) is walked in its own order and batches.

    Parameters
    ----------
    source : iterable of batches
    size : int or None
        Samples a batch; None for the loader's own number.
    device : torch.device
        Where batches are put.
    name : str
        What error messages call it.

    Attributes
    ----------
    samples, batches : int
        In an epoch, as counted.

    Raises
    ------
    DataError
        If there is no sample.
    """

    def __init__(self, source: Iterable[Batch], size: int | None, device: torch.device, name: str) -> None:
        self.source, self.device = source, device
        self.reader = _reader(source)
        if self.reader is None:
            counts = [n for batch in source if (n := batch_size(batch))]
            self.samples, self.batches = sum(counts), len(counts)
        else:
            self.size = size or _own_size(source)
            self.samples = len(self.reader)
            self.batches = len(_cut(range(self.samples), self.size))
        if self.samples == 0:
            raise EmptyError(f"the {name} set is empty: it yielded no sample. Check its indices or filter.")

    def __len__(self) -> int:
        """Return the number of batches."""
        return self.batches

    def walk(self, generator: Generator) -> Iterator[Batch]:
        """Yield every batch of an epoch, on the device, in the order that `generator` draws."""
        for _, batch in self.numbered(generator):
            yield batch

    def numbered(self, generator: Generator) -> Iterator[tuple[Tensor, Batch]]:
        """Yield what :meth:`walk` does, each with its samples' numbers [N], the same in every epoch."""
        if self.reader is None:
            start = 0
            for batch in self.source:
                if n := batch_size(batch):
                    yield torch.arange(start, start + n), to_device(batch, self.device)
                    start += n
            return
        chosen = _cut(torch.randperm(self.samples, generator=generator).tolist(), self.size)
        for numbers, batch in zip(chosen, self.reader.read(chosen, generator), strict=True):
            yield torch.tensor(numbers), to_device(batch, self.device)

    def part(self, share: float, generator: Generator) -> Epochs:
        """Return the same with a share of the samples, at least one; `generator` draws which."""
        count = max(1, round(share * self.samples))
        kept = torch.randperm(self.samples, generator=generator)[:count].sort().values  # [count]
        if self.reader is None:
            return Epochs(Part(self.source, kept), None, self.device, "drawn part of the")
        part = copy(self)
        part.reader, part.samples = self.reader.part(kept), count
        part.batches = len(_cut(range(count), self.size))
        return part

    def cycle(self, generator: Generator) -> Iterator[Batch]:
        """Yield batches without end, epoch after epoch."""
        while True:
            yield from self.walk(generator)


class Mixed:
    """Two sources in one shuffled stream whose batches hold samples of both.

    Where samples of either cannot be read by index, whole batches alternate in a drawn order.
    """

    def __init__(self, first: Epochs, second: Epochs) -> None:
        self.first, self.second = first, second
        self.reader = _joined(first.reader, second.reader)

    def __len__(self) -> int:
        """Return the number of batches."""
        if self.reader is None:
            return len(self.first) + len(self.second)
        return len(_cut(range(len(self.reader)), self.second.size))

    def numbered(self, generator: Generator) -> Iterator[tuple[Tensor, Batch]]:
        """Yield batches of an epoch, each with its samples' numbers [N]; the first source's come first."""
        n, device = self.first.samples, self.first.device
        if self.reader is None:
            queues = (self.first.numbered(generator), self.second.numbered(generator))
            turns = torch.randperm(len(self), generator=generator) >= len(self.first)
            for turn in turns.tolist():
                numbers, batch = next(queues[turn])
                yield numbers + n * turn, batch
            return
        chosen = _cut(torch.randperm(len(self.reader), generator=generator).tolist(), self.second.size)
        for row, batch in zip(chosen, self.reader.read(chosen, generator), strict=True):
            yield torch.tensor(row), to_device(batch, device)


@dataclass
class _Memory:
    """Samples that lie in tensors: a loader would stack them one by one."""

    tensors: tuple[Tensor, ...]
    rows: Tensor  # of each sample, in the tensors

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, chosen: list[Sequence[int]], generator: Generator) -> Iterator[Batch]:
        for positions in chosen:
            at = self.rows[torch.tensor(positions)]
            yield tuple(tensor[at.to(tensor.device)] for tensor in self.tensors)

    def part(self, kept: Tensor) -> _Memory:
        return _Memory(self.tensors, self.rows[kept])


@dataclass
class _Two:
    """Samples of two sets of tensors."""

    first: _Memory
    second: _Memory

    def __len__(self) -> int:
        return len(self.first) + len(self.second)

    def read(self, chosen: list[Sequence[int]], generator: Generator) -> Iterator[Batch]:
        n = len(self.first)
        for positions in chosen:
            at = torch.tensor(positions)
            late = at >= n
            back = late.int().argsort(stable=True).argsort()
            parts = [self.first.rows[at[~late]], self.second.rows[at[late] - n]]
            yield tuple(
                torch.cat([a[parts[0].to(a.device)], b[parts[1].to(b.device)].to(a)])[back.to(a.device)]
                for a, b in zip(self.first.tensors, self.second.tensors, strict=True)
            )


@dataclass
class _Loader:
    """Samples of a data set, read and collated as a loader reads them."""

    loader: Any
    samples: Any

    def __len__(self) -> int:
        return len(self.samples)

    def read(self, chosen: list[Sequence[int]], generator: Generator) -> Iterator[Batch]:
        loader = self.loader
        yield from DataLoader(
            self.samples,
            batch_sampler=[list(positions) for positions in chosen],
            collate_fn=loader.collate_fn,
            num_workers=loader.num_workers,
            multiprocessing_context=loader.multiprocessing_context,
            pin_memory=loader.pin_memory,
            worker_init_fn=loader.worker_init_fn,
            generator=Generator().manual_seed(generator.initial_seed()),  # it draws the workers' seeds
        )

    def part(self, kept: Tensor) -> _Loader:
        return _Loader(self.loader, Subset(self.samples, kept.tolist()))


_Reader = _Memory | _Two | _Loader


def _reader(source: Any) -> _Memory | _Loader | None:
    """Return what reads samples by position; None where a source has an order of its own."""
    if not isinstance(source, DataLoader) or source.batch_sampler is None:
        return None
    indices = read_indices(source) if hasattr(source.dataset, "__getitem__") else None
    if indices is None:
        return None
    dataset: Any = source.dataset
    rows = torch.as_tensor(list(indices), dtype=torch.long)
    while source.collate_fn is default_collate and type(dataset) is Subset:
        rows, dataset = torch.as_tensor(dataset.indices, dtype=torch.long)[rows], dataset.dataset
    if source.collate_fn is default_collate and type(dataset) is TensorDataset:
        return _Memory(dataset.tensors, rows)
    return _Loader(source, Subset(source.dataset, indices))


def _joined(first: _Reader | None, second: _Reader | None) -> _Reader | None:
    if isinstance(first, _Memory) and isinstance(second, _Memory):
        forms = [[(t.shape[1:], t.dtype) for t in memory.tensors] for memory in (first, second)]
        return _Two(first, second) if forms[0] == forms[1] else None
    if isinstance(first, _Loader) and isinstance(second, _Loader):
        return _Loader(second.loader, ConcatDataset([first.samples, second.samples]))
    return None


def _own_size(loader: Any) -> int:
    return int(getattr(loader.batch_sampler, "batch_size", None) or loader.batch_size or 1)


def _cut(order: Sequence[int], size: int) -> list[Sequence[int]]:
    """Cut into parts of `size`; a single sample left over joins the part before it.

    BatchNorm cannot train on a batch of one.
    """
    parts = [order[at : at + size] for at in range(0, len(order), size)]
    if len(parts) > 1 and len(parts[-1]) == 1:
        parts[-2:] = [order[-1 - size :]]
    return parts
