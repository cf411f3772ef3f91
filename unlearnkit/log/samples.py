# SPDX-License-Identifier: BSD-3-Clause
"""Samples recognised without being kept: a keyed digest of each.

A digest of a sample alone could be found out by trying samples. With a secret key, the salt, only
who has the salt can try.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from unlearnkit.data import (
    Batch,
    as_loader,
    aside,
    batch_size,
    in_order,
    preserved_rng,
    refuse_random,
    sample_of,
    seed_rng,
    tensors_of,
)
from unlearnkit.data.loaders import part_of
from unlearnkit.exceptions import DataError
from unlearnkit.parameters import bits

SIZE = 16
"""Bytes of a digest."""

LOOKED_AT = 16
"""Samples that tell whether others are read alike."""

AUGMENTED = (
    "its samples are not the same at every walk (augmentation?), so the log cannot tell which of them are "
    "forgotten"
)


def check_salt(salt: Any) -> bytes:
    """Return a salt that is one.

    Raises
    ------
    DataError
        If it is not 16 to 64 bytes.
    """
    if not isinstance(salt, bytes) or not 16 <= len(salt) <= hashlib.blake2b.MAX_KEY_SIZE:
        got = f"{len(salt)} bytes" if isinstance(salt, bytes) else type(salt).__name__
        raise DataError(f"salt must be 16 to 64 random bytes, got {got}: secrets.token_bytes(32) makes some.")
    return salt


class Forgotten:
    """The samples that are forgotten, by their digests.

    Parameters
    ----------
    salt : bytes
    known : set of bytes
        Digests of the samples.
    """

    def __init__(self, salt: bytes, known: set[bytes]) -> None:
        self.salt, self.known = salt, known

    def __len__(self) -> int:
        """Return how many distinct samples are forgotten."""
        return len(self.known)

    def among(self, digests: Iterable[bytes]) -> Tensor:
        """Return which of some samples are forgotten: a mask [N]."""
        return torch.tensor([digest in self.known for digest in digests], dtype=torch.bool)

    def recognisable(self, data: Any) -> Iterable[Batch]:
        """Return data as a loader, once its samples can be told from each other by their digests.

        Raises
        ------
        DataError
            If it draws its samples at random, or they differ from walk to walk.
        """
        loader = as_loader(data)
        refuse_random(loader)
        if not reads_alike(loader, self.salt):
            raise DataError(f"data: {AUGMENTED}: pass it without random transforms.")
        return loader

    def without(self, data: Iterable[Batch], more: Iterable[bytes] = ()) -> tuple[Iterable[Batch], int]:
        """Return the samples of `data` that are not forgotten, and how many are left out.

        Parameters
        ----------
        data : iterable of batches
            Returned as it is where none of it is forgotten.
        more : iterable of bytes
            Digests of samples that are about to be forgotten.

        Raises
        ------
        DataError
            If it is a loader that draws its samples at random: they have no number.
        """
        gone = Forgotten(self.salt, self.known.union(more))
        if not gone.known:
            return data, 0
        refuse_random(data)
        found = gone.among(sample_digests(data, self.salt))
        count = int(found.sum())
        return (part_of(data, ~found) if count else data), count


def sample_digests(data: Any, salt: bytes) -> list[bytes]:
    """Return the digest of each sample, in the order of :func:`unlearnkit.data.in_order`.

    All of a sample counts: inputs and label, their dtypes and bits. How samples are batched does not,
    unless batches are padded to different lengths.

    Parameters
    ----------
    data : DataLoader, Dataset or (X, y)
    salt : bytes

    Returns
    -------
    list of bytes
        BLAKE2b of 16 bytes, keyed with the salt (RFC 7693).

    Raises
    ------
    DataError
        If a batch holds no tensor of samples.
    """
    found: list[bytes] = []
    for batch in aside(in_order(data)):
        count = batch_size(batch)
        states = [hashlib.blake2b(key=salt, digest_size=SIZE) for _ in range(count)]
        for column in _columns(batch, count):
            for state, part in zip(states, column, strict=True):
                state.update(part)
        found += [state.digest() for state in states]
    return found


def reads_alike(data: Iterable[Batch], salt: bytes) -> bool:
    """Tell whether samples are the same at every walk, as those of an augmenting data set are not.

    A few are looked at, twice, with the random states set differently.
    """
    found = []
    with preserved_rng(data):
        for seed in range(2):
            seed_rng(seed, data)
            found.append(sample_digests(sample_of(data, LOOKED_AT), salt))
    return found[0] == found[1]


def dtypes(data: Iterable[Batch]) -> list[str]:
    """Return the dtypes of a sample's tensors: a sample in other ones is not recognised."""
    with preserved_rng(data):
        return [str(part.dtype) for batch in sample_of(data, 1) for part in tensors_of(batch)]


def _columns(batch: Batch, count: int) -> Iterator[list[bytes]]:
    """Yield, for every part of a batch that has a value a sample, these values as bytes."""
    if isinstance(batch, Tensor):
        if batch.dim() and len(batch) == count:
            about = f"{batch.dtype} {list(batch.shape[1:])}:".encode()
            rows = bits(batch.cpu()).reshape(count, -1).numpy()  # [N, words of a sample]
            yield [about + row.tobytes() for row in rows]
    elif isinstance(batch, Mapping):
        for value in batch.values():
            yield from _columns(value, count)
    elif isinstance(batch, tuple | list):
        if len(batch) == count and all(isinstance(value, str | bytes | int | float) for value in batch):
            yield [f"{value!r}:".encode() for value in batch]
        else:
            for value in batch:
                yield from _columns(value, count)
