# SPDX-License-Identifier: BSD-3-Clause
import doctest
import os

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from unlearnkit.edit import WeightEdit, weight_edit
from unlearnkit.exceptions import EditMismatchError, UnsupportedModuleError
from unlearnkit.parameters import copy_of, digest, named_tensors, unwrap


class Net(nn.Module):
    """Convolutions in channels-last order, BatchNorm, a tied pair, a scalar, a frozen layer."""

    def __init__(self, dtype=torch.float32):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, dtype=dtype).to(memory_format=torch.channels_last)
        self.norm = nn.BatchNorm2d(8, dtype=dtype)
        self.fc = nn.Linear(8, 8, dtype=dtype)
        self.out = nn.Linear(8, 8, dtype=dtype)
        self.out.weight = self.fc.weight
        self.scale = nn.Parameter(torch.ones((), dtype=dtype))
        self.nothing = nn.Parameter(torch.zeros(0, 3, dtype=dtype))
        self.register_buffer("steps", torch.zeros(2, dtype=torch.int64))
        self.out.bias.requires_grad_(False)

    def forward(self, x):
        x = self.norm(self.conv(x)).mean((2, 3))
        return self.out(self.fc(x)) * self.scale


N_WEIGHTS = 8 * 3 * 9 + 8 + 16 + 64 + 8 + 8 + 1


def net(**how):
    torch.manual_seed(0)
    return Net(**how)


def trained(model):
    """Return a copy after two steps of SGD: weights and BatchNorm statistics have moved."""
    model = copy_of(model)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=0.1, momentum=0.9)
    for _ in range(2):
        optimizer.zero_grad()
        model(torch.randn(4, 3, 6, 6)).square().sum().backward()
        optimizer.step()
    return model


def pruned(model, share=0.1):
    """Return an edit that sets a share of the convolution's and the linear layer's weights to 0."""
    factors = {
        name: (torch.rand(named_tensors(model)[name].shape) >= share).float()
        for name in ("conv.weight", "fc.weight")
    }
    return WeightEdit.from_factors(model, factors)


def digests(model):
    return {name: digest(tensor) for name, tensor in named_tensors(model).items()}


@pytest.fixture
def edit():
    return pruned(net())


# The round trip: between, apply, undo, save, load


@given(
    dtype=st.sampled_from([torch.float32, torch.float64, torch.float16, torch.bfloat16]),
    share=st.sampled_from([0.0, 0.02, 0.3, 1.0]),
    seed=st.integers(0, 2**31),
)
def test_every_bit_arrives_comes_back_and_survives_a_file(dtype, share, seed, tmp_path_factory):
    generator = torch.Generator().manual_seed(seed)
    before = net(dtype=dtype)
    after = copy_of(before)
    for tensor in named_tensors(after).values():
        words = torch.randint(0, 256, (*tensor.shape, tensor.element_size()), generator=generator)
        values = words.to(torch.uint8).view(tensor.dtype).view(tensor.shape)
        chosen = torch.rand(tensor.shape, generator=generator) < share
        tensor.data[chosen] = values[chosen]
    start, end = digests(before), digests(after)

    edit = WeightEdit.between(before, after)
    assert digests(edit.apply(before)) == end
    assert digests(before) == start
    path = tmp_path_factory.getbasetemp() / "round-trip.safetensors"
    edit.save(path)
    loaded = WeightEdit.load(path)
    assert loaded == edit
    assert loaded.summary() == edit.summary()
    assert (loaded.n_total, loaded.names, loaded.info) == (edit.n_total, edit.names, edit.info)
    undo = loaded.apply_(before)
    assert digests(before) == end
    redo = undo.apply_(before)
    assert digests(before) == start
    assert redo == edit
    assert edit.n_changed + edit.n_changed_in_buffers == sum(row.changed for row in edit.summary())


def test_training_moves_buffers_too_and_comes_back():
    before = net()
    after = trained(before)
    edit = WeightEdit.between(before, after)
    assert {"norm.running_mean", "norm.num_batches_tracked"} <= set(edit)
    assert edit["norm.running_mean"].is_buffer
    assert "out.bias" not in edit
    assert "out.weight" not in edit, "the tied weight has one name"
    assert digests(edit.apply(before)) == digests(after)


