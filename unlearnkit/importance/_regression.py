# SPDX-License-Identifier: BSD-3-Clause
"""Linear regression from sums that a stream of rows adds up to.

Legend: n rows, D features.
"""

from __future__ import annotations

import torch
from torch import Tensor

STIFF = 1e-8
"""From this share of the trace on, the penalty makes a system that Cholesky's method solves to 1e-8."""


class Moments:
    """Mean and scatter of the rows seen so far, in float64; a large mean costs no digits.

    Parameters
    ----------
    first : Tensor, shape [n, D]
        The first rows. All are shifted by their mean, so that sums stay small.

    Attributes
    ----------
    count : int
    scatter : Tensor, shape [D, D]
        The sum over rows of ``(row - mean)(row - mean)^T``.
    """

    def __init__(self, first: Tensor) -> None:
        self.count, self._origin = 0, first.mean(0)  # [D]
        self._mean = torch.zeros_like(self._origin)  # from the origin on
        self.scatter = self._mean.new_zeros(len(self._mean), len(self._mean))
        self.add(first)

    @property
    def mean(self) -> Tensor:
        """The mean of the rows, shape [D]."""
        return self._origin + self._mean

    def add(self, rows: Tensor) -> None:
        """Add rows [n, D] in float64, n > 0.

        Notes
        -----
        Chan, Golub and LeVeque, "Algorithms for Computing the Sample Variance", The American
        Statistician 37 (1983), the pairwise update.
        """
        shifted = rows - self._origin
        mean = shifted.mean(0)  # [D]
        centred, step = shifted - mean, mean - self._mean
        total = self.count + len(rows)
        self.scatter.addmm_(centred.T, centred).addr_(step, step, alpha=self.count * len(rows) / total)
        self._mean.add_(step, alpha=len(rows) / total)
        self.count = total


def regress(moments: Moments, ridge: float, standardise: bool, resolution: float) -> Tensor:
    """Return the coefficients [D - 1] of the last feature on the others, with an intercept.

    Those that minimise ``|y - b - X w|^2 / n + ridge |w|^2``; where several do, the smallest. It is
    solved by the features' covariance, in which collinearity closer than 1e-7 is not seen.

    Parameters
    ----------
    moments : Moments
        Of the rows ``(x_1, ..., x_{D-1}, y)``.
    ridge : float
        Zero for ordinary least squares.
    standardise : bool
        Whether X is divided by its standard deviations (of the population, as scikit-learn's
        ``StandardScaler`` has it).
    resolution : float
        The rounding of the features, as a share of them: one that deviates from its mean by no more
        is constant, and its coefficient 0; those that differ by no more are collinear.
    """
    covariance = moments.scatter / moments.count  # [D, D]
    deviation = covariance.diagonal()[:-1].clamp(min=0).sqrt()  # [D - 1]
    moving = deviation > resolution * moments.mean[:-1].abs()
    scale = deviation[moving] if standardise else torch.ones_like(deviation[moving])
    within = covariance[:-1, :-1][moving][:, moving] / (scale[:, None] * scale)
    towards = covariance[:-1, -1][moving] / scale
    found = torch.zeros_like(deviation)
    found[moving] = _solved(within, towards, ridge, resolution)
    return found


def _solved(within: Tensor, towards: Tensor, ridge: float, resolution: float) -> Tensor:
    """Solve ``(within + ridge I) w = towards`` for the smallest w, `within` being symmetric, >= 0."""
    if ridge > STIFF * float(within.trace()):
        eye = torch.eye(len(within), dtype=within.dtype, device=within.device)
        factor, failed = torch.linalg.cholesky_ex(within + ridge * eye)
        if not bool(failed):
            return torch.cholesky_solve(towards[:, None], factor)[:, 0]
    values, vectors = torch.linalg.eigh(within)
    values = values + ridge
    rounding = max(resolution**2, 10 * len(values) * torch.finfo(values.dtype).eps)
    kept = values > rounding * values.abs().amax() if len(values) else values > 0
    return vectors[:, kept] @ ((vectors[:, kept].T @ towards) / values[kept])
