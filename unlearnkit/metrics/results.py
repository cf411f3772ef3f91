# SPDX-License-Identifier: BSD-3-Clause
"""What an evaluation found, as a mapping for programs and as a table for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from html import escape
from typing import Any

from unlearnkit.exceptions import DataError

__all__ = ["Evaluation", "Score"]


@dataclass(frozen=True)
class Score:
    """One figure, and what is needed to read it.

    Attributes
    ----------
    name : str
    value : float
    low, high : float or None
        The confidence interval over the draw of the samples; None where none was computed.
    n : int
        Samples (or models) that it rests on.
    meaning : str
        What it is, which direction or target is good, its source; one line.
    target : float or None
        The retrained model's value of the same metric, where known: what is to be reached.
    group : str
        For tables: "accuracy", "closeness", "membership", "cost", ...
    """

    name: str
    value: float
    low: float | None
    high: float | None
    n: int
    meaning: str
    target: float | None
    group: str = "basic"


COLUMNS = ("group", "value", "low", "high", "n", "target", "meaning")


@dataclass(frozen=True, eq=False, repr=False)
class Evaluation(Mapping[str, float]):
    """The figures of one model: ``results["tow"]`` is a number, ``results.scores["tow"]`` all about it.

    Attributes
    ----------
    scores : Mapping[str, Score]
    notes : tuple of str
        In plain words: what is weak, what rests on too little, what was not verified.
    """

    scores: Mapping[str, Score]
    notes: tuple[str, ...] = ()

    def __getitem__(self, name: str) -> float:
        if name not in self.scores:
            raise KeyError(f"no metric {name!r} was measured; there are {', '.join(self.scores)}")
        return self.scores[name].value

    def __iter__(self) -> Iterator[str]:
        return iter(self.scores)

    def __len__(self) -> int:
        return len(self.scores)

    def __or__(self, other: Mapping[str, Any]) -> dict[str, Any]:
        return {**self, **other}

    def __ror__(self, other: Mapping[str, Any]) -> dict[str, Any]:
        return {**other, **self}

    def to_dict(self) -> dict[str, Any]:
        """Return the whole of it in what JSON knows: ``{"scores": {name: {...}}, "notes": [...]}``."""
        return {
            "scores": {name: asdict(score) for name, score in self.scores.items()},
            "notes": [*self.notes],
        }

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Evaluation:
        """Return what :meth:`to_dict` made a dictionary of.

        Raises
        ------
        DataError
            If it is of another form.
        """
        try:
            scores = {name: Score(**score) for name, score in stored["scores"].items()}
            return cls(scores, tuple(stored["notes"]))
        except (KeyError, TypeError, AttributeError) as error:
            raise DataError(
                'a stored evaluation is {"scores": {name: '
                f'{{{", ".join(field.name for field in fields(Score))}}}}}, "notes": [...]}}, as '
                f"Evaluation.to_dict makes it; this is not: {error}"
            ) from error

    def to_frame(self) -> Any:
        """Return a table: a row a metric, with its group, value, low, high, n, target and meaning.

        Returns
        -------
        pandas.DataFrame

        Raises
        ------
        ImportError
            If pandas is not installed.
        """
        library = pandas()
        rows = [[getattr(score, column) for column in COLUMNS] for score in self.scores.values()]
        index = library.Index(list(self.scores), name="metric")
        frame = library.DataFrame(rows, columns=list(COLUMNS), index=index)
        return frame.astype({column: float for column in ("value", "low", "high", "target")})

    def __repr__(self) -> str:
        rows = [("metric", "value", "interval", "oracle", "n"), *map(_cells, self.scores.values())]
        width = [max(len(row[at]) for row in rows) for at in range(5)]
        lines = [
            "  ".join(
                cell.ljust(size) if at == 0 else cell.rjust(size)
                for at, (cell, size) in enumerate(zip(row, width, strict=True))
            ).rstrip()
            for row in rows
        ]
        return "\n".join([*lines, *(f"- {note}" for note in self.notes)])

    def _repr_html_(self) -> str:
        head = ("metric", "value", "interval", "oracle", "n", "what it is")
        rows = [(*_cells(score), score.meaning) for score in self.scores.values()]
        left = ' style="text-align: left"'
        body = "".join(
            "<tr>" + "".join(_cell("td", cell, at in (0, 5)) for at, cell in enumerate(row)) + "</tr>"
            for row in rows
        )
        titles = "".join(_cell("th", title, at in (0, 5)) for at, title in enumerate(head))
        notes = "".join(f"<li>{escape(note)}</li>" for note in self.notes)
        return f"<table><thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table>" + (
            f"<ul{left}>{notes}</ul>" if notes else ""
        )


def _cells(score: Score) -> tuple[str, str, str, str, str]:
    between = "" if score.low is None or score.high is None else f"{_text(score.low)} to {_text(score.high)}"
    return score.name, _text(score.value), between, _text(score.target), str(score.n)


def _cell(tag: str, text: str, left: bool) -> str:
    return f'<{tag} style="text-align: {"left" if left else "right"}">{escape(text)}</{tag}>'


def _text(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.3f}" if abs(value) < 100 else f"{value:,.0f}"


def pandas() -> Any:
    """Return the pandas library, for tables.

    Raises
    ------
    ImportError
        If it is not installed.
    """
    try:
        import pandas as found
    except ImportError as error:
        raise ImportError(
            "to_frame needs pandas: pip install 'unlearnkit[report]'; to_dict needs nothing"
        ) from error
    return found
