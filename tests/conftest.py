# SPDX-License-Identifier: BSD-3-Clause
"""What every test relies on: fixed seeds, one thread, no clock, no CUDA test without CUDA."""

import random

import numpy as np
import pytest
import torch
from hypothesis import settings

# The same cases in every run, however slow the machine.
settings.register_profile("unlearnkit", derandomize=True, deadline=None)
settings.load_profile("unlearnkit")

# Sums round otherwise on two threads, and then a trained model is another one.
torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("cuda"):
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture(autouse=True)
def _seeds() -> None:
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
