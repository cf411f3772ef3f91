# SPDX-License-Identifier: BSD-3-Clause
"""Draw time and memory of the ways to the Fisher against batch size and model size.

    python benchmarks/plot.py benchmarks/results/cpu/sweep.json --out docs/fisher.png

Reads what ``fisher.py --sweep`` has measured, and measures nothing.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

STYLES = {  # colours of Okabe and Ito, told apart by the colour-blind; and a marker each
    "plain": ("plain pass", "#666666", ""),
    "unlearnkit": ("unlearnkit", "#0072B2", "o"),
    "unlearnkit-torch": ("unlearnkit, pure torch", "#56B4E9", "v"),
    "loop": ("one by one", "#009E73", "s"),
    "vmap": ("vmap(grad)", "#E69F00", "^"),
    "backpack": ("BackPACK", "#D55E00", "D"),
    "nngeometry": ("NNGeometry", "#CC79A7", "P"),
    "opacus": ("Opacus", "#000000", "X"),
}
ROWS = {"ratio": "time, × plain", "memory_ratio": "peak memory, × plain"}
COLUMNS = {"batch": "samples in a batch", "width": "million weights in the model"}
TICKS = (0.2, 0.3, 0.5, 1, 2, 3, 5, 10, 20, 30, 50, 100)
LABEL_GAP = 0.075
"""Between two labels, as a share of the axis."""


def main() -> None:
    """Read the sweep, write the picture."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("results", type=Path, help="JSON of fisher.py --sweep")
    parser.add_argument("--out", type=Path, default=Path("docs/fisher.png"))
    options = parser.parse_args()
    draw(json.loads(options.results.read_text(encoding="utf-8")), options.out)
    print(f"{options.results} -> {options.out}")


def draw(content: dict[str, Any], out: Path) -> None:
    """Draw the four panels."""
    pyplot.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
    figure, grid = pyplot.subplots(2, 2, figsize=(9, 5.6), sharex="col", layout="constrained")
    # one range a row: the two panels can be compared
    for axes, (quantity, label) in zip(grid, ROWS.items(), strict=True):
        values = [row[quantity] for part in COLUMNS for point in content[part]
                  for row in point["rows"] if row.get("exact") is True]  # fmt: skip
        low, high = min([0.9, *values]), max([1.1, *values])
        for panel, part in zip(axes, COLUMNS, strict=True):
            panel.set_yscale("log")
            panel.set_ylim(low * 0.85, high * 1.2)
            fill(panel, content[part], part, quantity)
        axes[0].set_ylabel(label)
    for panel, label in zip(grid[1], COLUMNS.values(), strict=True):
        panel.set_xlabel(label)
    figure.suptitle(caption(content), x=0.01, ha="left", fontsize=10)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=160, facecolor="white")
    pyplot.close(figure)


def caption(content: dict[str, Any]) -> str:
    """What was measured, and where."""
    about = content["environment"]
    machine = about["gpu"] if content["device"] != "cpu" else f"{about['cpu']}, {about['threads']} threads"
    weights, samples = content["batch"][0]["parameters"] / 1e6, content["width"][0]["batch"]
    return (
        "The exact Fisher diagonal, beside one plain backward pass of the same batch\n"
        f"ResNet-18 for CIFAR, float32; left {weights:.1f} M weights, right {samples} samples; {machine}"
    )


def fill(panel: Axes, points: list[dict[str, Any]], part: str, quantity: str) -> None:
    """Draw the lines of one panel, and write their names at their ends."""
    places = [point["batch"] if part == "batch" else point["parameters"] / 1e6 for point in points]
    panel.set_xscale("log")
    panel.xaxis.set_major_locator(FixedLocator(places))
    panel.xaxis.set_major_formatter(FuncFormatter(lambda place, _: f"{place:.3g}"))
    panel.yaxis.set_major_locator(FixedLocator(TICKS))
    panel.yaxis.set_major_formatter(FuncFormatter(lambda place, _: f"{place:g}×"))
    for axis in (panel.xaxis, panel.yaxis):
        axis.set_minor_locator(NullLocator())
    panel.grid(axis="y", color="#e6e6e6", linewidth=0.7)
    panel.set_axisbelow(True)
    ends = []
    for way, (name, colour, marker) in STYLES.items():
        line = [
            (place, row[quantity])
            for place, point in zip(places, points, strict=True)
            for row in point["rows"]
            # what is not the Fisher is not shown beside it
            if row["way"] == way and quantity in row and row.get("exact") is not False
        ]
        if not line:
            continue
        own = way == "unlearnkit"
        look = {"linestyle": "--", "linewidth": 1.2} if way == "plain" else {"linewidth": 2.6 if own else 1.4}
        panel.plot(*zip(*line, strict=True), color=colour, marker=marker, markersize=6 if own else 4,
                   zorder=5 if own else 3, **look)  # fmt: skip
        ends.append((panel.transAxes.inverted().transform(panel.transData.transform(line[-1])), name, colour))
    for (height, (_, name, colour)), face in zip(spread(ends), faces(ends), strict=True):
        panel.text(1.02, height, name, color=colour, transform=panel.transAxes, va="center", **face)


def spread(ends: list[Any]) -> list[tuple[float, Any]]:
    """Heights of the labels: near their lines' ends, and apart from each other."""
    ends.sort(key=lambda end: end[0][1])
    heights = [float(end[0][1]) for end in ends]
    for _ in range(200):
        for below in range(len(heights) - 1):
            lack = LABEL_GAP - (heights[below + 1] - heights[below])
            if lack > 0:
                heights[below] -= lack / 2
                heights[below + 1] += lack / 2
    return list(zip(heights, ends, strict=True))


def faces(ends: list[Any]) -> list[dict[str, str]]:
    """Our own name in bold."""
    return [{"fontweight": "bold" if name == "unlearnkit" else "normal"} for _, name, _ in ends]


if __name__ == "__main__":
    main()
