# SPDX-License-Identifier: BSD-3-Clause
"""The demo's figures as text, for the terminal and for the page."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from unlearnkit.demo.study import Outcome

REMARKS = {
    "test": "unseen images against their right labels",
    "retain": "training images that are not to be forgotten",
    "forget": "on the images that are to be forgotten",
    "probe": "on images that no network was trained on",
    "mia": "forgotten images that an attack takes for never seen; a weak attack",
    "tow": "tug of war over forget, retain and test; 1 is as good as retrained",
    "seconds": "to train, to retrain, to unlearn",
}


def rows(outcome: Outcome) -> list[dict[str, str]]:
    """Return the table of an outcome: a row a figure, a column a model.

    The first cell of a row is a name and, after a line break, a remark.
    """
    names = {
        "test": "test accuracy",
        "retain": "accuracy on what is kept",
        "forget": outcome.request.forget_name,
        "probe": outcome.request.probe_name,
        "mia": "looks unseen (MIA)",
        "tow": "closeness to retrained (ToW)",
        "seconds": "seconds",
    }
    return [
        {"": f"{name}\n{REMARKS[key]}"}
        | {model: as_text(key, results[key]) for model, results in outcome.results.items()}
        for key, name in names.items()
    ]


def terminal(outcome: Outcome) -> str:
    """Return a request and its table as lines for a terminal."""
    table = [[row.pop("").partition("\n")[0], *row.values()] for row in rows(outcome)]
    lines = [["", *outcome.results], *table]
    text = [f"  {name:<36}" + "".join(f"{cell:>11}" for cell in cells) for name, *cells in lines]
    story = textwrap.wrap(outcome.request.story, 84, initial_indent="  ", subsequent_indent="  ")
    return "\n".join([outcome.request.title, *story, "", *text])


def over_seeds(outcomes: Sequence[Outcome]) -> str:
    """Say what unlearning reached over several seeds: means, and the range."""
    parts = []
    for key, name in {"test": "test", "forget": "forget", "tow": "ToW"}.items():
        values = [outcome.results["unlearned"][key] for outcome in outcomes]
        mean, low, high = sum(values) / len(values), min(values), max(values)
        shown = [as_text(key, value) for value in (mean, low, high)]
        parts.append("{} {} ({} to {})".format(name, *shown))
    return f"the unlearned network over {len(outcomes)} seeds: {', '.join(parts)}"


def as_text(key: str, value: float) -> str:
    """Format a figure: ToW as a fraction, seconds as they are, the others in percent."""
    if key == "tow":
        return f"{value:.3f}"
    return f"{value:.1f}" if key == "seconds" else f"{100 * value:.1f} %"
