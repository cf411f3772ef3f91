# SPDX-License-Identifier: BSD-3-Clause
"""``unlearnkit forget``: that it does what the same calls in Python do, and refuses before it works."""

import pytest
import torch
from safetensors.torch import load_file as tensors
from safetensors.torch import save_file

from unlearnkit import ASSD, SSD, Importance, Retrain, WeightEdit
from unlearnkit.cli import forget as module
from unlearnkit.cli._names import Name
from unlearnkit.data import Partition
from unlearnkit.parameters import named_tensors

pytestmark = pytest.mark.filterwarnings("ignore::unlearnkit.UnlearnWarning")


def by_hand(estimator, **given):
    """Return the edit that Python code makes of the folder's model and data."""
    train = Name.parse("train.py:train_set", "").make()
    model = Name.parse("train.py:build", "").make()
    model.load_state_dict(tensors("model.safetensors"))
    retain, forget = Partition.of(train, (train.tensors[1] == 2).nonzero()[:, 0])
    return estimator.fit(model, retain, forget, **given), model


def test_a_class_is_forgotten_as_in_python(forget):
    ran = forget("--forget-class", "2", "--out", "new.safetensors", "--edit", "edit.safetensors")
    assert ran.code == 0
    estimator, model = by_hand(ASSD())
    assert WeightEdit.load("edit.safetensors") == estimator.edit_
    expected = named_tensors(estimator.transform(model))
    written = tensors("new.safetensors")
    assert written.keys() == tensors("model.safetensors").keys()
    assert all(torch.equal(written[name], expected[name]) for name in expected)
    assert [line.split("  ")[0] for line in ran.out.splitlines()] == [
        "model", "data", "forget", "method", "edit", "seconds", "written"
    ]  # fmt: skip
    assert "30 of 90 samples (classes 2)" in ran.out


def test_parameters_and_seed_reach_the_method(forget):
    arguments = ["--method", "salun", "--set", "epochs=2", "--set", "lr=0.05", "--seed", "4", "--json"]
    ran = forget("--forget-class", "2", *arguments, "--edit", "edit.safetensors")
    assert ran.json["method"] == "SalUn(epochs=2, lr=0.05, random_state=4)"
    again = forget("--forget-class", "2", *arguments, "--edit", "again.safetensors")
    assert again.code == ran.code
    assert WeightEdit.load("edit.safetensors") == WeightEdit.load("again.safetensors")


def test_notes_are_kept_in_the_edit(forget):
    assert forget("--forget-class", "2", "--note", "ticket=17", "--edit", "edit.safetensors").code == 0
    info = WeightEdit.load("edit.safetensors").info
    assert info["ticket"] == "17"
    assert info["method"].startswith("ASSD(")


def test_a_stored_importance_stands_in_for_the_training_data(run, forget):
    measure = [
        "measure",
        "--model",
        "train.py:build",
        "--weights",
        "model.safetensors",
        "--data",
        "train.npz",
    ]
    assert run(*measure, "--set", "gradient=batch", "--out", "importance.safetensors").code == 0
    ran = run(
        "forget", "--model", "train.py:build", "--weights", "model.safetensors", "--forget-data", "gone.py:data",
        "--method", "SSD", "--set", "alpha=1.5", "--reference", "importance.safetensors", "--edit", "edit.safetensors",
    )  # fmt: skip
    assert (ran.code, "no file 'gone.py'" in ran.err) == (2, True)
    with open("gone.py", "w") as file:
        file.write(
            "from train import part\n\n\ndef data():\n    X, y = part(0, 90)\n    return X[y == 2], y[y == 2]\n"
        )
    ran = run(
        "forget", "--model", "train.py:build", "--weights", "model.safetensors", "--forget-data", "gone.py:data",
        "--method", "SSD", "--set", "alpha=1.5", "--reference", "importance.safetensors", "--edit", "edit.safetensors",
    )  # fmt: skip
    assert ran.code == 0
    stored = Importance.load("importance.safetensors")
    estimator, _ = by_hand(SSD(alpha=1.5, reference=stored))
    assert WeightEdit.load("edit.safetensors") == estimator.edit_


