# SPDX-License-Identifier: BSD-3-Clause
import pytest
import torch

from unlearnkit.ops import _native

ISAS = range(_native.module().best_isa() + 1) if _native.module() else ()


@pytest.fixture(params=[*ISAS, pytest.param("torch")], ids=lambda isa: f"isa{isa}" if isa != "torch" else isa)
def kernels(request):
    """Run a test with the kernels for each instruction set that this processor has, and with torch."""
    if request.param == "torch":
        with _native.using("torch"):
            yield
        return
    compiled = _native.module()
    compiled.use_isa(request.param)
    with _native.using("native"):  # an error where a kernel would be left out
        yield
    compiled.use_isa(compiled.best_isa())


@pytest.fixture
def two_threads():
    """Let torch, and the kernels with it, use two threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)
