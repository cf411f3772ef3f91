# SPDX-License-Identifier: BSD-3-Clause
"""What an audit's figures say in plain words, derived from them alone: no more than was measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

Data = Mapping[str, Any]

ONE = "a model retrained without the forgotten samples"
HEADLINES = {
    "unchanged": "Nothing was changed: base and result are the same, bit by bit.",
    "unknown": f"Whether the result is like {ONE} was not measured.",
    "closer": f"On these tests the result is closer to {ONE} than the base was.",
    "further": f"On these tests the result is further from {ONE} than the base was.",
    "unclear": f"On these tests it cannot be told whether the result came closer to {ONE}.",
    "broken": "The result is damaged: on some samples its loss is not a finite number.",
}
HELD = "Of the {} measures with a retrained model's value {} in {} interval: {}."
HOLDS = "The one measure with a retrained model's value {} it in its interval: {}."


def verdict(data: Data) -> dict[str, Any]:
    """Return the level, a headline and the sentences under it."""
    level, reason = _level(data)
    sentences = [reason] * bool(reason)
    if level not in ("unchanged", "unknown"):
        sentences += _apart(data)
    if level != "unchanged":
        sentences += [f"Not true: {check['what']}." for check in data["checks"] if not check["passed"]]
    sentences += [*_accuracies(data), *_familiarity(data)]
    return {"level": level, "headline": HEADLINES[level], "sentences": sentences}


def _level(data: Data) -> tuple[str, str]:
    edit, losses = data["edit"], data["losses"]
    if edit["n_changed"] + edit["n_changed_in_buffers"] == 0:
        return "unchanged", ""
    old, new = losses["sets"]["before"], losses["sets"]["after"]
    if any(new[name]["n_not_finite"] > old[name]["n_not_finite"] for name in new):
        return "broken", ""
    scores = {row["name"]: row for row in data["scores"]}
    for name, sign, title in (
        ("tow", 1, "Closeness to retraining (ToW, 1 is best)"),
        ("avg_gap", -1, "Average gap"),
    ):
        row = scores.get(name)
        if row and _value(row["before"]) is not None and _value(row["after"]) is not None:
            return _compared(row["before"], row["after"], sign, title)
    shares = losses["forget_below_unseen"]
    if "retrained" not in shares:
        return (
            "unknown",
            "No retrained model was given to compare with. What follows describes the result by itself.",
        )
    target = shares["retrained"]["value"]
    before, after = (_distance(shares[name], target) for name in ("before", "after"))
    return _compared(before, after, -1, "Distance of the loss comparison below from the retrained model's")


def _compared(before: Data, after: Data, sign: int, title: str) -> tuple[str, str]:
    old, new = before["value"], after["value"]
    said = f"{title}: {old:.3f} before{_between(before)}, {new:.3f} after{_between(after)}."
    if None in (before["low"], before["high"], after["low"], after["high"]):
        return "unclear", f"{said} No interval was computed, so chance is not ruled out."
    if before["low"] <= after["high"] and after["low"] <= before["high"]:
        return "unclear", f"{said} The intervals overlap."
    return ("closer" if sign * (new - old) > 0 else "further"), said


def _distance(share: Data, target: float) -> dict[str, float]:
    ends = sorted(abs(share[end] - target) for end in ("low", "high"))
    inside = share["low"] <= target <= share["high"]
    return {"value": abs(share["value"] - target), "low": 0.0 if inside else ends[0], "high": ends[1]}


def _apart(data: Data) -> Iterator[str]:
    """Say whether the measures tell the result from the retrained model."""
    held = [
        row["after"]["low"] <= row["target"] <= row["after"]["high"]
        for row in data["scores"]
        if row["target"] is not None
        and row["group"] in ("accuracy", "membership")
        and row["name"] != "ua"  # the other side of "forget"
        and row["after"] is not None
        and None not in (row["after"]["low"], row["after"]["high"])
    ]
    if held:
        n, inside = len(held), sum(held)
        apart = "the two can still be told apart" if inside < n else "these do not tell the two apart"
        if n == 1:
            has, apart = ("has", "it does not tell the two apart") if inside else ("does not have", apart)
            yield HOLDS.format(has, apart)
        elif inside < 2:
            yield HELD.format(n, "one has it" if inside else "none has it", "its", apart)
        else:
            yield HELD.format(n, f"{'all' if inside == n else inside} have it", "their", apart)


def _accuracies(data: Data) -> Iterator[str]:
    scores = {row["name"]: row for row in data["scores"]}
    names = {"forget": "forgotten samples", "retain": "samples to be kept", "test": "unseen samples"}
    for name, samples in names.items():
        row = scores.get(name)
        if row is None or _value(row["after"]) is None:
            continue
        beside = []
        if _value(row["before"]) is not None:
            beside.append(f"before {percent(row['before']['value'])}")
        if row["target"] is not None:
            beside.append(f"a retrained model {percent(row['target'])}")
        compared = f" ({', '.join(beside)})" if beside else ""
        yield f"Of the {samples} the result gets {percent(row['after']['value'])} right{compared}."


def _familiarity(data: Data) -> Iterator[str]:
    shares = data["losses"]["forget_below_unseen"]
    after, before = shares["after"], shares["before"]
    compared = f"before {percent(before['value'])}"
    if "retrained" in shares:
        compared += f", a retrained model {percent(shares['retrained']['value'])}"
    yield (
        f"By loss: in {percent(after['value'])} of pairs of a forgotten and an unseen sample the forgotten one has "
        f"the lower loss ({percent(after['low'])} to {percent(after['high'])}; {compared}). 50 % would mean that "
        "loss does not tell them apart."
    )


def percent(value: float) -> str:
    """Return a share in percent, never rounded to 0 or 100 where it is neither."""
    if 0 < value < 5e-4:
        return "< 0.1 %"
    if 1 - 5e-4 < value < 1:
        return "> 99.9 %"
    return f"{100 * value:.1f} %"


def _between(ends: Data) -> str:
    return "" if None in (ends["low"], ends["high"]) else f" ({ends['low']:.3f} to {ends['high']:.3f})"


def _value(ends: Data | None) -> float | None:
    return None if ends is None else ends["value"]