def test_states_may_be_dicts():
    model = net()
    before = {name: tensor.clone() for name, tensor in named_tensors(model).items()}
    after = trained(model)
    edit = WeightEdit.between(before, after)
    assert edit == WeightEdit.between(model, after)
    assert (edit.n_total, edit.n_changed_in_buffers) == (N_WEIGHTS, 17)
    both = WeightEdit.between(before, dict(named_tensors(after)))
    assert both == edit
    assert (both.n_total, both.n_changed_in_buffers) == (N_WEIGHTS + 8 + 8 + 1 + 2, 0)


def test_undo_by_value_where_arithmetic_fails():
    torch.manual_seed(0)
    before = nn.Linear(100, 100, bias=False)
    after = nn.Linear(100, 100, bias=False)
    w, d = before.weight.detach().clone(), (after.weight - before.weight).detach()
    assert not torch.equal((w + d) - d, w), "differences would have lost bits"
    undo = WeightEdit.between(before, after).apply_(before)
    undo.apply_(before)
    assert torch.equal(before.weight, w)


def test_from_values_writes_where_it_is_told():
    model = net()
    model.steps[1] = 5
    values = {
        "steps": (torch.tensor([1, 0]), torch.tensor([5, 9])),  # position 1 holds 5 already
        "conv.weight": (torch.tensor([26]), torch.tensor([3.5])),
    }
    edit = WeightEdit.from_values(model, values, info={"why": "a test"})
    assert edit.names == ["conv.weight", "steps"], "the model's order"
    assert edit.info == {"why": "a test"}
    assert (edit.n_changed, edit.n_changed_in_buffers, edit.n_total) == (1, 1, N_WEIGHTS)
    copy = edit.apply(model)
    assert copy.steps.tolist() == [9, 5]
    assert copy.conv.weight[0, 2, 2, 2] == 3.5


def test_from_factors_multiplies():
    model = net()
    factor = torch.ones(8, 8)
    factor[0], factor[1] = 0.5, 0.0
    edit = WeightEdit.from_factors(model, {"fc.weight": factor})
    copy = edit.apply(model)
    assert torch.equal(copy.fc.weight, model.fc.weight * factor)
    assert copy.out.weight is copy.fc.weight
    assert edit.n_changed == 16


def test_unknown_names_are_refused():
    message = r"no tensor 'out\.weight'.* a tied weight goes by its first name"
    with pytest.raises(EditMismatchError, match=message):
        WeightEdit.from_factors(net(), {"out.weight": torch.ones(8, 8)})  # tied: fc.weight
    with pytest.raises(EditMismatchError, match="`after` has no tensor 'scale'"):
        WeightEdit.between(net(), nn.Linear(2, 2))


# Applying


def compiled(model):
    return torch.compile(model, backend="eager")


@pytest.mark.parametrize("wrap", [nn.DataParallel, compiled], ids=["parallel", "compiled"])
def test_an_edit_fits_the_model_in_any_wrapper(wrap, edit):
    wrapped = wrap(net())
    copy = edit.apply(wrapped)
    assert type(copy) is type(wrapped)
    assert digests(copy) == digests(edit.apply(net()))
    assert digests(wrapped) == digests(net())
    assert pruned(wrap(net())).names == edit.names
    edit.apply_(wrapped)
    assert digests(unwrap(wrapped)) == digests(copy)


def test_in_place_means_in_place(edit):
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    held = {name: (id(t), t.data_ptr(), t.stride()) for name, t in named_tensors(model).items()}
    undo = edit.apply_(model)
    assert held == {n: (id(t), t.data_ptr(), t.stride()) for n, t in named_tensors(model).items()}
    assert optimizer.param_groups[0]["params"][0] is model.scale
    assert model.out.weight is model.fc.weight
    assert model.conv.weight.is_contiguous(memory_format=torch.channels_last)
    assert undo.is_undo
    assert not edit.is_undo


