# SPDX-License-Identifier: BSD-3-Clause
"""``unlearnkit apply``: edits on files."""

import pytest
import torch
from safetensors.torch import load_file as tensors
from safetensors.torch import save_file

from unlearnkit import WeightEdit
from unlearnkit.cli._names import Name


@pytest.fixture
def edited(forget):
    assert forget("--forget-class", "2", "--out", "clean.safetensors", "--edit", "edit.safetensors").code == 0


@pytest.fixture
def apply(edited, run):
    return lambda *arguments: run(
        "apply", "--edit", "edit.safetensors", "--out", "new.safetensors", *arguments
    )


@pytest.mark.parametrize("model", [[], ["--model", "train.py:build"]])
def test_it_gives_the_file_that_forget_wrote(apply, folder, model):
    ran = apply("--weights", "model.safetensors", *model)
    assert ran.code == 0
    assert (folder / "new.safetensors").read_bytes() == (folder / "clean.safetensors").read_bytes()


def test_names_metadata_and_prefixes_stay(apply):
    wrapped = {f"module.{name}": one for name, one in tensors("model.safetensors").items()}
    save_file(wrapped, "wrapped.safetensors")
    assert apply("--weights", "wrapped.safetensors").code == 0
    new, clean = tensors("new.safetensors"), tensors("clean.safetensors")
    assert all(torch.equal(new[f"module.{name}"], one) for name, one in clean.items())


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ("clean.safetensors", "clean.safetensors: the edit is applied to it already"),
        ("oracle.safetensors", "oracle.safetensors: tensor '0.weight' of the model holds other values"),
        ("data.safetensors", "the model has no tensor '0.weight'"),
        (
            "edit.safetensors",
            "holds a unlearnkit.WeightEdit, not a model's weights: give the model's checkpoint",
        ),
    ],
)
def test_another_checkpoint_is_refused(apply, folder, weights, message):
    ran = apply("--weights", weights)
    assert ran.code == 1
    assert message in ran.err
    assert not (folder / "new.safetensors").exists()


def test_a_file_that_is_no_edit_is_refused(run, folder):
    ran = run(
        "apply", "--weights", "model.safetensors", "--edit", "oracle.safetensors", "--out", "new.safetensors"
    )
    assert (ran.code, "not one of unlearnkit" in ran.err) == (1, True)


TIED = """
from torch import nn


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
        self.last.weight = self.first.weight
"""


def test_tied_weights_need_the_model(run, folder):
    (folder / "tied.py").write_text(TIED)
    model = Name.parse("tied.py:Tied", "").make()
    save_file({name: one.clone() for name, one in model.state_dict().items()}, "tied.safetensors")
    edit = WeightEdit.from_factors(model, {"first.weight": torch.full((4, 4), 0.5)})
    edit.save("edit.safetensors")
    arguments = [
        "apply",
        "--weights",
        "tied.safetensors",
        "--edit",
        "edit.safetensors",
        "--out",
        "new.safetensors",
    ]
    ran = run(*arguments)
    assert ran.code == 1
    assert "'last.weight' holds the same values as 'first.weight'" in ran.err
    assert run(*arguments, "--model", "tied.py:Tied").code == 0
    new = tensors("new.safetensors")
    assert torch.equal(new["first.weight"], new["last.weight"])
    assert torch.equal(new["first.weight"], 0.5 * model.first.weight)
