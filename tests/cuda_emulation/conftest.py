# SPDX-License-Identifier: BSD-3-Clause
"""Compile CUDA sources for this processor, once in a session."""

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
CSRC = HERE.parents[1] / "csrc"


@pytest.fixture(scope="session")
def emulate(tmp_path_factory):
    """Return a function that compiles and loads sources: .cu files and a .cpp file of C functions."""
    compiler = shutil.which("g++")  # clang has no __builtin_FILE in C
    if compiler is None:
        pytest.skip("no g++")

    def build(name, *sources):
        made = tmp_path_factory.mktemp("emulation") / f"{name}.so"
        # -fno-gnu-unique: each library has an emulator of its own, and its own shared memory
        flags = [
            "-std=c++17",
            "-O1",
            "-shared",
            "-fno-gnu-unique",
            "-fPIC",
            "-ffp-contract=off",
            "-Wall",
            "-Wno-unknown-pragmas",
        ]
        # a vector read at an odd address and an index past a shared array end the process, and say where
        flags += ["-fsanitize=alignment,bounds,shift", "-fno-sanitize-recover=all"]
        flags += ["-DUNLEARNKIT_EMULATE=1", "-DUNLEARNKIT_CUDA=1", f"-I{HERE}", f"-I{CSRC}"]
        done = subprocess.run(
            [compiler, *flags, "-x", "c++", *sources, "-o", made], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return ctypes.CDLL(str(made))

    return build
