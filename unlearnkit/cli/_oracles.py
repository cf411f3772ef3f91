# SPDX-License-Identifier: BSD-3-Clause
"""What an outcome is compared with: retrained models, or accuracies that are declared."""

from __future__ import annotations

import argparse
from typing import Any

from unlearnkit.cli._checkpoint import files_of
from unlearnkit.cli._errors import WrongUse
from unlearnkit.cli._models import subject
from unlearnkit.cli._names import Name


def oracle_option(group: Any) -> None:
    """Add the option."""
    group.add_argument(
        "--oracle", action="append", default=[], metavar="FILE",
        help="the weights of a model that was trained anew without what is to be forgotten (of several, the mean); or "
        "the accuracies of one, as in forget=0.1,retain=0.99,test=0.97",
    )  # fmt: skip


def check_oracles(options: argparse.Namespace) -> None:
    """Check that every oracle is a file or declares accuracies.

    Raises
    ------
    WrongUse
        If one is neither, or both kinds are mixed.
    """
    for text in options.oracle:
        if "=" in text:
            _declared(text)
            if len(options.oracle) > 1:
                raise WrongUse(f"--oracle {text}: accuracies are declared once, and beside no other oracle.")
        else:
            files_of(text, "--oracle", options.allow_pickle)


def oracles_of(options: argparse.Namespace) -> Any:
    """Return one model, a list of them, declared accuracies, or None.

    Raises
    ------
    DataError, UserCodeError
        If a checkpoint does not fit the model.
    """
    if options.oracle and "=" in options.oracle[0]:
        return _declared(options.oracle[0])
    name = Name.parse(options.model, "--model")
    found = [
        subject(name, path, "--oracle", options.allow_pickle, options.device, options.seed).model
        for path in options.oracle
    ]
    return found[0] if len(found) == 1 else found or None


def _declared(text: str) -> dict[str, float]:
    found = {}
    for part in text.split(","):
        metric, _, value = part.partition("=")
        try:
            found[metric.strip()] = float(value)
        except ValueError as error:
            raise WrongUse(
                f"--oracle {text}: {value!r} is no number; declare accuracies as forget=0.1,retain=0.99,test=0.97."
            ) from error
    lacking = [name for name in ("forget", "retain", "test") if name not in found]
    if lacking:
        raise WrongUse(
            f"--oracle {text} declares no {' and no '.join(lacking)}: forget=0.1,retain=0.99,test=0.97."
        )
    return found
