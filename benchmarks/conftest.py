# SPDX-License-Identifier: BSD-3-Clause
"""For ``pytest benchmarks/test_kernels.py``: its neighbours can be imported, and its JSON says on what it ran."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))


def pytest_benchmark_update_machine_info(machine_info: dict) -> None:
    from _environment import environment

    machine_info.clear()  # it names the host
    machine_info.update(environment())


def pytest_benchmark_update_json(output_json: dict) -> None:
    del output_json["commit_info"]  # that of the checkout it stands in
    for row in output_json["benchmarks"]:
        del row["stats"]["data"]  # the quartiles are enough
