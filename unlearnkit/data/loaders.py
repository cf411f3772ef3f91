# SPDX-License-Identifier: BSD-3-Clause
"""Data as users have it, made into something that yields batches, again and again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from unlearnkit.data.batches import Batch, batch_size, take
from unlearnkit.data.guard import preserved_rng
from unlearnkit.exceptions import DataError, NondeterminismWarning, warn

BATCH_SIZE = 128
ACCEPTED = "a DataLoader, a Dataset, or a tuple (X, y) of tensors or arrays"


def as_loader(data: Any, size: int = BATCH_SIZE, name: str = "data") -> Iterable[Batch]:
    """Return an iterable of batches that can be walked more than once.

    Parameters
    ----------
    data : DataLoader, Dataset, or tuple (X, y) of tensors or arrays
        A loader is returned as it is, and so is any other iterable of batches that is not a
        one-shot iterator. Arrays of float64 become torch's default floating type.
    size : int
        Samples a batch, where `data` is not batched yet.
    name : str
        What error messages call it.

    Raises
    ------
    DataError
        If `data` is none of these.
    """
    if isinstance(data, DataLoader):
        return data
    if isinstance(data, Dataset):
        return DataLoader(data, batch_size=size)
    if isinstance(data, tuple):
        return DataLoader(_tensors(data, name), batch_size=size)
    if isinstance(data, Tensor | np.ndarray):
        raise DataError(f"{name} must be {ACCEPTED}, got one array without labels: pass (X, y).")
    if isinstance(data, Iterator):
        raise DataError(
            f"{name} must be {ACCEPTED}, got a one-shot {type(data).__name__}, which can be walked "
            "only once: pass list(batches), or the loader that it came from."
        )
    if isinstance(data, str | dict):
        raise DataError(f"{name} must be {ACCEPTED}, got {type(data).__name__}.")
    if not isinstance(data, list) and hasattr(data, "__getitem__") and hasattr(data, "__len__"):
        return DataLoader(data, batch_size=size)  # a data set in all but its class
    if not isinstance(data, Iterable):
        raise DataError(f"{name} must be {ACCEPTED}, got {type(data).__name__}.")
    return data


def _tensors(data: tuple[Any, ...], name: str) -> TensorDataset:
    if len(data) < 2 or not all(isinstance(part, Tensor | np.ndarray) for part in data):
        kinds = ", ".join(type(part).__name__ for part in data)
        raise DataError(f"{name} must be {ACCEPTED}, got a tuple of ({kinds}).")
    parts = [part if isinstance(part, Tensor) else _tensor(part, name) for part in data]
    if len({part.shape[:1] for part in parts}) != 1 or parts[0].dim() == 0:
        shapes = " and ".join(str(list(part.shape)) for part in parts)
        raise DataError(
            f"{name}: X and y must have the same number of samples, got shapes {shapes}: the first "
            "dimension is the samples."
        )
    return TensorDataset(*parts)


def _tensor(array: np.ndarray[Any, Any], name: str) -> Tensor:
    if array.dtype.kind not in "fiub":
        raise DataError(f"{name}: arrays hold numbers, got dtype {array.dtype}: encode it first.")
    tensor = torch.as_tensor(np.ascontiguousarray(array))
    return tensor.to(torch.get_default_dtype()) if tensor.dtype == torch.float64 else tensor


def complement(data: Any) -> DataLoader[Any] | None:
    """Return a loader of the rest of the data set that `data` draws from, None if that is unknown.

    Looked for through a loader, its ``SubsetRandomSampler`` and its ``Subset``: with
    ``DataLoader(Subset(train, forget_indices))`` the rest of ``train``. Of nested subsets the rest
    of the outermost one's parent: what lies outside ``train`` (a test split, say) stays outside.
    """
    loader = as_loader(data)
    chosen = read_indices(loader)
    if chosen is None or not isinstance(loader, DataLoader):
        return None
    parent: Any = loader.dataset
    if isinstance(chosen, range):  # all of it
        if not isinstance(parent, Subset):
            return None
        parent, chosen = parent.dataset, parent.indices
    total = len(parent)
    drawn = {int(index) % total for index in chosen}
    return _beside(loader, Subset(parent, [at for at in range(total) if at not in drawn]))


def in_order(data: Any) -> Iterable[Batch]:
    """Return batches of the same samples, each read once, unshuffled and the same at every walk.

    What has no indices (a stream, a sampler that draws at random) is returned as it is.
    """
    loader = as_loader(data)
    indices = read_indices(loader)
    if indices is None or not isinstance(loader, DataLoader) or loader.batch_sampler is None:
        return loader
    dataset = loader.dataset if isinstance(indices, range) else Subset(loader.dataset, list(indices))
    return _beside(loader, dataset)


def part_of(data: Any, chosen: Tensor) -> Iterable[Batch]:
    """Return the samples of `data` that a mask [N] selects, in the order of :func:`in_order`."""
    loader = as_loader(data)
    indices = read_indices(loader)
    if indices is None or not isinstance(loader, DataLoader) or loader.batch_sampler is None:
        return Part(loader, chosen.nonzero()[:, 0])
    return _beside(loader, Subset(loader.dataset, [int(indices[at]) for at in chosen.nonzero()[:, 0]]))


@dataclass
class Part:
    """Batches of which some samples are left out.

    Parameters
    ----------
    source : iterable of batches
    kept : Tensor, shape [M]
        The samples' numbers, in ascending order.
    """

    source: Iterable[Batch]
    kept: Tensor

    def __iter__(self) -> Iterator[Batch]:
        """Yield what is left of each batch, where anything is."""
        start = 0
        for batch in self.source:
            n = batch_size(batch)
            inside = self.kept[(self.kept >= start) & (self.kept < start + n)] - start
            if len(inside):
                yield take(batch, inside)
            start += n


def shared(first: Any, second: Any) -> int:
    """Return how many samples of one data set two loaders both read; 0 where that is unknown."""
    one, other = _drawn(first), _drawn(second)
    if one is None or other is None or one[0] is not other[0]:
        return 0
    return len(one[1] & other[1])


def _drawn(loader: Any) -> tuple[Any, set[int]] | None:
    """Return the data set that a loader reads in the end, and its indices there."""
    indices = read_indices(loader)
    if indices is None:
        return None
    dataset = loader.dataset
    while type(dataset) is Subset:
        indices, dataset = [dataset.indices[at] for at in indices], dataset.dataset
    total = _length(dataset)
    return dataset, {int(index) % total for index in indices}


def sample_of(data: Iterable[Batch], count: int) -> Iterable[Batch]:
    """Return about `count` samples spread over the data; its first batches if it has no indices.

    Spread, because data is often sorted by class.
    """
    indices = read_indices(data)
    if indices is not None and isinstance(data, DataLoader) and data.batch_sampler is not None:
        size = min(count, len(indices))
        spread = [int(indices[at * len(indices) // size]) for at in range(size)]
        return _beside(data, Subset(data.dataset, spread))
    batches = []
    for batch in data:
        batches.append(batch)
        count -= batch_size(batch)
        if count <= 0:
            break
    return batches


def _sampler(loader: DataLoader[Any]) -> Any:
    """Return what draws a loader's indices; None where batches are drawn as a whole."""
    if loader.batch_sampler is None:
        return loader.sampler
    # a class of one's own may leave samples out, or repeat them, whatever sampler it has
    return (
        getattr(loader.batch_sampler, "sampler", None) if type(loader.batch_sampler) is BatchSampler else None
    )


