# SPDX-License-Identifier: BSD-3-Clause
import pytest
import torch

from unlearnkit.ops import _native

ISAS = ["portable", "v3", "v4"]  # in the order of csrc/cpu/isa.h


@pytest.fixture(scope="module", params=["torch", *ISAS])
def route(request):
    """Run a test in torch, and with the compiled kernels of every instruction set that runs here."""
    cpu = torch.device("cpu")
    if request.param == "torch":
        found = {name: kernel.on(cpu) for name, kernel in _native.Kernel.registry.items()}
        for kernel in _native.Kernel.registry.values():
            kernel._found["cpu"] = None
        yield request.param
        for name, run in found.items():
            _native.Kernel.registry[name]._found["cpu"] = run
        return
    compiled = _native.module()
    if compiled is None or not all(_native.state(cpu).values()):
        pytest.skip("the compiled kernels are not in use")
    best = compiled.best_isa()
    if ISAS.index(request.param) > best:
        pytest.skip(f"this processor does not run {request.param}")
    compiled.use_isa(ISAS.index(request.param))
    yield request.param
    compiled.use_isa(best)


@pytest.fixture
def on_threads():
    """Call a function with one and with two threads; return both results."""

    def both(function):
        results = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            results.append(function())
        return results

    before = torch.get_num_threads()
    yield both
    torch.set_num_threads(before)
