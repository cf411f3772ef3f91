# SPDX-License-Identifier: BSD-3-Clause
import math

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from unlearnkit import ops
from unlearnkit.exceptions import DataError
from unlearnkit.ops import _native, squares
from unlearnkit.ops.workspace import Workspace

CPU = torch.device("cpu")
native = pytest.mark.skipif(_native.module() is None, reason="no compiled module")
with_kernels = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


@st.composite
def problems(draw):
    """Sizes of a convolution that has a position at least, and a seed for the values."""
    rank = draw(st.integers(1, 3))
    few = st.integers(1, 3)
    kernel, stride, dilation = (tuple(draw(few) for _ in range(rank)) for _ in range(3))
    padding = tuple(draw(st.integers(0, 2)) for _ in range(rank))
    smallest = [d * (k - 1) + 1 - 2 * p for k, d, p in zip(kernel, dilation, padding, strict=True)]
    space = tuple(max(1, least) + draw(st.integers(0, 8)) for least in smallest)
    return {
        "n": draw(st.integers(1, 4)),
        "groups": draw(few),
        "channels": draw(st.integers(1, 9)),
        "outputs": draw(st.sampled_from([1, 2, 3, 5, 8, 16, 17, 40, 70])),
        "space": space,
        "kernel": kernel,
        "stride": stride,
        "padding": padding,
        "dilation": dilation,
        "layouts": draw(st.tuples(st.sampled_from(LAYOUTS), st.sampled_from(LAYOUTS))),
        "seed": draw(st.integers(0, 2**16)),
    }


LAYOUTS = ("contiguous", "channels last", "sliced", "shifted", "expanded")


def laid_out(tensor, layout):
    """The same shape and, but for what is expanded, the same values, laid out in memory in another way."""
    if layout == "channels last":
        return tensor.movedim(1, -1).contiguous().movedim(-1, 1)
    if layout == "sliced":  # every second number of a larger tensor
        return torch.stack([tensor, torch.full_like(tensor, math.nan)], -1)[..., 0]
    if layout == "shifted":  # not aligned to more than a number
        return torch.cat([tensor.new_full((1,), math.nan), tensor.flatten()])[1:].view(tensor.shape)
    if layout == "expanded":  # as the gradient of a mean over space
        return tensor[..., :1].expand_as(tensor)
    return tensor


