# SPDX-License-Identifier: BSD-3-Clause
"""square_sum_ on a GPU. What the kernels compute is tested without one too: tests/cuda_emulation."""

import math

import pytest
import torch

from unlearnkit import ops
from unlearnkit.ops import _native, squares
from unlearnkit.ops.workspace import Workspace

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not hasattr(_native.module(), "square_sum_cuda"), reason="built without CUDA"),
]

CASES = {  # x, g, total, then stride, padding, dilation, groups
    "tokens": ((6, 64, 197), (6, 96, 197), (96, 64, 1)),
    "tokens, odd": ((3, 67, 50), (3, 131, 50), (131, 67, 1)),
    "one sample": ((1, 30, 5000), (1, 40, 5000), (40, 30, 1)),
    "one position": ((9, 70, 1), (9, 200, 1), (200, 70, 1)),
    "conv1d": ((4, 5, 120), (4, 30, 120), (30, 5, 5), 1, 4, 2),
    "stem": ((16, 3, 32, 32), (16, 64, 32, 32), (64, 3, 3, 3), 1, 1),
    "first layer": ((40, 64, 32, 32), (40, 64, 32, 32), (64, 64, 3, 3), 1, 1),
    "last layer": ((33, 256, 4, 4), (33, 256, 4, 4), (256, 256, 3, 3), 1, 1),
    "strided": ((5, 40, 17, 15), (5, 72, 9, 8), (72, 40, 3, 3), 2, 1),
    "shortcut": ((5, 36, 16, 16), (5, 72, 8, 8), (72, 36, 1, 1), 2),
    "conv3d": ((2, 6, 5, 7, 9), (2, 20, 3, 7, 5), (20, 6, 3, 3, 2), (2, 1, 2), (1, 2, 1), (1, 2, 1)),
    "groups": ((6, 48, 12, 12), (6, 96, 12, 12), (96, 16, 3, 3), 1, 1, 1, 3),
    "many groups": ((6, 128, 12, 12), (6, 128, 12, 12), (128, 4, 3, 3), 1, 1, 1, 32),
    "depthwise": ((20, 96, 14, 14), (20, 96, 14, 14), (96, 1, 7, 7), 1, 3, 1, 96),
}
by_case = pytest.mark.parametrize("name", CASES)


def made(name, dtype=torch.float32, channels_last=False):
    """Draw x and g on the GPU, where they may have their channels innermost."""
    x, g, total, *geometry = CASES[name]
    generator = torch.Generator().manual_seed(0)
    tensors = [
        torch.randn(size, generator=generator, dtype=torch.float64).to("cuda", dtype) for size in (x, g)
    ]
    if channels_last:
        tensors = [tensor.movedim(1, -1).contiguous().movedim(-1, 1) for tensor in tensors]
    return *tensors, total, geometry


def square_sum(x, g, total, geometry, dtype=None, **options):
    total = torch.zeros(total, dtype=dtype or x.dtype, device=x.device)
    return ops.square_sum_(total, x, g, *geometry, **options)


def truth(x, g, total, geometry):
    """The definition in float64, on the CPU."""
    with _native.using("torch"):
        return square_sum(x.double().cpu(), g.double().cpu(), total, geometry)


def assert_near(found, wanted, bound):
    error = (found.double().cpu() - wanted).abs()
    assert bool((error <= bound * (wanted + wanted.max())).all()), error.max()


@pytest.mark.parametrize("channels_last", [False, True])
@by_case
@pytest.mark.parametrize(
    ("precision", "bound"),
    [("float32", 1e-5), ("float32 without tensor cores", 1e-5), ("tf32", 1e-2), ("bfloat16", 1e-1)],
)
def test_float32(name, channels_last, precision, bound):
    x, g, *rest = made(name, channels_last=channels_last)
    assert_near(square_sum(x, g, *rest, precision=precision), truth(x, g, *rest), bound)


@pytest.mark.parametrize("channels_last", [False, True])
@by_case
def test_float64(name, channels_last):
    x, g, *rest = made(name, torch.float64, channels_last)
    assert_near(square_sum(x, g, *rest), truth(x, g, *rest), 1e-12)


@by_case
def test_three_tf32_products_are_as_exact_as_float32(name):
    x, g, *rest = made(name)
    wanted = truth(x, g, *rest)
    plain, tensor = (
        float((square_sum(x, g, *rest, precision=precision).double().cpu() - wanted).abs().mean())
        for precision in ("float32 without tensor cores", "float32")
    )
    assert tensor <= max(2 * plain, 2**-23 * float(wanted.square().mean().sqrt()))


@pytest.mark.parametrize("precision", ["float32", "float32 without tensor cores", "tf32"])
@by_case
def test_two_runs_give_the_same_bits(name, precision):
    x, g, *rest = made(name)
    first, second = (square_sum(x, g, *rest, precision=precision) for _ in range(2))
    assert torch.equal(first, second)


@by_case
def test_float64_total_of_float32(name):
    x, g, *rest = made(name)
    assert_near(square_sum(x, g, *rest, dtype=torch.float64), truth(x, g, *rest), 1e-5)


def test_another_stream():
    x, g, *rest = made("first layer")
    wanted = square_sum(x, g, *rest)
    late, stream = torch.full_like(x, math.nan), torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)
        late.copy_(x)
        found = square_sum(late, g, *rest)  # would see the NaN on any other stream
    stream.synchronize()
    assert torch.equal(found, wanted)


def test_a_graph_replays_it():
    x, g, *rest = made("first layer")
    wanted = square_sum(x, g, *rest)
    total, workspace = torch.zeros_like(wanted), Workspace()
    ops.square_sum_(total, x, g, *rest[1], workspace=workspace)  # allocates
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        ops.square_sum_(total, x, g, *rest[1], workspace=workspace)
    total.zero_()
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(total, wanted)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one GPU")
def test_the_second_device():
    x, g, *rest = made("groups")
    found = square_sum(x.to("cuda:1"), g.to("cuda:1"), *rest)
    assert found.get_device() == 1 and torch.cuda.current_device() == 0
    assert torch.equal(found.cpu(), square_sum(x, g, *rest).cpu())


def test_peak_memory_is_the_workspace_alone():
    x, g = torch.ones(256, 512, 20, device="cuda"), torch.ones(256, 512, 20, device="cuda")
    rest = (512, 512, 1), ()
    square_sum(x, g, *rest)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    square_sum(x, g, *rest)  # [N, O, I] would be 256 MiB
    assert torch.cuda.max_memory_allocated() - before < 50 << 20


def test_the_kernel_passes_its_own_check():
    device = torch.device("cuda")
    assert squares._agrees(_native.module().square_sum_cuda, device)
    assert ops.square_sum_is_fused(device)
