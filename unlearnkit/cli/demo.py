# SPDX-License-Identifier: BSD-3-Clause
"""``unlearnkit demo``: what the library does, on real data."""

from __future__ import annotations

import argparse

from unlearnkit import demo
from unlearnkit.cli import _options as shared
from unlearnkit.cli._errors import DONE
from unlearnkit.cli._output import Console


def add(commands: shared.Commands) -> None:
    """Add the command."""
    show = "make a network forget, on real data, and write a page about it"
    parser = shared.command(commands, "demo", show, run)
    parser.add_argument("--seed", type=shared.whole, default=0, help="the seed shown (default: 0)")
    parser.add_argument(
        "--seeds", type=shared.count, default=demo.SEEDS, metavar="K",
        help="how many seeds to repeat it over, from --seed on (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--out", default=demo.FOLDER, metavar="DIR", help="where files go (default: %(default)s)"
    )
    parser.add_argument("--picture", metavar="FILE", help="draw the outcome too, as PNG or SVG")


def run(options: argparse.Namespace, console: Console) -> int:
    """Run the command; return its exit code."""
    demo.run(options.out, options.seed, options.seeds, options.picture)
    return DONE
