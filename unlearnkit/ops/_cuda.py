# SPDX-License-Identifier: BSD-3-Clause
"""The operators over lists of tensors on CUDA: tables and workspace for the compiled functions.

A compiled function for CUDA reads the list of tensors from device memory, a row of int64 a tensor, in
the order of the struct in its .cu file. The functions here write that table, and are called like the
compiled functions for the CPU, except that the last argument is a device in place of a number of threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby

import torch
from torch import Tensor

Numbers = Sequence[int]
Compiled = Callable[..., None]

CHUNK = 1 << 14
"""Elements that a block of threads takes at once: few enough that a small network keeps a GPU busy."""

REGISTERS = 4096
"""Bytes of a row that a warp holds in registers; longer rows get a block of eight warps each."""


def dampen(
    run: Compiled,
    weights: Numbers,
    forget: Numbers,
    reference: Numbers,
    sizes: Numbers,
    weight_dtypes: Numbers,
    importance_dtypes: Numbers,
    alpha: float,
    lambda_: float,
    device: torch.device,
) -> list[int]:
    """Dampen, and return how many weights of each tensor were multiplied."""
    order = sorted(range(len(sizes)), key=importance_dtypes.__getitem__)
    touched = torch.zeros(len(sizes), dtype=torch.int64, device=device)  # in that order
    begin = touched.data_ptr()
    for dtype, group in groupby(order, key=importance_dtypes.__getitem__):  # one launch each: there is one
        columns = (weights, forget, reference, sizes, weight_dtypes)
        chosen = list(zip(*([column[index] for column in columns] for index in group), strict=True))
        first, chunks = _starts([_blocks(size, CHUNK) for size in chosen[3]])
        table = _table(device, *chosen, first)  # [tensors, 6]
        with _on(device) as where:
            run(table.data_ptr(), len(first), CHUNK, chunks, dtype, alpha, lambda_, begin, *where)
        begin += 8 * len(first)
    counts = dict(zip(order, touched.tolist(), strict=True))
    return [counts[index] for index in range(len(sizes))]


def channel_scores(
    run: Compiled,
    weights: Numbers,
    gradients: Numbers,
    out: Numbers,
    rows: Numbers,
    lengths: Numbers,
    h: Numbers,
    dtypes: Numbers,
    device: torch.device,
) -> None:
    """Write the scores of all rows."""
    rows_of_block = [
        8 if length * (8 if dtype else 4) <= REGISTERS else 1
        for length, dtype in zip(lengths, dtypes, strict=True)
    ]
    first, blocks = _starts([_blocks(count, each) for count, each in zip(rows, rows_of_block, strict=True)])
    table = _table(
        device, weights, gradients, out, rows, lengths, h, dtypes, rows_of_block, first
    )  # [tensors, 9]
    with _on(device) as where:
        run(table.data_ptr(), len(rows), blocks, *where)


def kth_value(
    run: Compiled,
    addresses: Numbers,
    sizes: Numbers,
    dtypes: Numbers,
    is_double: bool,
    k: int,
    quantile: float,
    device: torch.device,
) -> tuple[int, float, float]:
    """Return the number of finite values, the wanted one and the one after it."""
    first, chunks = _starts([_blocks(size, CHUNK) for size in sizes])
    table = _table(device, addresses, sizes, dtypes, first)  # [tensors, 4]
    workspace = torch.empty(6 + 2048, dtype=torch.int64, device=device)  # Selection in kth_value.cu
    with _on(device) as where:
        problem = (table.data_ptr(), len(sizes), CHUNK, chunks, is_double, k, quantile)
        run(*problem, workspace.data_ptr(), _processors(device), *where)
    found = workspace[:3].cpu()
    lower, upper = found[1:].view(torch.float64).tolist()
    return int(found[0]), lower, upper


def _blocks(size: int, each: int) -> int:
    return -(-size // each)


def _starts(counts: Sequence[int]) -> tuple[list[int], int]:
    """Return each tensor's first block, and how many blocks there are."""
    starts, total = [], 0
    for count in counts:
        starts.append(total)
        total += count
    return starts, total


def _table(device: torch.device, *columns: Numbers) -> Tensor:
    table = torch.tensor(list(zip(*columns, strict=True)), dtype=torch.int64)
    if device.type == "cuda":  # from pinned memory, so that nothing waits for the copy
        table = table.pin_memory().to(device, non_blocking=True)
    return table


def _processors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count


@contextmanager
def _on(device: torch.device) -> Iterator[tuple[int, int]]:
    """Make a device the current one; give its index and torch's current stream of it."""
    with torch.cuda.device(device):
        yield torch.cuda.current_device(), torch.cuda.current_stream().cuda_stream
