# SPDX-License-Identifier: BSD-3-Clause
"""``unlearnkit revert``: an edit taken back, to the bit, and only where the files are what they should be."""

import pytest
import torch
from safetensors.torch import load_file as tensors
from safetensors.torch import save_file

from unlearnkit import WeightEdit


@pytest.fixture
def revert(folder, run):
    """Make an edit of the last layer, and run ``revert`` on its result."""
    base = tensors("model.safetensors")
    edit = WeightEdit.between(base, {**base, "2.weight": base["2.weight"] * 0.5})
    edit.save("edit.safetensors")
    arguments = ["--weights", "model.safetensors", "--edit", "edit.safetensors", "--out", "clean.safetensors"]
    assert run("apply", *arguments).code == 0

    def revert(*arguments, base="model.safetensors", result="clean.safetensors"):
        files = [
            "--result",
            result,
            "--edit",
            "edit.safetensors",
            "--base",
            base,
            "--out",
            "back.safetensors",
        ]
        return run("revert", *files, *arguments)

    return revert


def test_every_byte_comes_back(revert, folder):
    ran = revert("--json")
    assert ran.code == 0
    assert ran.json["equals_base"] is True
    assert (folder / "back.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()


def test_what_later_edits_did_elsewhere_stays(revert):
    later = tensors("clean.safetensors")
    later["0.bias"] += 1
    save_file(later, "later.safetensors")
    ran = revert(result="later.safetensors")
    assert ran.code == 0
    assert "other tensors differ from it, and were left as they are" in ran.out
    back, base = tensors("back.safetensors"), tensors("model.safetensors")
    assert torch.equal(back["2.weight"], base["2.weight"])
    assert torch.equal(back["0.bias"], later["0.bias"])


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            {"base": "oracle.safetensors"},
            "oracle.safetensors: tensor '2.weight' of the model holds other values",
        ),
        ({"base": "clean.safetensors"}, "clean.safetensors: it holds the edit already"),
        ({"result": "model.safetensors"}, "model.safetensors: it holds the values from before the edit"),
        (
            {"result": "trained_on.safetensors"},
            "trained_on.safetensors: tensor '2.weight' of the model holds other",
        ),
    ],
)
def test_files_that_do_not_belong_together_are_refused(revert, folder, files, message):
    more = tensors("clean.safetensors")
    more["2.weight"] += 1
    save_file(more, "trained_on.safetensors")
    ran = revert(**files)
    assert ran.code == 1
    assert message in ran.err
    assert not (folder / "back.safetensors").exists()
