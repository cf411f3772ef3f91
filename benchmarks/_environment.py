# SPDX-License-Identifier: BSD-3-Clause
"""What a result was measured on, written beside it."""

from __future__ import annotations

import json
import os
import platform
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import torch


def environment() -> dict[str, object]:
    """Versions, processor, cores, threads and date of this run."""
    return {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def write_environment(folder: Path) -> None:
    """Write ``environment.json`` into the folder of the results, making it if it is new."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(environment(), indent=2)
    (folder / "environment.json").write_text(text + "\n", encoding="utf-8")


def _processor() -> str:
    # platform.processor() is empty on most Linux systems.
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor()