def read_indices(loader: Iterable[Batch]) -> Sequence[int] | None:
    """Return the indices that every walk over a loader reads, a range if that is all of them.

    In no particular order; None where they are not known, or not the same at every walk.
    """
    if not isinstance(loader, DataLoader):
        return None
    sampler, everything = _sampler(loader), range(_length(loader.dataset))
    if isinstance(sampler, SubsetRandomSampler):
        return list(sampler.indices)  # a range of them is not all
    if isinstance(sampler, SequentialSampler):
        return everything
    if isinstance(sampler, RandomSampler) and not sampler.replacement:
        return everything if sampler.num_samples == len(everything) else None
    return None


def _length(dataset: Any) -> int:
    return len(dataset) if hasattr(dataset, "__len__") else 0


def _beside(loader: DataLoader[Any], dataset: Dataset[Any]) -> DataLoader[Any]:
    """Return a loader of another data set, in its order, that reads and batches as `loader`."""
    batches: Any = loader.batch_sampler
    return DataLoader(
        dataset,
        batch_size=None if batches is None else getattr(batches, "batch_size", BATCH_SIZE),
        collate_fn=loader.collate_fn,
        num_workers=loader.num_workers,
        multiprocessing_context=loader.multiprocessing_context,
        pin_memory=loader.pin_memory,
        worker_init_fn=loader.worker_init_fn,
    )


