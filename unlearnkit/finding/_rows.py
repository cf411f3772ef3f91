# SPDX-License-Identifier: BSD-3-Clause
"""Rows of features of every sample, without more of them in memory than is needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from tqdm.auto import tqdm

from unlearnkit.data import Loss
from unlearnkit.exceptions import DataError

Array = NDArray[Any]

KEPT = 2**28  # bytes of rows that are kept, so that the data is read once
CHUNK = 2**25  # bytes of rows in float64 that are looked at together


class Rows:
    """Rows [N, D] of float32, read batch by batch.

    Kept where they are few; read again at each walk otherwise.

    Parameters
    ----------
    attribution : estimator
        With a method ``stream(model, data, loss)`` that yields Tensor [n, D].
    model, data, loss
        As of that.
    total : int
        How many samples N it must yield.
    draw : array, shape [n], int
        Numbers of the samples whose rows are to stay, in ascending order.
    progress : bool
        Show a progress bar.

    Attributes
    ----------
    fitted : array, shape [n, D]
        The rows of `draw`.

    Raises
    ------
    DataError
        If a feature is not finite, or there are not as many rows as samples.
    """

    def __init__(
        self,
        attribution: Any,
        model: nn.Module,
        data: Any,
        loss: Loss | None,
        total: int,
        draw: Array,
        progress: bool = False,
    ) -> None:
        self._stream: Callable[[], Any] = lambda: attribution.stream(model, data, loss)
        self._total, self._progress = total, progress
        kept: list[Array] | None = []
        drawn: list[Array] = []
        for start, rows in self._read():
            low, high = np.searchsorted(draw, [start, start + len(rows)])
            drawn.append(rows[draw[low:high] - start])
            if kept is not None and total * rows.shape[1] * rows.itemsize <= KEPT:
                kept.append(rows)
            else:
                kept = None
        self.fitted: Array = np.concatenate(drawn)
        self._kept: Array | None = None if kept is None else np.concatenate(kept)

    def __iter__(self) -> Iterator[tuple[int, Array]]:
        """Yield chunks of rows [m, D], each with the number of its first sample."""
        if self._kept is not None:
            yield from chunks(self._kept)
            return
        for start, rows in self._read():
            for inside, part in chunks(rows):
                yield start + inside, part

    def _read(self) -> Iterator[tuple[int, Array]]:
        start = 0
        for batch in tqdm(self._stream(), desc="attribution", disable=not self._progress, leave=False):
            rows = torch.as_tensor(batch).detach().cpu().numpy()
            if rows.ndim != 2:
                raise DataError(
                    f"an attribution yields features [n, D], got the shape {list(rows.shape)}: flatten what each "
                    "sample has."
                )
            if not (finite := np.isfinite(rows).all(1)).all():
                raise DataError(
                    f"the features of sample {start + int(np.argmin(finite))} are not finite: look for NaN or "
                    "infinite values in the data, or take a model that has not diverged."
                )
            yield start, rows
            start += len(rows)
        if start != self._total:
            raise DataError(
                f"the attribution yielded {start:,} rows, and the data {self._total:,} samples a moment before: "
                "each sample needs one row, and every walk over the data the same samples."
            )


def chunks(rows: Array) -> Iterator[tuple[int, Array]]:
    """Yield rows [N, D] in pieces that are small in float64, each with the number of its first row."""
    size = max(1, CHUNK // (8 * max(1, rows.shape[1])))
    for start in range(0, len(rows), size):
        yield start, rows[start : start + size]
