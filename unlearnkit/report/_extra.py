# SPDX-License-Identifier: BSD-3-Clause
"""The optional packages, asked for when a report is made and not before."""

from importlib import import_module
from typing import Any


def extra(name: str) -> Any:
    """Import a module that the extra ``report`` installs.

    Raises
    ------
    ImportError
        If it is not installed; the message says how to install it.
    """
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        package = name.partition(".")[0]
        raise ImportError(
            f"a report needs {package}, which is not installed: pip install 'unlearnkit[report]'"
        ) from error


def check_installed() -> None:
    """Make sure that reports can be made, before much work is done for one.

    Raises
    ------
    ImportError
        If the extra ``report`` is not installed; the message says how to install it.
    """
    for name in ("jinja2", "matplotlib"):
        extra(name)