def refuse_random(loader: Iterable[Batch]) -> None:
    """Refuse a loader whose samples have no number: the i-th of :func:`in_order` is another at each walk.

    Raises
    ------
    DataError
        It says what to pass instead.
    """
    if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
        return
    if loader.batch_sampler is not None and read_indices(loader) is not None:
        return  # in_order reads those
    drawing: Any = loader.sampler if loader.batch_sampler is None else loader.batch_sampler
    with preserved_rng(loader):
        first, second = ([_plain(one) for one in drawing] for _ in range(2))
    if first != second:
        raise DataError(
            "the data's sampler draws other samples, or another order, at every walk, so what is found of a sample "
            "could not be assigned to it: pass the data set in place of the loader, or a loader that does not shuffle."
        )


def _plain(index: Any) -> Any:
    return index.tolist() if isinstance(index, Tensor | np.ndarray) else index


def warn_if_random(loader: Iterable[Batch], name: str, order_matters: bool = False) -> None:
    """Warn where two walks over `loader` would not see the same samples.

    Guards against ``drop_last`` (samples are left out), sampling at random, augmentation (a sample
    read twice differs), and, where the composition of batches changes the result
    (`order_matters`), shuffling.
    """
    if not isinstance(loader, DataLoader):
        return
    said: list[str] = []
    sampler, indices = _sampler(loader), read_indices(loader)
    size: Any = getattr(loader.batch_sampler, "batch_size", None)
    drops = bool(getattr(loader.batch_sampler, "drop_last", False))
    if drops and not (size and indices is not None and len(indices) % size == 0):
        said.append("drop_last=True leaves samples out: their influence is not measured")
    if isinstance(sampler, WeightedRandomSampler | RandomSampler) and indices is None:
        said.append(
            "the sampler draws samples at random, so two walks see different ones: measure with a "
            "loader that reads each sample once"
        )
    elif order_matters and isinstance(sampler, RandomSampler | SubsetRandomSampler):
        said.append(
            "the loader shuffles, and squared batch gradients depend on which samples share a "
            "batch: results differ from run to run. Pass shuffle=False"
        )
    if _augments(loader.dataset):
        said.append(
            "the data set returns another value each time a sample is read (augmentation?): "
            "measure on samples as the model should forget them, without random transforms"
        )
    for line in said:
        warn(f"{name}: {line}.", NondeterminismWarning)


def _augments(dataset: Any) -> bool:
    if not hasattr(dataset, "__getitem__") or _length(dataset) == 0:
        return False
    with preserved_rng():
        for index in {0, len(dataset) // 2, len(dataset) - 1}:
            try:
                first, second = dataset[index], dataset[index]
            except (KeyError, IndexError, TypeError, NotImplementedError):
                return False
            if not _same(first, second):
                return True
    return False


def _same(first: Any, second: Any) -> bool:
    if isinstance(first, Tensor):
        return isinstance(second, Tensor) and torch.equal(first.nan_to_num(), second.nan_to_num())
    if isinstance(first, np.ndarray):
        return bool(np.array_equal(first, second, equal_nan=first.dtype.kind == "f"))
    if isinstance(first, tuple | list):
        return len(first) == len(second) and all(map(_same, first, second))
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(_same(first[k], second[k]) for k in first)
    return True
