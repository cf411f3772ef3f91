# SPDX-License-Identifier: BSD-3-Clause
"""What an audit leaves open, derived from what was handed in and what was not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

TEXTS = {
    "no oracle": (
        "Likeness to retraining",
        "No retrained model was given. Without one there is no telling which accuracy or loss on the forgotten "
        "samples is right: too low is as much a trace as too high.",
    ),
    "values": ("The retrained model's values", "They were handed in, not measured here."),
    "trust oracle": (
        "The retrained model",
        "That it never saw the forgotten samples, and was trained as the base was, was taken on trust.",
    ),
    "one oracle": (
        "How much retraining varies",
        "One retrained model was given. Another seed gives another model; how far they lie apart is not known.",
    ),
    "average": (
        "Single samples",
        "The figures here are averages over many samples, and the tests of membership among them weak. A rare or odd "
        "sample can still be recognised where the average shows nothing; that takes an attack with many models, which "
        "was not made.",
    ),
    "loss alone": (
        "Accuracy and membership",
        "The audit was made with a loss alone: what follows from labels was left out.",
    ),
    "relearning": (
        "Whether it comes back",
        "Fine-tuning may bring forgotten knowledge back quickly. This was not tried.",
    ),
    "copies": (
        "Other copies",
        "Backups, earlier checkpoints, caches, logs, exported or quantised copies, models distilled or fine-tuned "
        "from the base, and the data itself are out of view. The base still holds what was forgotten.",
    ),
    "forget set": (
        "The forget set",
        "Whether it is all that the request means, and whether other samples say the same (near-duplicates, other "
        "records of one person), was not searched for.",
    ),
    "unseen": ("The unseen samples", "That no model was trained on them was taken on trust."),
    "method": (
        "Who made the result",
        "That the named method made it was taken on trust: no fitted estimator was given.",
    ),
    "seconds": ("Time", "How long it took was not given."),
}
NAMES_OF_STRONG = {"ulira", "u_lira", "klom", "ruli"}
# What the notes of `evaluate` begin with where TEXTS has said it.
SAID = (
    "No oracle",
    "One oracle",
    "The oracle's values were declared",
    "Not verified: whether single samples",
)


def open_points(data: Mapping[str, Any], notes: Sequence[str] = ()) -> list[dict[str, str]]:
    """Return a title and a text for each; `notes`, the evaluation's own, follow without a title."""
    found = [TEXTS[key] for key in _keys(data)]
    losses = data["losses"]
    most, counted = losses["max_samples"], losses["sets"]["after"].values()
    if most is not None and any(one["n"] >= most for one in counted):
        found.append(("All samples", f"The losses are those of at most {most:,} samples of a set."))
    found += [("", note) for note in notes if not note.startswith(SAID)]
    return [{"title": title, "text": text} for title, text in found]


def _keys(data: Mapping[str, Any]) -> Iterator[str]:
    oracle, names = data["oracle"], {row["name"] for row in data["scores"]}
    yield from {"none": ["no oracle"], "values": ["values"], "models": ["trust oracle"]}[oracle["kind"]]
    if oracle["kind"] == "models" and oracle["n"] == 1:
        yield "one oracle"
    if not names:
        yield "loss alone"
    if not names & NAMES_OF_STRONG:
        yield "average"
    if not any("relearn" in name for name in names):
        yield "relearning"
    yield from ("copies", "forget set", "unseen")
    if not data["method"]["fitted"]:
        yield "method"
    if data["method"]["seconds"] is None:
        yield "seconds"
