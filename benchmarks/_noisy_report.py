# SPDX-License-Identifier: BSD-3-Clause
"""The tables of the study of noisy data, as Markdown: partitions, methods, and what each part is worth."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import mean, stdev
from typing import Any, NamedTuple

Row = dict[str, Any]

TITLES = {
    "input": "Half of the images spoilt (the paper's code)",
    "label20": "20 % of the labels wrong",
    "label40": "40 % of the labels wrong",
}
LEGEND = """\
Means ± standard deviations over the seeds, in percent where nothing else is said; the test set is
clean. A row's name says whose partition, and what was then done with the model. AUC: how well the
probability of being noisy tells noisy from clean samples (50 by chance); purity: share of clean
samples among those kept; recall: share of the noisy ones that were taken out; removed: share of all
samples taken out. Fit: accuracy on the training samples' given labels. Seconds are those of one
core: of finding the noisy part (with the training of a copy that looks, where there is one), of
regression and pruning, and of training.
"""


class Question(NamedTuple):
    """What the difference of two rows tells."""

    text: str
    one: str
    other: str


QUESTIONS = [
    Question("the paper's claim: RLAP, or retraining as the original", "found: RLAP", "found: retrained"),
    Question("the same, RLAP on the head alone", "found: RLAP, head", "found: retrained"),
    Question("the same, RLAP as its code is", "as published: RLAP", "found: retrained"),
    Question("RLAP, or fine-tuning with a falling rate", "found: RLAP", "found: fine-tuned, cosine"),
    Question("RLAP, or retraining with a falling rate", "found: RLAP", "found: retrained, cosine"),
    Question("RLAP on the model as it was", "found: RLAP", "original"),
    Question("a lower rate, on everything", "everything: fine-tuned", "original"),
    Question("BatchNorm's statistics", "found: BatchNorm alone", "original"),
    Question("the found part left out", "found: fine-tuned", "everything: fine-tuned"),
    Question("pruning, and nothing else", "found: pruned, not trained", "original"),
    Question("pruning", "found: RLAP", "found: fine-tuned"),
    Question("pruning, the head trained", "found: RLAP, head", "found: fine-tuned, head"),
    Question("pruning by sensitivity, not at random", "found: RLAP", "found: pruned at random"),
    Question("attributions, not losses alone", "found: fine-tuned", "by losses: fine-tuned"),
    Question("a copy's look, not the original's", "by a copy: fine-tuned", "found: fine-tuned"),
    Question("the mixture, not label issues", "by a copy: fine-tuned", "label issues by a copy: fine-tuned"),
    Question("the true partition", "truth: fine-tuned", "found: fine-tuned"),
    Question("pruning, on the true partition", "truth: RLAP", "truth: fine-tuned"),
    Question("a falling rate in retraining", "found: retrained, cosine", "found: retrained"),
    Question(
        "leaving the found part out of that", "found: retrained, cosine", "everything: retrained, cosine"
    ),
    Question("the same, found by a copy", "by a copy: retrained, cosine", "everything: retrained, cosine"),
    Question("the same, the true part", "truth: retrained, cosine", "everything: retrained, cosine"),
]


def report(rows: Sequence[Row]) -> str:
    """Return all tables of what was measured."""
    parts = ["# Noisy data: RLAP and its controls\n", LEGEND]
    for task in dict.fromkeys(row["task"] for row in rows):
        for arm, title in TITLES.items():
            own = [row for row in rows if (row["task"], row["arm"]) == (task, arm)]
            if not own:
                continue
            seeds = ", ".join(str(seed) for seed in sorted({row["seed"] for row in own}))
            parts.append(f"\n## {task}: {title}\n\nSeeds {seeds}.\n")
            for table in (_partitions(own), _models(own), _answers(own)):
                if table:
                    parts.append(table)
    failed = [row for row in rows if "error" in row]
    if failed:
        parts.append("\n## What failed\n")
        parts += [
            f"- {row['task']}, {row['arm']}, {row['seed']}, {row['name']}: {row['error']}" for row in failed
        ]
    return "\n".join(parts) + "\n"


def _partitions(rows: Iterable[Row]) -> str:
    head = ["partition", "AUC", "purity", "recall", "removed", "told apart", "seconds"]
    lines = []
    for name, own in _by_name(row for row in rows if "auc" in row).items():
        shares = [_percent(own, key) for key in ("auc", "purity", "recall", "removed")]
        apart = f"{sum(row['is_separated'] for row in own)} of {len(own)}"
        lines.append([name, *shares, apart, _spread([row["find"] for row in own])])
    return _markdown(head, lines) if lines else ""


def _models(rows: Iterable[Row]) -> str:
    head = [
        "method",
        "accuracy",
        "precision",
        "F1",
        "fit, clean",
        "fit, noisy",
        "find",
        "prune",
        "train",
        "an epoch",
    ]
    lines = []
    for name, own in _by_name(row for row in rows if "accuracy" in row).items():
        shares = [_percent(own, key) for key in ("accuracy", "precision", "f1", "fit_clean", "fit_noisy")]
        seconds = [_spread([row.get(key, 0.0) for row in own]) for key in ("find", "prune", "train")]
        epoch = _spread([row["train"] / max(row["epochs"], 1) for row in own], digits=2)
        lines.append([name, *shares, *seconds, epoch])
    return _markdown(head, lines)


def _answers(rows: Iterable[Row]) -> str:
    """Return what each difference is, seed by seed, and how long one row takes beside the other."""
    found = _by_name(row for row in rows if "accuracy" in row)
    lines = []
    for text, one, other in QUESTIONS:
        ones, others = ({row["seed"]: row for row in found.get(name, [])} for name in (one, other))
        seeds = sorted(ones.keys() & others.keys())
        if not seeds:
            continue
        points = [100 * (ones[seed]["accuracy"] - others[seed]["accuracy"]) for seed in seeds]
        times = [_seconds(ones[seed]) / _seconds(others[seed]) for seed in seeds]
        ahead = f"{sum(value > 0 for value in points)} of {len(seeds)}"
        lines.append([text, f"{one} − {other}", _spread(points, sign="+"), ahead, f"{mean(times):.2f}"])
    head = ["what it is worth", "difference of", "points of accuracy", "seeds ahead", "time, as a share"]
    return _markdown(head, lines) if lines else ""


def _seconds(row: Row) -> float:
    return sum(row.get(key, 0.0) for key in ("find", "prune", "train"))


def _by_name(rows: Iterable[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row["name"], []).append(row)
    return found


def _percent(rows: Iterable[Row], key: str) -> str:
    return _spread([100 * row[key] for row in rows])


def _spread(values: Sequence[float], sign: str = "", digits: int = 1) -> str:
    spread = f" ± {stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{mean(values):{sign}.{digits}f}{spread}"


def _markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"
