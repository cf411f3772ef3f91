# SPDX-License-Identifier: BSD-3-Clause
"""Reports: one HTML file that says what was done, with tables, plots and pictures in it.

They need ``pip install 'unlearnkit[report]'``; nothing else of the library does.
"""

from unlearnkit.report._extra import check_installed
from unlearnkit.report.page import Card, Report
from unlearnkit.report.plots import COLOURS, Drawing, bars, draw, histogram, points, shares

__all__ = [
    "COLOURS",
    "Card",
    "Drawing",
    "Report",
    "bars",
    "check_installed",
    "draw",
    "histogram",
    "points",
    "shares",
]
