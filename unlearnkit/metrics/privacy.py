# SPDX-License-Identifier: BSD-3-Clause
"""Membership inference as SalUn's authors measure it: an SVC on what the model says of each sample.

Weakness. The attack is one average-case classifier on a few numbers a sample. It is trained on
retained against unseen samples of the *unlearned* model, so it measures how far that model
overfits as much as what it forgot, and a low score on the forget set is no evidence of privacy
(Hayes et al., SaTML 2025). Compare it with a retrained model's value; never read it alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.random import RandomState
from numpy.typing import ArrayLike, NDArray
from sklearn.svm import SVC
from sklearn.utils import check_random_state
from torch import Tensor, nn

from unlearnkit.exceptions import DataError
from unlearnkit.metrics._arrays import as_floats
from unlearnkit.metrics.classification import confidence_from_logits, predict_logits
from unlearnkit.metrics.uncertainty import entropy_from_logits, modified_entropy_from_logits

__all__ = ["confidence_mia", "mia", "svc_mia"]

Pair = tuple[Tensor, Tensor]
SIDES = ("members", "nonmembers", "targets")

FEATURES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "correctness": lambda logits, labels: (logits.argmax(dim=1) == labels).double(),  # [N]
    "confidence": confidence_from_logits,  # [N]
    "entropy": entropy_from_logits,  # [N]
    "m_entropy": modified_entropy_from_logits,  # [N]
    "prob": lambda logits, labels: logits.double().softmax(dim=1),  # [N, K]
}


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
    sides = zip((members, nonmembers, targets), SIDES, strict=True)
    rows = [one_a_sample(side, name) for side, name in sides]
    return float(svc_calls(*rows, max_samples=max_samples, random_state=random_state).mean())


def svc_mia(
    members: Pair,
    nonmembers: Pair,
    targets: Pair,
    *,
    features: Sequence[str] = tuple(FEATURES),
    max_samples: int | None = 2000,
    random_state: int | RandomState | None = 0,
) -> dict[str, float]:
    """Share of the targets called non-members, by an attack on each of SalUn's five features.

    The attack of `mia` on: "correctness" (whether the top class is the label), "confidence" (in the
    label; the papers' MIA column), "entropy", "m_entropy" (the modified entropy by its paper, see
    `modified_entropy_from_logits` for what the reference code computes in its place) and "prob"
    (all probabilities). The same samples train each attack. Weak, see the module; the value to
    reach is the retrained model's.

    Parameters
    ----------
    members, nonmembers, targets : (Tensor [M, K], Tensor [M])
        Logits and labels of retained, unseen and forgotten samples, as `predict_logits` returns.
    features : sequence of str
        Which of the five.
    max_samples, random_state
        As for `mia`.

    Returns
    -------
    dict[str, float]
        By feature, in [0, 1].

    Raises
    ------
    DataError
        As `mia` and `accuracy_from_logits`, or if there is no such feature.
    """
    if not isinstance(random_state, int):  # one draw of samples for all features
        random_state = int(check_random_state(random_state).randint(2**31))
    found = {}
    for name in features:
        if name not in FEATURES:
            raise DataError(f"there is no feature {name!r}: choose among {', '.join(FEATURES)}")
        sides = [as_floats(FEATURES[name](*pair)) for pair in (members, nonmembers, targets)]
        calls = svc_calls(*sides, max_samples=max_samples, random_state=random_state)
        found[name] = float(calls.mean())
    return found


def svc_calls(
    members: ArrayLike,
    nonmembers: ArrayLike,
    targets: ArrayLike,
    *,
    max_samples: int | None = 2000,
    random_state: int | RandomState | None = 0,
) -> NDArray[np.bool_]:
    """Return of each target whether `mia`'s attack calls it a non-member; rows [N] or [N, features]."""
    sides = zip((members, nonmembers, targets), SIDES, strict=True)
    seen, unseen, judged = (_rows(side, name) for side, name in sides)
    if max_samples is not None and max_samples < 1:
        raise DataError(f"max_samples must be at least 1, or None; got {max_samples}")
    size = min(len(seen), len(unseen), len(seen) if max_samples is None else max_samples)
    draw = check_random_state(random_state)
    shadow = [rows[draw.permutation(len(rows))[:size]] for rows in (seen, unseen)]
    attack = SVC(C=3, gamma="auto", kernel="rbf")
    attack.fit(np.concatenate(shadow), np.repeat([1, 0], size))
    return np.asarray(attack.predict(judged) == 0)


def one_a_sample(array: ArrayLike, name: str) -> NDArray[np.float64]:
    """Return finite values [N], one a sample, or say what is wrong with them."""
    values = as_floats(array)
    if values.ndim != 1 or values.size == 0:
        raise DataError(
            f"{name} must hold one value a sample, and at least one; got the shape {list(values.shape)}"
        )
    return _finite(values, name)


def _rows(array: ArrayLike, name: str) -> NDArray[np.float64]:
    rows = as_floats(array)
    if rows.ndim != 2:
        return one_a_sample(rows, name)[:, None]
    return _finite(rows, name)


def _finite(values: NDArray[np.float64], name: str) -> NDArray[np.float64]:
    if not np.isfinite(values).all():
        raise DataError(
            f"{name} must be finite; got {int((~np.isfinite(values)).sum())} NaN or infinite "
            "values: the model that made them has diverged"
        )
    return values
