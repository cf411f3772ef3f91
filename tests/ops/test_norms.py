# SPDX-License-Identifier: BSD-3-Clause
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from unlearnkit import ops
from unlearnkit.ops import _native, norms

CPU = torch.device("cpu")
native = pytest.mark.skipif(_native.module() is None, reason="no compiled module")
with_kernels = settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
DTYPES = st.sampled_from([torch.float32, torch.float64])


def by_autograd(run, x, g, size):
    """The gradients of weight and bias [size] of each sample, by autograd in float64."""
    found = []
    for one, gradient in zip(x.double().split(1), g.double().split(1), strict=True):
        weight, bias = torch.ones(size).double().requires_grad_(), torch.zeros(size).double().requires_grad_()
        found.append(torch.autograd.grad(run(one, weight, bias), (weight, bias), gradient))
    return [torch.stack(part) for part in zip(*found, strict=True)]


def assert_close(found, true, dtype):
    accuracy = 1e-11 if dtype == torch.float64 else 1e-4
    for a, b in zip(found, true, strict=True):
        assert a.dtype == dtype
        torch.testing.assert_close(a.double(), b, rtol=accuracy, atol=accuracy)


@with_kernels
@given(
    n=st.integers(1, 4), channels=st.integers(1, 5), space=st.lists(st.integers(1, 40), max_size=2), dtype=DTYPES
)  # fmt: skip
def test_planes_are_the_gradients_of_a_batch_norm(kernels, n, channels, space, dtype):
    torch.manual_seed(0)
    x, g = torch.randn(n, channels, *space, dtype=dtype), torch.randn(n, channels, *space, dtype=dtype)
    mean, var = torch.randn(channels, dtype=dtype), torch.rand(channels, dtype=dtype) + 0.1
    true = by_autograd(lambda x, w, b: F.batch_norm(x, mean.double(), var.double(), w, b), x, g, channels)
    assert_close(ops.plane_sums(x, g, mean, (var + 1e-5).rsqrt()), true, dtype)


@with_kernels
@given(n=st.integers(1, 4), channels=st.integers(1, 5), size=st.integers(1, 200), dtype=DTYPES)
def test_planes_with_statistics_of_their_own(kernels, n, channels, size, dtype):
    torch.manual_seed(0)
    x, g = torch.randn(n, channels, size, dtype=dtype), torch.randn(n, channels, size, dtype=dtype)
    center, scale = torch.randn(n, channels, dtype=dtype), torch.randn(n, channels, dtype=dtype)
    products = (g.double() * (x.double() - center.double()[..., None])).sum(2) * scale.double()
    assert_close(ops.plane_sums(x, g, center, scale), (products, g.double().sum(2)), dtype)


@with_kernels
@given(
    n=st.integers(1, 4), rows=st.integers(1, 6), shape=st.lists(st.integers(2, 40), min_size=1, max_size=2),
    dtype=DTYPES, is_centered=st.booleans(),
)  # fmt: skip
def test_rows_are_the_gradients_of_layer_norm_and_rms_norm(kernels, n, rows, shape, dtype, is_centered):
    torch.manual_seed(0)
    x, g = (torch.randn(n, rows, *shape, dtype=dtype) + 0.5 for _ in range(2))
    size = torch.Size(shape).numel()

    def layer_norm(x, w, b):
        return F.layer_norm(x, shape, w.view(shape), b.view(shape), 1e-3)

    def rms_norm(x, w, b):
        return F.rms_norm(x, shape, w.view(shape), 1e-3) + b.view(shape)

    true = by_autograd(layer_norm if is_centered else rms_norm, x, g, size)
    assert_close(ops.row_sums(x, g, size, 1e-3, is_centered), true, dtype)


def test_any_strides(kernels):
    x, g = torch.randn(4, 6, 5, 3).double(), torch.randn(4, 6, 5, 3).double()
    center, scale = torch.randn(6, 2).double().T
    wanted = ops.plane_sums(x, g, center, scale)
    last = [t.to(memory_format=torch.channels_last) for t in (x, g)]
    torch.testing.assert_close(ops.plane_sums(*last, center, scale), wanted)
    flat = ops.row_sums(x.mT.contiguous(), g.mT.contiguous(), 15, 1e-5)
    torch.testing.assert_close(ops.row_sums(x.mT, g.mT, 15, 1e-5), flat)


def test_no_samples_and_no_positions(kernels):
    for shape in ((0, 3, 4), (2, 3, 0)):
        for sums in ops.plane_sums(torch.ones(shape), torch.ones(shape), torch.ones(3), torch.ones(3)):
            assert torch.equal(sums, torch.zeros(shape[:2]))
        for sums in ops.row_sums(torch.ones(shape), torch.ones(shape), 3, 1e-5):
            assert torch.equal(sums, torch.zeros(shape[0], 3))


def test_halves_are_computed_in_torch():
    x = torch.randn(2, 3, 4).bfloat16()
    assert ops.plane_sums(x, x, x[0, :, 0], x[0, :, 1])[0].dtype == torch.bfloat16
    assert ops.row_sums(x, x, 4, 1e-5)[0].dtype == torch.bfloat16


@native
def test_any_number_of_threads_gives_the_same_bits(kernels, two_threads):
    x, g = torch.randn(8, 16, 40, 33), torch.randn(8, 16, 40, 33)
    center, scale = torch.randn(2, 16)
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        results.append((*ops.plane_sums(x, g, center, scale), *ops.row_sums(x, g, 33, 1e-5)))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@native
@pytest.mark.parametrize(
    ("kernel", "check"),
    [(norms._plane_sums, norms._planes_agree), (norms._row_sums, norms._rows_agree)],
)
def test_a_kernel_that_disagrees_fails_its_check(kernel, check):
    run = kernel.on(CPU)
    assert check(run, CPU)
    assert not check(lambda x, g, *rest: run(g, x, *rest), CPU)
