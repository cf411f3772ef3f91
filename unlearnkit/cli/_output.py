# SPDX-License-Identifier: BSD-3-Clause
"""What a command says: lines or one JSON object on stdout, everything else on stderr."""

from __future__ import annotations

import json
import math
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import Any, TextIO

from unlearnkit.exceptions import CollapseWarning, UnlearnWarning


class Console:
    """Where a command talks to the user.

    Parameters
    ----------
    as_json, quiet : bool
        One JSON object in place of lines; no lines at all.

    Attributes
    ----------
    warnings : list of str
        What was warned of so far, each once.
    collapsed : bool
        Whether a method has warned that its edit damages what should be kept.
    """

    def __init__(self, as_json: bool = False, quiet: bool = False) -> None:
        self.as_json, self.quiet = as_json, quiet
        self.warnings: list[str] = []
        self.collapsed = False
        self._out: TextIO = sys.stdout

    @property
    def progress(self) -> bool:
        """Whether to show progress bars: to a person who has not asked for silence."""
        return not self.quiet and sys.stderr.isatty()

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Keep stdout for results: what is printed inside goes to stderr, and so do warnings, a line each."""

        def show(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            text = " ".join(str(message).split())
            self.collapsed |= issubclass(category, CollapseWarning)
            if text not in self.warnings:
                self.warnings.append(text)
                print(f"warning: {text}", file=sys.stderr)

        with warnings.catch_warnings(), redirect_stdout(sys.stderr):
            warnings.simplefilter("always", UnlearnWarning)
            warnings.showwarning = show
            yield

    def say(self, facts: Mapping[str, Any], rows: Mapping[str, str], table: Sequence[str] = ()) -> None:
        """Report what was done.

        Parameters
        ----------
        facts : mapping
            For a program: anything that JSON can hold.
        rows, table
            For a person: words by caption, and lines below them.
        """
        if self.as_json:
            self._print(json.dumps(_plain({**facts, "warnings": self.warnings}), indent=2, allow_nan=False))
        elif not self.quiet:
            width = max(map(len, rows), default=0) + 2
            lines = [f"{caption:<{width}}{text}" for caption, text in rows.items()]
            self._print("\n".join([*lines, *([""] if lines and table else []), *table]))

    def fail(self, program: str, code: int, message: str) -> None:
        """Report an error: on stderr, and as JSON on stdout where that is asked for."""
        print(f"{program}: {message}", file=sys.stderr)
        if self.as_json:
            facts = {"exit_code": code, "error": message, "warnings": self.warnings}
            self._print(json.dumps(facts, indent=2))

    def _print(self, text: str) -> None:
        print(text, file=self._out, flush=True)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return lines with columns, numbers flush right and words flush left."""
    columns = list(zip(head, *rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    numeric = [any(column[1:]) and all(map(_is_number, column[1:])) for column in columns]
    return [
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, numeric, strict=True)
        ).rstrip()
        for line in (head, *rows)
    ]


def _is_number(cell: str) -> bool:
    return not cell.strip("+-.,0123456789e")


def _plain(value: Any) -> Any:
    """Return what JSON can hold: no NaN, no tuple, no NumPy number."""
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, bool | int | str) or value is None:
        return value
    if hasattr(value, "item"):
        return _plain(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value)
