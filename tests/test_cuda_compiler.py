# SPDX-License-Identifier: BSD-3-Clause
"""What the CUDA compiler reports, on machines with nvcc and without a GPU."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

CSRC = Path(__file__).parents[1] / "csrc"
ARCHITECTURES = ("80", "90")
# Kernels that the report must name, so that a report which reads otherwise is no pass.
HOT = {
    "channels": "channels_kernel",
    "dampen": "dampen_kernel",
    "kth_value": "tally_kernel",
    "square_sum_simt": "square_sum_tile",
    "square_sum_tensor": "square_sum_tile",
}


def report(source: Path, made: Path) -> list[tuple[str, str, int]]:
    """Compile; return each kernel's name, its architecture, and its bytes of spilled registers."""
    nvcc = shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")
    if nvcc is None:
        pytest.skip("no nvcc")
    targets = [f"-gencode=arch=compute_{number},code=sm_{number}" for number in ARCHITECTURES]
    command = [nvcc, "-std=c++17", "-O3", *targets, "-Xptxas", "-v", f"-I{CSRC}", "-c", source, "-o", made]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    pattern = (
        r"Compiling entry function '(\w+)' for 'sm_(\d+)'"
        r"(?:(?!Compiling entry).)*?(\d+) bytes spill stores, (\d+) bytes spill loads"
    )
    found = re.findall(pattern, done.stderr, re.DOTALL)
    assert len(found) == done.stderr.count("Compiling entry function")
    return [(name, number, int(stores) + int(loads)) for name, number, stores, loads in found]


@pytest.mark.parametrize("source", sorted((CSRC / "cuda").glob("*.cu")), ids=lambda path: path.stem)
def test_kernels_keep_their_numbers_in_registers(source, tmp_path):
    kernels = report(source, tmp_path / "kernels.o")
    assert not [kernel for kernel in kernels if kernel[2] > 0]
    for number in ARCHITECTURES:
        names = [name for name, architecture, _ in kernels if architecture == number]
        assert any(HOT.get(source.stem, "") in name for name in names) or source.stem not in HOT
