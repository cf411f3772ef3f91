# SPDX-License-Identifier: BSD-3-Clause
"""How a kernel is chosen: what the environment asks for, and what the check at import finds."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from unlearnkit import ops
from unlearnkit.exceptions import FallbackWarning, UnlearnError
from unlearnkit.ops import _native
from unlearnkit.ops._native import CPU, Kernel

ROOT = Path(__file__).parents[2]
native = pytest.mark.skipif(_native.module() is None, reason="no compiled module")


def test_build_info_says_whether_there_is_a_compiled_module():
    assert ops.build_info()["native"] is (_native.module() is not None)


def run(code, **environment):
    """Run code in a fresh interpreter; return its status and all that it printed."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return done.returncode, done.stdout


def test_a_backend_that_is_not_known_is_an_error_at_import():
    status, output = run("import unlearnkit", UNLEARNKIT_BACKEND="fast")
    assert status == 1
    assert "UnlearnError: UNLEARNKIT_BACKEND='fast' is not known: set it to auto" in output


def test_native_without_a_compiled_module_is_an_error_at_import():
    code = "import sys; sys.modules['unlearnkit._C'] = None; import unlearnkit"
    status, output = run(code, UNLEARNKIT_BACKEND="native")
    assert status == 1
    assert "unlearnkit has no compiled module: it was not built" in output
    assert "Install a C++ compiler" in output


def test_torch_never_loads_the_compiled_module():
    code = """
import sys, torch, unlearnkit
from unlearnkit import ops
ops.square_sum_(torch.zeros(3, 2, 1), torch.ones(1, 2, 4), torch.ones(1, 3, 4))
unlearnkit.show_config()
assert "unlearnkit._C" not in sys.modules
"""
    status, output = run(code, UNLEARNKIT_BACKEND="torch")
    assert status == 0, output
    assert "square_sum     cpu: is switched off by UNLEARNKIT_BACKEND=torch" in output


@native
def test_an_import_checks_the_kernels_and_starts_neither_threads_nor_cuda():
    code = """
import os, torch
torch.set_default_dtype(torch.float64)  # nor does it rely on these
torch.set_default_device("meta")
before = len(os.listdir("/proc/self/task")) if os.path.isdir("/proc/self/task") else 0
import unlearnkit
from unlearnkit.ops._native import CPU, Kernel
after = len(os.listdir("/proc/self/task")) if os.path.isdir("/proc/self/task") else 0
assert Kernel.registry and all("cpu" in kernel._found for kernel in Kernel.registry.values())
assert not any("cuda" in kernel._found for kernel in Kernel.registry.values())
assert not torch.cuda.is_initialized()
print("threads", after - before, {kernel.state(CPU) for kernel in Kernel.registry.values()})
"""
    # NumPy's own threads are none of ours
    status, output = run(code, UNLEARNKIT_BACKEND="native", OMP_NUM_THREADS="2", OPENBLAS_NUM_THREADS="1")
    assert (status, output) == (0, "threads 0 {'in use'}\n")


def check(verdict):
    def answer(run, device):
        if isinstance(verdict, Exception):
            raise verdict
        return verdict

    return answer


@pytest.fixture
def made(monkeypatch):
    """Make a kernel whose check has a given outcome, around any function of a compiled module."""
    monkeypatch.setattr(Kernel, "registry", {})
    monkeypatch.setattr(_native, "_backend", "auto")
    monkeypatch.setattr(_native, "module", lambda: type("Compiled", (), {"mine_cpu": staticmethod(int)}))
    return lambda verdict, name="mine": Kernel(name, check(verdict))


@pytest.mark.parametrize(
    ("verdict", "trouble"),
    [(False, "disagrees with torch"), (MemoryError("too small"), r"fails \(too small\)")],
)
def test_a_kernel_that_is_wrong_is_left_out_and_said_once(made, verdict, trouble):
    kernel = made(verdict)
    with pytest.warns(FallbackWarning, match=f"the compiled kernel 'mine' {trouble} on cpu") as caught:
        assert [kernel.on(CPU), kernel.on(CPU)] == [None, None]
    assert len(caught) == 1
    assert ops.kernel_states(CPU)["mine"].startswith(trouble.partition(" ")[0])
    message = f"UNLEARNKIT_BACKEND=native, but the kernel 'mine' {trouble} for cpu"
    with _native.using("native"), pytest.raises(UnlearnError, match=message):
        kernel.on(CPU)


def test_a_kernel_that_is_not_built_is_left_out_silently(made, recwarn):
    kernel = made(True, "other")
    assert kernel.on(CPU) is None
    assert not recwarn.list
    assert ops.kernel_states(CPU) == {"other": "is not built"}


def test_a_kernel_that_passes_is_used_but_where_torch_is_asked_for(made):
    kernel = made(True)
    assert kernel.on(CPU) is int
    assert kernel.state(CPU) == "in use"
    with _native.using("torch"):
        assert kernel.on(CPU) is None
    assert kernel.on(CPU) is int


def test_a_wrong_kernel_warns_at_the_line_that_imports_the_library():
    code = """
import sys, types, warnings

class Wrong(types.ModuleType):
    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *arguments: 0

sys.modules["unlearnkit._C"] = Wrong("unlearnkit._C")
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import unlearnkit
    from unlearnkit.ops._native import Kernel
assert len(caught) == len(Kernel.registry)
print({(warning.category.__name__, warning.filename, warning.lineno) for warning in caught})
"""
    assert run(code, UNLEARNKIT_BACKEND="auto") == (0, "{('FallbackWarning', '<string>', 13)}\n")
