# SPDX-License-Identifier: BSD-3-Clause
"""The examples as files: they are no package."""

import runpy
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def examples():
    """Return their folder."""
    return Path(__file__).parents[2] / "examples"


@pytest.fixture
def main_of(examples):
    """Return a function that loads an example and returns its ``main``."""
    return lambda name: runpy.run_path(str(examples / f"{name}.py"))["main"]
