# SPDX-License-Identifier: BSD-3-Clause
"""What a WeightEdit says about itself: repr, summary, counts."""

import torch
from torch import nn

from unlearnkit.edit import WeightEdit
from unlearnkit.parameters import copy_of, digest, named_tensors


def test_repr_counts_weights_and_names_the_module():
    model = nn.Sequential(nn.Linear(100, 100), nn.BatchNorm1d(100))
    zeros = {"0.weight": (torch.arange(37), torch.zeros(37))}
    shown = "WeightEdit: 37 of 10,300 weights (0.36 %), most in 0"
    edit = WeightEdit.from_values(model, zeros)
    assert repr(edit) == shown
    assert repr(edit.apply_(model)) == shown.replace("WeightEdit", "WeightEdit (undo)")
    empty = WeightEdit.between(model, model)
    assert repr(empty) == "WeightEdit: 0 of 10,300 weights (nothing to change)"
    other = copy_of(model)
    other[1].running_mean += 1
    shown = "WeightEdit: 0 of 10,300 weights (0.00 %) and 100 buffer values, most in 1"
    assert repr(WeightEdit.between(model, other)) == shown
    large = nn.Linear(300, 300)
    one = WeightEdit.from_values(large, {"bias": (torch.tensor([0]), torch.tensor([9.0]))})
    assert repr(one) == "WeightEdit: 1 of 90,300 weights (< 0.01 %), most in bias"


def test_summary_and_counts():
    model = nn.Module()
    model.conv, model.fc = nn.Conv2d(3, 8, 3), nn.Linear(8, 8)
    model.register_buffer("steps", torch.zeros(2, dtype=torch.int64))
    values = {
        name: (torch.arange(k), torch.full((k,), 7))
        for name, k in [("conv.weight", 3), ("conv.bias", 1), ("fc.weight", 8), ("steps", 1)]
    }
    edit = WeightEdit.from_values(model, values)
    assert edit.summary() == [
        ("fc.weight", 8, 64, 8 / 64),
        ("conv.weight", 3, 216, 3 / 216),
        ("conv.bias", 1, 8, 1 / 8),
        ("steps", 1, 2, 1 / 2),
    ]
    assert edit.summary()[0].share == 1 / 8
    assert (len(edit), edit.n_changed, edit.n_changed_in_buffers) == (4, 12, 1)
    assert edit.density == 12 / (216 + 8 + 64 + 8)
    assert edit.names == list(edit) == ["conv.weight", "conv.bias", "fc.weight", "steps"]
    assert edit["conv.bias"].values.tolist() == [7]
    assert "fc.bias" not in edit


def test_an_empty_edit_is_false_and_harmless(tmp_path):
    model = nn.Linear(3, 2)
    before = {name: digest(tensor) for name, tensor in named_tensors(model).items()}
    edit = WeightEdit.between(model, copy_of(model))
    assert not edit
    assert (len(edit), edit.density, edit.summary(), edit.n_total) == (0, 0.0, [], 8)
    edit.save(tmp_path / "edit")
    undo = WeightEdit.load(tmp_path / "edit").apply_(model)
    assert not undo
    assert {name: digest(tensor) for name, tensor in named_tensors(model).items()} == before
    assert WeightEdit.between(nn.ReLU(), nn.ReLU()).density == 0.0
