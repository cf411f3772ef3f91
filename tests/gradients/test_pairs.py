# SPDX-License-Identifier: BSD-3-Clause
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unlearnkit.gradients import pairs
from unlearnkit.gradients.pairs import (
    Direct,
    Lookup,
    Outer,
    Region,
    accumulation_dtype,
    add_square_sum,
    stacked,
    upcast,
)
from unlearnkit.ops import _native
from unlearnkit.ops.workspace import Workspace

BACKENDS = ("auto", "torch")
DOUBLE = {"dtype": torch.float64}


def whole(tensor):
    return Region.of(tensor, tensor)


def dense(contribution):
    """The per-sample gradients [N, *shape], through the contribution's own slices."""
    return torch.cat([contribution.gradients(i, i + 1, Workspace()) for i in range(contribution.n)])


def square_sum(contribution, *shape):
    """What a contribution adds to zeros."""
    shape = shape or contribution.gradients(0, 0, Workspace()).shape[1:]
    total = torch.zeros(shape, **DOUBLE)
    contribution.add_square_sum(total, Workspace())
    return total


def outer(n, groups, positions, inputs, outputs, dtype=torch.float64):
    a = torch.randn(n, groups, positions, inputs, dtype=dtype)
    g = torch.randn(n, groups, positions, outputs, dtype=dtype)
    shape = torch.Size([groups * outputs, inputs])
    true = torch.einsum("ngti,ngto->ngoi", a, g).reshape(n, *shape)
    return Outer(a, g, lambda a, g, workspace: (a, g), shape), true


sizes = st.integers(1, 4)


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=60)
@given(
    n=st.integers(0, 5),
    groups=sizes,
    positions=sizes,
    inputs=sizes,
    outputs=sizes,
    memory=st.sampled_from([1, 200, 2**26]),
)
def test_outer(n, groups, positions, inputs, outputs, memory, backend):
    contribution, true = outer(n, groups, positions, inputs, outputs)
    with pytest.MonkeyPatch.context() as patch, _native.using(backend):
        patch.setattr(pairs, "CHUNK_BYTES", memory)  # sample by sample, some, all at once
        found = square_sum(contribution, *contribution.shape)
    assert torch.allclose(found, true.square().sum(0), rtol=1e-12)
    if n:
        assert torch.allclose(dense(contribution), true, rtol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_large_gradient_is_squared_in_tiles(backend):
    contribution, true = outer(3, 1, 5, 600, 500, torch.float32)
    with _native.using(backend):
        found = square_sum(contribution)
    assert torch.allclose(found, true.double().square().sum(0), rtol=1e-4, atol=1e-4)


def test_direct():
    values = torch.randn(4, 3, 2, **DOUBLE)
    assert torch.equal(square_sum(Direct(values)), values.square().sum(0))
    assert torch.equal(dense(Direct(values)), values)


@settings(max_examples=40)
@given(n=st.integers(1, 4), positions=sizes, rows=sizes, rest=st.lists(sizes, max_size=2))
def test_lookup_adds_repeated_indices_before_it_squares(n, positions, rows, rest):
    index = torch.randint(0, rows, (n, positions))
    width = torch.Size(rest).numel()
    g = torch.randn(n, positions, width, **DOUBLE)
    true = torch.zeros(n, rows, width, **DOUBLE)
    for sample in range(n):
        true[sample].index_add_(0, index[sample], g[sample])
    true = true.view(n, rows, *rest)
    contribution = Lookup(index, g, torch.Size([rows, *rest]))
    assert torch.allclose(square_sum(contribution), true.square().sum(0))
    assert torch.allclose(dense(contribution), true)


VIEWS = {
    "itself": lambda w: w,
    "transposed": lambda w: w.t(),
    "row block": lambda w: w[1:3],
    "column": lambda w: w[:, 1],
    "every other": lambda w: w[::2, ::3],
    "viewed": lambda w: w.view(2, 2, 6) if w.is_contiguous() else w.t(),
}


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("turned", [False, True])
def test_a_region_is_the_same_part_of_another_tensor(view, turned):
    w = torch.randn(6, 4, **DOUBLE).t() if turned else torch.randn(4, 6, **DOUBLE)
    part = VIEWS[view](w)
    region = Region.of(part, w)
    assert torch.equal(region.within(w), part)
    like = torch.zeros_like(w)
    region.within(like).add_(1)
    assert float(like.sum()) == part.numel()
    stack = torch.zeros(3, w.numel(), **DOUBLE)
    region.within(stack, 3)[1].copy_(part)
    assert torch.equal(VIEWS[view](whole(w).within(stack, 3)[1]), part)
    assert not stack[0].any()


@pytest.mark.parametrize("memory", [1, 2**26])
@pytest.mark.parametrize("turned", [False, True])
def test_uses_that_overlap_are_added_before_they_are_squared(monkeypatch, memory, turned):
    monkeypatch.setattr(pairs, "CHUNK_BYTES", memory)
    w = torch.randn(6, 4, **DOUBLE).t() if turned else torch.randn(4, 6, **DOUBLE)
    uses = [(whole(w), Direct(torch.randn(5, 4, 6, **DOUBLE))) for _ in range(2)]
    uses.append((Region.of(w.t(), w), Direct(torch.randn(5, 6, 4, **DOUBLE))))
    uses.append((Region.of(w[1:3], w), Direct(torch.randn(5, 2, 6, **DOUBLE))))
    true = uses[0][1].values + uses[1][1].values + uses[2][1].values.mT
    true[:, 1:3] += uses[3][1].values
    total = torch.ones_like(w)
    add_square_sum(total, uses, Workspace(), torch.float64)
    assert torch.allclose(total, 1 + true.square().sum(0))
    assert torch.allclose(stacked(w, uses, 2, 4, Workspace(), torch.float64), true[2:4])


def test_uses_side_by_side_are_squared_one_by_one():
    w = torch.randn(4, 6, **DOUBLE)
    parts = [Direct(torch.randn(5, 2, 6, **DOUBLE)) for _ in range(2)]
    total = torch.zeros_like(w)
    add_square_sum(total, [(Region.of(w[:2], w), parts[0]), (Region.of(w[2:], w), parts[1])], Workspace())
    true = torch.cat([part.values for part in parts], 1).square().sum(0)
    assert torch.allclose(total, true)


def test_halves_are_squared_in_float32():
    tiny = torch.full((2, 3), 1e-6, dtype=torch.float16)  # its square is zero in float16
    assert upcast(tiny).dtype == accumulation_dtype(torch.float16) == torch.float32
    assert accumulation_dtype(torch.bfloat16) == torch.float32
    assert accumulation_dtype(torch.float64) == torch.float64
    contribution = Outer(tiny, tiny, lambda a, g, w: (a[:, None, None], g[:, None, None]), torch.Size([3, 3]))
    assert bool((square_sum(contribution) > 0).all())
    lookup = Lookup(torch.zeros(2, 1, dtype=torch.long), tiny[:, None], torch.Size([1, 3]))
    assert bool((square_sum(lookup) > 0).all())


def test_buffers_are_used_again():
    workspace, like = Workspace(), torch.empty(0)
    first = workspace.take("a", (4, 5), like)
    assert workspace.take("a", (2, 3), like).data_ptr() == first.data_ptr()
    assert workspace.take("b", (2, 3), like).data_ptr() != first.data_ptr()
    assert workspace.take("a", (9, 9), like).shape == (9, 9)
    assert workspace.take("a", (2,), like.double()).dtype == torch.float64
