# SPDX-License-Identifier: BSD-3-Clause
"""The emulator of CUDA itself: right kernels run right, and wrong ones are found out."""

import ctypes
from pathlib import Path

import numpy as np
import pytest
import torch

KERNELS = [
    "reverse", "reverse without barrier", "reverse in warp", "reverse in warp without barrier", "chain",
    "forgets to clear", "half a barrier", "two barriers", "past shared", "outside the mask", "collectives",
    "halves",
]  # fmt: skip
SEEDS = range(6)


@pytest.fixture(scope="module")
def run(emulate):
    library = emulate("emulator", Path(__file__).parent / "emulator.cpp")
    library.run.restype = ctypes.c_char_p

    def run(name, seed=0, grid=1, block=64, shared=256, values=None):
        values = np.arange(64, dtype=np.float32) if values is None else values
        out = np.zeros(128, np.float32)
        pointers = [ctypes.c_void_p(array.ctypes.data) for array in (values, out)]
        error = library.run(KERNELS.index(name), seed, grid, block, ctypes.c_size_t(shared), *pointers)
        if error:
            raise RuntimeError(error.decode())
        return out

    return run


@pytest.mark.parametrize(("name", "wanted"), [
    ("reverse", np.arange(64)[::-1]),
    ("reverse in warp", np.arange(64) ^ 31),
])  # fmt: skip
def test_a_missing_barrier_is_seen(run, name, wanted):
    for seed in SEEDS:
        assert (run(name, seed)[:64] == wanted).all()
        assert not (run(f"{name} without barrier", seed)[:64] == wanted).all()


def test_the_order_of_blocks_is_not_to_be_relied_on(run):
    sums = np.arange(64).cumsum()
    assert not any((run("chain", seed, grid=64)[:64] == sums).all() for seed in SEEDS)


def test_shared_memory_is_poisoned(run):
    assert np.isnan(run("forgets to clear")[0])


@pytest.mark.parametrize(("name", "error"), [
    ("half a barrier", r"deadlock in block \(0, 0, 0\):.* 32 threads at __syncthreads \(emulator.cpp:\d+\), .*"
     r"16 threads at __syncwarp \(emulator.cpp:\d+\) for the lanes ffffffff, the first is 33"),
    ("two barriers", r"two barriers at once in block \(0, 0, 0\): 32 threads at .*; 32 threads at"),
    ("past shared", "a write past the 256 bytes of dynamic shared memory"),
    ("outside the mask", "__shfl_sync reads a lane outside its mask"),
])  # fmt: skip
def test_errors_say_what_and_where(run, name, error):
    with pytest.raises(RuntimeError, match=error):
        run(name)
    assert run("reverse")[0] == 63  # and the emulator goes on


def test_collectives(run):
    for seed in SEEDS:
        assert run("collectives", seed)[:64].all()


def test_halves_round_as_torch_does(run):
    random = np.random.default_rng(0)
    values = (random.standard_normal(64) * 10.0 ** random.integers(-9, 9, 64)).astype(np.float32)
    values[:6] = 0, -0.0, np.inf, -np.inf, np.nan, 65520
    found = run("halves", values=values)
    for half, dtype in ((found[:64], torch.float16), (found[64:], torch.bfloat16)):
        np.testing.assert_array_equal(half, torch.from_numpy(values).to(dtype).float().numpy())


@pytest.mark.parametrize(("sizes", "error"), [
    ({"grid": 0}, "invalid configuration"),
    ({"block": 1025}, "invalid configuration"),
    ({"shared": 300_000}, "invalid argument"),
])  # fmt: skip
def test_refuses_what_cuda_refuses(run, sizes, error):
    with pytest.raises(RuntimeError, match=error):
        run("reverse", **sizes)
    assert (run("reverse", shared=100_000)[:64] == np.arange(64)[::-1]).all()
