# SPDX-License-Identifier: BSD-3-Clause
"""The stored importance of what is retained, kept up to date by subtraction.

Sums subtract where both were measured on the same weights. So the share of a request's samples is
measured on the *anchor*, the model that the stored sums were measured on, and not on the model as it
is now: there the sums of few samples may exceed the stored ones of all, and what is left of those
would be zeros, which a dampening method takes for weights that nobody needs.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import nn

from unlearnkit.data import Loss
from unlearnkit.exceptions import DataError
from unlearnkit.importance import FisherDiagonal, Importance, ImportanceEstimator
from unlearnkit.importance.base import checked
from unlearnkit.importance.names import NAMES


class Updated(NamedTuple):
    """Stored importances with a request.

    Attributes
    ----------
    rest : Importance
        Of what is retained after the request, on the anchor.
    known : Importance
        The same, and of the forget set on the current model: what a method takes for that of the
        training set, and has `rest` left when it subtracts the forget set.
    """

    rest: Importance
    known: Importance


def check_reference(reference: Any, model: nn.Module) -> Importance:
    """Return a reference that can be subtracted from.

    Raises
    ------
    DataError
        If it is no importance of this model, or a sum over batches.
    """
    reference = checked(reference, model)
    if reference.count != reference.samples:
        raise DataError(
            f"the reference ({reference.kind}) is a sum over batches, and single samples cannot be subtracted "
            "from that: measure one with FisherDiagonal().measure(model, train)."
        )
    return reference


def estimator_of(kind: str) -> ImportanceEstimator:
    """Return the estimator that measures a kind.

    Raises
    ------
    DataError
        If it is not known.
    """
    candidates = [make() for make in NAMES.values()]
    candidates += [FisherDiagonal(labels=labels) for labels in ("predicted", "sampled")]
    for estimator in candidates:
        if estimator.kind == kind:
            return estimator
    raise DataError(
        f"which estimator measured the reference ({kind!r}) is not known: pass it, as in "
        "ForgetLog(..., importance=FisherDiagonal())."
    )


def updated(
    stored: Importance,
    estimator: ImportanceEstimator,
    anchor: nn.Module,
    model: nn.Module,
    forget: Any,
    new: Any,
    loss: Loss | None,
) -> Updated:
    """Take a request's samples out of what is stored.

    Parameters
    ----------
    stored : Importance
        Of what was retained before, measured on `anchor`.
    estimator : ImportanceEstimator
        Of the same kind.
    anchor, model : nn.Module
        The model that `stored` was measured on, and as it is now.
    forget : data
        The request's forget set.
    new : data or None
        Its samples that were not forgotten before: `forget` itself, a part of it, or None where there
        are none.
    loss : callable or None

    Raises
    ------
    DataError
        If the samples are not among those that `stored` was measured on.
    """
    current = estimator.measure(model, forget, loss=loss)
    if new is None:
        return Updated(stored, stored + current)
    if anchor is model and new is forget:
        return Updated(stored - current, stored)
    rest = stored - estimator.measure(anchor, new, loss=loss)
    return Updated(rest, rest + current)
