# SPDX-License-Identifier: BSD-3-Clause
"""Tables of the supply-chain study, as Markdown, beside what the paper's authors stored of theirs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from statistics import mean, stdev
from typing import Any

from scipy import stats

Row = dict[str, Any]
Cells = dict[tuple[float, str], dict[int, Row]]
"""Rows by share of errors and method, then by seed."""

SEARCH = "search"
BASELINES = ("majority class", "gradient boosting")
ORIGINAL, PUBLISHED = "original", "ASSD, published"

LEGEND = """\
A share of the training labels is wrong (uniform over the other classes). The change of test accuracy
is in points, beside the original of the same seed: the mean, the 95 % interval over seeds by
Student's t of the differences, and in parentheses how many more test samples are right; **bold**
where the interval leaves zero out. With some tens of cells in a table one in twenty is bold by
chance. Test labels are right ones. "Wrong labels predicted": the share of the samples with a wrong
label for which that label is predicted; the retrained net never saw them. "ASSD, published" is
`ASSD(importance="batch", against="retain", percentile="paper")`; "fine-tuned" is an epoch without
the errors at the rate that follows the training's last; "control: an epoch with the errors" is the
same on everything, "control: ASSD of right labels" the published ASSD of as many samples whose labels
are right. Where a name has brackets, the method is as it comes; "control: FineTune() with the errors"
trains on everything, so what it gains is the training's doing and not the unlearning's. RLAP has
batches of 1,024, which are the nets' own, and is as it comes otherwise; the control after it is the
same training without pruning. The net 5x250 takes learning rate and weight decay of 3x100.
"""

FOUND = {
    "found": "taken for wrong, of all samples",
    "purity": "really wrong, of these",
    "recall": "these, of the really wrong",
    "doubted": "runs with a warning that these are hardly to be told apart",
}
PAPER = {  # (split, errors): mean and deviation of original, retrained, fine-tuned and ASSD; p
    ("test", 1.0): ((86.39, 0.05), (87.23, 0.05), (86.82, 0.10), (87.00, 0.05), "<.05"),
    ("test", 2.5): ((86.58, 0.06), (86.81, 0.04), (86.58, 0.06), (87.37, 0.05), "<.05"),
    ("test", 5.0): ((86.78, 0.11), (86.71, 0.05), (86.71, 0.09), (87.50, 0.16), "<.05"),
    ("retain", 1.0): ((87.21, 0.06), (87.56, 0.07), (87.61, 0.07), (87.33, 0.06), ".06"),
    ("retain", 2.5): ((87.26, 0.03), (87.19, 0.02), (87.25, 0.10), (87.58, 0.18), "<.05"),
    ("retain", 5.0): ((87.31, 0.03), (87.24, 0.04), (87.32, 0.06), (87.79, 0.16), "<.05"),
}
PAPER_NET, PAPER_METHODS = "3x100", (ORIGINAL, "retrained", "fine-tuned", PUBLISHED)
PAPER_LEGEND = f"""\
Accuracy in %, mean ± standard deviation over seeds, net {PAPER_NET}. The paper's figures are the
output that its authors left in their notebook of plots (arXiv 2402.10098): three seeds, with one
initial net for all of them, so that their deviations are of the drawn errors alone. p: theirs and
ours by the t-test of two independent samples, and by that of pairs. Their errors are drawn in another
way: many of the labels that were to be exchanged keep their class, and none becomes "late". The
settings "published-0", "-1" and "-2" do both as they did, each with another initial net.
"""


def report(rows: Iterable[Row], nets: Sequence[str], methods: Sequence[str]) -> str:
    """Return all tables that the rows allow."""
    rows = list(rows)
    parts = ["# Wrong labels in a supply chain: DataCo's late deliveries\n", LEGEND]
    settings = list(dict.fromkeys(row["setting"] for row in rows))
    if verdicts := list(_verdicts(rows, settings, nets)):
        parts.append("\n## Does the published ASSD gain on the original?\n")
        head = ["setting", "net", "errors, %", "seeds", "points", "p", "ASSD of right labels instead"]
        parts.append(_markdown(head, verdicts))
    if beside := list(_beside(rows, settings)):
        parts += ["\n## Beside the paper\n", PAPER_LEGEND]
        parts.append(_markdown(["split", "errors, %", "of", *PAPER_METHODS, "p", "p of pairs"], beside))
    for setting in settings:
        own = [row for row in rows if row["setting"] == setting]
        parts += [f"\n## {setting}\n", *_given(own)]
        for net in nets:
            cells = _cells(own, net)
            if cells:
                parts += [f"\n### {setting}, {net}\n", *_tables(cells, methods)]
    return "\n".join(parts) + "\n"


def gains(cells: Cells, errors: float, method: str, name: str = "test") -> list[float]:
    """Differences to the original of the same seed, in points."""
    originals = cells.get((errors, ORIGINAL), {})
    own = cells.get((errors, method), {})
    return [100 * (own[seed][name] - originals[seed][name]) for seed in sorted(own) if seed in originals]


def interval(values: Sequence[float]) -> tuple[float, float] | None:
    """95 % interval of the mean by Student's t; None of a single value."""
    if len(values) < 2:
        return None
    half = float(stats.t.ppf(0.975, len(values) - 1)) * stdev(values) / len(values) ** 0.5
    return mean(values) - half, mean(values) + half


def _cells(rows: Iterable[Row], net: str) -> Cells:
    cells: Cells = defaultdict(dict)
    for row in rows:
        if row["net"] == net and row["method"] != SEARCH:
            cells[row["errors"], row["method"]][row["seed"]] = row
    return dict(cells)


