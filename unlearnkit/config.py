# SPDX-License-Identifier: BSD-3-Clause
"""What this installation consists of: for bug reports, and beside every measurement."""

import importlib.metadata
import os
import platform

import torch

from unlearnkit import ops

PACKAGES = ("unlearnkit", "torch", "numpy", "scikit-learn", "safetensors", "tqdm", "filelock")


def configuration() -> dict[str, dict[str, str]]:
    """Versions, kernels and devices, as text.

    Returns
    -------
    dict
        ``versions`` by name, ``kernels`` (how the compiled module was built, or why there is none; then of
        each kernel, by device, whether it is in use, or why not) and ``devices`` by torch's name for them.

    Examples
    --------
    >>> list(configuration())
    ['versions', 'kernels', 'devices']
    """
    versions = {"python": f"{platform.python_version()}, {platform.platform()}"}
    versions |= {name: _version(name) for name in PACKAGES}
    kernels = {"backend": ops.backend()}
    kernels |= {name: str(value) for name, value in ops.build_info().items()}
    for name, states in _kernel_states().items():
        kernels[name] = ", ".join(f"{device}: {state}" for device, state in states.items())
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
            print(f"  {name:<15}{value}")


def _kernel_states() -> dict[str, dict[str, str]]:
    devices = ["cpu"] + ["cuda"] * torch.cuda.is_available()
    found = {device: ops.kernel_states(torch.device(device)) for device in devices}
    return {name: {device: found[device][name] for device in devices} for name in found["cpu"]}


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"  # imported from a folder
