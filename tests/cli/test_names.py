# SPDX-License-Identifier: BSD-3-Clause
"""Objects by name."""

import os
import sys

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from unlearnkit.cli._errors import UserCodeError, WrongUse
from unlearnkit.cli._names import Name, importable, is_name


def made(text, ready=()):
    return Name.parse(text, "--model").make(ready)


def test_a_function_of_a_file_is_called(folder):
    assert made("train.py:build")[0].out_features == 16
    assert made("./train.py:build(4)")[0].out_features == 4
    assert made(f"{folder}/train.py:build(width=5, classes=9)")[2].weight.shape == (9, 5)


def test_a_ready_object_is_taken_as_it_is(folder):
    assert made("train.py:held_out", TensorDataset) is made("train.py:held_out", TensorDataset)
    assert made("train.py:number") == 7
    assert isinstance(made("torch.nn:Identity", nn.Module), nn.Identity)  # a class is no instance


def test_modules_of_the_current_folder_and_installed_ones(folder):
    with importable():
        assert made("train:build")[0].out_features == 16
    assert made("os.path:sep") == os.sep
    assert made("collections:OrderedDict.fromkeys('ab', 1)") == {"a": 1, "b": 1}
    assert folder not in map(os.path.realpath, sys.path)


def test_a_file_is_imported_once_and_pickles_by_its_name(folder):
    first, second = Name.parse("train.py:Stream", "").find(), Name.parse("train.py:Stream", "").find()
    assert first is second
    assert first.__module__ == "train"
    assert sys.modules["train"].Stream is first


def test_a_file_named_as_a_known_module_does_not_replace_it(folder):
    (folder / "json.py").write_text("here = 1\n")
    assert made("json.py:here") == 1
    assert Name.parse("json.py:here", "").find() == 1
    assert hasattr(sys.modules["json"], "loads")


def test_a_syntax_error_is_placed_once(folder):
    (folder / "broken.py").write_text("def f(:\n")
    with pytest.raises(UserCodeError, match=r"SyntaxError: .*\(broken.py, line 1\)$"):
        made("broken.py:f")


def test_a_file_that_fails_is_imported_anew_the_next_time(folder):
    (folder / "late.py").write_text("raise ValueError('no data')\n")
    with pytest.raises(
        UserCodeError, match=r"importing late.py failed: ValueError: no data \(late.py, line 1\)"
    ):
        made("late.py:x")
    (folder / "late.py").write_text("x = 1\n")
    assert made("late.py:x") == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train.py", "name a Python object as"),
        ("train.py:", "name a Python object as"),
        ("train.py:3d", "name a Python object as"),
        ("missing.py:build", "there is no file 'missing.py'"),
        ("train.py:bild", r"has no 'bild' \(did you mean 'build'\?\)"),
        ("train.py:build.what", "has no 'what'"),
        ("no_such_module:x", "there is no module 'no_such_module'"),
        ("no_such.module:x", "there is no module 'no_such.module'"),
        ("train.py:build(width=number)", "in the parentheses stand plain values"),
        ("train.py:build(**{})", "in the parentheses stand plain values"),
    ],
)
def test_misuse_is_explained(folder, text, message):
    with pytest.raises(WrongUse, match=message):
        made(text)


def test_a_module_that_is_a_file_here_is_pointed_at(folder):
    (folder / "other.py").write_text("")
    with pytest.raises(WrongUse, match=r"did you mean other.py\?"):
        Name.parse("other:x", "").make()


def test_a_script_that_ends_the_process_is_explained(folder):
    (folder / "script.py").write_text("import sys\nsys.exit(3)\n")
    with pytest.raises(UserCodeError, match=r"ended the process \(exit code 3\).*__main__"):
        made("script.py:build")


def test_arguments_that_do_not_fit_are_the_users_error(folder):
    with pytest.raises(UserCodeError, match=r"train.py:build\(depth=3\) failed: TypeError"):
        made("train.py:build(depth=3)")


def test_what_is_a_name():
    assert [is_name(text) for text in ("a:b", "a/b.py:c(d=1)", "a", "3,4", "x.csv")] == [
        True,
        True,
        False,
        False,
        False,
    ]
    assert torch.is_tensor(made("torch:ones(2)"))
