# SPDX-License-Identifier: BSD-3-Clause
"""Outputs: refused early, written whole, all or none; and what is said of them."""

import json
import os
import signal
import sys
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest

from unlearnkit.cli._errors import WrongUse
from unlearnkit.cli._files import TENSORS, Outputs
from unlearnkit.cli._output import Console, table
from unlearnkit.exceptions import CollapseWarning


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_files_appear_together_and_not_before():
    with Outputs(False, []) as outputs:
        outputs.add("--out", "a.safetensors", TENSORS)
        outputs.add("--report", ["b.html", "c.json"], (".html", ".json"))
        for name in ("a.safetensors", "b.html"):
            outputs.at(name).write_text(name)
        assert not os.path.exists("a.safetensors")
        outputs.commit()
    assert sorted(os.listdir()) == ["a.safetensors", "b.html"]
    assert outputs.row() == {"written": "a.safetensors, b.html, c.json"}
    assert outputs.options == {"--out": ["a.safetensors"], "--report": ["b.html", "c.json"]}


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_after_an_error_nothing_is_left_and_what_was_there_stays(error):
    Path("a.safetensors").write_text("old")

    def interrupted():
        with Outputs(True, []) as outputs:
            outputs.add("--out", "a.safetensors", TENSORS)
            outputs.at("a.safetensors").write_text("new")
            raise error

    with pytest.raises(error):
        interrupted()
    assert os.listdir() == ["a.safetensors"]
    assert Path("a.safetensors").read_text() == "old"


def test_a_link_stays_a_link():
    Path("real.safetensors").write_text("old")
    os.symlink("real.safetensors", "a.safetensors")
    with Outputs(True, []) as outputs:
        outputs.add("--out", "a.safetensors", TENSORS)
        outputs.at("a.safetensors").write_text("new")
        outputs.commit()
    assert os.path.islink("a.safetensors")
    assert Path("real.safetensors").read_text() == "new"


@pytest.mark.parametrize("thread", [False, True])
def test_ctrl_c_waits_for_the_renaming(monkeypatch, thread):
    def interrupting(source, target, replace=os.replace):
        if not thread:
            os.kill(os.getpid(), signal.SIGINT)
        replace(source, target)

    def work():
        with Outputs(False, []) as outputs:
            for name in ("a.safetensors", "b.safetensors"):
                outputs.add("--out", name, TENSORS)
                outputs.at(name).write_text(name)
            monkeypatch.setattr(os, "replace", interrupting)
            outputs.commit()

    before = signal.getsignal(signal.SIGINT)
    if thread:
        worker = threading.Thread(target=work)
        worker.start()
        worker.join()
    else:
        work()
    assert sorted(os.listdir()) == ["a.safetensors", "b.safetensors"]
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("a.pt", "must end in .safetensors"),
        ("folder.safetensors", "that is a folder"),
        ("no/a.safetensors", "there is no folder 'no'"),
        ("old.safetensors", "the file exists; give another name, or --force"),
        ("read.safetensors", "this command reads that file, so it will not write it, even with --force"),
        ("also.safetensors", "this command reads that file"),
        ("./new.safetensors", "two outputs cannot be one file"),
    ],
)
def test_misuse_is_explained(here, path, message):
    (here / "folder.safetensors").mkdir()
    for name in ("old.safetensors", "read.safetensors"):
        Path(name).write_text("old")
    os.link("read.safetensors", "also.safetensors")
    outputs = Outputs(
        path != "old.safetensors" and path != "no/a.safetensors", ["read.safetensors", None, ""]
    )
    outputs.add("--edit", "new.safetensors", TENSORS)
    with pytest.raises(WrongUse, match=message):
        outputs.add("--out", path, TENSORS)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_to(here):
    (here / "closed").mkdir(mode=0o500)
    with pytest.raises(WrongUse, match="cannot be written to"):
        Outputs(False, []).add("--out", "closed/a.safetensors", TENSORS)


def test_a_collapse_is_noticed_and_each_warning_said_once(capsys):
    console = Console()
    with console.listening():
        sys.stdout.write("chatter\n")
        for _ in range(2):
            warnings.warn("lost\nit", CollapseWarning, stacklevel=1)
    assert (console.warnings, console.collapsed) == (["lost it"], True)
    out, err = capsys.readouterr()
    assert (out, err) == ("", "chatter\nwarning: lost it\n")


def test_json_knows_no_nan_and_no_tuple(capsys):
    facts = {"a": float("nan"), "b": (1, np.float32(0.5)), "c": {1: np.int64(3)}, "d": table}
    Console(as_json=True).say(facts, {})
    found = json.loads(capsys.readouterr().out)
    assert found["a"] is None
    assert (found["b"], found["c"]) == ([1, 0.5], {"1": 3})
    assert found["d"].startswith("<function")


def test_tables_put_numbers_right_and_words_left():
    assert table(["name", "n", "what"], [["a", "1,000", "x"], ["bcdef", "2", ""]]) == [
        "name       n  what",
        "a      1,000  x",
        "bcdef      2",
    ]