def test_a_factory_and_a_loss_are_named(forget):
    arguments = [
        "--method",
        "Retrain",
        "--set",
        "factory=train.py:build",
        "--set",
        "epochs=2",
        "--set",
        "batch_size=30",
    ]
    ran = forget("--forget-class", "2", *arguments, "--loss", "train.py:loss", "--edit", "edit.safetensors")
    assert ran.code in (0, 3)
    train = Name.parse("train.py:build", "").find()
    estimator, _ = by_hand(Retrain(factory=train, epochs=2, batch_size=30, random_state=0))
    assert WeightEdit.load("edit.safetensors") == estimator.edit_


def test_what_is_to_be_forgotten_can_be_found(forget):
    arguments = ["--method", "RLAP", "--set", "finder=MixtureFinder(random_state=0)", "--set", "epochs=1"]
    ran = forget(*arguments, "--edit", "edit.safetensors", "--json")
    assert ran.code in (0, 3)
    assert "(found by RLAP)" in ran.json["request"]["forget"]


def test_a_collapse_is_written_and_told_by_the_exit_code(forget):
    ran = forget(
        "--forget-class",
        "2",
        "--method",
        "SSD",
        "--set",
        "alpha=0",
        "--set",
        "lambda_=0",
        "--out",
        "new.safetensors",
    )
    assert ran.code == 3
    assert "doubtful  the method warned that the edit damages what should be kept" in ran.out
    assert len(tensors("new.safetensors")) == 4


def test_an_edit_of_nothing_is_told_by_the_exit_code(forget):
    ran = forget(
        "--forget-class", "2", "--method", "SSD", "--set", "alpha=1e9", "--out", "new.safetensors", "--json"
    )
    assert ran.code == ran.json["exit_code"] == 3
    assert ran.json["doubts"] == ["the edit changes nothing"]
    assert ran.json["edit"]["n_changed"] == 0


def test_the_models_own_weights_serve_where_no_file_is_given(run, folder):
    arguments = ["--data", "train.npz", "--forget", "0-5", "--method", "GradientAscent", "--set", "epochs=1"]
    assert run("forget", "--model", "train.py:build", *arguments, "--out", "new.safetensors").code in (0, 3)
    assert tensors("new.safetensors").keys() == tensors("model.safetensors").keys()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--forget", "1", "--set", "percentil=9"], "did you mean 'percentile'"),
        (["--forget", "1", "--set", "percentile"], "expected NAME=VALUE"),
        (["--forget", "1", "--note", "ticket"], "expected NAME=VALUE"),
        (["--forget", "1", "--set", "reference=a.safetensors"], "--reference FILE"),
        (
            ["--forget", "1", "--reference", "model.safetensors", "--method", "SalUn"],
            "no use for a stored importance",
        ),
        (["--forget", "1", "--loss", "train.py:loss", "--method", "LFSSD"], "no use for a loss"),
        (["--forget", "1", "--loss", "train.py:number"], "is a int, expected a function"),
        (["--forget", "1", "--method", "ASD"], "did you mean 'ASSD'"),
        ([], "say what is to be forgotten"),
        (["--forget-data", "train.py:held_out"], "--data is what --forget chooses from"),
        (["--forget", "ids.csv"], "there is no such file"),
        (["--forget", "1", "--column", "id"], "only a file has columns"),
        (["--forget-class", "1", "--column", "id"], "there is none"),
        (["--forget-class", "cat"], "classes are whole numbers"),
        (["--forget", "1", "--weights", "no.safetensors"], "there is no such file"),
        (["--forget", "1", "--require", "tow>=0.9"], "give --test"),
    ],
)
def test_wrong_use_is_found_before_any_work(forget, monkeypatch, arguments, message):
    monkeypatch.setattr(module, "fitted", pytest.fail)
    ran = forget(*arguments, "--out", "new.safetensors")
    assert ran.code == 2
    assert message in ran.err


def test_the_result_is_a_drop_in_for_a_wrapped_checkpoint(forget):
    wrapped = {f"module._orig_mod.{name}": one for name, one in tensors("model.safetensors").items()}
    save_file(wrapped, "wrapped.safetensors", metadata={"step": "9"})
    assert forget("--forget-class", "2", "--out", "plain.safetensors").code == 0
    assert forget("--forget-class", "2", "--out", "new.safetensors", weights="wrapped.safetensors").code == 0
    new, plain = tensors("new.safetensors"), tensors("plain.safetensors")
    assert new.keys() == wrapped.keys()
    assert all(torch.equal(new[f"module._orig_mod.{name}"], one) for name, one in plain.items())