def made(problem, dtype):
    torch.manual_seed(problem["seed"])
    groups = problem["groups"]
    x = torch.randn(problem["n"], groups * problem["channels"], *problem["space"], dtype=torch.float64)
    sizes = zip(*(problem[key] for key in ("space", "kernel", "stride", "padding", "dilation")), strict=True)
    positions = [(size + 2 * p - d * (k - 1) - 1) // s + 1 for size, k, s, p, d in sizes]
    g = torch.randn(problem["n"], groups * problem["outputs"], *positions, dtype=torch.float64)
    return (laid_out(t.to(dtype), layout) for t, layout in zip((x, g), problem["layouts"], strict=True))


def truth(problem, x, g):
    """sum_n of the squares that autograd finds, a sample at a time, in float64."""
    groups = problem["groups"]
    weight = torch.zeros(groups * problem["outputs"], problem["channels"], *problem["kernel"]).double()
    weight.requires_grad_()
    function = getattr(torch.nn.functional, f"conv{x.dim() - 2}d")
    total = torch.zeros_like(weight).detach()
    for one, gradient in zip(x.double().split(1), g.double().split(1), strict=True):
        out = function(one, weight, None, *(problem[k] for k in ("stride", "padding", "dilation")), groups)
        total += torch.autograd.grad(out, weight, gradient)[0] ** 2
    return total


def square_sum(problem, x, g, dtype=torch.float64):
    shape = (problem["groups"] * problem["outputs"], problem["channels"], *problem["kernel"])
    total = torch.zeros(shape, dtype=dtype)
    geometry = (problem[key] for key in ("stride", "padding", "dilation", "groups"))
    return ops.square_sum_(total, x, g, *geometry)


@with_kernels
@given(problem=problems())
def test_equals_autograd_in_float64(kernels, problem):
    x, g = made(problem, torch.float64)
    torch.testing.assert_close(square_sum(problem, x, g), truth(problem, x, g), rtol=1e-12, atol=1e-12)


@with_kernels
@given(problem=problems(), wide=st.booleans())
def test_equals_autograd_in_float32(kernels, problem, wide):
    x, g = made(problem, torch.float32)
    true = truth(problem, x, g)
    found = square_sum(problem, x, g, torch.float64 if wide else torch.float32)
    # of the largest a sum can be: what cancels has no digits of its own
    scale = truth(problem, x.abs(), g.abs())
    assert bool(((found - true).abs() <= 1e-5 * scale).all())


@with_kernels
@given(n=st.integers(1, 5), t=st.integers(1, 300), i=st.integers(1, 60), o=st.integers(1, 150))
def test_tokens(kernels, n, t, i, o):
    torch.manual_seed(0)
    x, g = torch.randn(n, t, i).double(), torch.randn(n, t, o).double()
    total = torch.zeros(o, i, 1).double()
    ops.square_sum_(total, x.mT, g.mT)
    true = torch.einsum("nti,nto->noi", x, g).square().sum(0)
    torch.testing.assert_close(total[..., 0], true, rtol=1e-12, atol=1e-12)


@native
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("outputs", [1, 3, 70])
def test_any_number_of_threads_gives_the_same_bits(kernels, two_threads, dtype, outputs):
    torch.manual_seed(0)
    x, g = torch.randn(40, 12, 9, 8, dtype=dtype), torch.randn(40, 2 * outputs, 9, 8, dtype=dtype)
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        total = torch.zeros(2 * outputs, 6, 3, 3, dtype=torch.float64)
        results.append(ops.square_sum_(total, x, g, padding=1, groups=2))
    assert torch.equal(*results)


def test_adds_to_what_is_there(kernels):
    x, g = torch.randn(3, 2, 5), torch.randn(3, 4, 5)
    total = torch.full((4, 2, 1), 7.0)
    assert ops.square_sum_(total, x, g) is total
    torch.testing.assert_close(total, 7 + ops.square_sum_(torch.zeros(4, 2, 1), x, g))


def test_poison_in_the_workspace_is_not_read(kernels):
    class Poisoned(Workspace):
        def take(self, slot, shape, like):
            return super().take(slot, shape, like).fill_(math.nan)

    for groups, outputs in ((1, 5), (4, 1), (1, 1)):
        x, g = torch.randn(3, 4, 7, 5), torch.randn(3, outputs * groups, 4, 3)
        totals = [torch.zeros(outputs * groups, 4 // groups, 3, 3) for _ in range(2)]
        for total, workspace in zip(totals, (None, Poisoned()), strict=True):
            ops.square_sum_(total, x, g, 2, 1, groups=groups, workspace=workspace)
        assert torch.equal(*totals) and bool((totals[0] > 0).all())


def test_what_lies_behind_x_is_zero(kernels):
    # positions that reach beyond the padding, as those of padding="same" with an even kernel do
    x, g = torch.randn(2, 3, 6).double(), torch.randn(2, 4, 6).double()
    weight = torch.zeros(4, 3, 4, dtype=torch.float64, requires_grad=True)
    true = torch.zeros(4, 3, 4).double()
    for one, gradient in zip(x.split(1), g.split(1), strict=True):
        out = torch.nn.functional.conv1d(torch.nn.functional.pad(one, (1, 2)), weight)
        true += torch.autograd.grad(out, weight, gradient)[0] ** 2
    torch.testing.assert_close(ops.square_sum_(torch.zeros(4, 3, 4).double(), x, g, padding=1), true)


@pytest.mark.parametrize(
    ("x", "g", "total"),
    [((0, 3, 4), (0, 2, 4), (2, 3, 1)), ((2, 3, 4), (2, 2, 0), (2, 3, 1)), ((2, 0, 4), (2, 2, 4), (2, 0, 1)),
     ((2, 3, 4), (2, 0, 4), (0, 3, 1))],
)  # fmt: skip
def test_nothing_adds_nothing(kernels, x, g, total):
    total = torch.full(total, 3.0)
    assert bool((ops.square_sum_(total, torch.ones(x), torch.ones(g)) == 3).all())


X, G, TOTAL = torch.zeros(2, 6, 5), torch.zeros(2, 4, 5), torch.zeros(4, 3, 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((TOTAL, X[0], G), "one number of dimensions, 3 to 5; they have 2, 3 and 3"),
        ((TOTAL, X.half(), G.half()), "Cast half precision to float32"),
        ((TOTAL, X, G.double()), "one dtype"),
        ((TOTAL.int(), X, G), "total needs dtype float64 or torch.float32"),
        ((TOTAL.transpose(0, 1).contiguous().transpose(0, 1), X, G), "total must be contiguous"),
        ((TOTAL, X, G, 0), "at least 1"),
        ((TOTAL, X, G, 1, -1), "at least 0"),
        ((TOTAL, X, G, (1, 1)), r"\[1, 1\] has 2 numbers for 1 dimensions"),
        ((TOTAL, X, G, 1, 0, 1, 1), r"goes with x \[N, 3, \.\.\.\]"),
        ((TOTAL, X, G[:1], 1, 0, 1, 2), r"got x \[2, 6, 5\] and g \[1, 4, 5\]"),
        ((TOTAL[:3], X, G[:, :3], 1, 0, 1, 2), "whose outputs the groups divide"),
        ((TOTAL, X, G, 1, 0, 1, 2, None, "half"), "precision='half' is not known: use one of"),
    ],
)
def test_what_does_not_fit_is_refused(arguments, message):
    with pytest.raises(DataError, match=message):
        ops.square_sum_(*arguments)


@native
def test_a_kernel_that_disagrees_fails_its_check(monkeypatch):
    run = squares._square_sum.on(CPU)
    assert squares._agrees(run, CPU)

    def slightly_wrong(problem, x, g, total, *rest):
        run(problem, x, g, total, *rest)
        run(problem, x, g, total, *rest)

    assert not squares._agrees(slightly_wrong, CPU)
