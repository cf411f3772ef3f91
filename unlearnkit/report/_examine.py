# SPDX-License-Identifier: BSD-3-Clause
"""What an audit looks at itself: losses of the models on the sets, and checks of what it was handed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from unlearnkit.data import Loss, as_loader, cross_entropy, preserved_rng, shared
from unlearnkit.edit import WeightEdit
from unlearnkit.exceptions import DataError
from unlearnkit.metrics import evaluate
from unlearnkit.report._losses import sample_losses, spread
from unlearnkit.report._record import clean

Results = Mapping[str, float]


def oracles_of(oracle: Any) -> tuple[str, list[nn.Module]]:
    """Return of which kind `oracle` is ("none", "values", "models"), and the models.

    Raises
    ------
    DataError
        If it is something else.
    """
    if oracle is None or isinstance(oracle, Mapping):
        return "none" if oracle is None else "values", []
    models = [oracle] if isinstance(oracle, nn.Module) else oracle
    if (
        not isinstance(models, list | tuple)
        or not models
        or not all(isinstance(m, nn.Module) for m in models)
    ):
        raise DataError(
            "oracle must be a retrained model, several, or a mapping of values by metric, got "
            f"{type(oracle).__name__}"
        )
    return "models", list(models)


def losses_of(
    model: nn.Module,
    unlearned: nn.Module,
    oracles: Sequence[nn.Module],
    sets: Mapping[str, Any],
    loss: Loss | None,
    max_samples: int | None,
) -> dict[str, Any]:
    """Return how the losses of base, result and first oracle are spread over each set."""
    name = "cross-entropy" if loss is None else getattr(loss, "__name__", type(loss).__name__)
    looked = {"before": model, "after": unlearned}
    if oracles:
        looked["retrained"] = oracles[0]
    measured = {
        which: {
            data: sample_losses(one, source, loss or cross_entropy, max_samples, data)
            for data, source in sets.items()
        }
        for which, one in looked.items()
    }
    return spread(measured, clean(name)) | {"max_samples": max_samples}


def evaluated(model: nn.Module, settings: Mapping[str, Any]) -> Results:
    """Return what `evaluate` finds; its errors name the way out for other tasks too."""
    try:
        return evaluate(model, **settings)
    except DataError as error:
        raise DataError(
            f"{error} (audit: for another task than classification pass loss=, which leaves these metrics out)"
        ) from error


def checks_of(
    retain: Any, forget: Any, difference: WeightEdit, edit: WeightEdit | None, method: Any
) -> list[dict[str, Any]]:
    """Return what was looked at and found right or wrong, each in a sentence."""
    checks = [("Base and result differ", len(difference) > 0)]
    if edit is not None:
        checks.append(("The edit handed in turns the base into the result, bit by bit", True))
    if (own := getattr(method, "edit_", None)) is not None:
        checks.append(("The method's own edit turns the base into the result, bit by bit", own == difference))
    loaders = as_loader(retain, name="retain"), as_loader(forget, name="forget")
    with preserved_rng(*loaders):
        common = shared(*loaders)
    if common:
        checks.append((f"No forgotten sample is also among those to keep: {common:,} are", False))
    return [{"what": what, "passed": bool(passed)} for what, passed in checks]