def test_flags_and_gradients_are_left_alone(edit):
    model = net().eval()
    model.fc.requires_grad_(False)
    model.conv.weight.grad = torch.ones_like(model.conv.weight)
    edit.apply_(model)
    assert not model.training
    assert [p.requires_grad for p in model.fc.parameters()] == [False, False]
    assert model.conv.weight.requires_grad
    assert torch.equal(model.conv.weight.grad, torch.ones_like(model.conv.weight))


def test_a_channels_last_model_and_its_contiguous_twin_take_one_edit(edit):
    twin = net().to(memory_format=torch.contiguous_format)
    assert twin.conv.weight.is_contiguous()
    assert digests(edit.apply(twin)) == digests(edit.apply(net()))


@pytest.mark.cuda
def test_an_edit_fits_the_model_on_a_gpu(edit, tmp_path):
    model = net().cuda()
    assert pruned(net()).names == edit.names
    undo = edit.apply_(model)
    assert digests(model) == digests(edit.apply(net()))
    assert all(t.is_cuda for t in named_tensors(model).values())
    undo.apply_(model)
    assert digests(model) == digests(net())
    there = WeightEdit.from_factors(model, {"fc.weight": torch.zeros(8, 8)})
    assert there == WeightEdit.from_factors(net(), {"fc.weight": torch.zeros(8, 8)})
    assert WeightEdit.between(net(), there.apply(model)) == there


def test_another_model_is_refused_before_anything_is_written_or_copied(edit, monkeypatch):
    other = net()
    other.fc.weight.data[0, 0] += 1
    before = digests(other)
    monkeypatch.setattr(weight_edit, "copy_of", lambda _: pytest.fail("copied in vain"))
    for apply in (edit.apply, edit.apply_):
        with pytest.raises(EditMismatchError, match=r"'fc\.weight' .* other values"):
            apply(other)
    assert digests(other) == before


def test_twice_is_refused_and_so_is_undoing_twice(edit):
    model = net()
    undo = edit.apply_(model)
    with pytest.raises(EditMismatchError, match="already applied"):
        edit.apply_(model)
    undo.apply_(model)
    with pytest.raises(EditMismatchError, match="already applied"):
        undo.apply_(model)
    assert digests(model) == digests(net())


def test_edits_stack_and_unwind():
    model = net()
    first = pruned(model).apply_(model)
    middle = digests(model)
    second = WeightEdit.between(model, trained(model)).apply_(model)
    with pytest.raises(EditMismatchError):
        first.apply_(model)
    second.apply_(model)
    assert digests(model) == middle
    first.apply_(model)
    assert digests(model) == digests(net())


def test_what_the_edit_does_not_touch_may_differ(edit):
    model = net()
    model.steps += 1
    assert edit.apply(model).steps.tolist() == [1, 1]


def test_a_model_that_cannot_be_copied_is_edited_in_place():
    model = nn.Linear(2, 2)
    model.seen = [model(torch.zeros(1, 2))]
    edit = WeightEdit.from_factors(model, {"weight": torch.zeros(2, 2)})
    with pytest.raises(UnsupportedModuleError, match="apply_"):
        edit.apply(model)
    edit.apply_(model)
    assert model.weight.tolist() == [[0, 0], [0, 0]]


# Equality and notes


def test_equality_is_of_what_happens():
    model = net()
    edit = pruned(model)
    same = WeightEdit.between(model, edit.apply(model), info={"made": "otherwise"})
    assert edit == same
    assert edit != pruned(model)
    assert edit != "edit"
    target = net()
    undo = edit.apply_(target)
    assert undo != edit
    assert undo != WeightEdit.between(target, model), "one may be saved, the other not"


def test_notes_are_text_and_are_copied(edit, tmp_path):
    notes = {"ticket": "17"}
    noted = WeightEdit.between(net(), net(), info=notes)
    notes["ticket"] = "18"
    assert noted.info == {"ticket": "17"}
    with pytest.raises(TypeError, match=r"text by text, got 'n': 17; use str"):
        WeightEdit.between(net(), net(), info={"n": 17})
    edit.info["n"] = 17
    with pytest.raises(TypeError, match="got 'n': 17"):
        edit.save(tmp_path / "edit")
    assert not os.listdir(tmp_path)


def test_docstring_examples():
    results = doctest.testmod(weight_edit)
    assert results.attempted > 0
    assert results.failed == 0
