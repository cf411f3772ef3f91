# SPDX-License-Identifier: BSD-3-Clause
"""Wall-clock time of a block."""

from __future__ import annotations

from time import perf_counter
from types import TracebackType

import torch

__all__ = ["Timer"]


class Timer:
    """Context manager that measures the seconds its block takes.

    A GPU works on after Python has gone ahead, so where CUDA is in use the clock is read after
    the device has finished, at both ends.

    Attributes
    ----------
    seconds : float
        Wall-clock seconds of the last block; 0 before the first one has ended.

    Examples
    --------
    >>> with Timer() as timer:
    ...     total = sum(range(1000))
    >>> timer.seconds > 0
    True
    """

    def __init__(self) -> None:
        self.seconds = 0.0

    def __enter__(self) -> Timer:
        self._start = _now()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.seconds = _now() - self._start


def _now() -> float:
    # Only where a CUDA context exists: asking for one would cost seconds and memory.
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return perf_counter()
