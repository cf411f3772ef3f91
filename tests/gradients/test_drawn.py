# SPDX-License-Identifier: BSD-3-Clause
"""The rules of linear layers, convolutions and tables over drawn shapes, two batches each."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

pytestmark = pytest.mark.usefixtures("backend")

PRECISIONS = st.sampled_from([torch.float64, torch.float32])
CONV = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
small = st.integers(1, 3)


class Scale(nn.Module):
    """A weight, so that what follows has an input with a history."""

    def __init__(self, *shape):
        super().__init__()
        self.by = nn.Parameter(1 + torch.rand(shape))

    def forward(self, x):
        return x * self.by


@settings(max_examples=50)
@given(
    inputs=small,
    outputs=small,
    positions=st.lists(st.integers(1, 4), max_size=2),
    bias=st.booleans(),
    n=st.integers(1, 5),
    dtype=PRECISIONS,
)
def test_linear(check, curved, inputs, outputs, positions, bias, n, dtype):
    layer = nn.Linear(inputs, outputs, bias=bias)
    batches = [(torch.randn(size, *positions, inputs),) for size in (n, n + 2)]
    check(layer, *batches, loss=curved, dtype=dtype)
    check(nn.Sequential(Scale(inputs), layer), *batches, loss=curved, dtype=dtype)


@st.composite
def convolutions(draw, transposed=False):
    """Draw a convolution and the shape of an image that it takes."""
    rank = draw(st.integers(1, 3))
    each = st.tuples(*[st.integers(1, 2)] * rank)
    kernel = draw(st.tuples(*[st.integers(1, 3 if rank < 3 else 2)] * rank))
    groups, inputs, outputs = draw(small), draw(st.integers(1, 2)), draw(st.integers(1, 2))
    channels = (groups * inputs, groups * outputs)
    options = {"groups": groups, "bias": draw(st.booleans()), "dilation": draw(each)}
    reach = [d * (k - 1) for d, k in zip(options["dilation"], kernel, strict=True)]
    if transposed:
        options["stride"] = draw(each)
        room = [max(pair) for pair in zip(options["stride"], options["dilation"], strict=True)]
        options["output_padding"] = tuple(draw(st.integers(0, most - 1)) for most in room)
        options["padding"] = tuple(draw(st.integers(0, most // 2)) for most in reach)
        size = draw(st.tuples(*[st.integers(1, 3)] * rank))
        return TRANSPOSED[rank](*channels, kernel, **options), (channels[0], *size)
    mode = draw(st.sampled_from(["zeros", "reflect", "replicate", "circular"]))
    padding = draw(st.sampled_from(["same", "valid", "numbers"]))
    if padding == "numbers":
        padding = draw(st.tuples(*[st.integers(0, 2)] * rank))
    if padding != "same":
        options["stride"] = draw(each)
    # reflection needs more pixels than it adds
    size = tuple(r + draw(st.integers(1, 2)) + 2 * (mode != "zeros") for r in reach)
    layer = CONV[rank](*channels, kernel, padding=padding, padding_mode=mode, **options)
    return layer, (channels[0], *size)


@settings(max_examples=300)
@given(drawn=convolutions(), n=small, dtype=PRECISIONS)
def test_convolution(check, curved, drawn, n, dtype):
    layer, shape = drawn
    batches = ((torch.randn(size, *shape),) for size in (n, n + 1))
    check(layer, *batches, loss=curved, dtype=dtype)


@settings(max_examples=150)
@given(drawn=convolutions(transposed=True), n=small, dtype=PRECISIONS)
def test_transposed_convolution(check, curved, drawn, n, dtype):
    layer, shape = drawn
    batches = ((torch.randn(size, *shape),) for size in (n, n + 1))
    check(layer, *batches, loss=curved, dtype=dtype)


@pytest.mark.parametrize("rank", [2, 3])
def test_channels_last_weights_and_inputs(check, curved, rank):
    memory = torch.channels_last if rank == 2 else torch.channels_last_3d
    for layer in (CONV[rank](4, 6, 3, groups=2, padding=1), TRANSPOSED[rank](4, 6, 3, stride=2)):
        net = nn.Sequential(layer, nn.ReLU(inplace=True), CONV[rank](6, 2, 1))
        net = net.to(dtype=torch.float64, memory_format=memory)
        x = torch.randn(3, 4, *[4] * rank, dtype=torch.float64).to(memory_format=memory)
        check(net, (x,), loss=curved)
        assert layer.weight.is_contiguous(memory_format=memory)


@settings(max_examples=50)
@given(
    rows=st.integers(2, 6),
    width=small,
    positions=st.lists(st.integers(1, 4), max_size=2),
    padding=st.integers(-2, 1) | st.none(),
    n=st.integers(1, 4),
    dtype=PRECISIONS,
)
def test_embedding_with_repeated_indices(check, curved, rows, width, positions, padding, n, dtype):
    layer = nn.Embedding(rows, width, padding_idx=padding)
    batches = [(torch.randint(0, rows, (size, *positions)),) for size in (n, n + 1)]
    check(layer, *batches, loss=curved, dtype=dtype)


def test_a_negative_padding_index(check, curved, model):
    table = nn.Parameter(torch.randn(4, 3))
    net = model(lambda self, x: F.embedding(x, self.table, padding_idx=-1), table=table)
    check(net, (torch.tensor([[3, 0, 3], [1, 1, 3]]),), loss=curved)


def test_rows_by_indices_are_an_embedding(check, curved, model):
    def forward(self, x):
        table, vector = self.table[x].sum(-1), self.vector[x]
        cube, turned = self.cube[x].sum((-1, -2)), self.table[(-1 - x,)].sum(-1)
        return table * vector + cube * turned

    shapes = {"table": (4, 3), "vector": (4,), "cube": (4, 2, 2)}
    net = model(forward, **{name: nn.Parameter(torch.randn(s)) for name, s in shapes.items()})
    check(net, (torch.randint(0, 4, (3, 5)),), (torch.randint(0, 4, (2, 4)),), loss=curved)
    flat = model(lambda self, x: self.w.index_select(0, x), w=nn.Parameter(torch.randn(4, 3)))
    check(flat, (torch.randint(0, 4, (5,)),), loss=curved)
