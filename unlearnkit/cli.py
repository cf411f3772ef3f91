# SPDX-License-Identifier: BSD-3-Clause
"""The command line: ``unlearnkit demo``, ``unlearnkit config``, ``unlearnkit edit show FILE``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from unlearnkit import demo
from unlearnkit.config import show_config
from unlearnkit.edit import WeightEdit
from unlearnkit.exceptions import UnlearnError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Parameters
    ----------
    arguments : sequence of str, optional
        What stands behind the program's name; by default that of this process.

    Returns
    -------
    int
        Exit status: 0, or 1 after an error, which is printed in one line.

    Raises
    ------
    SystemExit
        From argparse: with 2 where the arguments make no command, with 0 after ``--help``.
    """
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except (UnlearnError, ImportError, OSError) as error:
        print(f"unlearnkit: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="unlearnkit", description="Make a trained PyTorch model forget chosen examples."
    )
    version = sys.modules["unlearnkit"].__version__  # loaded, since this is a part of it
    parser.add_argument("--version", action="version", version=f"unlearnkit {version}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    show = "make a network forget, on real data, and write a page about it"
    command = commands.add_parser("demo", help=show, description=f"{show.capitalize()}.")
    command.add_argument("--seed", type=int, default=0, help="the seed shown (default: 0)")
    command.add_argument(
        "--seeds", type=_count, default=demo.SEEDS, metavar="K",
        help="how many seeds to repeat it over, from --seed on (default: %(default)s)",
    )  # fmt: skip
    command.add_argument(
        "--out", default=demo.FOLDER, metavar="DIR", help="where files go (default: %(default)s)"
    )
    command.add_argument("--picture", metavar="FILE", help="draw the outcome too, as PNG or SVG")
    command.set_defaults(run=_demo)

    show = "print versions, kernels and devices: paste it into a bug report"
    command = commands.add_parser("config", help=show, description=f"{show.capitalize()}.")
    command.set_defaults(run=lambda options: show_config())

    show = "look into a saved weight edit"
    command = commands.add_parser("edit", help=show, description=f"{show.capitalize()}.")
    verbs = command.add_subparsers(metavar="show", required=True)
    verb = verbs.add_parser("show", help="print what the edit changes, and its notes")
    verb.add_argument("file", metavar="FILE", help="a file that WeightEdit.save wrote")
    verb.set_defaults(run=_show_edit)
    return parser


def _demo(options: argparse.Namespace) -> None:
    demo.run(options.out, options.seed, options.seeds, options.picture)


def _show_edit(options: argparse.Namespace) -> None:
    edit = WeightEdit.load(options.file)
    print(edit)
    rows = edit.summary()
    width = max((len(row.name) for row in rows), default=0)
    for name, changed, total, share in rows:
        print(f"  {name:<{width}}  {changed:>12,} of {total:>12,}  {100 * share:6.2f} %")
    for key, text in edit.info.items():
        print(f"  {key}: {text}")


def _count(text: str) -> int:
    """Read a positive number; argparse turns the error into a message and exit status 2."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 on")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
