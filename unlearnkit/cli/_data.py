# SPDX-License-Identifier: BSD-3-Clause
"""Data sets by name, or from files of numbers: .npz, .safetensors, .csv."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from unlearnkit.cli._checkpoint import PICKLES, tensors_of
from unlearnkit.cli._errors import WrongUse, near
from unlearnkit.cli._names import FORM, Name, is_name
from unlearnkit.data import Batch, as_loader
from unlearnkit.exceptions import DataError

FILES = (".npz", ".safetensors", ".csv")


@dataclass(frozen=True)
class Columns:
    """What the columns of a CSV file mean.

    Attributes
    ----------
    label : str or None
        The column of what is to be predicted.
    id : str or None
        A column that names the rows, and is no feature.
    features : tuple of str, or None
        The others, as they are ordered in the training data; None for any.
    """

    label: str | None = None
    id: str | None = None
    features: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Source:
    """Where a data set comes from; nothing is read yet.

    Attributes
    ----------
    text : str
        As it was given.
    what : Name or Path
    """

    text: str
    what: Name | Path

    @classmethod
    def parse(cls, text: str, option: str, columns: Columns = Columns()) -> Source:
        """Tell what a text stands for.

        Raises
        ------
        WrongUse
            If it is neither a name nor a file that can be read.
        """
        path = Path(text)
        if path.suffix.lower() in FILES:
            if not path.is_file():
                raise WrongUse(f"{option} {text}: there is no such file.")
            if path.suffix.lower() == ".csv":
                _check_columns(path, option, columns)
            return cls(text, path)
        if path.suffix.lower() in (*PICKLES, ".npy") and not is_name(text):
            raise WrongUse(
                f"{option} {text}: data is read from {', '.join(FILES)} with X and y in it, not from pickles or single "
                f"arrays: save numpy.savez(file, X=..., y=...), or name a function that returns it ({FORM})."
            )
        if not is_name(text):
            raise WrongUse(f"{option} {text}: name data as {FORM}, or give a file ({', '.join(FILES)}).")
        return cls(text, Name.parse(text, option))

    def load(self, columns: Columns, size: int) -> Data:
        """Read the data.

        Raises
        ------
        DataError
            If it holds something else.
        WrongUse, UserCodeError
            If what it names is not there, or fails.
        """
        keys = features = None
        if isinstance(self.what, Name):
            found = self.what.make(ready=(DataLoader, Dataset))
            if isinstance(found, nn.Module):  # a Sequential has a length, and items
                raise DataError(
                    f"{self.text} gave a model ({type(found).__name__}), expected data: name what returns it."
                )
        elif self.what.suffix.lower() == ".csv":
            found, keys, features = _of_csv(self.what, columns)
        else:
            found, keys = _of_arrays(self.what)
        return Data(self.text, as_loader(found, size, self.text), keys, features)


@dataclass(frozen=True)
class Data:
    """A data set.

    Attributes
    ----------
    text : str
        What the user calls it.
    loader : iterable of batches
    keys : list of str, or None
        The name of each sample, where samples have names.
    features : tuple of str, or None
        The names of its columns, where they have names.
    """

    text: str
    loader: Iterable[Batch]
    keys: list[str] | None = None
    features: tuple[str, ...] | None = None

    def __len__(self) -> int:
        """Return the number of samples that have a position.

        Raises
        ------
        DataError
            If they have none.
        """
        dataset: Any = getattr(self.loader, "dataset", None)
        if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
            raise DataError(
                f"{self.text} has no samples by position, but {type(dataset or self.loader).__name__} yields them in "
                "passing: give a map-style Dataset or (X, y), or the two parts as --forget-data and --retain-data."
            )
        return len(dataset)


def _of_arrays(path: Path) -> tuple[tuple[Any, Any], list[str] | None]:
    parts: dict[str, Any]
    if path.suffix.lower() == ".safetensors":
        parts = dict(tensors_of(path)[0])
    else:
        try:
            with np.load(path, allow_pickle=False) as content:
                parts = {name: content[name] for name in content.files}
        except (ValueError, OSError) as error:
            raise DataError(f"{path} is no .npz file of numbers ({error}).") from error
    if not {"X", "y"} <= set(parts):
        raise DataError(
            f"{path} must hold X (features or images) and y (labels), it holds {', '.join(parts) or 'nothing'}."
        )
    keys = parts.get("id")
    if keys is not None and len(keys) != len(parts["y"]):
        raise DataError(f"{path} has {len(keys):,} entries in id and {len(parts['y']):,} in y: one a sample.")
    return (parts["X"], parts["y"]), None if keys is None else [_text(key) for key in keys.tolist()]


def _text(key: object) -> str:
    """Return a key as it is typed: without the b'' of bytes, and as stripped as in a file of keys."""
    return (key.decode("utf-8", "replace") if isinstance(key, bytes) else str(key)).strip()


def rows_of(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows of a CSV or TSV file that are not empty, with the line in which each ends.

    Raises
    ------
    DataError
        If it is no text.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
            for row in reader:
                if any(cell.strip() for cell in row):
                    yield reader.line_num, [cell.strip() for cell in row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is no CSV file in UTF-8 ({error}).") from error


def _check_columns(path: Path, option: str, columns: Columns) -> None:
    _, header = next(rows_of(path), (0, []))
    if columns.label is None:
        example = f", as in --label {header[-1]}" if header else ""
        raise WrongUse(
            f"{option} {path}: say which column is to be predicted{example}. There are {', '.join(header) or 'none'}."
        )
    needed: dict[str, str | None] = {"--label": columns.label}
    if option == "--data":  # whose rows are to be named
        needed["--id"] = columns.id
    for name, column in needed.items():
        if column is not None and column not in header:
            raise WrongUse(
                f"{name} {column}: {path} has no such column{near(column, header)}. There are {', '.join(header)}."
            )


def _of_csv(path: Path, columns: Columns) -> tuple[tuple[Tensor, Tensor], list[str] | None, tuple[str, ...]]:
    rows = rows_of(path)
    _, header = next(rows)
    names = tuple(name for name in header if name not in (columns.label, columns.id))
    wanted = names if columns.features is None else columns.features
    for name in set(wanted) ^ set(names):
        here, there = ("lacks", "has") if name in wanted else ("has", "lacks")
        raise DataError(f"{path} {here} the column {name!r}, which the training data {there}.")
    features = [header.index(name) for name in wanted]
    label = header.index(str(columns.label))
    key = header.index(columns.id) if columns.id in header else None
    X: list[list[float]] = []
    y: list[float] = []
    keys: list[str] = []
    for line, row in rows:
        if len(row) != len(header):
            raise DataError(f"{path}, line {line}: {len(row)} cells, and the header has {len(header)}.")
        X.append([_number(row[at], path, line, header[at]) for at in features])
        y.append(_number(row[label], path, line, header[label]))
        if key is not None:
            keys.append(row[key])
    if not y:
        raise DataError(f"{path} has a header and no row.")
    target = torch.tensor(y, dtype=torch.float64)  # [N]
    is_class = bool((target == target.round()).all())
    data = torch.tensor(X), target.long() if is_class else target.float()
    return data, keys if key is not None else None, wanted


def _number(cell: str, path: Path, line: int, column: str) -> float:
    try:
        number = float(cell)
    except ValueError as error:
        raise DataError(
            f"{path}, line {line}: {cell!r} in column {column!r} is not a number. Encode it first, leave the column "
            f"out, say --id where it names the rows, or name a function that returns the data ({FORM})."
        ) from error
    if not isfinite(number):
        raise DataError(
            f"{path}, line {line}: {cell!r} in column {column!r} is no value that a model can use. Fill it in, or "
            "leave the row out."
        )
    return number
