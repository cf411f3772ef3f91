# SPDX-License-Identifier: BSD-3-Clause
"""The command line: ``unlearnkit forget`` and its fellows; docs/cli.md shows them at work."""

from unlearnkit.cli._main import main

__all__ = ["main"]
