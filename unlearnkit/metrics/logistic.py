# SPDX-License-Identifier: BSD-3-Clause
"""Membership inference by a logistic regression on one number a sample.

Weakness. As for every average-case attack: it finds a difference between the *averages* of two sets,
so a few memorised samples escape it, and forgetting too much shows as much as forgetting too
little. Being told apart by it is evidence; not being told apart is none (Hayes et al., SaTML 2025).
The regression is penalised and sees the raw values: where all losses lie below 0.01 it hardly
moves from a half.
"""

from __future__ import annotations

import numpy as np
from numpy.random import RandomState
from numpy.typing import ArrayLike, NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.utils import check_random_state

from unlearnkit.exceptions import DataError
from unlearnkit.metrics.privacy import one_a_sample

__all__ = ["entropy_mia", "indis", "lr_mia"]


def lr_mia(
    forget: ArrayLike,
    test: ArrayLike,
    *,
    n_splits: int = 10,
    max_samples: int | None = None,
    random_state: int | RandomState | None = 0,
) -> float:
    """Accuracy with which a logistic regression tells forgotten from unseen samples by their loss.

    From "Deep Unlearn" (Cadet et al. 2024), after the NeurIPS 2023 challenge's starting kit: equally
    many samples of both sides are drawn, and each is judged by a regression that did not see it. The
    authors take ten random tenths; here tenths do not overlap, so that each sample counts once, and
    the draw has a seed, which theirs has not.

    Good is 0.5, *and* what the retrained model has: above it the forget samples stand out, by losses
    that are still too low, or, after forgetting too much, too high. See the module for its weakness.

    Parameters
    ----------
    forget, test : array_like [F], [T]
        The model's loss of each forgotten, and of each unseen sample. Of the same classes: where a
        whole class is forgotten, unseen samples of other classes are easily told apart.
    n_splits : int
        Folds; fewer where a side has fewer samples.
    max_samples : int, optional
        At most so many of either side.
    random_state : int, RandomState or None
        Of the draw and of the folds.

    Returns
    -------
    float
        In [0, 1]; by chance 0.5.

    Raises
    ------
    DataError
        If a side has fewer than two samples or holds what is not finite, or a setting is out of range.
    """
    calls = lr_calls(forget, test, n_splits=n_splits, max_samples=max_samples, random_state=random_state)
    return float(calls.mean())


def entropy_mia(members: ArrayLike, nonmembers: ArrayLike, targets: ArrayLike) -> float:
    """Share of the targets that a logistic regression on the entropy calls *members*.

    The attack of "Can bad teaching induce forgetting?" (Chundawat et al., AAAI 2023; code after
    Golatkar et al.), which SSD reports as its MIA: trained on retained against unseen samples, the
    classes weighted to balance. Mind the direction: lower means "looks unseen", the reverse of
    `mia`. Good is the retrained model's value. See the module for its weakness.

    Parameters
    ----------
    members, nonmembers, targets : array_like [M], [N], [T]
        The entropy of the model's prediction on retained, unseen and forgotten samples.

    Returns
    -------
    float
        In [0, 1].

    Raises
    ------
    DataError
        If an array is empty, not of one dimension or not finite.
    """
    return float(entropy_calls(members, nonmembers, targets).mean())


def indis(mia: float) -> float:
    """Indiscernibility ``1 - |mia - 0.5| / 0.5`` of an attack's accuracy ("Deep Unlearn").

    1 is chance; an attack that is always wrong is as bad as one that is always right. Good is the
    retrained model's value: where the forget samples are unlike the unseen ones, such as wrongly
    labelled, it has one close to 0. It has the weakness of the attack that it is computed of.

    Parameters
    ----------
    mia : float
        An accuracy in [0, 1], as `lr_mia` returns.

    Returns
    -------
    float
        In [0, 1].

    Raises
    ------
    DataError
        If it is no fraction.
    """
    if not 0 <= mia <= 1:
        raise DataError(f"an attack's accuracy must be a fraction in [0, 1]; got {mia}")
    return 1 - abs(mia - 0.5) / 0.5


def lr_calls(
    forget: ArrayLike,
    test: ArrayLike,
    *,
    n_splits: int = 10,
    max_samples: int | None = None,
    random_state: int | RandomState | None = 0,
) -> NDArray[np.bool_]:
    """Return of each drawn sample, forgotten ones first, whether `lr_mia`'s attack judges it rightly."""
    sides = [one_a_sample(side, name) for side, name in ((forget, "forget"), (test, "test"))]
    if (max_samples is not None and max_samples < 2) or n_splits < 2:
        raise DataError(f"max_samples and n_splits must be at least 2; got {max_samples} and {n_splits}")
    size = min(len(sides[0]), len(sides[1]), max_samples or len(sides[0]))
    if size < 2:
        raise DataError(
            f"the attack needs at least two samples of either side; got {len(sides[0])} forgotten and "
            f"{len(sides[1])} unseen"
        )
    draw = check_random_state(random_state)
    drawn = np.concatenate([side[draw.permutation(len(side))[:size]] for side in sides])  # [2 size]
    truth = np.repeat([1, 0], size)
    folds = StratifiedKFold(min(n_splits, size), shuffle=True, random_state=draw.randint(2**31))
    return np.asarray(cross_val_predict(LogisticRegression(), drawn[:, None], truth, cv=folds) == truth)


def entropy_calls(members: ArrayLike, nonmembers: ArrayLike, targets: ArrayLike) -> NDArray[np.bool_]:
    """Return of each target whether `entropy_mia`'s attack calls it a member."""
    seen, unseen = one_a_sample(members, "members"), one_a_sample(nonmembers, "nonmembers")
    judged = one_a_sample(targets, "targets")
    attack = LogisticRegression(class_weight="balanced")
    attack.fit(np.concatenate([seen, unseen])[:, None], np.repeat([1, 0], [len(seen), len(unseen)]))
    return np.asarray(attack.predict(judged[:, None]) == 1)
