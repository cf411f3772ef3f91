# SPDX-License-Identifier: BSD-3-Clause
"""What is recorded of a request, and what all of them add up to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from numbers import Real
from typing import Any, Literal

from unlearnkit.exceptions import DataError


@dataclass(frozen=True)
class Entry:
    """What is recorded of one request: no sample, but figures that were computed from them.

    Who has the base and guesses the forget set can confirm it by them, as by ``result`` or ``forget_loss``.

    Attributes
    ----------
    number : int
        Counted from 1; the edit is ``edits/0001.safetensors``.
    request_id, note : str
        As the caller gave them.
    status : {"applied", "undone"}
        Of an undone request the edit and the samples' digests are removed, and this is left.
    method : str
        The estimator and its parameters.
    n_forget, n_new, n_left_out : int
        Samples of the forget set; distinct ones that no request had forgotten before; samples that were
        left out of the retain set because they are forgotten.
    reference : str
        What was known of the data to keep: ``"samples"``, ``"stored"`` (the log's importance), ``"given"``
        (one of the caller's), or ``"none"``.
    seconds : float
        Of the fit.
    n_changed, n_total : int
        Weights that got other bits, and weights of the model.
    distance : float
        Euclidean length of the change of all weights.
    forget_accuracy, validation_accuracy : (float, float) or None
        Before and after; None where there are no classes, or no such samples.
    forget_loss, validation_loss : (float, float) or None
        Means, before and after.
    warnings : list of str
        Raised by the fit.
    result : str
        Digest of the model after the request.
    started, undone_at : str
        UTC, ISO 8601; `undone_at` is empty unless it was undone.
    samples_checksum : str
        Of the file of the samples' digests.
    """

    number: int
    request_id: str
    method: str
    n_forget: int
    n_new: int
    n_left_out: int
    reference: str
    seconds: float
    n_changed: int
    n_total: int
    distance: float
    forget_accuracy: tuple[float, float] | None
    forget_loss: tuple[float, float] | None
    validation_accuracy: tuple[float, float] | None
    validation_loss: tuple[float, float] | None
    warnings: tuple[str, ...]
    result: str
    started: str
    samples_checksum: str
    note: str = ""
    status: Literal["applied", "undone"] = "applied"
    undone_at: str = ""

    @property
    def drop(self) -> float | None:
        """How much accuracy on validation fell, as a fraction; None where it is not known."""
        if self.validation_accuracy is None:
            return None
        before, after = self.validation_accuracy
        return before - after

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON holds it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, row: dict[str, Any]) -> Entry:
        """Return what :meth:`to_dict` was made of."""
        values: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in row.items()
        }
        return cls(**values)

    def __repr__(self) -> str:
        """Say what it is at a glance."""
        undone = ", undone" if self.status == "undone" else ""
        share = f"{self.n_changed:,} of {self.n_total:,} weights"
        return f"Entry {self.number}, {self.request_id!r}: {self.n_forget:,} samples, {share}{undone}"


@dataclass(frozen=True)
class Drift:
    """How far the requests that stand have taken a model.

    Attributes
    ----------
    n_requests, n_forgotten : int
        Requests that stand, and distinct samples that they forgot.
    n_train : int or None
        Size of the training set, where it is known.
    drop : float or None
        How much accuracy on validation has fallen since the base, as a fraction: the requests' drops
        added up. None where there was no validation set.
    changed : float
        Share of the weights that were changed: at most this, for requests may change the same ones.
    moved : float
        Distance from the base over the length of its weights: at most this, the sum over requests.
    """

    n_requests: int
    n_forgotten: int
    n_train: int | None
    drop: float | None
    changed: float
    moved: float

    @property
    def forgotten(self) -> float | None:
        """Share of the training set that is forgotten."""
        return self.n_forgotten / self.n_train if self.n_train else None


@dataclass(frozen=True)
class Budget:
    """How far requests may take a model before it should be trained anew.

    Attributes
    ----------
    max_drop : float or None
        Of accuracy on validation, a fraction.
    max_forgotten : float or None
        Share of the training set.
    """

    max_drop: float | None
    max_forgotten: float | None

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is not None and not (_is_number(value) and 0 <= value <= 1):
                raise DataError(
                    f"{name} must be a fraction from 0 to 1, or None for no bound, got {value!r}."
                )

    def exceeded(self, drift: Drift) -> list[str]:
        """Return what is exceeded, in words; empty where nothing is."""
        said = []
        if self.max_drop is not None and drift.drop is not None and drift.drop > self.max_drop:
            said.append(
                f"accuracy on validation has fallen by {drift.drop:.1%} since the base, more than "
                f"max_drop={self.max_drop:g}"
            )
        share = drift.forgotten
        if self.max_forgotten is not None and share is not None and share > self.max_forgotten:
            said.append(
                f"{share:.1%} of the training set is forgotten, more than max_forgotten={self.max_forgotten:g}"
            )
        return said


def drift_of(entries: Sequence[Entry], n_train: int | None, base_length: float) -> Drift:
    """Return what requests add up to, those that stand of `entries`."""
    standing = [entry for entry in entries if entry.status == "applied"]
    drops = [entry.drop for entry in standing if entry.drop is not None]
    total = max([1, *(entry.n_total for entry in standing)])
    return Drift(
        n_requests=len(standing),
        n_forgotten=sum(entry.n_new for entry in standing),
        n_train=n_train,
        drop=sum(drops) if drops else None,
        changed=min(1.0, sum(entry.n_changed for entry in standing) / total),
        moved=sum(entry.distance for entry in standing) / base_length if base_length else 0.0,
    )


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)
