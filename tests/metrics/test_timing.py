# SPDX-License-Identifier: BSD-3-Clause
import sys
import threading
from pathlib import Path
from time import sleep

import pytest
import torch

from unlearnkit.metrics import PeakMemory, Timer, timing


def test_seconds_of_a_block():
    timer = Timer()
    assert timer.seconds == 0
    with timer:
        sleep(0.02)
    assert 0.02 <= timer.seconds < 5


def test_a_second_block_starts_anew():
    with Timer() as timer:
        sleep(0.05)
    first = timer.seconds
    with timer:
        pass
    assert timer.seconds < first


def fail(held=None):
    sleep(0.01)
    raise RuntimeError


def test_an_error_passes_through_and_is_timed():
    timer = Timer()
    with pytest.raises(RuntimeError), timer:
        fail()
    assert timer.seconds >= 0.01


MEGABYTE = 1_000_000


def touched(megabytes):
    return bytearray(b"\1") * (megabytes * MEGABYTE)


def test_growth_is_found_though_it_is_gone_at_the_end():
    with PeakMemory() as memory:
        held = touched(80)
        sleep(0.02)
        del held
    assert 75 * MEGABYTE < memory.bytes < 250 * MEGABYTE
    assert memory.cuda_bytes is None or memory.cuda_bytes == 0


def test_memory_held_before_does_not_count():
    held = touched(120)
    with PeakMemory() as memory:
        sleep(0.01)
    assert memory.bytes < 40 * MEGABYTE and len(held)


def test_a_peak_below_the_all_time_one_is_sampled():
    touched(150)  # raises the mark, and is gone
    with PeakMemory(interval=0.001) as memory:
        held = touched(60)
        sleep(0.03)
    assert memory.bytes > 50 * MEGABYTE and len(held)


def test_a_short_peak_that_raises_the_mark_is_exact(monkeypatch):
    # No reading in between: what remains is the kernel's mark.
    marks = iter([10**12, 2 * 10**12])
    monkeypatch.setattr(timing, "_all_time_peak", lambda: next(marks))
    monkeypatch.setattr(timing, "_resident", lambda: 300)
    with PeakMemory(interval=1000) as memory:
        pass
    assert memory.bytes == 2 * 10**12 - 300


def test_a_mark_from_before_does_not_count(monkeypatch):
    monkeypatch.setattr(timing, "_all_time_peak", lambda: 10**12)
    monkeypatch.setattr(timing, "_resident", lambda: 300)
    with PeakMemory() as memory:
        pass
    assert memory.bytes == 0


def test_memory_is_measured_through_an_error_and_the_thread_ends():
    before = threading.active_count()
    memory = PeakMemory()
    with pytest.raises(RuntimeError), memory:
        fail(touched(50))
    assert memory.bytes > 40 * MEGABYTE and threading.active_count() == before


def test_cuda_is_counted_over_its_devices(monkeypatch):
    told = {"allocated": [100, 10], "peak": [150, 40]}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device=None: None)
    reset = []
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", reset.append)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: told["allocated"][device])
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: told["peak"][device])
    with PeakMemory() as memory:
        pass
    assert memory.cuda_bytes == 50 + 30 and reset == [0, 1]


def test_without_the_systems_word_there_is_an_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "resource", None)
    with pytest.raises(OSError, match="such as Linux"), PeakMemory():
        pass


def test_without_proc_the_mark_serves(monkeypatch):
    marks = iter([100, 100, 450, 450])
    monkeypatch.setattr(timing, "STATM", Path("/nowhere"))
    monkeypatch.setattr(timing, "_all_time_peak", lambda: next(marks))
    with PeakMemory(interval=1000) as memory:
        pass
    assert memory.bytes == 350
