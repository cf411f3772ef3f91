# SPDX-License-Identifier: BSD-3-Clause
"""docs/cli.md is as the program is: its session runs again, with the same exit codes and messages."""

import re
from pathlib import Path

import pytest

from tests.cli.transcript import BLOCK, PAGE, Shell, script, steps

TEXT = PAGE.read_text()


def captions(printed: str) -> list[str]:
    """Return the first word of each line but warnings and notes: figures may differ in the last digit."""
    lines = [line for line in printed.splitlines() if not line.startswith(("warning: ", "- "))]
    return [line.split()[0] if line.split() else "" for line in lines]


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_session_runs_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("train.py").write_text(script(TEXT))
    shell, wrong = Shell(), 0
    for found in BLOCK.finditer(TEXT):
        usual = re.search(r"Exit code (\d):[^\n]*\n\n$", TEXT[: found.start()])
        block = list(steps(found[1]))
        for step, after in zip(block, [*block[1:], None], strict=True):
            printed = shell.run(step.typed)
            if step.typed.startswith("unlearnkit") and not (after and after.typed == "echo $?\n"):
                assert shell.code == int(usual[1] if usual else 0), printed
            if step.typed.startswith("unlearnkit") and not usual:
                # Which candidate comes first may hang on the last digit.
                told = 12 if step.typed.startswith("unlearnkit search") else None
                assert captions(printed)[:told] == captions(step.shown)[:told], printed
            else:
                assert printed == step.shown
            wrong += bool(usual) and step.typed.startswith("unlearnkit")
    assert wrong == 10
    assert not list(tmp_path.glob("new.*"))
    assert not list(tmp_path.glob(".*.tmp*"))


def test_a_block_is_taken_apart():
    found = list(steps("$ one \\\n    two\nout\nmore\n$ three\n$ four\nout\n"))
    assert [(step.typed, step.shown) for step in found] == [
        ("one \\\n    two\n", "out\nmore\n"),
        ("three\n", ""),
        ("four\n", "out\n"),
    ]
