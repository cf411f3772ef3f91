# SPDX-License-Identifier: BSD-3-Clause
"""``unlearnkit audit``, and the evidence that ``forget`` gathers: figures, bars, reports."""

import json

import pytest
import torch
from safetensors.torch import load_file as tensors
from safetensors.torch import save_file

from unlearnkit.cli import forget as forget_module
from unlearnkit.cli._bars import Bar
from unlearnkit.cli._names import Name
from unlearnkit.data import Partition
from unlearnkit.metrics import evaluate
from unlearnkit.report import Audit

pytestmark = pytest.mark.filterwarnings("ignore::unlearnkit.UnlearnWarning")

TEST = ["--test", "train.py:test_set"]


@pytest.fixture
def audit(folder, run):
    """Audit the oracle as if it were the result: it has forgotten class 2."""

    def audit(*arguments, result="oracle.safetensors"):
        files = ["--base", "model.safetensors", "--result", result]
        what = ["--data", "train.py:train_set", "--forget-class", "2", *TEST]
        return run("audit", "--model", "train.py:build", *files, *what, *arguments)

    return audit


def by_hand(**more):
    """Return what ``evaluate`` says of the same models and data."""
    models = []
    for file in ("oracle.safetensors", "model.safetensors"):
        models.append(Name.parse("train.py:build", "").make())
        models[-1].load_state_dict(tensors(file))
    train = Name.parse("train.py:train_set", "").make()
    retain, forget = Partition.of(train, (train.tensors[1] == 2).nonzero()[:, 0])
    test = Name.parse("train.py:test_set", "").make()
    return evaluate(models[0], retain=retain, forget=forget, test=test, original=models[1], **more)


def test_the_figures_are_those_of_evaluate(audit):
    ran = audit("--json")
    assert ran.code == 0
    assert ran.json["after"] == by_hand().to_dict()
    assert ran.json["edit"]["n_changed"] == 163


def test_an_oracle_is_a_file_several_or_accuracies(audit):
    assert audit("--oracle", "oracle.safetensors", "--json").json["after"]["scores"]["tow"]["value"] == 1
    two = audit("--oracle", "oracle.safetensors", "--oracle", "model.safetensors", "--json").json
    assert two["after"]["scores"]["tow"]["value"] < 1
    declared = audit("--oracle", "forget=0,retain=1,test=0.5", "--metrics", "tow", "--json").json["after"][
        "scores"
    ]
    expected = by_hand(oracle={"forget": 0, "retain": 1, "test": 0.5}, metrics=["tow"])["tow"]
    assert declared["tow"]["value"] == expected
    assert list(declared) == ["tow"]


def test_a_bar_that_is_missed_is_the_exit_code(audit, folder):
    arguments = ["--oracle", "oracle.safetensors", "--require", "tow>=0.95", "--report", "audit.json"]
    assert audit(*arguments).code == 0
    ran = audit(*arguments, "--require", "retain<0.5", "--force")
    assert ran.code == 3
    assert "doubtful  retain is " in ran.out
    assert "required is retain<0.5" in ran.out
    assert (folder / "audit.json").is_file()


def test_the_report_is_written_as_page_and_as_json(audit, folder):
    ran = audit(
        "--report", "a.html", "--report", "a.json", "--method", "by hand", "--note", "ticket=17", "--json"
    )
    page = Audit.load_json("a.json", salt=ran.json["report"]["salt"])
    found = page.to_dict()
    assert found["request"]["ticket"] == "17"
    assert found["request"]["forget"] == "30 of 90 samples (classes 2)"
    assert found["method"]["command"].startswith(
        "unlearnkit audit --model train.py:build --base model.safetensors"
    )
    assert page.digest == ran.json["report"]["digest"]
    train = Name.parse("train.py:train_set", "").make()
    page.verify(forget=Partition.of(train, (train.tensors[1] == 2).nonzero()[:, 0]).forget)
    assert "<html" in (folder / "a.html").read_text()


def test_one_command_from_checkpoint_to_report(forget, folder):
    files = [
        "--out",
        "new.safetensors",
        "--edit",
        "edit.safetensors",
        "--report",
        "audit.html",
        "--report",
        "audit.json",
    ]
    ran = forget(
        "--forget-class",
        "2",
        "--validation",
        "train.py:held_out",
        *TEST,
        "--oracle",
        "oracle.safetensors",
        *files,
    )
    assert ran.code == 0
    found = json.loads((folder / "audit.json").read_text())
    assert found["method"]["name"] == "ASSD"
    assert [line.split()[0] for line in ran.out.splitlines() if line.startswith(("verdict", "salt", "tow"))] == [
        "verdict", "salt", "tow"
    ]  # fmt: skip


