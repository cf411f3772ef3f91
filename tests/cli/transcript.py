# SPDX-License-Identifier: BSD-3-Clause
"""The session of docs/cli.md: read, run again, and written anew by ``python -m tests.cli.transcript``."""

import contextlib
import io
import os
import re
import runpy
import shlex
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from unlearnkit.cli import main

PAGE = Path(__file__).parents[2] / "docs" / "cli.md"

BLOCK = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass
class Step:
    """A command as it is typed, and what the page shows below it."""

    typed: str
    shown: str


def steps(block: str) -> Iterator[Step]:
    """Take a block apart; a command goes on in the next line after a backslash."""
    for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        typed, shown = re.fullmatch(r"((?:[^\n]*\\\n)*[^\n]*\n)(.*)", part, re.DOTALL).groups()
        yield Step(typed, shown)


def script(page: str) -> str:
    return re.search(r"^```python\n# train.py\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)[1]


class Shell:
    """Run commands in the current folder, ours and Python's in this process, and remember the exit code."""

    def __init__(self) -> None:
        self.code = 0

    def run(self, typed: str) -> str:
        """Return what a command prints, stderr included."""
        if typed.strip() == "echo $?":
            return f"{self.code}\n"
        words = shlex.split(typed.replace("\\\n", " "))
        if words[0] not in ("unlearnkit", "python"):
            done = subprocess.run(
                typed, shell=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
            self.code = done.returncode
            return done.stdout
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            if words[0] == "unlearnkit":
                self.code = main(words[1:])
            elif words[1] == "-c":
                exec(words[2], {})
            else:
                runpy.run_path(words[1], run_name="__main__")
        return printed.getvalue()


def written_anew(page: str) -> str:
    """Return the page with what its commands print now."""
    shell = Shell()
    Path("train.py").write_text(script(page))

    def block(found: re.Match[str]) -> str:
        return (
            "```console\n"
            + "".join(f"$ {step.typed}{shell.run(step.typed)}" for step in steps(found[1]))
            + "```"
        )

    return BLOCK.sub(block, page)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        PAGE.write_text(written_anew(PAGE.read_text()))
