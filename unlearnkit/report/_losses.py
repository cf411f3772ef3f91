# SPDX-License-Identifier: BSD-3-Clause
"""How the losses of single samples are spread, before and after: counts in bins, never a sample."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from unlearnkit.data import Loss, as_loader, device_of, evaluating, sample_of, to_device
from unlearnkit.exceptions import DataError

BINS = 24
DECADES = 6  # of a log axis: what lies lower is in its first bin
TAIL = 0.005  # share of all losses that may lie beyond either end of a linear axis

Array = NDArray[np.float64]


def sample_losses(model: nn.Module, data: Any, loss: Loss, max_samples: int | None, name: str) -> Array:
    """Return the loss [N] of each sample, of `max_samples` spread over the data where it has more.

    Raises
    ------
    DataError
        If `loss` does not return one value a sample, or there are no samples.
    """
    loader = as_loader(data, name=name)
    part = loader if max_samples is None else sample_of(loader, max_samples)
    device, found = device_of(model), []
    with evaluating(model), torch.no_grad():
        for batch in part:
            values = loss(model, to_device(batch, device))
            if not isinstance(values, Tensor) or values.dim() != 1:
                got = list(values.shape) if isinstance(values, Tensor) else type(values).__name__
                raise DataError(
                    f"loss must return one value a sample, a tensor [N]; got {got}: leave out the mean, as in "
                    "reduction='none'"
                )
            found.append(values.double().cpu().numpy())
    losses = np.concatenate(found) if found else np.empty(0)
    if len(losses) == 0:
        raise DataError(f"{name} is empty: it yielded no sample. Check its indices or filter.")
    return losses[:max_samples]


def spread(losses: Mapping[str, Mapping[str, Array]], name: str) -> dict[str, Any]:
    """Return histograms over one axis, quartiles and rank statistics of losses by model, by data set.

    Parameters
    ----------
    losses : mapping of str to mapping of str to array [N]
        By model ("before", "after", perhaps "retrained"), by set ("forget", "retain", "unseen").
    name : str
        What the loss is called.
    """
    every = np.concatenate([values for sets in losses.values() for values in sets.values()])
    scale, edges = _axis(every[np.isfinite(every)])
    return {
        "name": name,
        "scale": scale,
        "edges": edges.tolist(),
        "sets": {
            model: {data: _counted(values, edges) for data, values in sets.items()}
            for model, sets in losses.items()
        },
        "forget_below_unseen": {
            model: rank_share(sets["forget"], sets["unseen"]) for model, sets in losses.items()
        },
    }


def rank_share(low: Array, high: Array) -> dict[str, float | int | None]:
    """Return how often a sample of `low` has a smaller value than one of `high`, with its 95 % interval.

    The area under the ROC curve; ties count half. The interval is Hanley and McNeil's (Radiology
    143, 1982), with one sample on the other side where the two sets do not overlap, which would
    else have an interval without width. NaN counts as the largest loss.
    """
    m, n = len(low), len(high)
    pair = np.nan_to_num(np.concatenate([low, high]), nan=np.inf, posinf=np.inf, neginf=-np.inf)
    ordered = np.sort(pair[m:])
    below = np.searchsorted(ordered, pair[:m], "left") + np.searchsorted(ordered, pair[:m], "right")
    share = 1 - float(below.sum()) / (2 * m * n)
    at = min(max(share, 0.5 / max(m, n)), 1 - 0.5 / max(m, n))
    one, two = at / (2 - at), 2 * at * at / (1 + at)
    variance = at * (1 - at) + (m - 1) * (one - at * at) + (n - 1) * (two - at * at)
    half = 1.96 * math.sqrt(max(variance, 0.0) / (m * n))
    return {
        "value": share,
        "low": max(0.0, min(share, at - half)),
        "high": min(1.0, max(share, at + half)),
        "n": m + n,
    }


def _axis(values: Array) -> tuple[str, Array]:
    """Return "log" or "linear" and the bins' edges [BINS + 1]."""
    if len(values) == 0:
        return "linear", np.linspace(0, 1, BINS + 1)
    top = float(values.max())
    if values.min() >= 0 and top > 0 and np.quantile(values, 0.9) > 30 * np.quantile(values, 0.1):
        positive = values[values > 0]
        bottom = max(float(positive.min()), top * 10.0**-DECADES)
        if top > bottom:
            return "log", np.geomspace(bottom, top, BINS + 1)
    low, high = np.quantile(values, [TAIL, 1 - TAIL])
    if not high > low:
        room = max(abs(float(low)), 1.0) / 2
        low, high = low - room, high + room
    return "linear", np.linspace(low, high, BINS + 1)


def _counted(values: Array, edges: Array) -> dict[str, Any]:
    """Return what is told of one set's losses; the end bins hold what lies beyond them too."""
    finite = values[np.isfinite(values)]
    counts, _ = np.histogram(np.clip(finite, edges[0], edges[-1]), edges)
    quartiles = np.quantile(finite, [0.25, 0.5, 0.75]).tolist() if len(finite) else [None] * 3
    return {
        "counts": counts.tolist(),
        "n": len(values),
        "n_not_finite": len(values) - len(finite),
        "quartiles": quartiles,
    }
