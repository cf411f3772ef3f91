# SPDX-License-Identifier: BSD-3-Clause
"""What a block costs: wall-clock time, and memory at its peak."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from threading import Event, Thread
from time import perf_counter
from types import TracebackType

import torch

__all__ = ["PeakMemory", "Timer"]

STATM = Path("/proc/self/statm")


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


class PeakMemory:
    """Context manager that measures by how much memory grew within its block, at the peak.

    On the CPU it is the resident memory of the whole process, other threads included: a thread reads
    it every `interval` seconds, and the kernel's own mark of its all-time peak is exact where the
    block raised that. A peak that is shorter than the interval and below the all-time one is missed,
    and memory that the allocator kept from earlier is used without growth: for a figure to
    publish, run the block alone in a fresh process. Where CUDA is in use, torch's peak of allocated
    bytes over all devices is counted, exactly; its peak statistics are reset.

    Parameters
    ----------
    interval : float
        Seconds between two readings.

    Attributes
    ----------
    bytes : int
        Growth of the process's resident memory in the last block, at the peak.
    cuda_bytes : int or None
        Growth of allocated CUDA memory; None where CUDA is not in use.

    Raises
    ------
    OSError
        On entering, where the system tells neither the present memory nor its peak (Windows).

    Examples
    --------
    >>> with PeakMemory() as memory:
    ...     held = bytearray(50_000_000)
    >>> memory.bytes > 40_000_000
    True
    """

    def __init__(self, interval: float = 0.002) -> None:
        self.interval, self.bytes = interval, 0
        self.cuda_bytes: int | None = None

    def __enter__(self) -> PeakMemory:
        self._cuda = _cuda_in_use()
        for device in self._cuda:
            torch.cuda.synchronize(device)
            torch.cuda.reset_peak_memory_stats(device)
        self._allocated = sum(map(torch.cuda.memory_allocated, self._cuda))
        self._mark, self._before = _all_time_peak(), _resident()
        self._peak, self._done = self._before, Event()
        self._thread = Thread(target=self._watch, name="PeakMemory", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._done.set()
        self._thread.join()
        mark = _all_time_peak()
        peak = max(self._peak, _resident(), mark if mark > self._mark else 0)
        self.bytes = max(0, peak - self._before)
        self.cuda_bytes = None
        if self._cuda:
            self.cuda_bytes = sum(map(torch.cuda.max_memory_allocated, self._cuda)) - self._allocated

    def _watch(self) -> None:
        while not self._done.wait(self.interval):
            self._peak = max(self._peak, _resident())


def _now() -> float:
    # Only where a CUDA context exists: asking for one would cost seconds and memory.
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return perf_counter()


def _cuda_in_use() -> range:
    """Return the devices to watch; none where no CUDA context exists, as for the clock."""
    used = torch.cuda.is_available() and torch.cuda.is_initialized()
    return range(torch.cuda.device_count() if used else 0)


def _resident() -> int:
    """Bytes of the process in memory; where the system does not tell, those at the all-time peak."""
    if STATM.exists():
        return int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return _all_time_peak()


def _all_time_peak() -> int:
    try:
        import resource
    except ImportError as error:
        raise OSError(
            "PeakMemory needs a system that tells a process's memory, such as Linux or macOS"
        ) from error
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, others kilobytes
