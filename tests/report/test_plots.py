# SPDX-License-Identifier: BSD-3-Clause
"""Plots: what they show, and that the page decides how they look."""

import re

import numpy as np
import pytest

from unlearnkit.report import COLOURS, bars, draw, histogram, points, shares
from unlearnkit.report.plots import new_figure

pytest.importorskip("matplotlib")

ACCURACIES = {"original": [0.881, 1.0], "retrained": [0.976, 0.0], "unlearned": [0.966, 0.013]}
PLOTS = {
    "bars": lambda axes: bars(axes, ["test", "forget"], ACCURACIES),
    "histogram": lambda axes: histogram(axes, {"original": [0.1, 0.9], "other": [1.0]}, "chance"),
    "shares": lambda axes: shares(axes, {"conv1.weight": 0.253, "fc.bias": 0.9}, "share"),
    "points": lambda axes: points(axes, ["test"], {"unlearned": [[0.95], [0.97]]}),
}


@pytest.fixture
def axes():
    return new_figure((4, 3)).add_subplot()


def texts(svg):
    return re.findall(r"<text[^>]*>([^<]*)</text>", svg)


def luminance(colour):
    """Relative luminance as the Web Content Accessibility Guidelines define it."""
    parts = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return linear @ [0.2126, 0.7152, 0.0722]


def contrast(one, other):
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("mode", [0, 1], ids=["light", "dark"])
def test_colours_can_be_read(mode):
    shown = {name: pair[mode] for name, pair in COLOURS.items()}
    for name in ("ink", "soft", "original", "unlearned"):
        assert contrast(shown[name], shown["paper"]) >= 4.5  # text
    assert contrast(shown["ink"], shown["tint"]) >= 4.5
    assert contrast(shown["retrained"], shown["paper"]) >= 3  # bars


@pytest.mark.parametrize("name", PLOTS)
def test_svg_is_fit_for_a_page(name):
    drawing = draw(PLOTS[name], "in words")
    assert drawing.words == "in words"
    assert drawing.svg.startswith("<svg viewBox=")  # no size of its own: the page gives one
    assert "://" not in drawing.svg
    assert not re.search(r'id="\w+_\d+"', drawing.svg)
    assert not set(re.findall(r"#[0-9a-f]{6}", drawing.svg)) - {"#000000"}
    assert set(re.findall(r"var\(--(\w+)\)", drawing.svg)) <= set(COLOURS)
    assert drawing == draw(PLOTS[name], "in words")  # to the byte


def test_bars_show_their_values():
    shown = texts(draw(PLOTS["bars"], "").svg)
    assert {"test", "forget", *ACCURACIES} <= set(shown)
    assert [text for text in shown if text in ("88", "98", "97")] == ["88", "98", "97"]


def test_histogram_counts_shares_of_each_series(axes):
    histogram(axes, {"a": [0.0, 0.04, 0.5, 1.0], "b": []}, "chance", bins=10)
    outlines = [patch.get_data() for patch in axes.patches if not patch.get_fill()]
    np.testing.assert_allclose(outlines[0].values, [50, 0, 0, 0, 0, 25, 0, 0, 0, 25])
    assert not outlines[1].values.any()  # no samples, no shares


def test_shares_stand_in_order(axes):
    shares(axes, {"first": 0.2, "second": 0.5, "third": 0.0003}, "share")
    assert [bar.get_width() for bar in axes.patches] == pytest.approx([20, 50, 0.03])
    assert [text.get_text() for text in axes.texts] == ["20.0 %", "50.0 %", "< 0.1 %"]
    low, high = axes.get_ylim()
    assert low > high  # the first is on top


def test_points_show_every_run_and_the_mean(axes):
    points(axes, ["test", "forget"], {"unlearned": [[0.9, 0.0], [1.0, 0.1]]})
    dots, means = axes.collections
    np.testing.assert_allclose(sorted(dots.get_offsets()[:, 1]), [0, 10, 90, 100])
    np.testing.assert_allclose([line[0, 1] for line in means.get_segments()], [95, 5])


def test_an_empty_plot_can_be_drawn(axes):
    shares(axes, {}, "share")
