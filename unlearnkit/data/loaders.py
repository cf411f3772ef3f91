# SPDX-License-Identifier: BSD-3-Clause
"""Data as users have it, made into something that yields batches, again and again."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
)

from unlearnkit.data.batches import Batch, batch_size
from unlearnkit.data.guard import preserved_rng
from unlearnkit.exceptions import DataError, NondeterminismWarning

BATCH_SIZE = 128
ACCEPTED = "a DataLoader, a Dataset, or a tuple (X, y) of tensors or arrays"


def as_loader(data: Any, size: int = BATCH_SIZE, name: str = "data") -> Iterable[Batch]:
    """Return an iterable of batches that can be walked more than once.

    Parameters
    ----------
    data : DataLoader, Dataset, or tuple (X, y) of tensors or arrays
        A loader is returned as it is, and so is any other iterable of batches that is not a one-shot
        iterator. Arrays of float64 become torch's default floating type.
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
        if len(data) < 2 or not all(isinstance(part, Tensor | np.ndarray) for part in data):
            kinds = ", ".join(type(part).__name__ for part in data)
            raise DataError(f"{name} must be {ACCEPTED}, got a tuple of ({kinds}).")
        parts = [_tensor(part) for part in data]
        if len({len(part) for part in parts}) != 1:
            raise DataError(
                f"{name}: X and y must have the same number of samples, got {[len(part) for part in parts]}."
            )
        return DataLoader(TensorDataset(*parts), batch_size=size)
    if isinstance(data, Tensor | np.ndarray):
        raise DataError(f"{name} must be {ACCEPTED}, got one array without labels: pass (X, y).")
    if isinstance(data, Iterator):
        raise DataError(
            f"{name} must be {ACCEPTED}, got a one-shot {type(data).__name__}, which can be walked only "
            "once: pass list(batches), or the loader that it came from."
        )
    if hasattr(data, "__getitem__") and hasattr(data, "__len__") and not isinstance(data, list | dict | str):
        return DataLoader(data, batch_size=size)
    if isinstance(data, Iterable) and not isinstance(data, str | dict):
        return data
    raise DataError(f"{name} must be {ACCEPTED}, got {type(data).__name__}.")


def _tensor(part: Tensor | np.ndarray[Any, Any]) -> Tensor:
    if isinstance(part, Tensor):
        return part
    if part.dtype.kind not in "fiub":
        raise DataError(f"arrays must be numbers, got dtype {part.dtype}: encode them first.")
    tensor = torch.as_tensor(np.ascontiguousarray(part))
    return tensor.to(torch.get_default_dtype()) if tensor.dtype == torch.float64 else tensor


def complement(data: Any) -> DataLoader[Any] | None:
    """Return a loader of the rest of the data set that `data` draws from, None where that is unknown.

    Looked for through a loader, its ``SubsetRandomSampler`` and its ``Subset``: with
    ``DataLoader(Subset(train, forget_indices))`` the rest of ``train``. Of nested subsets the rest of the
    outermost one's parent: what lies outside ``train`` (a test split, say) stays outside.
    """
    loader = data if isinstance(data, DataLoader) else None
    dataset: Any = loader.dataset if loader is not None else data
    sampler = loader.sampler if loader is not None else None
    if loader is not None and isinstance(sampler, SubsetRandomSampler):
        parent, chosen = dataset, sampler.indices
    elif isinstance(dataset, Subset) and (
        sampler is None
        or isinstance(sampler, SequentialSampler)
        or (isinstance(sampler, RandomSampler) and not sampler.replacement)
        or loader is not None and loader.batch_size is None
    ):
        parent, chosen = dataset.dataset, dataset.indices
    else:
        return None
    total = len(parent)
    drawn = {int(index) % total for index in chosen}
    rest = Subset(parent, [index for index in range(total) if index not in drawn])
    if loader is None:
        return DataLoader(rest, batch_size=BATCH_SIZE)
    return DataLoader(
        rest,
        batch_size=loader.batch_size or getattr(loader.batch_sampler, "batch_size", BATCH_SIZE),
        collate_fn=loader.collate_fn,
        num_workers=loader.num_workers,
        pin_memory=loader.pin_memory,
        worker_init_fn=loader.worker_init_fn,
    )


def sample_of(loader: Iterable[Batch], count: int) -> Iterable[Batch]:
    """Return about `count` samples spread over the data; its first batches where it cannot be indexed.

    Spread, because data is often sorted by class.
    """
    if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
        batches = []
        for batch in loader:
            batches.append(batch)
            count -= batch_size(batch)
            if count <= 0:
                break
        return batches
    sampler, dataset = loader.sampler, loader.dataset
    indices = sampler.indices if isinstance(sampler, SubsetRandomSampler) else range(len(dataset))  # type: ignore[arg-type]
    step = max(1, len(indices) // count)
    part = Subset(dataset, [int(indices[at]) for at in range(0, len(indices), step)][:count])
    return DataLoader(part, batch_size=BATCH_SIZE, collate_fn=loader.collate_fn)


def warn_if_random(loader: Iterable[Batch], name: str, order_matters: bool = False) -> None:
    """Warn where two walks over `loader` would not see the same samples.

    Guards against ``drop_last`` (samples are left out), augmentation (a sample read twice differs), and,
    where the composition of batches changes the result (`order_matters`), shuffling.
    """
    if not isinstance(loader, DataLoader):
        return
    said: list[str] = []
    size = loader.batch_size
    if loader.drop_last and (size is None or len(loader.sampler) % size):  # type: ignore[arg-type]
        said.append("drop_last=True leaves samples out: their influence is not measured")
    if order_matters and isinstance(loader.sampler, RandomSampler | SubsetRandomSampler):
        said.append(
            "the loader shuffles, and squared batch gradients depend on which samples share a batch: "
            "results differ from run to run"
        )
    if _augments(loader.dataset):
        said.append(
            "the data set returns another value each time a sample is read (augmentation?): measure on "
            "samples as the model should forget them, without random transforms"
        )
    for line in said:
        warnings.warn(f"{name}: {line}.", NondeterminismWarning, stacklevel=4)


def _augments(dataset: Any) -> bool:
    if not (hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")) or len(dataset) == 0:
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
        return first.keys() == second.keys() and all(_same(first[key], second[key]) for key in first)
    return True
