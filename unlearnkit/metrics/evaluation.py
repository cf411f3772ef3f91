# SPDX-License-Identifier: BSD-3-Clause
"""The usual metrics of one unlearned model in one call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.random import RandomState
from torch import nn

from unlearnkit.metrics.classification import (
    accuracy_from_logits,
    confidence_from_logits,
    predict_logits,
)
from unlearnkit.metrics.comparison import avg_gap, tow
from unlearnkit.metrics.privacy import mia

__all__ = ["evaluate"]


def evaluate(
    model: nn.Module,
    *,
    retain: Any,
    forget: Any,
    test: Any,
    oracle: nn.Module | Mapping[str, float] | None = None,
    max_samples: int | None = 2000,
    random_state: int | RandomState | None = 0,
) -> dict[str, float]:
    """Accuracies, membership inference and, beside an oracle, the distance to it.

    Each data set is read once a model.

    Parameters
    ----------
    model : nn.Module
        The unlearned model.
    retain, forget, test : DataLoader, Dataset or (X, y)
        The samples to keep, those to forget, and ones that no model was trained on.
    oracle : nn.Module or Mapping[str, float], optional
        A newly built model that was trained on `retain` alone, or what this function returned
        for it, so that many unlearned models can be compared with one oracle.
    max_samples, random_state
        Of the membership inference, see `unlearnkit.metrics.mia`.

    Returns
    -------
    dict[str, float]
        Fractions in [0, 1]: "test", "retain" and "forget" (accuracies), "mia" (share of the
        forget samples that look unseen; weak, see `confidence_mia`), and with an oracle "tow"
        (1 is best) and "avg_gap" (0 is best; of the three accuracies and "mia").

    Raises
    ------
    DataError
        If a data set is empty, the model's output does not fit the labels, or the oracle's
        results lack a key.
    """
    logits = {
        name: predict_logits(model, data)
        for name, data in (("test", test), ("retain", retain), ("forget", forget))
    }
    results = {name: accuracy_from_logits(*pair) for name, pair in logits.items()}
    confidence = {name: confidence_from_logits(*pair) for name, pair in logits.items()}
    results["mia"] = mia(
        confidence["retain"],
        confidence["test"],
        confidence["forget"],
        max_samples=max_samples,
        random_state=random_state,
    )
    if oracle is None:
        return results
    if isinstance(oracle, nn.Module):
        oracle = evaluate(
            oracle,
            retain=retain,
            forget=forget,
            test=test,
            max_samples=max_samples,
            random_state=random_state,
        )
    return results | {"tow": tow(results, oracle), "avg_gap": avg_gap(results, oracle)}
