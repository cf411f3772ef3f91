# SPDX-License-Identifier: BSD-3-Clause
"""Requests over time: one model, one request after another, and a record of them."""

from unlearnkit.log.entries import Drift, Entry
from unlearnkit.log.forget_log import ForgetLog

__all__ = ["Drift", "Entry", "ForgetLog"]
