# SPDX-License-Identifier: BSD-3-Clause
"""What methods check of their parameters."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any

from unlearnkit.exceptions import DataError


def check_number(name: str, value: Any, high: float = math.inf, meaning: str = "a number") -> None:
    """Check that a parameter is a number from 0 to `high`; infinity is none.

    Raises
    ------
    DataError
        If it is not.
    """
    number = isinstance(value, Real) and not isinstance(value, bool)
    if not number or not 0 <= value <= high or math.isinf(value):
        range_ = "from 0 on" if math.isinf(high) else f"from 0 to {high:g}"
        raise DataError(f"{name} must be {meaning} {range_}, got {value!r}.")
