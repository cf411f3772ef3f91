# SPDX-License-Identifier: BSD-3-Clause
"""The operators one by one, compiled and in torch, on the shapes of ResNet-18 and ViT.

    pytest benchmarks/test_kernels.py [-k square_sum] [--benchmark-json=FILE] [--benchmark-disable]

In each group stands what the operator is to be held against: the plain weight gradient of the layer, NumPy,
or a copy of as many bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.grad import conv2d_weight

from _networks import resnet18
from unlearnkit import ops
from unlearnkit.ops import _native

no_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
on_devices = pytest.mark.parametrize(
    "device", ["cpu", pytest.param("cuda", marks=[pytest.mark.cuda, no_cuda])]
)
backends = pytest.mark.parametrize("backend", ["torch", "native"], indirect=True)
Time = Callable[..., Any]
LARGE = "1e8 values"


@pytest.fixture(autouse=True)
def _float32() -> None:
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False


@pytest.fixture
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """Compute with the compiled kernels alone, or without them."""
    with _native.using(request.param):
        yield request.param


def need(backend: str, kernel: str, device: str) -> None:
    """Skip what would time torch under the name of a kernel."""
    if backend == "torch":
        return
    built = f"{kernel}_{device}"
    if kernel not in _native.Kernel.registry or not hasattr(_native.module(), built):
        pytest.skip(f"{built} is not built")


@pytest.fixture
def timed(benchmark: Any) -> Time:
    """``timed(group, device, function, *arguments)``: the wall time of calls, the device's work included."""

    def run(group: str, device: str, function: Callable[..., Any], *arguments: Any, **facts: Any) -> Any:
        def call() -> Any:
            result = function(*arguments)
            if device != "cpu":
                torch.cuda.synchronize()
            return result

        benchmark.group = f"{group}, {device}"
        benchmark.extra_info.update(facts, threads=torch.get_num_threads())
        return benchmark.pedantic(call, rounds=3 if LARGE in group else 7, warmup_rounds=1)

    return run


# the sum of squared gradients, layer by layer --------------------------------------------------------

CONVOLUTIONS = {  # (inputs, outputs, size, kernel, stride)
    "conv 3-64, 32 x 32": (3, 64, 32, 3, 1),
    "conv 64-64, 32 x 32": (64, 64, 32, 3, 1),
    "conv 64-128, stride 2": (64, 128, 32, 3, 2),
    "conv 1 x 1 64-128, stride 2": (64, 128, 32, 1, 2),
    "conv 128-128, 16 x 16": (128, 128, 16, 3, 1),
    "conv 256-256, 8 x 8": (256, 256, 8, 3, 1),
    "conv 512-512, 4 x 4": (512, 512, 4, 3, 1),
}
LINEARS = {  # (tokens, inputs, outputs)
    "Linear 384-1152, 37 tokens": (37, 384, 1152),
    "Linear 384-1536, 37 tokens": (37, 384, 1536),
    "Linear 1536-384, 37 tokens": (37, 1536, 384),
    "Linear 768-3072, 197 tokens": (197, 768, 3072),
}


def samples(device: str) -> int:
    return 16 if device == "cpu" else 128


def convolution(layer: str, device: str) -> tuple[Tensor, Tensor, torch.Size, int, int]:
    inputs, outputs, size, kernel, stride = CONVOLUTIONS[layer]
    n, positions = samples(device), size // stride
    x = torch.randn(n, inputs, size, size, device=device)
    g = torch.randn(n, outputs, positions, positions, device=device)
    return x, g, torch.Size((outputs, inputs, kernel, kernel)), stride, kernel // 2


@on_devices
@backends
@pytest.mark.parametrize("layer", CONVOLUTIONS)
def test_square_sum_of_convolution(timed: Time, device: str, backend: str, layer: str) -> None:
    need(backend, "square_sum", device)
    x, g, shape, stride, padding = convolution(layer, device)
    total = x.new_zeros(shape)
    timed(f"square_sum {layer}", device, ops.square_sum_, total, x, g, stride, padding, flop=flop(g, total))
    assert total.min() > 0


