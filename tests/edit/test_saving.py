# SPDX-License-Identifier: BSD-3-Clause
"""WeightEdit.save and load: what is in the file, what must not be, and which files are refused."""

import copy
import json
import os
import pickle
import struct

import pytest
import torch
from safetensors import safe_open
from torch import nn

from unlearnkit._tensor_file import read_tensors, write_tensors
from unlearnkit.edit import WeightEdit
from unlearnkit.exceptions import DataError, UnlearnError
from unlearnkit.parameters import digest, named_tensors


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8, 8))


def pruned(model, share=0.1):
    """Return an edit that sets a share of the convolution's and the linear layer's weights to 0."""
    factors = {
        name: (torch.rand(named_tensors(model)[name].shape) >= share).float()
        for name in ("0.weight", "3.weight")
    }
    return WeightEdit.from_factors(model, factors)


@pytest.fixture
def edit():
    return pruned(net())


def test_a_file_holds_no_old_value_that_changed(tmp_path):
    model = net()
    edit = pruned(model, share=0.05)
    edit.save(tmp_path / "edit")
    content = (tmp_path / "edit").read_bytes()
    old = []
    for name, change in edit.items():
        assert change.index is not None
        old += named_tensors(model)[name].detach().reshape(-1)[change.index.long()].tolist()
    assert len(old) == edit.n_changed > 5
    assert not any(struct.pack("<f", value) in content for value in old)

    factors = {"3.weight": torch.rand(8, 8)}  # enough of them to store the whole tensor
    edit = WeightEdit.from_factors(model, factors)
    assert edit["3.weight"].index is None
    edit.save(tmp_path / "edit")
    content = (tmp_path / "edit").read_bytes()
    old, new = model[3].weight, edit.apply(model)[3].weight
    assert all(struct.pack("<f", value) in content for value in new.flatten().tolist())
    assert not any(struct.pack("<f", value) in content for value in old.flatten().tolist())


def test_an_undo_cannot_be_saved_and_its_redo_can(edit, tmp_path):
    model = net()
    undo = edit.apply_(model)
    with pytest.raises(UnlearnError, match=r"forgotten knowledge\. Save the edit instead"):
        undo.save(tmp_path / "undo")
    assert not os.listdir(tmp_path)
    undo.apply_(model).save(tmp_path / "redo")
    edit.save(tmp_path / "edit")
    assert (tmp_path / "redo").read_bytes() == (tmp_path / "edit").read_bytes()


def test_equal_edits_make_equal_files(edit, tmp_path):
    notes = {"b": "2", "a": "1", "ø": "\n"}
    for i in range(5):
        torch.manual_seed(0)
        edit.info.update(notes)
        edit.save(tmp_path / f"{i}")
        edit = WeightEdit.load(tmp_path / f"{i}")
        assert edit.info == notes
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1


def test_a_file_can_be_inspected_with_safetensors_alone(edit, tmp_path):
    edit.save(tmp_path / "edit.safetensors")
    with safe_open(tmp_path / "edit.safetensors", framework="pt") as file:
        head = json.loads(file.metadata()["unlearnkit"])
        assert head["kind"] == "unlearnkit.WeightEdit"
        assert head["version"] == 1
        row = head["manifest"]["changes"]["3.weight"]
        assert (row["shape"], row["dtype"]) == ([8, 8], "float32")
        assert row["before"] == digest(net()[3].weight)
        index = file.get_tensor("3.weight:index")
        assert index.dtype == torch.int32
        assert torch.equal(index, edit["3.weight"].index)
        assert torch.equal(file.get_tensor("3.weight:values"), edit["3.weight"].values)


def test_complex_tensors_survive_a_file(tmp_path):
    for dtype in (torch.complex64, torch.complex128):
        before, after = {"w": torch.randn(99, dtype=dtype)}, {"w": torch.randn(99, dtype=dtype)}
        after["w"][:60] = before["w"][:60]
        edit = WeightEdit.between(before, after)
        edit.save(tmp_path / "edit")
        loaded = WeightEdit.load(tmp_path / "edit")
        assert loaded == edit
        assert torch.equal(loaded["w"].values, after["w"][60:])


@pytest.mark.parametrize(
    "spoil",
    [
        lambda manifest, tensors: manifest.pop("n_total"),
        lambda manifest, tensors: manifest.update(n_total="many"),
        lambda manifest, tensors: manifest.update(changes=[1]),
        lambda manifest, tensors: manifest.update(info={"a": 1}),
        lambda manifest, tensors: manifest["changes"]["3.weight"].pop("before"),
        lambda manifest, tensors: manifest["changes"]["3.weight"].update(dtype="nonsense"),
        lambda manifest, tensors: manifest["changes"]["3.weight"].update(dtype="complex64"),
        lambda manifest, tensors: manifest["changes"]["3.weight"].update(shape=["a"]),
        lambda manifest, tensors: manifest["changes"]["3.weight"].update(shape=None),
        lambda manifest, tensors: tensors.pop("3.weight:values"),
        lambda manifest, tensors: tensors.pop("3.weight:index"),
        lambda manifest, tensors: tensors["3.weight:index"].fill_(3),
        lambda manifest, tensors: tensors["3.weight:index"].add_(1000),
    ],
)
def test_a_file_with_a_valid_checksum_and_invalid_content_is_refused(edit, tmp_path, spoil):
    path = tmp_path / "edit"
    edit.save(path)
    manifest, tensors = read_tensors(path, "unlearnkit.WeightEdit", 1)
    spoil(manifest, tensors)
    write_tensors(path, "unlearnkit.WeightEdit", 1, manifest, tensors)
    with pytest.raises(DataError, match=r"cannot load '.*edit': its content is not an edit"):
        WeightEdit.load(path)


def test_a_newer_version_asks_for_an_upgrade(edit, tmp_path):
    path = tmp_path / "edit"
    edit.save(path)
    manifest, tensors = read_tensors(path, "unlearnkit.WeightEdit", 1)
    write_tensors(path, "unlearnkit.WeightEdit", 2, manifest, tensors)
    with pytest.raises(DataError, match=r"newer unlearnkit wrote it .*; upgrade unlearnkit"):
        WeightEdit.load(path)


def test_pickle_and_deepcopy(edit):
    edit.info["ticket"] = "17"
    for again in (pickle.loads(pickle.dumps(edit)), copy.deepcopy(edit)):
        assert again == edit
        assert again.info == edit.info
        assert repr(again) == repr(edit)
        assert torch.equal(again.apply(net())[0].weight, edit.apply(net())[0].weight)