def test_a_report_without_a_test_set_says_what_it_rests_on(forget):
    ran = forget(
        "--forget-class", "2", "--validation", "train.py:held_out", "--report", "audit.json", "--json"
    )
    assert any(line.startswith("no --test: the metrics rest on") for line in ran.json["warnings"])
    assert ran.json["files"] == {"--report": ["audit.json"]}


def test_typed_keys_are_in_no_file_and_no_output(run, folder):
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
    what = ["--id", "id", *TEST, "--method", "SSD", "--set", "alpha=1", "--edit", "edit.safetensors"]
    for way in (["--forget", "user-3,user-5"], ["--forget=user-3,user-5"]):
        ran = run("forget", *arguments, *way, *what, "--report", "audit.json", "--force")
        assert ran.code in (0, 3)
        assert "4 of 90 samples (as typed)" in ran.out
        for text in (
            ran.out,
            (folder / "audit.json").read_text(),
            (folder / "edit.safetensors").read_bytes().decode("latin1"),
        ):
            assert "user-3" not in text
    assert "--forget=..." in (folder / "audit.json").read_text()


def test_the_works_own_figures_can_be_required(forget):
    arguments = ["--forget-class", "2", *TEST, "--out", "new.safetensors", "--json", "--force"]
    ran = forget(*arguments, "--retrain-seconds", "1e4", "--require", "rte>1", "--metrics", "full")
    assert ran.code == 0
    scores = ran.json["after"]["scores"]
    assert scores["rte"]["value"] == pytest.approx(1e4 / ran.json["seconds"])
    assert forget(*arguments, "--require", "seconds<0", "--metrics", "test,seconds").code == 3
    assert forget(*arguments, "--require", "rte>1").code == 2


def test_a_loss_of_ones_own_makes_a_report_without_accuracies(forget, folder):
    arguments = ["--method", "SSD", "--set", "alpha=1", "--loss", "train.py:loss", *TEST]
    assert forget("--forget-class", "2", *arguments, "--report", "audit.json").code in (0, 3)
    assert json.loads((folder / "audit.json").read_text())["scores"] == []
    ran = forget("--forget-class", "2", *arguments, "--require", "test>0.5", "--out", "new.safetensors")
    assert (ran.code, "with --loss there are no metrics" in ran.err) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--require", "tow"], 2, "expected a metric"),
        (["--require", "tow>=high"], 2, "expected a metric"),
        (["--require", "tow>=1e"], 2, "expected a metric"),
        (["--require", "tow>=0.9"], 2, "'tow' is not measured"),
        (["--require", "tost>=0.9"], 2, "did you mean 'test'"),
        (["--metrics", "tost"], 1, "there is no metric 'tost'"),
        (["--oracle", "no.safetensors"], 2, "--oracle no.safetensors: there is no such file"),
        (["--oracle", "forget=0,retain=1"], 2, "declares no test"),
        (["--oracle", "forget=0,retain=1,test=x"], 2, "'x' is no number"),
        (
            ["--oracle", "forget=0,retain=1,test=1", "--oracle", "model.safetensors"],
            2,
            "beside no other oracle",
        ),
        (["--report", "audit.pdf"], 2, "must end in .html or .json"),
    ],
)
def test_what_is_wrong_is_found_before_the_long_work(forget, monkeypatch, arguments, code, message):
    monkeypatch.setattr(forget_module, "fitted", pytest.fail)
    ran = forget("--forget-class", "2", *TEST, "--report", "audit.json", *arguments)
    assert ran.code == code
    assert message in ran.err


def test_the_metrics_need_what_is_kept(run, folder):
    arguments = ["--model", "train.py:build", "--base", "model.safetensors", "--result", "oracle.safetensors"]
    ran = run("audit", *arguments, "--forget-data", "train.py:held_out", *TEST)
    assert (ran.code, "the metrics look at what is kept too" in ran.err) == (1, True)


def test_two_checkpoints_of_other_models_are_refused(audit):
    model = {name: torch.nn.functional.pad(one, (0, 1)) for name, one in tensors("model.safetensors").items()}
    save_file(model, "other.safetensors")
    ran = audit(result="other.safetensors")
    assert (ran.code, "other.safetensors does not fit the Sequential" in ran.err) == (1, True)


def test_bars():
    for text, met in (
        ("a>=1", True),
        ("a > 1", False),
        ("a<=1.0", True),
        ("a<1", False),
        ("b<9", False),
        ("b>-9", False),
    ):
        assert (Bar.parse(text).unmet({"a": 1.0, "b": float("nan")}) is None) == met
    assert Bar.parse("tow>=0.95").unmet({"tow": 0.5}) == "tow is 0.5, required is tow>=0.95"
