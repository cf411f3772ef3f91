# SPDX-License-Identifier: BSD-3-Clause
"""Data sets from names and files, and requests made of them."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from unlearnkit import WeightEdit
from unlearnkit.cli._data import Columns, Source
from unlearnkit.cli._errors import WrongUse
from unlearnkit.exceptions import DataError

COLUMNS = Columns("target", "id")


def load(text, columns=COLUMNS, size=16):
    return Source.parse(text, "--data", columns).load(columns, size)


def samples(data):
    parts = list(data.loader)
    return torch.cat([x for x, _ in parts]), torch.cat([y for _, y in parts])


@pytest.mark.parametrize(
    "text", ["train.npz", "data.safetensors", "train.py:train_set", "train.py:part(0, 90)", "train.csv"]
)
def test_every_form_holds_the_same_samples(folder, text):
    data, expected = load(text), load("train.py:train_set")
    assert len(data) == 90
    for mine, its in zip(samples(data), samples(expected), strict=True):
        torch.testing.assert_close(mine, its)
    assert samples(data)[1].dtype == torch.int64
    assert (data.keys is not None) == (text == "train.csv")


def test_keys_of_rows(folder):
    assert load("train.csv").keys[:3] == ["user-0", "user-0", "user-1"]
    np.savez("keyed.npz", X=np.zeros((2, 3)), y=np.arange(2), id=np.array([17, 18]))
    assert load("keyed.npz").keys == ["17", "18"]
    np.savez("keyed.npz", X=np.zeros((2, 3)), y=np.arange(2), id=np.array([b"a 1", b" b"]))
    assert load("keyed.npz").keys == ["a 1", "b"]
    np.savez("keyed.npz", X=np.zeros((2, 3)), y=np.arange(2), id=np.array([17]))
    with pytest.raises(DataError, match="1 entries in id and 2 in y"):
        load("keyed.npz")


def test_targets_that_are_no_classes_stay_real(folder):
    (folder / "real.csv").write_text("a,target\n1,0.5\n2,1\n")
    X, y = samples(load("real.csv", Columns("target")))
    assert (X.tolist(), y.tolist(), y.dtype) == ([[1], [2]], [0.5, 1], torch.float32)


def test_a_model_is_no_data_though_it_has_a_length(folder):
    (folder / "nets.py").write_text(
        "from torch import nn\n\ndef build():\n    return nn.Sequential(nn.Linear(2, 3))\n"
    )
    with pytest.raises(DataError, match=r"nets.py:build gave a model \(Sequential\), expected data"):
        load("nets.py:build")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no.npz", "there is no such file"),
        ("no.csv", "there is no such file"),
        ("data.pt", "not from pickles or single arrays"),
        ("data.npy", "not from pickles or single arrays"),
        ("data", "name data as module:name"),
        ("images/", "name data as module:name"),
        ("gone.py:data", "there is no file 'gone.py'"),
    ],
)
def test_misuse_is_explained(folder, text, message):
    with pytest.raises(WrongUse, match=message):
        Source.parse(text, "--data", COLUMNS)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (Columns(), "say which column is to be predicted, as in --label target"),
        (Columns("targt"), r"--label targt: train.csv has no such column \(did you mean 'target'\?\)"),
        (Columns("target", "user"), "--id user: train.csv has no such column"),
    ],
)
def test_columns_are_checked_before_anything_is_read(folder, columns, message):
    with pytest.raises(WrongUse, match=message):
        Source.parse("train.csv", "--data", columns)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a,target\n1,0\nn/a,1\n", r"bad.csv, line 3: 'n/a' in column 'a' is not a number"),
        ("a,target\n1,cat\n", r"bad.csv, line 2: 'cat' in column 'target' is not a number"),
        ("name,target\nann,0\n", r"in column 'name' is not a number.* --id where it names the rows"),
        ("a,target\n1,0\nnan,1\n", r"bad.csv, line 3: 'nan' in column 'a' is no value that a model can use"),
        ("a,target\n1,inf\n", r"bad.csv, line 2: 'inf' in column 'target' is no value"),
        ("a,target\n1,0\n2\n", r"bad.csv, line 3: 1 cells, and the header has 2"),
        ("a,target\n", "bad.csv has a header and no row"),
    ],
)
def test_a_bad_cell_is_named_by_its_line(folder, content, message):
    (folder / "bad.csv").write_text(content)
    with pytest.raises(DataError, match=message):
        load("bad.csv", Columns("target"))


def test_files_with_something_else_in_them(folder):
    np.savez("a.npz", data=np.zeros(3))
    with pytest.raises(DataError, match=r"must hold X .* and y .*, it holds data"):
        load("a.npz")
    save_file({"X": torch.zeros(2)}, "a.safetensors")
    with pytest.raises(DataError, match="it holds X"):
        load("a.safetensors")
    np.savez("a.npz", X=np.array([{}, []], dtype=object), y=np.zeros(2))
    with pytest.raises(DataError, match=r"no .npz file of numbers"):
        load("a.npz")
    (folder / "a.npz").write_text("nonsense")
    with pytest.raises(DataError, match=r"no .npz file of numbers"):
        load("a.npz")
    with pytest.raises(DataError, match=r"train.py:number must be a DataLoader"):
        load("train.py:number")


@pytest.mark.parametrize("data", ["train.py:loader", "train.npz", "data.safetensors"])
def test_the_same_request_of_every_form_makes_the_same_edit(forget, folder, data):
    arguments = ["--method", "SSD", "--set", "alpha=1.5", "--set", "importance=per_sample"]
    for text, name in ((data, "a"), ("train.py:train_set", "b")):
        assert forget("--forget-class", "2", *arguments, "--edit", f"{name}.safetensors", data=text).code in (
            0,
            3,
        )
    assert WeightEdit.load("a.safetensors").names == WeightEdit.load("b.safetensors").names


def test_a_stream_has_no_positions(forget):
    ran = forget("--forget", "3", "--out", "new.safetensors", data="train.py:Stream")
    assert (ran.code, "has no samples by position, but Stream yields them in passing" in ran.err) == (1, True)


@pytest.mark.parametrize(
    ("classes", "message"),
    [("7", "no sample has that label. There are 0, 1, 2"), ("0,1,2", "names every class that there is")],
)
def test_classes_that_cannot_be_forgotten(forget, classes, message):
    ran = forget("--forget-class", classes, "--out", "new.safetensors")
    assert (ran.code, message in ran.err) == (1, True)


def test_several_classes(forget):
    ran = forget("--forget-class", "1,2", "--method", "SSD", "--edit", "edit.safetensors", "--json")
    assert ran.json["request"]["forget"] == "60 of 90 samples (classes 1,2)"


def test_rows_by_key(run, folder):
    (folder / "gone.csv").write_text("who\nuser-3\nuser-40\n")
    arguments = [
        "--model",
        "train.py:build",
        "--weights",
        "model.safetensors",
        "--data",
        "train.csv",
        "--label",
        "target",
    ]
    what = [
        "--id",
        "id",
        "--forget",
        "gone.csv",
        "--column",
        "who",
        "--method",
        "SSD",
        "--edit",
        "edit.safetensors",
    ]
    ran = run("forget", *arguments, *what, "--json")
    assert ran.json["request"]["forget"] == "4 of 90 samples (gone.csv)"


def test_classes_need_class_labels(forget, folder):
    np.savez("real.npz", X=np.zeros((4, 6), "float32"), y=np.linspace(0, 1, 4))
    ran = forget("--forget-class", "1", "--out", "new.safetensors", data="real.npz")
    assert (ran.code, "--forget-class needs one class a sample" in ran.err) == (1, True)


def test_columns_are_told_by_their_names(forget, folder):
    (folder / "held_out.csv").write_text("target,x5,x4,x3,x2,x1,x0\n" + "1,6,5,4,3,2,1\n" * 3)
    train = load("train.csv")
    assert train.features == ("x0", "x1", "x2", "x3", "x4", "x5")
    X, _ = samples(load("held_out.csv", Columns("target", None, train.features)))
    assert X[0].tolist() == [1, 2, 3, 4, 5, 6]
    for header, message in (
        ("x0,target", "lacks the column 'x"),
        ("x0,x1,x2,x3,x4,x5,x6,target", "has the column 'x6'"),
    ):
        (folder / "held_out.csv").write_text(header + "\n" + ",".join("1" for _ in header.split(",")) + "\n")
        arguments = [
            "--label",
            "target",
            "--id",
            "id",
            "--validation",
            "held_out.csv",
            "--out",
            "new.safetensors",
        ]
        ran = forget("--forget", "user-1", *arguments, data="train.csv")
        assert (ran.code, message in ran.err) == (1, True)
