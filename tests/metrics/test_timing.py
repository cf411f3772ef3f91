# SPDX-License-Identifier: BSD-3-Clause
from time import sleep

import pytest

from unlearnkit.metrics import Timer


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


def fail():
    sleep(0.01)
    raise RuntimeError


def test_an_error_passes_through_and_is_timed():
    timer = Timer()
    with pytest.raises(RuntimeError), timer:
        fail()
    assert timer.seconds >= 0.01
