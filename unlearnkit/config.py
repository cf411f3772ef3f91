# SPDX-License-Identifier: BSD-3-Clause
"""What this installation consists of: for bug reports, and beside every measurement."""

import importlib.metadata
import os
import platform

import torch

from unlearnkit import ops

PACKAGES = ("unlearnkit", "torch", "numpy", "scikit-learn", "safetensors", "tqdm")


def configuration() -> dict[str, dict[str, str]]:
    """Versions, kernels and devices, as text.

    Returns
    -------
    dict
        ``versions`` by name, ``kernels`` (how the compiled module was built, or only that it is
        absent) and ``devices`` by torch's name for them.

    Examples
    --------
    >>> list(configuration())
    ['versions', 'kernels', 'devices']
    """
    versions = {"python": f"{platform.python_version()}, {platform.platform()}"}
    versions |= {name: _version(name) for name in PACKAGES}
    kernels = {name: str(value) for name, value in ops.build_info().items()}
    threads = f"{os.cpu_count()} cores, of which torch uses {torch.get_num_threads()}"
    devices = {"cpu": f"{platform.machine()}, {threads}"}
    for index in range(torch.cuda.device_count()):
        found = torch.cuda.get_device_properties(index)
        size = f"{found.total_memory / 2**30:.0f} GiB"
        devices[f"cuda:{index}"] = f"{found.name}, sm_{found.major}{found.minor}, {size}"
    if torch.backends.mps.is_available():
        devices["mps"] = platform.processor()
    return {"versions": versions, "kernels": kernels, "devices": devices}


def show_config() -> None:
    """Print `configuration`: paste it into a bug report."""
    for section, rows in configuration().items():
        print(section)
        for name, value in rows.items():
            print(f"  {name:<14}{value}")


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"  # imported from a folder
