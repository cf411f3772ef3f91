# SPDX-License-Identifier: BSD-3-Clause
"""Plots that follow the page they stand on: its text size, its width, light and dark.

A plot is a function that draws on matplotlib axes. `draw` makes an SVG of one, in which every
colour of `COLOURS` is a CSS variable: the page, not the picture, decides what it looks like.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from unlearnkit.report._extra import extra

# Name: colour on a light page, on a dark one. Text on its background has a contrast of at least
# 4.5; the three models differ in lightness as well as in hue, for readers who see fewer colours.
COLOURS = {
    "paper": ("#ffffff", "#15181d"),
    "tint": ("#f3f5f8", "#1f242b"),
    "ink": ("#1c2027", "#e7e9ed"),
    "soft": ("#5c6470", "#a4acb8"),
    "line": ("#dde1e7", "#343a44"),
    "original": ("#b8480a", "#ff9d5c"),
    "retrained": ("#828b99", "#7d8796"),
    "unlearned": ("#0b5fa5", "#62b5f6"),
}
LIGHT = {name: light for name, (light, _) in COLOURS.items()}


class Drawing(NamedTuple):
    """An SVG to be put into a page, and what it shows, in words."""

    svg: str
    words: str


def draw(plot: Callable[[Any], None], words: str, size: tuple[float, float] = (4.6, 2.9)) -> Drawing:
    """Make an SVG for a page.

    Parameters
    ----------
    plot : callable
        Draws on the matplotlib axes that it is given.
    words : str
        What the plot shows, for readers who do not see it.
    size : (float, float)
        Width and height in inches of 100 px; the page scales it down where it must.

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    """
    figure = new_figure(size)
    with style():
        plot(figure.add_subplot())
        page = io.StringIO()
        figure.savefig(page, format="svg", transparent=True, bbox_inches="tight")
    return Drawing(_inlined(page.getvalue()), words)


def new_figure(size: tuple[float, float]) -> Any:
    """Return a matplotlib figure that no window and no global state knows of."""
    return extra("matplotlib.figure").Figure(figsize=size, layout="constrained")


def style() -> Any:
    """Return the context in which every plot is drawn and saved."""
    quiet = dict.fromkeys(("axes.spines.top", "axes.spines.right", "axes.spines.left"), False)
    return extra("matplotlib").rc_context(
        quiet
        | {
            "svg.fonttype": "none",  # text stays text: it can be found, copied and read aloud
            "svg.hashsalt": "unlearnkit",  # the same plot gives the same bytes
            "font.size": 9.5,
            "text.color": LIGHT["ink"],
            "axes.edgecolor": LIGHT["soft"],
            "axes.labelcolor": LIGHT["soft"],
            "axes.titlelocation": "left",
            "axes.titlesize": 10.5,
            "axes.titlepad": 10,
            "axes.axisbelow": True,
            "grid.color": LIGHT["line"],
            "xtick.color": LIGHT["soft"],
            "ytick.color": LIGHT["soft"],
            "xtick.major.size": 0,
            "ytick.major.size": 0,
            "legend.frameon": False,
        }
    )


def bars(axes: Any, groups: Sequence[str], series: Mapping[str, Sequence[float]]) -> None:
    """Draw grouped bars of fractions, each with its value in percent.

    Parameters
    ----------
    axes : matplotlib.axes.Axes
        Where to draw.
    groups : sequence of str
        Names along the axis, G of them.
    series : mapping of str to sequence of float [G]
        Fractions by name; a name of `COLOURS` gets its colour.
    """
    width = 0.82 / len(series)
    for index, (name, values) in enumerate(series.items()):
        x = np.arange(len(groups)) + (index - (len(series) - 1) / 2) * width
        bar = axes.bar(x, 100 * np.asarray(values), 0.92 * width, color=_colour(name), label=name)
        axes.bar_label(bar, fmt="%.0f", padding=2, fontsize=8.5, color=LIGHT["ink"])
    axes.set_xticks(range(len(groups)), groups)
    _percent(axes)
    _legend(axes)


def histogram(axes: Any, series: Mapping[str, ArrayLike], xlabel: str, bins: int = 20) -> None:
    """Draw how numbers in [0, 1] are spread, one outline a series, as shares of each.

    Parameters
    ----------
    axes : matplotlib.axes.Axes
        Where to draw.
    series : mapping of str to array_like [N]
        Numbers in [0, 1] by name.
    xlabel : str
        What the numbers are.
    bins : int
        How many equal bins [0, 1] is cut into.
    """
    for name, values in series.items():
        counts, edges = np.histogram(np.asarray(values), bins=bins, range=(0, 1))
        percent = 100 * counts / max(counts.sum(), 1)
        axes.stairs(percent, edges, fill=True, color=_colour(name), alpha=0.18)
        axes.stairs(percent, edges, color=_colour(name), linewidth=1.8, label=name)
    axes.set_xlabel(xlabel)
    axes.set_xlim(0, 1)
    _percent(axes)
    _legend(axes)


def shares(axes: Any, rows: Mapping[str, float], xlabel: str) -> None:
    """Draw horizontal bars of fractions, the first on top.

    Parameters
    ----------
    axes : matplotlib.axes.Axes
        Where to draw.
    rows : mapping of str to float
        Fractions by name.
    xlabel : str
        What they are fractions of.
    """
    values = 100 * np.array(list(rows.values()))
    bar = axes.barh(list(rows), values, 0.66, color=LIGHT["unlearned"])
    labels = [f"{value:.1f} %" if value >= 0.05 else "< 0.1 %" for value in values]
    axes.bar_label(bar, labels, padding=3, fontsize=8.5, color=LIGHT["ink"])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.15 * max(values, default=1))
    axes.set_xticks([])
    axes.set_xlabel(xlabel)
    axes.spines["bottom"].set_visible(False)


def points(axes: Any, groups: Sequence[str], series: Mapping[str, ArrayLike]) -> None:
    """Draw every value of repeated runs as a dot, and their mean as a bar.

    Parameters
    ----------
    axes : matplotlib.axes.Axes
        Where to draw.
    groups : sequence of str
        Names along the axis, G of them.
    series : mapping of str to array_like [R, G]
        Fractions by name, one row a run.
    """
    for index, (name, values) in enumerate(series.items()):
        runs = 100 * np.asarray(values)  # [R, G]
        x = np.arange(len(groups)) + 0.26 * (index - (len(series) - 1) / 2)
        apart = np.linspace(-0.06, 0.06, len(runs))[:, None]  # equal values stay visible
        axes.scatter(x + apart, runs, 14, color=_colour(name), alpha=0.75, linewidths=0, label=name)
        axes.hlines(runs.mean(0), x - 0.1, x + 0.1, color=_colour(name), linewidth=1.5)
    axes.set_xticks(range(len(groups)), groups)
    _percent(axes)
    _legend(axes)


def _colour(name: str) -> str:
    return LIGHT.get(name, LIGHT["ink"])


def _percent(axes: Any) -> None:
    axes.set_ylim(0, 104)
    axes.set_yticks([0, 25, 50, 75, 100], ["0", "25", "50", "75", "100 %"])
    axes.grid(axis="y")


def _legend(axes: Any) -> None:
    where = {"loc": "lower left", "bbox_to_anchor": (-0.02, 1.0), "borderaxespad": 0.3}
    axes.legend(ncols=3, columnspacing=1.2, handlelength=0.9, handletextpad=0.5, **where)


def _inlined(svg: str) -> str:
    """Keep what HTML needs of an SVG file: no links to standards, no names that may clash."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'<svg[^>]* viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1">', svg, count=1)
    svg = re.sub(r'<metadata>.*?</metadata>| id="\w+_\d+"', "", svg, flags=re.DOTALL)
    for name, colour in LIGHT.items():
        svg = svg.replace(colour, f"var(--{name})")
    return svg
