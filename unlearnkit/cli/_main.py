# SPDX-License-Identifier: BSD-3-Clause
"""From the arguments to the exit code."""

from __future__ import annotations

import argparse
import io
import shlex
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from pathlib import Path

import torch

from unlearnkit.cli import apply, audit, demo, forget, info, measure, revert, search
from unlearnkit.cli._errors import FAILED, INTERRUPTED, WRONG_USE, WrongUse, described
from unlearnkit.cli._names import importable
from unlearnkit.cli._output import Console
from unlearnkit.data import preserved_rng, seed_rng
from unlearnkit.exceptions import UnlearnError

EPILOG = """\
from a checkpoint to a new checkpoint and a report, in one command:
  unlearnkit forget --model train.py:build --weights model.safetensors \\
      --data train.py:train_set --forget ids.csv --validation train.py:held_out \\
      --out clean.safetensors --edit edit.safetensors --report audit.html

`unlearnkit COMMAND --help` shows a command's options, examples and exit codes.
Models and data are named as train.py:build or package.module:build, or are files;
train.py is imported, so what it does as a script stands under
`if __name__ == "__main__":`."""

_KEYS = "--forget="


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Parameters
    ----------
    arguments : sequence of str, optional
        What stands behind the program's name; by default that of this process.

    Returns
    -------
    int
        Exit status: 0, or 1 after an error of data, model or file, 2 after wrong use, 3 where what
        was done is doubtful, 130 after an interrupt. An error is printed in one line.

    Raises
    ------
    SystemExit
        From argparse: with 2 where the arguments make no command, with 0 after ``--help``.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = _parsed(given)
    options.command = _command(given)
    console = Console(options.as_json, options.quiet)
    try:
        with _settings(options), importable():
            code: int = options.run(options, console)
            return code
    except KeyboardInterrupt:
        code, message = INTERRUPTED, "interrupted; nothing was written"
    except WrongUse as error:
        code, message = WRONG_USE, f"error: {error}"
        if not options.as_json:
            message += f"\n(see {options.program} --help)"
    except (UnlearnError, ImportError, OSError) as error:
        code, message = FAILED, " ".join(str(error).split())
        if options.traceback:
            traceback.print_exc()
    except Exception as error:  # of the model's code or the data set's, most likely, deep in a computation
        code, message = FAILED, f"{described(error)}; --traceback shows where it arose"
        if options.traceback:
            traceback.print_exc()
    console.fail(options.program, code, message)
    return code


def parser() -> argparse.ArgumentParser:
    """Return what understands the arguments."""
    found = argparse.ArgumentParser(
        prog="unlearnkit",
        description="Make a trained PyTorch model forget chosen examples.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    version = sys.modules["unlearnkit"].__version__  # loaded, since this is a part of it
    found.add_argument("--version", action="version", version=f"unlearnkit {version}")
    commands = found.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for module in (forget, measure, apply, revert, audit, search, demo, info):
        module.add(commands)
    return found


def _parsed(given: Sequence[str]) -> argparse.Namespace:
    """Parse the arguments; a program that reads JSON is told argparse's error in JSON too."""
    said = io.StringIO()
    try:
        with redirect_stderr(said):
            return parser().parse_args(given)
    except SystemExit as end:
        if end.code == WRONG_USE and "--json" in given:
            message = " ".join(said.getvalue().rpartition("error: ")[2].split())
            Console(as_json=True).say({"exit_code": WRONG_USE, "error": f"error: {message}"}, {})
        raise
    finally:
        sys.stderr.write(said.getvalue())


def _command(given: Sequence[str]) -> str:
    """Return the command for a report: without keys that were typed, which may name persons."""
    shown = [
        "..." if before == "--forget" and not Path(one).is_file() else one
        for before, one in zip(["", *given], given, strict=False)
    ]
    return shlex.join(["unlearnkit", *(f"{_KEYS}..." if one.startswith(_KEYS) else one for one in shown)])


@contextmanager
def _settings(options: argparse.Namespace) -> Iterator[None]:
    """Fix what is drawn, and how many threads compute; both are as before at the end."""
    seed, threads, before = (
        getattr(options, "seed", None),
        getattr(options, "threads", None),
        torch.get_num_threads(),
    )
    with preserved_rng():
        if seed is not None:
            seed_rng(seed)
        if threads is not None:
            torch.set_num_threads(threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)
