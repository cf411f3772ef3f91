# SPDX-License-Identifier: BSD-3-Clause
"""The audit's section on losses: three histograms over the same losses, and their quartiles."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np

from unlearnkit.report._extra import extra
from unlearnkit.report.page import Report
from unlearnkit.report.plots import LIGHT, draw

Data = Mapping[str, Any]

MODELS = {"before": "original", "after": "unlearned", "retrained": "retrained"}  # colours
ALIKE = " Where forgetting worked, the result's losses (blue) resemble the retrained model's (grey)."
ALONE = (
    " No retrained model was there to compare with; the nearest thing to look at is how the forgotten samples differ "
    "from the unseen ones."
)
SETS = {"forget": "Forgotten samples", "retain": "Samples to be kept", "unseen": "Unseen samples"}


def losses_section(report: Report, losses: Data) -> None:
    """Add the section to a report."""
    models = ["before", "after"] + ["retrained"] * ("retrained" in losses["sets"])
    where = "right" if losses["scale"] == "linear" else "right (the axis is logarithmic)"
    text = (
        f"How the loss ({losses['name']}) of single samples is spread: further to the {where}, the model does worse. "
        "The axes of loss are the same; the end bars hold what lies beyond them."
    )
    text += ALIKE if "retrained" in models else ALONE
    report.section("Losses before and after", text)
    edges = np.array(losses["edges"])
    plots = {}
    for data, title in SETS.items():
        counted = {model: losses["sets"][model][data] for model in models}
        plot = partial(_outlines, counted=counted, edges=edges, scale=losses["scale"])
        n = counted["after"]["n"]
        plots[f"{title} ({n:,})"] = draw(plot, _in_words(title, counted), (3.1, 2.3))
    report.plots(plots, small=True)
    rows = [
        {"samples": f"{title}\n{model}"} | dict(_quartiles(losses["sets"][model][data]))
        for data, title in SETS.items()
        for model in models
    ]
    report.table(rows, "Quartiles of the losses", folded=True)


def _outlines(axes: Any, counted: Mapping[str, Data], edges: Any, scale: str) -> None:
    top = max(max(_shares(one)) for one in counted.values())
    for model, one in counted.items():
        colour = LIGHT[MODELS[model]]
        style = {"linewidth": 1.8, "clip_on": False, "linestyle": "--" if model == "before" else "-"}
        if model == "after":
            axes.stairs(_shares(one), edges, fill=True, color=colour, alpha=0.2)
        axes.stairs(_shares(one), edges, color=colour, label=model, **style)
    axes.set_xscale(scale)
    axes.set_xlim(edges[0], edges[-1])
    axes.set_ylim(0, 1.05 * top)
    axes.tick_params(axis="x", pad=6)
    ticker = extra("matplotlib.ticker")
    axes.yaxis.set_major_locator(ticker.MaxNLocator(3))
    axes.yaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _at: f"{value:g} %"))
    if scale == "log":
        axes.xaxis.set_major_locator(ticker.LogLocator(numticks=5))
        axes.xaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _at: f"{value:g}"))
        axes.xaxis.set_minor_locator(ticker.NullLocator())
    else:
        axes.xaxis.set_major_locator(ticker.MaxNLocator(4))
    axes.grid(axis="y")
    axes.set_xlabel("loss")
    where = {"loc": "lower left", "bbox_to_anchor": (-0.02, 1.0), "borderaxespad": 0.2}
    axes.legend(ncols=3, columnspacing=1, handlelength=1.2, handletextpad=0.4, fontsize=9, **where)


def _shares(one: Data) -> Any:
    """Return the percentage of samples in each bin: [BINS]."""
    counts = np.array(one["counts"])
    return 100 * counts / max(counts.sum(), 1)


def _in_words(title: str, counted: Mapping[str, Data]) -> str:
    medians = (f"{model} {_number(one['quartiles'][1])}" for model, one in counted.items())
    return f"{title}: histograms of the loss; medians {', '.join(medians)}"


def _quartiles(one: Data) -> Iterator[tuple[str, str]]:
    names = ("lower quartile", "median", "upper quartile")
    yield from zip(names, map(_number, one["quartiles"]), strict=True)
    yield "not finite", f"{one['n_not_finite']:,}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"
