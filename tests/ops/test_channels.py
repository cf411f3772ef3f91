# SPDX-License-Identifier: BSD-3-Clause
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unlearnkit import ops
from unlearnkit.exceptions import DataError


def oracle(weight, gradient, h):
    """Sort every row: slow and plain."""
    found = []
    for w, g in zip(weight, gradient, strict=True):
        row = (w * g).abs().flatten().double().sort(descending=True).values[:h]
        found.append(float(row.sum() / len(row)) if len(row) else math.nan)
    return torch.tensor(found, dtype=weight.dtype)


def check(weights, gradients, h):
    found = ops.channel_scores(weights, gradients, h)
    tops = h if isinstance(h, list) else [h] * len(weights)
    for score, w, g, top in zip(found, weights, gradients, tops, strict=True):
        # sums in float64, in another order, then rounded once
        rtol = 2.0**-23 if w.dtype == torch.float32 else 1e-14
        torch.testing.assert_close(score, oracle(w, g, top), rtol=rtol, atol=0, equal_nan=True)
    return found


@given(
    shapes=st.lists(
        st.lists(st.integers(0, 9), min_size=1, max_size=3).map(tuple)
        | st.tuples(st.integers(1, 4), st.sampled_from([1, 15, 16, 17, 31, 33, 64, 129, 600])),
        max_size=4,
    ),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    h=st.none() | st.integers(1, 40),
    levels=st.sampled_from([1, 3, 100, 0]),  # distinct values: few make ties; 0: all differ
    seed=st.integers(0, 99),
)
def test_scores_are_the_means_of_the_largest(route, shapes, dtype, h, levels, seed):
    draw = torch.Generator().manual_seed(seed)

    def values(shape):
        drawn = torch.randn(shape, dtype=dtype, generator=draw)
        return (drawn * levels).round() / levels if levels else drawn

    weights, gradients = ([values(shape) for shape in shapes] for _ in range(2))
    before = [tensor.clone() for tensor in weights + gradients]
    check(weights, gradients, h)
    assert all(map(torch.equal, before, weights + gradients))


@pytest.mark.parametrize("h", [1, 2, 46, 460, 2304, 4607, 4608, 9999, None])
def test_long_rows_on_one_and_two_threads(route, on_threads, h):
    weights, gradients = (
        [torch.randn(64, 4608), torch.randn(3, 4, 5)],
        [torch.randn(64, 4608), torch.randn(3, 4, 5)],
    )
    one, two = on_threads(lambda: check(weights, gradients, h))
    assert all(map(torch.equal, one, two))


@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1e3, 1e30])
def test_rows_unlike_the_row_before(route, scale):
    weight = torch.randn(60, 700)
    weight *= torch.logspace(0, math.log10(scale), 60)[torch.randperm(60), None].clamp(1e-20, 1e20)
    weight[7] = 0
    weight[20, 1:] = 0
    weight[33] = 3.5
    check([weight], [torch.randn(60, 700)], 9)


def test_a_number_for_each_tensor(route):
    weights, gradients = [torch.randn(5, 70), torch.randn(4, 3)], [torch.randn(5, 70), torch.randn(4, 3)]
    check(weights, gradients, [7, None])


def test_extreme_values(route):
    weight = torch.ones(7, 40)
    gradient = torch.linspace(1, 2, 40).repeat(7, 1)
    gradient[0, 3], gradient[1, 3], gradient[2, 3] = math.nan, math.inf, -math.inf
    gradient[3] = torch.tensor([-1], dtype=torch.int32).view(torch.float32)  # NaN of all ones
    gradient[4] = 1e-42
    gradient[5] = 3e38
    gradient[6, ::2] = 0
    for h in (1, 5, 20, None):
        check([weight], [gradient], h)


def test_any_strides_and_precisions(route):
    whole = torch.randn(6, 50, 7)
    other = torch.randn(6, 50, 7)
    images, others = torch.randn(4, 5, 3, 3), torch.randn(4, 5, 3, 3).to(memory_format=torch.channels_last)
    views = [
        (whole[:, 1:, 1::2], other[:, 1:, 1::2]),
        (whole.transpose(0, 1), other.transpose(0, 1)),  # input channels
        (whole.flatten()[3:].view(-1, 9), other.flatten()[3:].view(-1, 9)),
        (images.to(memory_format=torch.channels_last), others),
        (images, others),
        (images[0, 0, 0, 0], others[0, 0, 0, 0]),
        (torch.nn.Parameter(whole), other),
    ]
    for w, g in views:
        (found,) = ops.channel_scores([w], [g], 4)
        w, g = w.detach(), g.detach()
        expected = oracle(w, g, 4) if w.dim() else (w * g).abs()[None]
        torch.testing.assert_close(found, expected, rtol=2.0**-23, atol=0)
        half = [tensor.bfloat16() for tensor in (w, g)]
        (found,) = ops.channel_scores([half[0]], [half[1]], 4)
        (expected,) = ops.channel_scores([half[0].float()], [half[1].float()], 4)
        assert found.dtype == torch.float32 and torch.equal(found, expected)
    (found,) = ops.channel_scores([whole], [other.double()], 4)
    assert torch.equal(found, ops.channel_scores([whole.double()], [other.double()], 4)[0])


def test_no_tensor_no_score(route):
    assert ops.channel_scores([], []) == []


def test_what_does_not_match_is_refused():
    a, b = torch.ones(2, 3), torch.ones(3, 2)
    with pytest.raises(DataError, match="weights holds 1 tensors and gradients 2"):
        ops.channel_scores([a], [a, b])
    with pytest.raises(DataError, match=r"gradients\[0\] has shape \[3, 2\] and weights\[0\] \[2, 3\]"):
        ops.channel_scores([a], [b])
    with pytest.raises(DataError, match=r"gradients\[0\] is on meta and weights\[0\] on cpu"):
        ops.channel_scores([a], [a.to("meta")])
    with pytest.raises(DataError, match=r"weights\[0\] is torch\.int64"):
        ops.channel_scores([a.long()], [a])
    with pytest.raises(DataError, match=r"weights\[0\] is a list"):
        ops.channel_scores([[1.0]], [a])
    with pytest.raises(DataError, match="h must be 1 or more, got 0"):
        ops.channel_scores([a], [a], 0)
    with pytest.raises(DataError, match="h holds 1 numbers for 2 tensors"):
        ops.channel_scores([a, a], [a, a], [1])
