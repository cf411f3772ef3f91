# SPDX-License-Identifier: BSD-3-Clause
"""Linear regression from sums that a stream of rows adds up to.

Legend: n rows, D features.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

STIFF = 1e-8
"""From this share of the trace on, the penalty makes a system that Cholesky's method solves to 1e-8."""


@dataclass
class Moments:
    """Mean and scatter of the rows seen so far, in float64; large means cost no digits.

    Attributes
    ----------
    count : int
    mean : Tensor, shape [D]
    scatter : Tensor, shape [D, D]
        The sum over rows of ``(row - mean)(row - mean)^T``.
    """

    count: int
    mean: Tensor
    scatter: Tensor

    @classmethod
    def none(cls, width: int, device: torch.device) -> Moments:
        """Return the moments of no row."""
        zeros = torch.zeros(width, width, dtype=torch.float64, device=device)
        return cls(0, zeros.new_zeros(width), zeros)

    def add(self, rows: Tensor) -> None:
        """Add rows [n, D] in float64.

        Notes
        -----
        Chan, Golub and LeVeque, "Algorithms for Computing the Sample Variance", The American
        Statistician 37 (1983), the pairwise update.
        """
        if len(rows) == 0:
            return
        mean = rows.mean(0)  # [D]
        centred, step = rows - mean, mean - self.mean
        total = self.count + len(rows)
        self.scatter.addmm_(centred.T, centred).addr_(step, step, alpha=self.count * len(rows) / total)
        self.mean.add_(step, alpha=len(rows) / total)
        self.count = total


def regress(moments: Moments, ridge: float, standardise: bool, resolution: float) -> Tensor:
    """Return the coefficients [D - 1] of the last feature on the others, with an intercept.

    Those that minimise ``|y - b - X w|^2 / n + ridge |w|^2``; where several do, the smallest.

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
        A feature that deviates from its mean by no more than this share of the mean is constant;
        its coefficient is 0.
    """
    covariance = moments.scatter / moments.count  # [D, D]
    deviation = covariance.diagonal()[:-1].clamp(min=0).sqrt()  # [D - 1]
    moving = deviation > resolution * moments.mean[:-1].abs()
    scale = deviation[moving] if standardise else torch.ones_like(deviation[moving])
    within = covariance[:-1, :-1][moving][:, moving] / (scale[:, None] * scale)
    towards = covariance[:-1, -1][moving] / scale
    found = torch.zeros_like(deviation)
    found[moving] = _solved(within, towards, ridge)
    return found


def _solved(within: Tensor, towards: Tensor, ridge: float) -> Tensor:
    """Solve ``(within + ridge I) w = towards`` for the smallest w, `within` being symmetric, >= 0."""
    if ridge > STIFF * float(within.trace()):
        eye = torch.eye(len(within), dtype=within.dtype, device=within.device)
        factor, failed = torch.linalg.cholesky_ex(within + ridge * eye)
        if not bool(failed):
            return torch.cholesky_solve(towards[:, None], factor)[:, 0]
    values, vectors = torch.linalg.eigh(within)
    values = values + ridge
    rounding = len(values) * torch.finfo(values.dtype).eps * values.max() if len(values) else 0.0
    inverse = torch.where(values > rounding, 1 / values, 0.0)
    return vectors @ (inverse * (vectors.T @ towards))
