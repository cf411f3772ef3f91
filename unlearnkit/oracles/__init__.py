# SPDX-License-Identifier: BSD-3-Clause
"""Retrained models, kept on disk: what unlearned ones are compared with."""

from unlearnkit.oracles.bank import OracleBank

__all__ = ["OracleBank"]
