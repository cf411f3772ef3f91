# SPDX-License-Identifier: BSD-3-Clause
"""Handing a request to an estimator."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import nn

from unlearnkit.base import Unlearner
from unlearnkit.cli._errors import WrongUse
from unlearnkit.cli._methods import supply
from unlearnkit.cli._names import Name
from unlearnkit.cli._output import Console
from unlearnkit.cli._request import Request
from unlearnkit.exceptions import DataError
from unlearnkit.importance import Importance


def loss_of(options: argparse.Namespace) -> Callable[..., Any] | None:
    """Return the loss that was named, if one was.

    Raises
    ------
    WrongUse
        If it is no function.
    """
    if options.loss is None:
        return None
    found = Name.parse(options.loss, "--loss").find()
    if not callable(found):
        raise WrongUse(
            f"--loss {options.loss} is a {type(found).__name__}, expected a function loss(model, batch)."
        )
    return found


def prepared(estimator: Unlearner, options: argparse.Namespace, model: nn.Module, console: Console) -> None:
    """Give an estimator what is no parameter of its own on the command line: loss, seed, reference.

    Raises
    ------
    WrongUse
        If it has no use for one of them.
    DataError
        If the reference was not measured on this model.
    """
    known = estimator.get_params(deep=False)
    kind = type(estimator).__name__
    loss = loss_of(options)
    if loss is not None and "loss" not in known:
        raise WrongUse(f"--loss {options.loss}: {kind} has no use for a loss.")
    values: dict[str, Any] = {"loss": loss, "progress": console.progress or None}
    if known.get("random_state") is None:
        values["random_state"] = options.seed
    if options.reference is not None:
        if "reference" not in known:
            raise WrongUse(
                f"--reference {options.reference}: {kind} has no use for a stored importance; SSD and ASSD have."
            )
        values["reference"] = Importance.load(options.reference)
        values["reference"].check_model(model)
    supply(estimator, values)


def fitted(estimator: Unlearner, model: nn.Module, request: Request) -> Request:
    """Fit, and return the request with what is to be forgotten filled in where it was found out.

    Raises
    ------
    DataError
        As of ``fit``.
    """
    if request.forget is not None:
        estimator.fit(model, forget=request.forget, retain=request.retain, validation=request.validation)
        return request
    if request.whole is None:
        raise DataError("there is no data to find out from what is to be forgotten: give --data.")
    estimator.fit(model, request.whole.loader, validation=request.validation)
    partition = estimator.partition_
    found, total = len(partition.indices), len(partition.is_noisy)
    said = {**request.said, "forget": f"{found:,} of {total:,} samples (found by {type(estimator).__name__})"}
    return replace(request, forget=partition.forget, retain=partition.retain, said=said)
