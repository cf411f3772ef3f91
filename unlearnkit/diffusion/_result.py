# SPDX-License-Identifier: BSD-3-Clause
"""What an evaluation of generators found, as mappings for programs and as tables for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor

from unlearnkit.metrics import Evaluation, Score
from unlearnkit.metrics.results import pandas

TITLES = {
    "forgotten_share": "forgotten share",
    "kept_accuracy": "kept accuracy",
    "frechet": "Fréchet distance",
}


class ClassShare(NamedTuple):
    """Of the images made for a class, how many are taken for it, and what most are taken for.

    Attributes
    ----------
    value, low, high : float
        Share taken for it, and its interval.
    n : int
        Images.
    seen_as : int
        The class that most of them are taken for.
    seen_share : float
        Share taken for that.
    """

    value: float
    low: float
    high: float
    n: int
    seen_as: int
    seen_share: float


@dataclass(frozen=True, eq=False, repr=False)
class GeneratorEvaluation:
    """What generators make for each class, before and after one was to be forgotten.

    Attributes
    ----------
    scores : Mapping[str, Evaluation]
        By model, "before", "after" and where given "oracle", and "real" for real images in their place, which
        shows what the classifier and the number of images allow: each with "forgotten_share", "kept_accuracy" and
        "frechet" as far as they could be measured. ``result.scores["after"]["forgotten_share"]`` is a number.
    per_class : Mapping[str, Mapping[int, ClassShare]]
        By model and class.
    forget : tuple of int
        The forgotten classes.
    settings : Mapping[str, Any]
        What the images were made with.
    notes : tuple of str
        In plain words: what is weak, what rests on too little, what was not verified.
    images : Mapping[str, Tensor]
        The images [N, C, H, W] by model, on the CPU; image i of all starts from the same noise.
    classes : Tensor [N]
        What each was made for.
    """

    scores: Mapping[str, Evaluation]
    per_class: Mapping[str, Mapping[int, ClassShare]]
    forget: tuple[int, ...]
    settings: Mapping[str, Any]
    notes: tuple[str, ...]
    images: Mapping[str, Tensor] = field(default_factory=dict)
    classes: Tensor = field(default_factory=lambda: Tensor())

    def to_dict(self) -> dict[str, Any]:
        """Return all but the images in what JSON knows.

        Returns
        -------
        dict
            ``{"scores": {model: {name: {...}}}, "per_class": {model: {class: {...}}}, "forget": [...],
            "settings": {...}, "notes": [...]}``.
        """
        return {
            "scores": {name: found.to_dict()["scores"] for name, found in self.scores.items()},
            "per_class": {
                name: {str(at): share._asdict() for at, share in shares.items()}
                for name, shares in self.per_class.items()
            },
            "forget": [*self.forget],
            "settings": dict(self.settings),
            "notes": [*self.notes],
        }

    def to_frame(self) -> Any:
        """Return a table: a row a model and metric, with value, low, high, n, target and meaning.

        Returns
        -------
        pandas.DataFrame

        Raises
        ------
        ImportError
            If pandas is not installed.
        """
        frames = {name: found.to_frame() for name, found in self.scores.items()}
        return pandas().concat(frames, names=["model"])

    def per_class_frame(self) -> Any:
        """Return a table: a row a model and class, with what `ClassShare` holds and whether it was forgotten.

        Returns
        -------
        pandas.DataFrame

        Raises
        ------
        ImportError
            If pandas is not installed.
        """
        rows = [
            {"model": name, "class": at, **share._asdict(), "forgotten": at in self.forget}
            for name, shares in self.per_class.items()
            for at, share in shares.items()
        ]
        return pandas().DataFrame(rows).set_index(["model", "class"])

    def __repr__(self) -> str:
        lines = [*_aligned(self._summary()), "", *_aligned(self._classes())]
        return "\n".join([*lines, *(f"- {note}" for note in self.notes)])

    def _summary(self) -> Iterator[Sequence[str]]:
        yield "", *self.scores
        for name, title in TITLES.items():
            cells = [_score(found.scores.get(name)) for found in self.scores.values()]
            if any(cells):
                yield title, *cells

    def _classes(self) -> Iterator[Sequence[str]]:
        yield "class", *self.per_class, "taken for after"
        for at, after in self.per_class["after"].items():
            cells = [f"{shares[at].value:.3f}" if at in shares else "" for shares in self.per_class.values()]
            title = f"{at} (forgotten)" if at in self.forget else str(at)
            yield title, *cells, f"{after.seen_as} ({after.seen_share:.2f})"


def _score(score: Score | None) -> str:
    if score is None:
        return ""
    if score.low is None or score.high is None:
        return f"{score.value:.3g}"
    return f"{score.value:.3f} ({score.low:.3f} to {score.high:.3f})"


def _aligned(rows: Iterator[Sequence[str]]) -> Iterator[str]:
    table = list(rows)
    width = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        yield "  ".join(cell.ljust(size) for cell, size in zip(row, width, strict=True)).rstrip()
