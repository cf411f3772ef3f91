# SPDX-License-Identifier: BSD-3-Clause
"""The operators over lists of tensors on a GPU: the same as on the CPU, on any stream."""

import pytest
import torch

from unlearnkit import ops
from unlearnkit.ops._native import DTYPES, Kernel, module

pytestmark = pytest.mark.cuda

FLOATS = [torch.float32, torch.float64]
SIZES = [100_003, 0, 1, 3, 1 << 20, 70]


@pytest.fixture(autouse=True)
def _compiled_kernels():
    if not hasattr(module(), "dampen_cuda"):
        pytest.skip("built without CUDA")
    for name in ("dampen", "channel_scores", "kth_value"):
        assert Kernel.registry[name].on(torch.device("cuda")) is not None


def on_gpu(tensors, offset=0):
    """Copy tensors to the GPU, each to an address that begins so many elements past an aligned one."""
    moved = []
    for tensor in tensors:
        memory = torch.empty(tensor.numel() + offset, dtype=tensor.dtype, device="cuda")
        moved.append(memory[offset:].view(tensor.shape).copy_(tensor))
    return moved


def importances(size, dtype):
    special = torch.tensor([0.0, torch.nan, torch.inf, 1e-42, 1.0, 2.0], dtype=dtype)
    chosen = torch.where(torch.rand(2, size) < 0.3, 1, 0).bool()
    values = torch.randn(2, size, dtype=dtype).mul(3).exp()
    return torch.where(chosen, special[torch.randint(len(special), (2, size))], values).unbind()


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("kind", FLOATS, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_dampening_has_the_bits_of_the_cpu(dtype, kind, offset):
    weights = [torch.randn(size).to(dtype) for size in SIZES]
    forgets, references = zip(*(importances(size, kind) for size in SIZES), strict=True)
    ours, *others = (on_gpu(part, offset) for part in (weights, forgets, references))
    assert ops.dampen_(ours, *others, 1.5, 0.7) == ops.dampen_(weights, forgets, references, 1.5, 0.7)
    for found, wanted in zip(ours, weights, strict=True):
        assert torch.equal(found.cpu(), wanted)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_channel_scores_are_those_of_the_cpu(dtype):
    shapes = [(64, 27), (0, 5), (4, 0), (512, 512, 3, 3), (10, 1000), (7, 1025), (3, 50_000), (9,)]
    weights, gradients = (
        [torch.randn(shape, dtype=dtype).mul(4).round() for shape in shapes] for _ in range(2)
    )
    for h in (1, 10, 600, None):
        found = ops.channel_scores(on_gpu(weights), on_gpu(gradients), h)
        again = ops.channel_scores(on_gpu(weights, 1), on_gpu(gradients, 1), h)
        for score, same, wanted in zip(found, again, ops.channel_scores(weights, gradients, h), strict=True):
            bound = 2 * torch.finfo(dtype).eps
            torch.testing.assert_close(score.cpu(), wanted, rtol=bound, atol=0, equal_nan=True)
            torch.testing.assert_close(score, same, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("kind", ["normal", "ties", "equal", "squares"])
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_ranks_are_those_of_the_cpu(dtype, kind):
    tensors = [torch.randn(size, dtype=dtype) for size in SIZES]
    change = {"normal": lambda t: t, "ties": torch.round, "equal": torch.ones_like, "squares": torch.square}
    tensors = [change[kind](tensor) for tensor in tensors]
    tensors[0][:4] = torch.tensor([torch.nan, torch.inf, -torch.inf, -0.0])
    for offset in (0, 1):
        moved = on_gpu(tensors, offset)
        for q in (0, 1.5, 50, 99.99, 100):
            assert ops.percentile(moved, q) == ops.percentile(tensors, q)
        for k in (1, 77_777, sum(SIZES) - 3):
            assert ops.kth_value(moved, k) == ops.kth_value(tensors, k)


def test_ranks_among_both_dtypes():
    tensors = [torch.randn(5000), torch.randn(300, dtype=torch.float64)]
    assert ops.percentile(on_gpu(tensors), 12.3) == ops.percentile(tensors, 12.3)


def test_work_is_queued_on_the_current_stream():
    size = 1 << 22
    values, others = torch.randn(size), torch.rand(size)
    expected = (
        ops.percentile([values], 90),
        ops.channel_scores([values.view(64, -1)], [others.view(64, -1)], 9)[0],
    )
    moved, theirs = on_gpu([values, others])
    zeros = torch.zeros_like(moved)
    side = torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(side):
        torch.cuda._sleep(200_000_000)  # some 0.1 s: on another stream the kernels would read zeros
        zeros.copy_(moved)
        scores = ops.channel_scores([zeros.view(64, -1)], [theirs.view(64, -1)], 9)[0]
        found = ops.percentile([zeros], 90)
    side.synchronize()
    assert found == expected[0]
    torch.testing.assert_close(scores.cpu(), expected[1], rtol=1e-6, atol=0)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one GPU")
def test_works_on_a_gpu_that_is_not_the_current_one():
    values = torch.randn(1000)
    assert ops.percentile([values.to("cuda:1")], 50) == ops.percentile([values], 50)
    assert torch.cuda.current_device() == 0
