# SPDX-License-Identifier: BSD-3-Clause
"""A report: titles, text, numbers, tables, plots and pictures in one HTML file."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from numpy.typing import ArrayLike

from unlearnkit.report._extra import extra
from unlearnkit.report.plots import COLOURS, Drawing

_TEMPLATE = Path(__file__).with_name("page.html")


class Card(NamedTuple):
    """A small picture and what stands under it: ``(role, text)``, a role being a colour's name."""

    picture: ArrayLike
    words: str
    lines: Sequence[tuple[str, str]]


class Report:
    """A page that is put together from top to bottom, and written as one file.

    The file needs nothing beside it: styles, plots and pictures are in it, and it holds no script
    and no address. It follows the reader's choice of light or dark, and the width of the window.
    Every method but `html` and `save` returns the report, so calls can be chained.

    Parameters
    ----------
    title : str
        The page's heading.
    text : str
        What to know before reading on.

    Examples
    --------
    >>> from unlearnkit.report import Report
    >>> report = Report("Request 17").section("What was forgotten", "Twelve scans.")
    >>> report = report.table([{"model": "original", "test": "97.1 %"}])
    >>> "Twelve scans." in report.html()
    True
    """

    def __init__(self, title: str, text: str = "") -> None:
        self.title = title
        self.text = text
        self._blocks: list[tuple[str, dict[str, Any]]] = []

    def section(self, title: str, text: str = "") -> Report:
        """Begin a section with a heading and, where there is one, a paragraph."""
        return self._add("section", title=title, text=text)

    def paragraph(self, text: str, title: str = "") -> Report:
        """Add a paragraph, under a small heading where `title` is given."""
        return self._add("paragraph", title=title, text=text)

    def code(self, text: str) -> Report:
        """Add lines of code."""
        return self._add("code", text=text)

    def facts(self, facts: Mapping[str, str]) -> Report:
        """Add numbers that matter, large: what each is, by its value as text."""
        return self._add("facts", facts=dict(facts))

    def notice(self, title: str, lines: Sequence[str] = (), tone: str = "ink") -> Report:
        """Add a box with what matters most: a sentence in large type, and lines under it.

        Parameters
        ----------
        title : str
            The sentence.
        lines : sequence of str
            A paragraph each.
        tone : str
            A name of `COLOURS` for the box's edge.
        """
        return self._add("notice", title=title, lines=list(lines), tone=tone)

    def properties(self, properties: Mapping[str, str], code: bool = False) -> Report:
        """Add names with their values as text, each below the other; with `code` in a monospaced type."""
        return self._add("properties", properties=dict(properties), code=code)

    def items(self, items: Iterable[tuple[str, str]]) -> Report:
        """Add a list of ``(title, text)``; a title may be empty."""
        return self._add("items", items=list(items))

    def meters(self, rows: Iterable[tuple[str, float, str]], caption: str = "") -> Report:
        """Add horizontal bars: a name, a number not below 0, and the number as text.

        The longest bar is that of the largest number. Long names wrap.
        """
        rows = list(rows)
        most = max((value for _, value, _ in rows), default=0) or 1
        shown = [(name, f"{100 * value / most:.2f}", text) for name, value, text in rows]
        return self._add("meters", rows=shown, caption=caption)

    def blanks(self, names: Sequence[str]) -> Report:
        """Add lines to be filled in by hand, on paper."""
        return self._add("blanks", names=list(names))

    def table(
        self,
        rows: Iterable[Mapping[str, str]],
        caption: str = "",
        *,
        remarks: Sequence[str] = (),
        folded: bool = False,
    ) -> Report:
        """Add a table.

        Parameters
        ----------
        rows : iterable of mappings
            Texts by column. The first column heads its row; a line break in a text starts a remark.
        caption : str
            What the table says.
        remarks : sequence of str
            A text under each row, as wide as the table.
        folded : bool
            Whether only the caption is seen until the reader opens it; on paper it is open, unless it
            has more than 60 rows.
        """
        rows = [dict(row) for row in rows]
        columns = list(rows[0]) if rows else []
        content = {"rows": rows, "columns": columns, "caption": caption, "remarks": list(remarks)}
        return self._add("table", **content, folded=folded)

    def plots(self, plots: Mapping[str, Drawing], small: bool = False) -> Report:
        """Add plots, by their titles; they stand side by side where there is room, three if `small`."""
        return self._add("plots", plots=dict(plots), small=small)

    def gallery(self, cards: Iterable[Card], caption: str = "") -> Report:
        """Add small pictures in rows.

        Parameters
        ----------
        cards : iterable of Card
            Pictures are array_like [H, W] of grey levels in [0, 1], or [H, W, 3] of colours.
        caption : str
            What they have in common, and what the lines mean.
        """
        shown = [(_data_uri(card.picture), card.words, card.lines) for card in cards]
        return self._add("gallery", cards=shown, caption=caption)

    def html(self) -> str:
        """Return the page.

        Raises
        ------
        ImportError
            If jinja2 is not installed.
        """
        environment = extra("jinja2").Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
        template = environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))
        page: str = template.render(title=self.title, text=self.text, blocks=self._blocks, colours=COLOURS)
        return page

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the page to a file, and return its path."""
        path = Path(path)
        path.write_text(self.html(), encoding="utf-8")
        return path

    def _add(self, kind: str, **content: Any) -> Report:
        self._blocks.append((kind, content))
        return self


def _data_uri(picture: ArrayLike) -> str:
    """Return a picture as a PNG that is its own address, one pixel a value."""
    file = io.BytesIO()
    extra("matplotlib.image").imsave(file, picture, cmap="gray", vmin=0, vmax=1, format="png")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
