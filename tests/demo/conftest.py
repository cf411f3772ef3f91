# SPDX-License-Identifier: BSD-3-Clause
"""One run of the demo, as users get it, for all tests of it."""

from contextlib import redirect_stdout
from io import StringIO
from types import SimpleNamespace

import pytest

from unlearnkit import demo


@pytest.fixture(scope="session")
def done(tmp_path_factory):
    """Return the outcomes over two seeds, what was printed, and the folder."""
    pytest.importorskip("matplotlib")
    folder = tmp_path_factory.mktemp("demo")
    with redirect_stdout(StringIO()) as printed:
        studies = demo.run(folder, seeds=2, image=folder / "demo.png")
    return SimpleNamespace(studies=studies, printed=printed.getvalue(), folder=folder)


@pytest.fixture(scope="session")
def scanner(done):
    """Return the outcomes of the first request, by seed."""
    return done.studies[0]


@pytest.fixture(scope="session")
def whole_class(done):
    """Return the outcomes of the second request, by seed."""
    return done.studies[1]
