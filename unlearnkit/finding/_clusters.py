# SPDX-License-Identifier: BSD-3-Clause
"""Two clusters among rows of features: scikit-learn's StandardScaler, PCA and GaussianMixture.

Legend: n rows, D columns, d of them after PCA, C classes.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from sklearn.preprocessing import StandardScaler

Array = NDArray[Any]
Covariance = Literal["full", "diag"]

FLAT = 1e-7  # of a column's largest value: its rounding in float32
OF_A_CLASS = 10  # rows that a class needs for a mean of its own
REGULAR = 1e-6  # scikit-learn's reg_covar


@dataclass(frozen=True)
class Centres:
    """What is taken from a row before clusters are looked for: the mean of its class.

    Attributes
    ----------
    classes : array, shape [C]
        In ascending order.
    means : array, shape [C + 1, D]
        The last is that of all rows, for classes with few rows or none.
    """

    classes: Array
    means: Array

    @classmethod
    def of(cls, rows: Array, labels: Array | None) -> Centres:
        """Return the means of `rows` [n, D] by their `labels` [n]; one for all where there are none."""
        overall = rows.mean(0, dtype=np.float64)
        if labels is None:
            return cls(np.empty(0), overall[None])
        classes, counts = np.unique(labels, return_counts=True)
        classes = classes[counts >= OF_A_CLASS]
        means = [rows[labels == one].mean(0, dtype=np.float64) for one in classes]
        return cls(classes, np.stack([*means, overall]))

    def less(self, rows: Array, labels: Array | None) -> Array:
        """Return rows [n, D] less their centres, in float64."""
        if labels is None or not len(self.classes):
            return rows - self.means[-1]
        at = np.searchsorted(self.classes, labels).clip(max=len(self.classes) - 1)
        return rows - self.means[np.where(self.classes[at] == labels, at, -1)]


@dataclass(frozen=True)
class Clusters:
    """Two clusters, fitted; :meth:`posteriors` serves rows that were not among those fitted to."""

    centres: Centres
    columns: Array  # [D], those that vary
    scaler: StandardScaler
    pca: PCA | None
    mixture: GaussianMixture

    def posteriors(self, rows: Array, labels: Array | None) -> Array:
        """Return each row's probabilities [n, 2] of belonging to either cluster."""
        return self.mixture.predict_proba(self._reduced(rows, labels))

    def _reduced(self, rows: Array, labels: Array | None) -> Array:
        scaled = self.scaler.transform(self.centres.less(rows, labels)[:, self.columns])
        return scaled if self.pca is None else self.pca.transform(scaled)

    def extremes(self) -> tuple[float, float]:
        """Return between which values of a single column the probability of either cluster is monotone.

        The narrower of two normal distributions is the likelier one around a point beyond its own
        mean; on the far side of that point the wider one gains again.
        """
        (first, second), precisions = self.mixture.means_[:, 0], 1 / self._covariances()[:, 0, 0]
        turn = precisions[0] - precisions[1]
        if abs(turn) < 1e-9 * precisions.sum():  # equally wide
            return -np.inf, np.inf
        at = (precisions[0] * first - precisions[1] * second) / turn
        value = float(self.scaler.inverse_transform([[at]])[0, 0] + self.centres.means[-1, 0])
        narrow, wide = (first, second) if turn > 0 else (second, first)
        return (value, np.inf) if narrow < wide else (-np.inf, value)

    @property
    def distance(self) -> float:
        """Mahalanobis distance of the two means, under the mean of the two covariances."""
        means, (first, second) = self.mixture.means_, self._covariances()
        between = means[0] - means[1]
        return float(np.sqrt(between @ np.linalg.solve((first + second) / 2, between)))

    @property
    def bhattacharyya(self) -> float:
        """Bhattacharyya distance of the two clusters, which their shapes enter too."""
        first, second = self._covariances()
        shapes = np.linalg.slogdet((first + second) / 2)[1]
        shapes -= (np.linalg.slogdet(first)[1] + np.linalg.slogdet(second)[1]) / 2
        return float(self.distance**2 / 8 + shapes / 2)

    def _covariances(self) -> Array:
        found: Array = self.mixture.covariances_
        return found if found.ndim == 3 else np.stack([np.diag(one) for one in found])


def fit_clusters(
    rows: Array,
    labels: Array | None = None,
    start: Array | None = None,
    *,
    pca: int | None = None,
    covariance: Covariance = "full",
    n_init: int = 1,
    seed: int = 0,
) -> Clusters | None:
    """Fit two clusters to rows [n, D]; None where all rows, or all guesses, are alike.

    Parameters
    ----------
    rows : array, shape [n, D]
    labels : array, shape [n], optional
        Classes, whose means are taken off first.
    start : array, shape [n], optional
        Guesses from 0 to 1 of which rows belong to the second cluster, in place of `n_init` starts by
        k-means.
    pca : int, optional
        Components at most. None: the scaled columns themselves.
    covariance, n_init, seed
        As of scikit-learn's GaussianMixture.
    """
    if len(rows) < 2 or (start is not None and min(start.sum(), len(start) - start.sum()) < 2):
        return None
    centres = Centres.of(rows, labels)
    rest = centres.less(rows, labels)
    columns = rest.std(0) > FLAT * np.abs(rows).max(0)
    if not columns.any():
        return None
    scaler = StandardScaler().fit(rest[:, columns])
    found = scaler.transform(rest[:, columns])
    reduce = None
    if pca is not None:
        reduce = PCA(min(pca, *found.shape), whiten=True, random_state=seed).fit(found)
        found = reduce.transform(found)
    return Clusters(centres, columns, scaler, reduce, _mixture(found, start, covariance, n_init, seed))


def _mixture(
    rows: Array, start: Array | None, covariance: Covariance, n_init: int, seed: int
) -> GaussianMixture:
    own = {} if start is None else _moments(rows, start, covariance)
    mixture = GaussianMixture(
        2, covariance_type=covariance, n_init=n_init if start is None else 1, random_state=seed, **own
    )
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", ConvergenceWarning
        )  # an unfinished fit is judged by what it separates
        return mixture.fit(rows)


def _moments(rows: Array, second: Array, covariance: Covariance) -> dict[str, Array]:
    """Return what GaussianMixture begins with, where rows [n, d] belong to the second cluster so far [n]."""
    shares = np.stack([1 - second, second])  # [2, n]
    sums = shares.sum(1)
    means = shares @ rows / sums[:, None]  # [2, d]
    precisions = []
    for share, total, mean in zip(shares, sums, means, strict=True):
        away = rows - mean
        if covariance == "full":
            spread = (share[:, None] * away).T @ away / total + REGULAR * np.eye(rows.shape[1])
            values, vectors = np.linalg.eigh(spread)  # an inverse by elimination need not be symmetric
            precisions.append((vectors / values.clip(REGULAR)) @ vectors.T)
        else:
            precisions.append(1 / (share @ away**2 / total + REGULAR))
    return {
        "weights_init": sums / sums.sum(),
        "means_init": means,
        "precisions_init": np.stack(precisions),
    }
