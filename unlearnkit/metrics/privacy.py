# SPDX-License-Identifier: BSD-3-Clause
"""Membership inference as SalUn's authors measure it: one SVC on the confidence in the label.

Weakness. The attack is one average-case classifier on one number a sample. It is trained on
retained against unseen samples of the *unlearned* model, so it measures how far that model
overfits as much as what it forgot, and a low score on the forget set is no evidence of privacy
(Hayes et al., SaTML 2025). Compare it with a retrained model's value; never read it alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.random import RandomState
from numpy.typing import ArrayLike, NDArray
from sklearn.svm import SVC
from sklearn.utils import check_random_state
from torch import nn

from unlearnkit.exceptions import DataError
from unlearnkit.metrics.classification import confidence_from_logits, predict_logits

__all__ = ["confidence_mia", "mia"]


def confidence_mia(
    model: nn.Module,
    retain: Any,
    test: Any,
    forget: Any,
    *,
    max_samples: int | None = 2000,
    random_state: int | RandomState | None = 0,
) -> float:
    """Share of the forget samples that the confidence attack calls non-members.

    SalUn's "MIA" column (its ``SVC_MIA(...)["confidence"]``) as a fraction. Higher means "looks
    unseen"; the value to reach is the retrained model's, not 1. See the module for its weakness.

    Parameters
    ----------
    model : nn.Module
        The unlearned classifier; it is left as it was found.
    retain, test : DataLoader, Dataset or (X, y)
        The attack learns members from `retain` and non-members from `test`. Leave a class that
        was forgotten as a whole out of `test`, as the paper does. Without augmentation.
    forget : DataLoader, Dataset or (X, y)
        The samples that are judged.
    max_samples, random_state
        As for `mia`.

    Returns
    -------
    float
        In [0, 1].

    Raises
    ------
    DataError
        If a data set is empty, or the model's output does not fit the labels.
    """
    members, nonmembers, targets = (
        confidence_from_logits(*predict_logits(model, data)) for data in (retain, test, forget)
    )
    return mia(members, nonmembers, targets, max_samples=max_samples, random_state=random_state)


def mia(
    members: ArrayLike,
    nonmembers: ArrayLike,
    targets: ArrayLike,
    *,
    max_samples: int | None = 2000,
    random_state: int | RandomState | None = 0,
) -> float:
    """Share of `targets` that an SVC, trained on members against non-members, calls non-members.

    The attack is scikit-learn's ``SVC(C=3, gamma="auto", kernel="rbf")`` on the raw values. The
    authors train it on the first ``len(nonmembers)`` members; here both sides are drawn at random
    and without replacement, since the first samples of data sorted by class are of one class.

    Parameters
    ----------
    members, nonmembers, targets : array_like [M], [N], [T]
        One value a sample, such as its softmax probability of the label.
    max_samples : int, optional
        At most so many samples of either side train the attack; None takes the smaller side's
        number. An SVC's time grows with the square: 0.5 s at 2,000, and the score of random
        draws of that size differs by about 0.01.
    random_state : int, RandomState or None
        Of the draws.

    Returns
    -------
    float
        In [0, 1].

    Raises
    ------
    DataError
        If an array is empty, not of one dimension or not finite, or `max_samples` is below 1.
    """
    seen, unseen = _values(members, "members"), _values(nonmembers, "nonmembers")
    judged = _values(targets, "targets")
    if max_samples is not None and max_samples < 1:
        raise DataError(f"max_samples must be at least 1, or None; got {max_samples}")
    size = min(len(seen), len(unseen), len(seen) if max_samples is None else max_samples)
    draw = check_random_state(random_state)
    shadow = [values[draw.permutation(len(values))[:size]] for values in (seen, unseen)]
    attack = SVC(C=3, gamma="auto", kernel="rbf")
    attack.fit(np.concatenate(shadow)[:, None], np.repeat([1, 0], size))
    return float(np.mean(attack.predict(judged[:, None]) == 0))


def _values(array: ArrayLike, name: str) -> NDArray[np.float64]:
    values = np.asarray(array, dtype=np.float64)
    if values.ndim != 1 or values.size == 0:
        raise DataError(
            f"{name} must hold one value a sample, and at least one; got the shape {list(values.shape)}"
        )
    if not np.isfinite(values).all():
        raise DataError(
            f"{name} must be finite; got {int((~np.isfinite(values)).sum())} NaN or infinite "
            "values: the model that made them has diverged"
        )
    return values