def _given(rows: Iterable[Row]) -> list[str]:
    """Say what the nets are compared with, and what they were trained with."""
    lines: list[str] = []
    best: dict[str, Row] = {}
    for row in rows:
        if row["method"] in BASELINES:
            lines.append(f"- {row['method']}, right labels: test accuracy {100 * row['test']:.2f} %")
        elif row["method"] == SEARCH:
            best[row["net"]] = max(best.get(row["net"], row), row, key=lambda tried: tried["validation"])
    for net, row in best.items():
        lines.append(
            f"- {net}: learning rate {row['lr']:.3g}, weight decay {row['weight_decay']:.2g} "
            f"(accuracy on clean labels held out {100 * row['validation']:.2f} %)"
        )
    return lines


def _tables(cells: Cells, methods: Sequence[str]) -> list[str]:
    errors = sorted({at for at, _ in cells})
    seeds = sorted({len(by_seed) for by_seed in cells.values()})
    present = [name for name in methods if any((at, name) in cells for at in errors)]
    head = [f"{at:g} %" for at in errors]

    def table(title: str, cell: Callable[[float, str], str], more: Callable[[str], str] | None = None) -> str:
        lines = []
        for name in present:
            extra = [more(name)] if more else []
            lines.append([name, *(cell(at, name) for at in errors), *extra])
        return _markdown([title, *head, *(["seconds"] if more else [])], lines)

    def share(name: str) -> Callable[[float, str], str]:
        return lambda at, method: _spread([100 * row[name] for row in cells.get((at, method), {}).values()])

    def seconds(method: str) -> str:
        values = [row["seconds"] for at in errors for row in cells.get((at, method), {}).values()]
        return f"{mean(values):.1f}"

    tables = [
        f"{' to '.join(map(str, dict.fromkeys((seeds[0], seeds[-1]))))} seeds.\n",
        table("test accuracy", lambda at, method: _change(cells, at, method), seconds),
        "",
        table("wrong labels predicted, %", share("wrong")),
        "",
        table("accuracy on retain, %", share("retain")),
    ]
    for method in present:
        found = {at: [row for row in cells.get((at, method), {}).values() if "found" in row] for at in errors}
        if any(found.values()):
            lines = [
                [title, *(_spread([100 * row[name] for row in found[at] if name in row]) for at in errors)]
                for name, title in FOUND.items()
            ]
            tables += ["", _markdown([f"{method}: %", *head], lines)]
    return tables


def _change(cells: Cells, errors: float, method: str) -> str:
    if method == ORIGINAL:
        return _spread([100 * row["test"] for row in cells.get((errors, method), {}).values()]) + " %"
    values = gains(cells, errors, method)
    if not values:
        return ""
    row = next(iter(cells[errors, method].values()))
    count = f"({mean(values) * row['n_test'] / 100:+.0f})"
    limits = interval(values)
    if limits is None:
        return f"{mean(values):+.2f} {count}"
    text = f"{mean(values):+.2f} [{limits[0]:+.2f}, {limits[1]:+.2f}] {count}"
    return f"**{text}**" if limits[0] > 0 or limits[1] < 0 else text


def _verdicts(rows: Iterable[Row], settings: Sequence[str], nets: Sequence[str]) -> Iterable[list[str]]:
    for setting in settings:
        for net in nets:
            cells = _cells([row for row in rows if row["setting"] == setting], net)
            for errors in sorted({at for at, name in cells if name == PUBLISHED}):
                values = gains(cells, errors, PUBLISHED)
                yield [
                    setting,
                    net,
                    f"{errors:g}",
                    str(len(values)),
                    _change(cells, errors, PUBLISHED),
                    _p(values),
                    _change(cells, errors, "control: ASSD of right labels"),
                ]


def _beside(rows: Iterable[Row], settings: Sequence[str]) -> Iterable[list[str]]:
    own = {
        setting: _cells([row for row in rows if row["setting"] == setting], PAPER_NET) for setting in settings
    }
    for (split, errors), (*theirs, p) in PAPER.items():
        texts = [f"{value:.2f} ± {deviation:.2f}" for value, deviation in theirs]
        yield [split, f"{errors:g}", "the paper", *texts, p, ""]
        for setting, cells in own.items():
            if (errors, PUBLISHED) not in cells or (errors, ORIGINAL) not in cells:
                continue
            found = [
                [100 * row[split] for row in cells.get((errors, name), {}).values()] for name in PAPER_METHODS
            ]
            tests = [_p(found[-1], found[0]), _p(gains(cells, errors, PUBLISHED, split))]
            yield [split, f"{errors:g}", f"here, {setting}", *map(_spread, found), *tests]


def _p(*samples: Sequence[float]) -> str:
    """Two-sided p by the t-test: that one mean is zero, or that two independent samples have the same."""
    if min(map(len, samples)) < 2 or max(map(stdev, samples)) < 1e-9:
        return ""  # t is not defined
    test = stats.ttest_ind(*samples) if len(samples) > 1 else stats.ttest_1samp(*samples, 0)
    return "<.001" if test.pvalue < 0.001 else f"{test.pvalue:.3f}".lstrip("0")


def _spread(values: Sequence[float]) -> str:
    if not values:
        return ""
    return f"{mean(values):.2f}" + (f" ± {stdev(values):.2f}" if len(values) > 1 else "")


def _markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "| --- |" + " ---: |" * (len(head) - 1)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])
