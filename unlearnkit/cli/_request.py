# SPDX-License-Identifier: BSD-3-Clause
"""A request as the command line states it: the samples to forget, and those to keep."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unlearnkit.cli._data import Columns, Data, Source
from unlearnkit.cli._errors import WrongUse
from unlearnkit.cli._ids import Entry, entries, positions
from unlearnkit.data import Partition, batch_size, in_order, labels, preserved_rng
from unlearnkit.exceptions import DataError

ROLES = {"data": "--data", "forget_data": "--forget-data", "retain_data": "--retain-data",
         "validation": "--validation", "test": "--test"}  # fmt: skip


@dataclass(frozen=True)
class Request:
    """The data of a request, read.

    Attributes
    ----------
    forget, retain : iterable of batches, or None
        None where it is not known; of forget where the method finds it.
    whole : Data or None
        The training set, where it was given.
    validation, test : iterable of batches, or None
    said : dict of str to str
        What was asked for, in the user's words.
    """

    forget: Any
    retain: Any
    whole: Data | None
    validation: Any
    test: Any
    said: dict[str, str] = field(default_factory=dict)


class Wanted:
    """A request that is understood and not yet read.

    Parameters
    ----------
    options : argparse.Namespace
        Of the data and request options.
    finds : bool
        Whether the method finds out what is to be forgotten.

    Raises
    ------
    WrongUse
        If the options do not make a request.
    """

    def __init__(self, options: argparse.Namespace, finds: bool = False) -> None:
        self.size: int = options.batch_size
        self.columns = Columns(options.label, options.id)
        given = {name: getattr(options, name, None) for name in ROLES}
        self.sources = {
            name: Source.parse(text, ROLES[name], self.columns)
            for name, text in given.items()
            if text is not None
        }
        self.forget, self.classes = options.forget, options.forget_class
        if options.column is not None and self.forget is None:
            raise WrongUse(f"--column {options.column} is of a file that --forget names; there is none.")
        chosen = (
            "--forget" if self.forget is not None else "--forget-class" if self.classes is not None else None
        )
        if chosen and "data" not in self.sources:
            raise WrongUse(f"{chosen} chooses from --data; give the data set that the model was trained on.")
        if "forget_data" in self.sources and "data" in self.sources:
            raise WrongUse("--forget-data stands beside --retain-data; --data is what --forget chooses from.")
        if not chosen and "forget_data" not in self.sources and not finds:
            raise WrongUse(
                "say what is to be forgotten: --forget IDS, --forget-class K or --forget-data NAME."
            )
        if finds and not chosen and not {"data", "forget_data"} & set(self.sources):
            raise WrongUse("this method finds out what is to be forgotten; give it --data.")
        self.entries: list[Entry] = [] if self.forget is None else entries(self.forget, options.column)
        self.from_file = self.forget is not None and Path(self.forget).is_file()
        self.numbers = [] if self.classes is None else _classes(self.classes)

    @property
    def files(self) -> list[str]:
        """What the request reads."""
        return [source.text for source in self.sources.values()] + [self.forget or ""]

    def read(self) -> Request:
        """Read the data.

        Raises
        ------
        DataError, UserCodeError, WrongUse
            If some of it is not what it should be.
        """
        loaded: dict[str, Data] = {}
        columns = self.columns
        for name, source in self.sources.items():  # the training data first: it says how columns are ordered
            loaded[name] = source.load(columns, self.size)
            columns = replace(columns, features=columns.features or loaded[name].features)
        whole = loaded.get("data")
        said = {"data": whole.text} if whole is not None else {}
        forget: Any = None
        retain: Any = None
        if whole is not None and (self.entries or self.numbers):
            total = len(whole)
            chosen = (
                positions(self.entries, total, whole.keys) if self.entries else self._of_classes(whole, total)
            )
            partition = Partition.of(whole.loader, torch.tensor(chosen, dtype=torch.long))
            retain, forget = partition
            # keys may name persons: what was typed is not repeated, for it would end in the report
            name = (
                f"classes {self.classes}" if self.numbers else self.forget if self.from_file else "as typed"
            )
            said["forget"] = f"{len(chosen):,} of {total:,} samples ({name})"
        elif "forget_data" in loaded:
            forget = loaded["forget_data"].loader
            said["forget"] = loaded["forget_data"].text
        if "retain_data" in loaded:
            retain = loaded["retain_data"].loader
            said["retain"] = loaded["retain_data"].text
        beside: dict[str, Any] = {}
        for name in ("validation", "test"):
            beside[name] = loaded[name].loader if name in loaded else None
            said |= {name: loaded[name].text} if name in loaded else {}
        return Request(forget, retain, whole, said=said, **beside)

    def _of_classes(self, whole: Data, total: int) -> list[int]:
        y = labels_of(whole.loader)  # [N]
        if len(y) != total:
            raise DataError(
                f"{whole.text} is a loader that reads {len(y):,} of its {total:,} samples: give the data set itself."
            )
        there = y.unique().tolist()
        for number in self.numbers:
            if number not in there:
                raise DataError(
                    f"--forget-class {number}: no sample has that label. There are {_some(there)}."
                )
        chosen: list[int] = torch.isin(y, torch.tensor(self.numbers)).nonzero()[:, 0].tolist()
        if len(chosen) == total:
            raise DataError("--forget-class names every class that there is, so there is nothing to keep.")
        return chosen


def labels_of(loader: Iterable[Any]) -> Tensor:
    """Return the labels [N] of a data set.

    Raises
    ------
    DataError
        If a sample has not one whole number as its label.
    """
    found = []
    with preserved_rng(loader):
        for batch in in_order(loader):
            y = labels(batch)
            if y.shape != (batch_size(batch),) or y.is_floating_point():
                raise DataError(
                    f"--forget-class needs one class a sample, and a batch has labels {list(y.shape)} of {y.dtype}: "
                    "name the samples with --forget."
                )
            found.append(y.long().cpu())
    return torch.cat(found)


def _classes(text: str) -> list[int]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise WrongUse(f"--forget-class {text}: classes are whole numbers, as in 3 or 3,5.")
    return [int(part) for part in parts]


def _some(values: list[int]) -> str:
    shown = ", ".join(map(str, values[:20]))
    return shown if len(values) <= 20 else f"{shown} and {len(values) - 20} more"
