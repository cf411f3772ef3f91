# SPDX-License-Identifier: BSD-3-Clause
"""Options that several commands have."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from unlearnkit.cli._errors import EXIT_CODES

Commands = Any  # argparse keeps the class of what add_subparsers returns to itself

NAME = "NAME"


def command(
    commands: Commands, name: str, show: str, run: Callable[..., int], text: str = "", examples: str = ""
) -> argparse.ArgumentParser:
    """Add a command, with what its ``--help`` says."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=show,
        description=f"{show[0].upper()}{show[1:]}.\n\n{text}".rstrip(),
        epilog=f"examples:\n{examples.rstrip()}\n\n{EXIT_CODES}" if examples else EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.set_defaults(run=run, program=f"unlearnkit {name}", as_json=False, quiet=False, traceback=False)
    return parser


def output_options(parser: argparse.ArgumentParser, force: bool = True) -> None:
    """Add how the command talks, and whether it may replace files."""
    group = parser.add_argument_group("output")
    if force:
        group.add_argument("--force", action="store_true", help="replace files that exist")
    group.add_argument("--json", action="store_true", dest="as_json", help="print one JSON object on stdout")
    group.add_argument("-q", "--quiet", action="store_true", help="print warnings and errors alone")
    group.add_argument("--traceback", action="store_true", help="show where an error arose")


def model_options(parser: argparse.ArgumentParser) -> Any:
    """Add which model; return the group, for its weights."""
    group = parser.add_argument_group("model")
    group.add_argument(
        "--model", required=True, metavar=NAME,
        help="what builds it: module:name or path/to/file.py:name, a function that is called (also "
        "'train.py:build(classes=10)') or the model itself",
    )  # fmt: skip
    group.add_argument(
        "--device", metavar="DEVICE", help="where to compute, such as cuda (default: where it is built)"
    )
    return group


def weights_option(group: Any, option: str, what: str, required: bool = False) -> None:
    """Add an option for a checkpoint."""
    group.add_argument(
        option, required=required, metavar="FILE",
        help=f"{what}: .safetensors, or the folder or index of a sharded checkpoint",
    )  # fmt: skip


def pickle_option(group: Any) -> None:
    """Add the option without which no pickle is opened."""
    group.add_argument(
        "--allow-pickle", action="store_true",
        help="read .pt, .pth, .bin and .ckpt files too: tensors and plain values, no code",
    )  # fmt: skip


def data_options(parser: argparse.ArgumentParser, what: str, required: bool = False) -> Any:
    """Add the data and how to read it; return the group, for more."""
    group = parser.add_argument_group("data")
    group.add_argument(
        "--data", required=required, metavar=NAME,
        help=f"{what}: module:name of a Dataset or (X, y) or of a function that returns one; or a file with X and y "
        "(.npz, .safetensors), or .csv",
    )  # fmt: skip
    group.add_argument("--label", metavar="COLUMN", help="of a .csv: what is to be predicted")
    group.add_argument("--id", metavar="COLUMN", help="of a .csv: the key of each row, no feature")
    group.add_argument(
        "--batch-size", type=count, default=128, metavar="N",
        help="samples a batch where the data has none yet (default: %(default)s); a method that trains has its own",
    )  # fmt: skip
    return group


def request_options(group: Any) -> None:
    """Add what is to be forgotten and what is to be kept."""
    what = group.add_mutually_exclusive_group()
    what.add_argument(
        "--forget", metavar="IDS",
        help="samples of --data: positions from 0 on (3,17,20-40), or keys where the data has them; or a file of them, "
        "one a line",
    )  # fmt: skip
    what.add_argument(
        "--forget-class", metavar="K", help="samples of --data: those of these classes, such as 3 or 3,5"
    )
    what.add_argument("--forget-data", metavar=NAME, help="a data set of its own, named as --data is")
    group.add_argument(
        "--column", metavar="COLUMN", help="which column of the --forget file, if it has several"
    )
    group.add_argument("--retain-data", metavar=NAME, help="what to keep (default: the rest of --data)")


def loss_option(group: Any) -> None:
    """Add a loss of the user's own."""
    group.add_argument(
        "--loss", metavar=NAME,
        help="loss(model, batch) that returns one value a sample (default: cross-entropy)",
    )  # fmt: skip


def method_options(parser: argparse.ArgumentParser, default: str = "ASSD") -> Any:
    """Add the method and its parameters; return the group."""
    group = parser.add_argument_group("method")
    group.add_argument(
        "--method", default=default, metavar=NAME,
        help="(default: %(default)s); `unlearnkit info methods` lists them, `unlearnkit info SSD` shows one",
    )  # fmt: skip
    group.add_argument(
        "--set", action="append", default=[], metavar="P=V",
        help="a parameter: percentile=99, \"importance=WeightedSaliency(on='all')\", factory=train.py:build",
    )  # fmt: skip
    return group


def run_options(parser: argparse.ArgumentParser) -> None:
    """Add how to compute."""
    group = parser.add_argument_group("computation")
    group.add_argument(
        "--seed", type=whole, default=0, metavar="N", help="fixes all that is drawn (default: 0)"
    )
    group.add_argument("--threads", type=count, metavar="N", help="threads of torch on the CPU")


def count(text: str) -> int:
    """Read a positive number; argparse turns the error into a message and exit status 2."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 on")
    return int(text)


def whole(text: str) -> int:
    """Read a number from 0 on."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 on")
    return int(text)
