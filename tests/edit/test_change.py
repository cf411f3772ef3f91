# SPDX-License-Identifier: BSD-3-Clause
import copy
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unlearnkit.edit.change import Change
from unlearnkit.parameters import bits, digest

DTYPES = [
    torch.float32,
    torch.float64,
    torch.float16,
    torch.bfloat16,
    torch.float8_e4m3fn,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.uint16,
    torch.bool,
    torch.complex64,
    torch.complex128,
]


def laid_out(tensor, layout):
    """Return a copy of a tensor with the given strides, and the memory that it lies in."""
    if layout == "transposed":
        axes = list(range(tensor.dim()))[::-1]
        memory = tensor.permute(axes).contiguous()
        return memory.permute(axes), memory
    if layout == "spread":  # every other element of a larger memory
        memory = torch.zeros(*tensor.shape, 2, dtype=tensor.dtype)
        memory[..., 0] = tensor
        return memory[..., 0], memory
    memory = tensor.clone()
    return memory, memory


@st.composite
def pairs(draw):
    """Draw two tensors of random bits that differ in `k` elements: (before, after, k)."""
    dtype = draw(st.sampled_from(DTYPES))
    shape = draw(st.lists(st.integers(0, 7), max_size=4))
    seed = draw(st.integers(0, 2**31))
    generator = torch.Generator().manual_seed(seed)
    n = torch.Size(shape).numel()
    high = 2 if dtype is torch.bool else 256  # every byte, so NaN payloads and subnormals too
    raw = torch.randint(0, high, (n, dtype.itemsize), generator=generator, dtype=torch.uint8)
    k = draw(st.sampled_from([0, 1, n // 10, n // 3, n]).map(lambda k: min(k, n)))
    edited = raw.clone()
    edited[torch.randperm(n, generator=generator)[:k], -1] ^= 1
    if n == 0:
        return torch.empty(shape, dtype=dtype), torch.empty(shape, dtype=dtype), 0
    return raw.view(dtype).view(shape), edited.view(dtype).view(shape), k


@given(pair=pairs(), layout=st.sampled_from(["contiguous", "transposed", "spread"]))
def test_writing_a_change_and_its_reverse_is_exact(pair, layout):
    before, after, k = pair
    change = Change.between(before, laid_out(after, layout)[0], is_buffer=True)
    if k == 0:
        assert change is None
        return
    assert change.n_changed == k
    assert change.shape == tuple(before.shape)
    assert change.dtype == before.dtype
    assert change.is_buffer

    tensor, memory = laid_out(before, layout)
    untouched = memory[..., 1].clone() if layout == "spread" else None
    reverse = change.reversed(tensor)
    address, stride = tensor.data_ptr(), tensor.stride()
    change.write(tensor)
    assert digest(tensor) == digest(after) == change.after
    reverse.write(tensor)
    assert digest(tensor) == digest(before) == change.before
    assert (tensor.data_ptr(), tensor.stride()) == (address, stride)
    if untouched is not None:
        assert torch.equal(bits(memory[..., 1]), bits(untouched))


@given(pair=pairs())
def test_parts_make_the_change_again(pair):
    change = Change.between(*pair[:2])
    if change is None:
        return
    row, tensors = change.to_parts("a.weight")
    again = Change.from_parts("a.weight", row, tensors)
    target = pair[0].clone()
    again.write(target)
    assert digest(target) == change.after
    assert {**vars(again), "index": 0, "values": 0} == {**vars(change), "index": 0, "values": 0}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_smaller_form_is_kept(dtype):
    n = 600
    for k in range(1, n + 1, 7):
        after = torch.zeros(n, dtype=dtype)
        after[:k] = 1
        change = Change.between(torch.zeros(n, dtype=dtype), after)
        sparse, dense = k * (4 + dtype.itemsize), n * dtype.itemsize
        kept = change.values.nbytes + (0 if change.index is None else change.index.nbytes)
        assert kept == min(sparse, dense)


def test_positions_are_ascending_int32_in_c_order():
    after = torch.zeros(3, 40).t()
    after[39, 0] = after[2, 1] = 1.0
    change = Change.between(torch.zeros(40, 3), after)
    assert change.index.tolist() == [2 * 3 + 1, 39 * 3]
    assert change.index.dtype == torch.int32


def test_values_are_a_copy():
    for after in (torch.ones(3), torch.eye(20)):  # whole, and by positions
        change = Change.between(torch.zeros_like(after), after)
        kept = change.values.clone()
        after.fill_(5.0)
        assert torch.equal(change.values, kept)


def test_a_reverse_does_not_follow_the_tensor():
    tensor = torch.zeros(3)
    change = Change.between(tensor, torch.ones(3))
    reverse = change.reversed(tensor)
    change.write(tensor)
    assert reverse.values.tolist() == [0, 0, 0]


def test_a_leaf_that_requires_gradients_is_written_and_autograd_notices():
    weight = torch.zeros(3, requires_grad=True)
    loss = (weight * weight).sum()
    Change.between(weight, torch.ones(3)).write(weight)
    assert weight.is_leaf
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_channels_last_and_conjugate_views():
    weight = torch.randn(4, 3, 5, 5).to(memory_format=torch.channels_last)
    after = weight.clone()
    after[1, 2, 3, 4] = 7.0
    Change.between(weight.contiguous(), after).write(weight)
    assert torch.equal(weight, after)
    view = torch.randn(50, dtype=torch.complex64).conj()
    after = view.resolve_conj().clone()
    after[3] = 1 + 2j
    change = Change.between(view, after)
    change.write(view)
    assert torch.equal(view, after)
    assert view.is_conj()


@pytest.mark.cuda
def test_a_change_made_on_the_cpu_fits_the_gpu():
    before, after = torch.randn(4, 3, 8, 8), torch.randn(4, 3, 8, 8)
    after[:3] = before[:3]
    change = Change.between(before.cuda(), after)
    assert change.values.device.type == change.index.device.type == "cpu"
    tensor = before.cuda().to(memory_format=torch.channels_last)
    reverse = change.reversed(tensor)
    change.write(tensor)
    assert digest(tensor) == digest(after)
    reverse.write(tensor)
    assert digest(tensor) == digest(before)


def test_pickle_and_deepcopy():
    change = Change.between(torch.zeros(50), torch.eye(50)[7])
    for again in (pickle.loads(pickle.dumps(change)), copy.deepcopy(change)):
        assert again.index.tolist() == [7]
        assert again.values.tolist() == [1.0]
        assert again.values.data_ptr() != change.values.data_ptr()


def sparse(**parts):
    index = torch.tensor([1, 5], dtype=torch.int32)
    after = torch.zeros(50)
    after[[1, 5]] = 1.0
    row, tensors = Change.between(torch.zeros(50), after).to_parts("w")
    assert torch.equal(tensors["w:index"], index)
    return {**row, **parts}, tensors


@pytest.mark.parametrize(
    ("row", "tensors", "message"),
    [
        ({"n_changed": 0}, {}, "0 changed elements of 50"),
        ({"n_changed": 51}, {}, "51 changed elements of 50"),
        ({"shape": [2]}, {"w:index": torch.tensor([0, 5])}, "positions from 0 to 5 among 2"),
        ({}, {"w:index": torch.tensor([-1, 5])}, "positions from -1 to 5 among 50"),
        ({}, {"w:index": torch.tensor([1, 50])}, "positions from 1 to 50 among 50"),
        ({}, {"w:index": torch.tensor([5, 1])}, "not in ascending order"),
        ({}, {"w:index": torch.tensor([5, 5])}, "occur twice"),
        ({}, {"w:index": torch.tensor([1, 3, 5])}, r"positions of shape \[3\]"),
        ({}, {"w:index": torch.tensor([1.0, 5.0])}, "positions of shape .* torch.float32"),
        ({}, {"w:values": torch.ones(3)}, r"new values of shape \[3\], expected \[2\]"),
        ({"dtype": "float64"}, {}, "torch.float64, its new values are torch.float32"),
    ],
)
def test_parts_that_cannot_be_applied_are_refused(row, tensors, message):
    good_row, good_tensors = sparse()
    with pytest.raises(ValueError, match=message):
        Change.from_parts("w", {**good_row, **row}, {**good_tensors, **tensors})


def test_a_whole_tensor_of_another_size_is_refused():
    row, tensors = Change.between(torch.zeros(4), torch.ones(4)).to_parts("w")
    with pytest.raises(ValueError, match=r"new values of shape \[3\], expected \[4\]"):
        Change.from_parts("w", row, {"w:values": tensors["w:values"][:3]})
