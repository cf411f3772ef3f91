# SPDX-License-Identifier: BSD-3-Clause
"""What is to be forgotten: positions or keys, typed in a list or read from a file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from unlearnkit.cli._data import rows_of
from unlearnkit.cli._errors import WrongUse, near
from unlearnkit.exceptions import DataError

HEADERS = ("id", "ids", "key", "keys", "index", "indices", "position", "positions", "sample", "samples")
"""What the first line of a list of keys may say without being one of them."""

FILES = (".csv", ".txt", ".tsv", ".json", ".npy")


@dataclass(frozen=True)
class Entry:
    """A position or key as it was given, where it stands, and whether it may be a header instead."""

    text: str
    where: str
    is_first: bool = False


def entries(text: str, column: str | None = None) -> list[Entry]:
    """Read a list that was typed, or the column of a file.

    Raises
    ------
    WrongUse
        If there is no such file or column, or no text.
    DataError
        If there is no entry.
    """
    path = Path(text)
    if not text.strip():
        raise WrongUse("--forget is empty: give a file of positions or keys, or a list such as 3,17,20-40.")
    if path.is_file():
        found = _of_file(path, column)
    elif path.suffix.lower() in FILES or "/" in text:
        raise WrongUse(f"--forget {text}: there is no such file.")
    else:
        if column is not None:
            raise WrongUse(f"--column {column}: --forget {text} is a list; only a file has columns.")
        found = [Entry(part.strip(), f"--forget {text}") for part in text.split(",")]
    if not found:
        raise DataError(f"{text} is empty: it names no sample to forget.")
    return found


def positions(found: Sequence[Entry], total: int, keys: Sequence[str] | None = None) -> list[int]:
    """Return the positions that entries mean, in ascending order.

    Parameters
    ----------
    found : sequence of Entry
        Positions from 0 on, ranges of them (``20-40``, both ends included); or keys.
    total : int
        How many samples there are.
    keys : sequence of str, optional
        The key of each sample. An entry then is a key, and means every sample that has it.

    Raises
    ------
    DataError
        If an entry is no position or key, occurs twice, or all samples are meant.
    """
    chosen: dict[int, Entry] = {}
    rows: dict[str, list[int]] = {}
    for row, key in enumerate(keys or ()):
        rows.setdefault(key, []).append(row)
    for entry in found:
        if entry.is_first and len(found) > 1 and _is_header(entry, rows, keys is not None):
            continue
        for position in _keyed(entry, rows) if keys is not None else _numbered(entry, total):
            if position in chosen:
                first = chosen[position]
                where = "" if first.where == entry.where else f" ({first.where})"
                raise DataError(
                    f"{entry.where}: sample {position} is named by {entry.text}, and before by {first.text}{where}; "
                    "name each sample once."
                )
            chosen[position] = entry
    if len(chosen) == total:
        raise DataError(
            f"all {total:,} samples of the data are to be forgotten, so there is nothing to keep: train a newly built "
            "model instead."
        )
    return sorted(chosen)


def _of_file(path: Path, column: str | None) -> list[Entry]:
    rows = list(rows_of(path))
    if not rows:
        return []
    header = rows[0][1]
    at = 0
    if column is not None:
        if column not in header:
            raise WrongUse(
                f"--column {column}: {path} has no such column{near(column, header)}. There are {', '.join(header)}."
            )
        at, rows = header.index(column), rows[1:]
    elif len(header) > 1:
        raise WrongUse(
            f"--forget {path}: it has {len(header)} columns; choose one with --column. There are {', '.join(header)}."
        )
    lacking = [line for line, row in rows if len(row) <= at or not row[at]]
    if lacking:
        raise DataError(
            f"{path}, line {lacking[0]}: nothing stands in the column of what is to be forgotten."
        )
    return [
        Entry(row[at], f"{path}, line {line}", is_first=column is None and not number)
        for number, (line, row) in enumerate(rows)
    ]


def _is_header(entry: Entry, rows: dict[str, list[int]], has_keys: bool) -> bool:
    if has_keys:
        return entry.text not in rows and entry.text.lower() in HEADERS
    return entry.text.isidentifier()  # a word; a mistyped number is none


def _keyed(entry: Entry, rows: dict[str, list[int]]) -> list[int]:
    if entry.text not in rows:
        raise DataError(f"{entry.where}: no sample has the key {entry.text!r}{near(entry.text, rows)}.")
    return rows[entry.text]


def _numbered(entry: Entry, total: int) -> range:
    low, dash, high = entry.text.partition("-")
    ends = [low.strip(), high.strip()] if dash else [low]
    if not all(end.isdecimal() for end in ends):
        raise DataError(
            f"{entry.where}: {entry.text!r} is not a position: a whole number from 0 on, or a range such as 20-40. For "
            "keys, the data needs them (--id COLUMN of a CSV file, or an array id)."
        )
    first, last = int(ends[0]), int(ends[-1])
    if last < first:
        raise DataError(f"{entry.where}: the range {entry.text} ends before it begins.")
    if last >= total:
        raise DataError(
            f"{entry.where}: {last} is out of range: the data has {total:,} samples, with positions 0 to {total - 1}."
        )
    return range(first, last + 1)
