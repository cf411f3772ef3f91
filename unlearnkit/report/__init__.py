# SPDX-License-Identifier: BSD-3-Clause
"""Reports: one HTML file that says what was done, with tables, plots and pictures in it.

`audit` examines an unlearned model, and records it as JSON and as a page. Pages and plots need
``pip install 'unlearnkit[report]'``; nothing else of the library does, the audit's JSON included.
"""

from unlearnkit.report._extra import check_installed
from unlearnkit.report.audit import Audit, audit
from unlearnkit.report.page import Card, Report
from unlearnkit.report.plots import COLOURS, Drawing, bars, draw, histogram, points, shares

__all__ = [
    "COLOURS",
    "Audit",
    "Card",
    "Drawing",
    "Report",
    "audit",
    "bars",
    "check_installed",
    "draw",
    "histogram",
    "points",
    "shares",
]