@on_devices
@pytest.mark.parametrize("layer", CONVOLUTIONS)
def test_plain_gradient_of_convolution(timed: Time, device: str, layer: str) -> None:
    x, g, shape, stride, padding = convolution(layer, device)
    found = timed(f"square_sum {layer}", device, conv2d_weight, x, shape, g, stride, padding)
    assert found.shape == shape


def tokens(layer: str, device: str) -> tuple[Tensor, Tensor]:
    length, inputs, outputs = LINEARS[layer]
    n = samples(device)
    return torch.randn(n, length, inputs, device=device), torch.randn(n, length, outputs, device=device)


@on_devices
@backends
@pytest.mark.parametrize("layer", LINEARS)
def test_square_sum_of_linear(timed: Time, device: str, backend: str, layer: str) -> None:
    need(backend, "square_sum", device)
    x, g = tokens(layer, device)
    total = x.new_zeros(g.shape[2], x.shape[2], 1)
    turned = x.transpose(1, 2), g.transpose(1, 2)
    timed(f"square_sum {layer}", device, ops.square_sum_, total, *turned, flop=flop(turned[1], total))
    assert total.min() > 0


@on_devices
@pytest.mark.parametrize("layer", LINEARS)
def test_plain_gradient_of_linear(timed: Time, device: str, layer: str) -> None:
    x, g = (part.flatten(0, 1) for part in tokens(layer, device))
    found = timed(f"square_sum {layer}", device, torch.mm, g.T, x)
    assert found.shape == (g.shape[1], x.shape[1])


def flop(g: Tensor, total: Tensor) -> int:
    """Of the per-sample gradients, and of squaring them."""
    positions = g.shape[2:].numel()
    return 2 * len(g) * (positions + 1) * total.numel()


# what a method does with all parameters --------------------------------------------------------------

SIZES = {"ResNet-18": 1, LARGE: 9}  # how often the parameters of a ResNet-18


def parameters(size: str, device: str) -> list[Tensor]:
    """Positive values in the shapes of a ResNet-18's parameters, spread as importances are."""
    shapes = [p.shape for p in resnet18().parameters()] * SIZES[size]
    return [torch.randn(shape, device=device).mul_(3).exp_() for shape in shapes]


@on_devices
@pytest.mark.parametrize("size", SIZES)
def test_copy(timed: Time, device: str, size: str) -> None:
    """The yardstick of everything that reads all parameters once: bytes read and written."""
    values = torch.cat([part.flatten() for part in parameters(size, device)])
    timed(f"copy {size}", device, torch.empty_like(values).copy_, values, bytes=2 * values.nbytes)


@on_devices
@backends
@pytest.mark.parametrize("size", SIZES)
def test_percentile(timed: Time, device: str, backend: str, size: str) -> None:
    need(backend, "kth_value", device)
    values = parameters(size, device)
    found = timed(f"percentile {size}", device, ops.percentile, values, 99.0, bytes=of(values))
    assert found > 0


@pytest.mark.parametrize("size", SIZES)
def test_numpy_percentile(timed: Time, size: str) -> None:
    values = torch.cat([part.flatten() for part in parameters(size, "cpu")])
    found = timed(f"percentile {size}", "cpu", np.percentile, values.numpy(), 99.0, bytes=values.nbytes)
    assert found > 0


@on_devices
@backends
@pytest.mark.parametrize("size", SIZES)
def test_dampening(timed: Time, device: str, backend: str, size: str) -> None:
    need(backend, "dampen", device)
    weights, forget, reference = (parameters(size, device) for _ in range(3))
    # lambda = 1 and factors of 1 / 10 at most: what is touched once is touched again in every round
    touched = timed(
        f"dampening {size}", device, ops.dampen_, weights, forget, reference, 10.0, bytes=of(forget) * 3
    )
    assert 0 < sum(touched) < of(forget) // 4


@on_devices
@backends
@pytest.mark.parametrize("size", SIZES)
def test_channel_scores(timed: Time, device: str, backend: str, size: str) -> None:
    need(backend, "channel_scores", device)
    weights, gradients = parameters(size, device), parameters(size, device)
    found = timed(
        f"scoring {size}", device, ops.channel_scores, weights, gradients, 10, bytes=of(weights) * 2
    )
    assert all(float(part.min()) > 0 for part in found)


def of(tensors: list[Tensor]) -> int:
    """Bytes of some tensors."""
    return sum(tensor.nbytes for tensor in tensors)
