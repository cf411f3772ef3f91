# SPDX-License-Identifier: BSD-3-Clause
"""What the metrics of many models check of the margins that they are given.

Shapes: M models, N samples.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from unlearnkit.exceptions import DataError, SmallSampleWarning, warn

Array = NDArray[np.float64]


def margin_matrix(values: Any, name: str, *, models: int = 1, samples: int | None = None) -> Array:
    """Return margins as float64 [M, N], or refuse them.

    Parameters
    ----------
    values : Tensor or array_like [M, N]
    name : str
        What the caller's user calls them.
    models : int
        How many models are the least.
    samples : int, optional
        N of what they are compared with.
    """
    matrix = as_floats(values)
    if matrix.ndim != 2 or matrix.size == 0:
        raise DataError(
            f"{name} must hold one margin a model and sample, [M, N]; got the shape {list(matrix.shape)}: "
            "unlearnkit.metrics.margins makes them; for one model write margins[None]"
        )
    check_finite(matrix, name)
    if len(matrix) < models:
        raise DataError(
            f"{name} needs the margins of at least {models} models; got {len(matrix)}: train and unlearn with "
            "other seeds"
        )
    if samples is not None and matrix.shape[1] != samples:
        raise DataError(
            f"{name} has {matrix.shape[1]} samples where the first array has {samples}: give every model the "
            "same samples in the same order"
        )
    return matrix


def margin_vector(values: Any, name: str, samples: int | None = None) -> Array:
    """Return the margins of one model as float64 [N]; [1, N] is taken too."""
    vector = as_floats(values)
    if vector.ndim == 2 and len(vector) == 1:
        vector = vector[0]
    if vector.ndim != 1 or vector.size == 0:
        raise DataError(
            f"{name} must hold one margin a sample, [N], of one model; got the shape {list(vector.shape)}"
        )
    return margin_matrix(vector[None], name, samples=samples)[0]


def as_floats(values: Any) -> Array:
    """Return a float64 array on the CPU."""
    if isinstance(values, Tensor):
        values = values.detach().double().cpu().numpy()
    return np.asarray(values, dtype=np.float64)


def check_finite(array: Array, name: str) -> None:
    """Refuse NaN and infinity."""
    bad = int((~np.isfinite(array)).sum())
    if bad:
        raise DataError(
            f"{name} must be finite; got {bad} NaN or infinite values: the model that made them has diverged, "
            "or a class is masked with -inf"
        )


def warn_few(metric: str, what: str, got: int, wanted: int, why: str) -> None:
    """Warn where a metric rests on fewer models or samples than it takes."""
    if got < wanted:
        warn(f"{metric} rests on {got} {what}, and {wanted} are wanted: {why}.", SmallSampleWarning)
