# SPDX-License-Identifier: BSD-3-Clause
"""The demo: two requests to forget, on real data, in seconds.

``unlearnkit demo`` on the command line, or `run` from Python.
"""

from unlearnkit.demo.run import FOLDER, SEEDS, run

__all__ = ["FOLDER", "SEEDS", "run"]
