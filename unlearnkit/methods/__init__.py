# SPDX-License-Identifier: BSD-3-Clause
"""The methods: a file each."""

from unlearnkit.methods.assd import ASSD
from unlearnkit.methods.ssd import LFSSD, SSD

__all__ = ["ASSD", "LFSSD", "SSD"]
