# SPDX-License-Identifier: BSD-3-Clause
"""What a reader of an evaluation must know beside the figures, in plain words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import sqrt

from unlearnkit.data import as_loader, shared
from unlearnkit.metrics._case import Case
from unlearnkit.metrics._catalogue import CATALOGUE
from unlearnkit.metrics._computed import SETS
from unlearnkit.metrics.results import Score

SMALL = 30


def notes(case: Case, scores: Mapping[str, Score], left_out: Mapping[str, str]) -> tuple[str, ...]:
    """Return what is weak, rests on too little, or was not verified."""
    return tuple(_notes(case, scores, left_out))


def small(case: Case) -> Iterator[str]:
    """Yield a line for each data set of so few samples that an accuracy on it is mostly chance."""
    for name in SETS:
        if name in case.model.read and (n := len(case.model[name][1])) < SMALL:
            half = 1.96 * 0.5 / sqrt(n)
            yield f"{name} has only {n} samples: an accuracy on it is known to about ± {min(1, half):.2f}."


def _notes(case: Case, scores: Mapping[str, Score], left_out: Mapping[str, str]) -> Iterator[str]:
    yield from small(case)
    if case.n_bootstrap:
        yield from _overlaps(case)
        yield (
            f"The {100 * case.confidence:g} % intervals say how far the figures would move with other samples, "
            "for these very models and attacks; another training seed moves them too: repeat with several."
        )
    yield from _about_oracle(case)
    weak = [name for name in scores if CATALOGUE[name].attack]
    if weak:
        yield (
            f"Weak: {', '.join(weak)}. An attack on the average sample misses what a few leave behind, and finds "
            "overfitting as well as memory; looking unseen is no evidence of privacy (Hayes et al., SaTML 2025)."
        )
    yield (
        "Not verified: whether single samples can be told to have been trained on. That takes many models: "
        "KLoM or U-LiRA."
    )
    for reason in dict.fromkeys(left_out.values()):
        names = ", ".join(name for name, why in left_out.items() if why == reason)
        yield f"Not measured: {names} ({reason})."


def _about_oracle(case: Case) -> Iterator[str]:
    if not case.has("oracle"):
        yield (
            "No oracle: nothing here says which values are right. They are those of a model that was built anew "
            "and trained without the forget set."
        )
    elif case.declared is not None:
        yield "The oracle's values were declared, not measured here; intervals take them for exact."
    elif len(case.oracles) == 1:
        yield "One oracle: how far another training seed would move it is unknown; three or more would show."


def _overlaps(case: Case) -> Iterator[str]:
    loaders = {name: as_loader(case.model.sets[name], name=name) for name in SETS}
    for first, second in (("retain", "forget"), ("test", "forget"), ("test", "retain")):
        if both := shared(loaders[first], loaders[second]):
            yield f"{first} and {second} share {both} samples of one data set: the figures do not mean what they say."
