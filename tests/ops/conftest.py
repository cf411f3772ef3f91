# SPDX-License-Identifier: BSD-3-Clause
import contextlib

import pytest
import torch

from unlearnkit.ops import _native

ISAS = ["portable", "v3", "v4"]  # in the order of csrc/cpu/isa.h
ROUTES = ["torch", *ISAS[: _native.module().best_isa() + 1 if _native.module() else 0]]


@contextlib.contextmanager
def taken(route):
    """Use torch, or the kernels for an instruction set: with an error where one would be left out."""
    with _native.using("torch" if route == "torch" else "native"):
        if route == "torch":
            yield route
            return
        compiled = _native.module()
        compiled.use_isa(ISAS.index(route))
        yield route
        compiled.use_isa(compiled.best_isa())


@pytest.fixture(params=ROUTES)
def kernels(request):
    """Run a test in torch, and with the kernels of every instruction set that this processor has."""
    with taken(request.param) as route:
        yield route


@pytest.fixture(scope="module", params=ROUTES)
def route(request):
    """Do so for all of a file's tests."""
    with taken(request.param) as route:
        yield route


@pytest.fixture
def two_threads():
    """Let torch, and the kernels with it, use two threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def on_threads(two_threads):
    """Call a function with one and with two threads; return both results."""

    def both(function):
        results = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            results.append(function())
        return results

    return both
