# SPDX-License-Identifier: BSD-3-Clause
"""What an evaluation works on: the models' answers, each read once, and the settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from unlearnkit.metrics.classification import predict_logits
from unlearnkit.metrics.intervals import Array, mean_interval

Ends = tuple[float | None, float | None]
PerSample = Callable[["Case", "Outputs"], NDArray[Any]]

NO_ENDS: Ends = (None, None)


class Found(NamedTuple):
    """What a metric found."""

    value: float
    ends: Ends
    n: int
    target: float | None = None


class Outputs:
    """A model's logits on each data set, and what was computed of them."""

    def __init__(self, model: nn.Module, sets: Mapping[str, Any]) -> None:
        self.model, self.sets = model, sets
        self.read: dict[str, tuple[Tensor, Tensor]] = {}
        self.computed: dict[str, Array] = {}

    def __getitem__(self, name: str) -> tuple[Tensor, Tensor]:
        if name not in self.read:
            self.read[name] = predict_logits(self.model, self.sets[name])
        return self.read[name]

    def of(self, function: Callable[[Tensor, Tensor], Tensor], name: str) -> Array:
        """Return a number of each sample [N] of a set."""
        key = f"{function.__name__} {name}"
        if key not in self.computed:
            self.computed[key] = function(*self[name]).numpy().astype(np.float64)
        return self.computed[key]


@dataclass
class Case:
    """One model to be judged, with what it is compared with.

    Attributes
    ----------
    model : Outputs
    oracles : list of Outputs
        Models trained without the forget set.
    declared : Mapping[str, float] or None
        Values to reach, in their place.
    others : dict
        What else was given: "original", "incompetent" (Outputs), "shadows" (list of Outputs),
        "seconds", "retrain_seconds".
    asked : tuple of str
        The metrics.
    confidence, n_bootstrap, max_samples, seed
        As of `evaluate`.
    samples : dict
        By metric: the function that gives it of each sample.
    """

    model: Outputs
    oracles: list[Outputs]
    declared: Mapping[str, float] | None
    others: dict[str, Any]
    asked: tuple[str, ...]
    confidence: float
    n_bootstrap: int
    max_samples: int | None
    seed: int
    samples: Mapping[str, PerSample] = field(default_factory=dict)

    def has(self, need: str) -> bool:
        """Tell whether something that a metric needs is there."""
        if need == "oracle":
            return bool(self.oracles) or self.declared is not None
        if need == "oracle model":
            return bool(self.oracles)
        if need == "shadows":
            return bool(self.shadows)
        return self.others.get(need) is not None

    @property
    def shadows(self) -> list[Outputs]:
        """Models that never saw the forget set: an oracle is one too."""
        return self.others.get("shadows") or self.oracles

    def per_sample(self, name: str, outputs: Outputs) -> Array:
        """Return a metric of each sample [N] of a model."""
        if name not in outputs.computed:
            outputs.computed[name] = np.asarray(self.samples[name](self, outputs), dtype=np.float64)
        return outputs.computed[name]

    def values(self, outputs: Sequence[Outputs], keys: Sequence[str]) -> dict[str, float]:
        """Return each metric's mean over samples, and over models."""
        means = {key: [float(self.per_sample(key, one).mean()) for one in outputs] for key in keys}
        return {key: sum(found) / len(found) for key, found in means.items()}

    def expected(self, keys: Sequence[str]) -> Mapping[str, float]:
        """Return what the oracle has: measured, or declared."""
        return self.values(self.oracles, keys) if self.oracles else (self.declared or {})

    def target(self, name: str) -> float | None:
        """Return what the oracle has of a metric, where that is known."""
        if self.oracles:
            return self.values(self.oracles, [name])[name]
        found = (self.declared or {}).get(name)
        return None if found is None else float(found)

    def paired(self, name: str) -> tuple[Array, Array]:
        """Return a metric of each sample, twice: of the model, and the mean of the oracles [N]."""
        own = self.per_sample(name, self.model)
        if self.oracles:
            return own, np.mean([self.per_sample(name, one) for one in self.oracles], axis=0)
        return own, np.full(len(own), self.expected([name])[name])

    def difference(self, name: str, of: int) -> tuple[float, float]:
        """Return the ends of ``model - oracle``, simultaneous with as many others as to make `of`."""
        own, other = self.paired(name)
        bounds = (-1.0, 1.0) if self.oracles else (-float(other[0]), 1 - float(other[0]))
        return mean_interval(
            own - other,
            bounds=bounds,
            confidence=1 - (1 - self.confidence) / of,
            n_bootstrap=self.n_bootstrap,
            random_state=self.seed,
        )[1:]

    def ends(self, values: Array, bounds: tuple[float, float] = (0.0, 1.0)) -> Ends:
        """Return the ends of a mean over samples, where intervals are wanted."""
        if not self.n_bootstrap:
            return NO_ENDS
        return mean_interval(
            values,
            bounds=bounds,
            confidence=self.confidence,
            n_bootstrap=self.n_bootstrap,
            random_state=self.seed,
        )[1:]
