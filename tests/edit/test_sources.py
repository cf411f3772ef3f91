# SPDX-License-Identifier: BSD-3-Clause
import numpy as np
import pytest
import torch
from torch import nn

from unlearnkit.edit.sources import check_same_form, edited, scaled, state_of, with_values
from unlearnkit.exceptions import DataError, EditMismatchError, UnsupportedModuleError
from unlearnkit.parameters import bits, digest

# state_of and check_same_form


def test_a_models_state_tells_buffers_from_parameters():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    tensors, buffers = state_of(nn.DataParallel(model))
    assert tensors["0.weight"] is model[0].weight
    assert buffers == {"1.running_mean", "1.running_var", "1.num_batches_tracked"}


def test_a_dict_is_a_state_without_known_buffers():
    state = {"w": torch.zeros(2)}
    assert state_of(state) == (state, set())


def test_anything_else_is_no_state():
    with pytest.raises(TypeError, match="Module or a dict of tensors by name, got list"):
        state_of([torch.zeros(2)])


@pytest.mark.parametrize(
    ("after", "message"),
    [
        ({"a": torch.zeros(2)}, "`after` has no tensor 'b.weight'"),
        (
            {"a": torch.zeros(2), "b.weights": torch.zeros(3)},
            r"`after` has no tensor 'b\.weight' \(did you mean 'b\.weights'\?\)",
        ),
        (
            {"a": torch.zeros(2), "b.weight": torch.zeros(3), "z": torch.zeros(1)},
            "`before` has no tensor 'z'",
        ),
        (
            {"a": torch.zeros(2, 1), "b.weight": torch.zeros(4)},
            r"'a' of `before` has shape \[2\], but \[2, 1\] in `after`",
        ),
        (
            {"a": torch.zeros(2), "b.weight": torch.zeros(3).half()},
            "'b.weight' of `before` is torch.float32, but torch.float16 in `after`",
        ),
    ],
)
def test_states_of_two_models_name_the_first_difference(after, message):
    before = {"a": torch.zeros(2), "b.weight": torch.zeros(3)}
    with pytest.raises(EditMismatchError, match=message):
        check_same_form(before, after)


def test_order_of_names_does_not_matter():
    a, b = torch.zeros(2), torch.ones(2)
    assert check_same_form({"a": a, "b": b}, {"b": b, "a": a}) is None


# edited


def test_changes_follow_the_models_order_and_skip_what_stays():
    state = {"a": torch.zeros(3), "b": torch.zeros(4), "c": torch.zeros(5)}, {"c"}
    new = {"c": torch.ones(5), "b": torch.zeros(4), "a": torch.ones(3)}
    changes, n_weights = edited(state, new, lambda _name, _old, tensor: tensor)
    assert list(changes) == ["a", "c"]
    assert [change.is_buffer for change in changes.values()] == [False, True]
    assert n_weights == 7


def test_an_unknown_name_suggests_a_known_one():
    state = {"fc.weight": torch.zeros(3)}, set()
    with pytest.raises(EditMismatchError, match=r"'fc\.wieght' \(did you mean 'fc\.weight'"):
        edited(state, {"fc.wieght": None}, lambda *_: torch.zeros(3))


@pytest.mark.filterwarnings("ignore:Sparse invariant checks:UserWarning")
def test_a_sparse_tensor_may_stay_but_not_change():
    adjacency = torch.eye(3).to_sparse()
    state = {"adjacency": adjacency, "w": torch.zeros(2)}, {"adjacency"}
    new = {"adjacency": adjacency.clone(), "w": torch.ones(2)}
    changes, _ = edited(state, new, lambda _name, _old, tensor: tensor)
    assert list(changes) == ["w"]
    new["adjacency"] = adjacency * 2
    with pytest.raises(UnsupportedModuleError, match=r"'adjacency' of layout torch\.sparse_coo"):
        edited(state, new, lambda _name, _old, tensor: tensor)


# with_values


def test_values_land_at_flat_positions_in_any_order_and_layout():
    tensor = torch.zeros(3, 2).t()  # [2, 3], not contiguous
    new = with_values("w", tensor, (torch.tensor([4, 0]), torch.tensor([5.0, 7.0])))
    assert new.tolist() == [[7, 0, 0], [0, 5, 0]]
    assert tensor.abs().sum() == 0


def test_values_are_cast_and_may_be_arrays():
    tensor = torch.zeros(4, dtype=torch.bfloat16)
    new = with_values("w", tensor, (np.array([1, 3]), np.array([0.1, 2.0])))
    assert new.dtype == torch.bfloat16
    assert new.tolist() == [0, torch.tensor(0.1).bfloat16().item(), 0, 2]


def test_no_positions_change_nothing():
    tensor = torch.ones(2, 2)
    none = torch.zeros(0)
    assert torch.equal(with_values("w", tensor, (none.long(), none)), tensor)


@pytest.mark.parametrize(
    ("index", "values", "message"),
    [
        ([0, 4], [1.0, 1.0], r"position 4 is outside of the tensor's 4 elements \(0 to 3"),
        ([-1], [1.0], "position -1 is outside"),
        ([1, 2, 1], [1.0, 2.0, 3.0], "a position occurs twice"),
        ([1, 2], [1.0], r"positions of shape \[2\] and values of shape \[1\]"),
        ([[1]], [[1.0]], r"positions of shape \[1, 1\]"),
        ([1.0], [1.0], "positions are torch.float32, expected integers"),
        ([True, False], [1.0, 1.0], "torch.bool, expected integers; for a mask"),
        ([1], [1j], "torch.complex64, which do not fit into torch.float32"),
    ],
)
def test_values_that_do_not_fit_are_refused(index, values, message):
    with pytest.raises(DataError, match=message) as caught:
        with_values("fc.weight", torch.zeros(2, 2), (torch.tensor(index), torch.tensor(values)))
    assert "'fc.weight'" in str(caught.value)


# scaled


def test_factors_multiply_and_one_keeps_every_bit():
    nan = torch.tensor([0x7FC00123], dtype=torch.int32).view(torch.float32)
    tensor = torch.cat([nan, torch.tensor([-0.0, 3.0, 3.0, 3.0])])
    new = scaled("w", tensor, torch.tensor([1.0, 1.0, 1.0, 0.5, 0.0]))
    assert torch.equal(bits(new)[:3], bits(tensor)[:3])
    assert new[3:].tolist() == [1.5, 0.0]


def test_a_product_is_rounded_once():
    tensor = torch.randn(1000).bfloat16()
    factor = torch.rand(1000, dtype=torch.float64)
    assert torch.equal(scaled("w", tensor, factor), (tensor.double() * factor).bfloat16())


def test_factors_that_do_not_fit_are_refused():
    weight = torch.ones(2, 3)
    with pytest.raises(DataError, match=r"'w' have shape \[3\], expected .*\[2, 3\]"):
        scaled("w", weight, torch.ones(3))
    with pytest.raises(DataError, match="2 of 6 are not finite; use 1"):
        scaled("w", weight, torch.tensor([[1, float("nan"), 1], [float("inf"), 1, 1]]))
    with pytest.raises(DataError, match=r"torch\.float32, which do not fit into torch\.int64"):
        scaled("w", weight.long(), torch.ones(2, 3))


def test_sources_do_not_write_to_the_model():
    weight = nn.Parameter(torch.randn(5))
    before = digest(weight)
    with_values("w", weight, (torch.tensor([1]), torch.tensor([9.0])))
    scaled("w", weight, torch.zeros(5))
    assert digest(weight) == before
