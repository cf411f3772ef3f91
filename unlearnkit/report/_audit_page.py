# SPDX-License-Identifier: BSD-3-Clause
"""The page of an audit, made of its data and of nothing else."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from unlearnkit.report._layers import by_layer
from unlearnkit.report._loss_plots import losses_section
from unlearnkit.report._verdict import percent
from unlearnkit.report.page import Report

Data = Mapping[str, Any]

TONES = {"closer": "unlearned", "unknown": "retrained", "unclear": "retrained"}
FIELDS = {"id": "Request", "by": "Asked by", "date": "Date", "reason": "Reason"}
TITLES = {
    "test": "Accuracy on unseen samples",
    "retain": "Accuracy on samples to be kept",
    "forget": "Accuracy on forgotten samples",
    "mia": "Forgotten samples that look unseen",
    "tow": "Closeness to retraining (ToW)",
    "avg_gap": "Average gap to retraining",
    "lr_mia": "Forgotten told from unseen by loss",
    "rte": "Times faster than retraining",
    "iam": "Completeness of forgetting (IAM)",
}
OPENING = (
    "What was asked, what was done, what was measured, and what was not. Made on {} by {}. "
    "This page holds no sample of the data."
)
DIGEST = (
    "The digest below is that of all data on this page, which the JSON file beside it holds. A ticket that names it "
    "names this very audit."
)
PERCENT = "\N{NO-BREAK SPACE}%"
MEASURES = (
    "Under a value stands its interval: how far it would move with other samples. The retrained model's value is the "
    "target where there is one: nearer to it is better, not higher or lower."
)
VERIFY = """\
from unlearnkit.report import Audit

# refused if one character was altered
page = Audit.load_json("audit.json")
# are these the audited models, and is this the forget set?
page.verify(model, unlearned, forget, salt=salt)
# this page again
page.save("audit.html")"""


def page(data: Data) -> Report:
    """Put the page together."""
    made = data["created"].replace("T", " ").replace("Z", " UTC")
    name = data["request"].get("id", "")
    report = Report(
        f"Unlearning audit: {name}" if name else "Unlearning audit",
        OPENING.format(made, _maker(data)),
    )
    found = data["verdict"]
    open_points = f"{len(data['not_verified'])} points were not verified; they are listed further down."
    lines = [tight(line) for line in (*found["sentences"], open_points)]
    report.notice(found["headline"], lines, TONES.get(found["level"], "original"))
    report.facts(_facts(data))
    _asked(report, data)
    _done(report, data)
    _model(report, data)
    _edit(report, data)
    losses_section(report, data["losses"])
    _scores(report, data)
    if data["checks"]:
        report.section("What was checked")
        report.items(
            (check["what"], "Yes." if check["passed"] else "No, this was found to be otherwise.")
            for check in data["checks"]
        )
    report.section("What was not verified").items((one["title"], one["text"]) for one in data["not_verified"])
    _reproduction(report, data)
    report.section("This document", DIGEST).properties({"SHA-256": data["digest"]}, code=True)
    return report.blanks(["Read by", "Date", "Signature"])


def _facts(data: Data) -> dict[str, str]:
    edit, seconds = data["edit"], data["method"]["seconds"]
    facts = {"to be forgotten": _counted(data["forget"]["n"], "sample")}
    facts["of the weights changed"] = percent(edit["share"])
    for row in data["scores"]:
        if row["name"] == "forget" and row["before"] and row["after"]:
            old, new = (_figure(row, row[end]["value"]) for end in ("before", "after"))
            facts["right on forgotten samples, before and after"] = f"{old} →\N{NO-BREAK SPACE}{new}"
    if seconds is not None:
        facts["to unlearn"] = _seconds(seconds)
    return {name: tight(value) for name, value in facts.items()}


def _asked(report: Report, data: Data) -> None:
    rows = {
        FIELDS.get(key.lower(), key[:1].upper() + key[1:]): value for key, value in data["request"].items()
    }
    if not rows:
        rows["Request"] = "No particulars were given."
    forget = data["forget"]
    salt = (
        "The salt is not in this report: only those who have it and the samples can check the digest."
        if forget["salted"]
        else "It is not salted: whoever guesses all samples exactly can confirm the guess."
    )
    rows["Samples to be forgotten"] = f"{forget['n']:,}"
    report.section("What was asked").properties(rows)
    report.properties({"Their digest": forget["digest"]}, code=True)
    report.paragraph(f"The digest is {forget['algorithm']}. {salt}")


def _done(report: Report, data: Data) -> None:
    method = data["method"]
    rows = {"Method": method["name"] or "Not named."}
    if method["call"]:
        rows["As code"] = method["call"]
    if method["seconds"] is not None:
        rows["Seconds"] = f"{method['seconds']:,.2f}"
    rows |= {f"Note: {key}": value for key, value in data["edit"]["notes"].items()}
    report.section("What was done").properties(rows)
    parameters = method["parameters"]
    if parameters:
        table = [
            {
                "parameter": one["name"],
                "value": str(one["value"]),
                "": "default" if one["is_default"] else "chosen",
            }
            for one in parameters
        ]
        report.table(table, f"All {_counted(len(table), 'parameter')}", folded=True)


def _model(report: Report, data: Data) -> None:
    model, oracle = data["model"], data["oracle"]
    compared = {
        "none": "None was given.",
        "values": "Its values were handed in; no model was at hand.",
        "models": f"{_counted(oracle['n'], 'model')}, said to be trained without the forgotten samples.",
    }
    rows = {
        "Class": model["class"],
        "Size": f"{model['n_weights']:,} weights and {model['n_buffer_values']:,} buffer values in "
        f"{_counted(model['n_tensors'], 'tensor')}",
    }
    rows["Retrained for comparison"] = compared[oracle["kind"]]
    report.section("Which model").properties(rows)
    digests = {}
    for name, title in (("base", "Base"), ("result", "Result")):
        digests[f"{title}: digest of the whole model"] = model[name]["digest"]
        digests |= {f"{title}: {tensor['name']}": tensor["digest"] for tensor in model[name]["tensors"]}
    report.properties(digests, code=True).paragraph(f"Digests are {model['digests']}.")


def _edit(report: Report, data: Data) -> None:
    edit = data["edit"]
    text = (
        f"{edit['n_changed']:,} of {edit['n_total']:,} weights got another value ({percent(edit['share'])})"
    )
    if edit["n_changed_in_buffers"]:
        text += f", and {edit['n_changed_in_buffers']:,} values in buffers, such as running means"
    report.section("Where the model was changed", tight(f"{text}."))
    layers = by_layer(edit["tensors"])
    if edit["n_changed"]:
        caption = "Share of each layer's weights that changed, in the model's order"
        caption += "; neighbours are put together" * any(layer.is_group for layer in layers)
        rows = ((one.name, one.share, tight(f"{percent(one.share)} of {one.total:,}")) for one in layers)
        report.meters(rows, f"{caption}. The longest bar is {percent(max(one.share for one in layers))}.")
    table = [
        {
            "tensor": f"{row['name']}\nbuffer" if row["is_buffer"] else row["name"],
            "changed": f"{row['changed']:,}",
            "of": f"{row['total']:,}",
            "share": tight(percent(row["share"])),
        }
        for row in edit["tensors"]
    ]
    if table:
        more = " (the JSON file has them too)" if len(table) > 60 else ""
        report.table(table, f"All {_counted(len(table), 'tensor')}{more}", folded=True)


def _scores(report: Report, data: Data) -> None:
    scores = data["scores"]
    report.section("Measures", MEASURES if scores else "None: the audit was made with a loss alone.")
    groups = dict.fromkeys(row["group"] for row in scores)
    has_target = any(row["target"] is not None for row in scores)
    for group in groups:
        rows, remarks = [], []
        for row in (row for row in scores if row["group"] == group):
            cells = {"measure": TITLES.get(row["name"], row["name"].replace("_", " ").capitalize())}
            cells |= {"before": _ends(row, row["before"]), "after": _ends(row, row["after"])}
            if has_target:
                cells["retrained"] = _figure(row, row["target"])
            rows.append(cells)
            counted = row["name"] if row["n"] is None else f"{row['name']}, n = {row['n']:,}"
            remarks.append(f"{row['meaning'][:1].upper()}{row['meaning'][1:]} ({counted})")
        report.table(rows, f"{group[:1].upper()}{group[1:]}", remarks=remarks)


def _ends(row: Data, ends: Data | None) -> str:
    if ends is None:
        return "–"
    value = _figure(row, ends["value"])
    if None in (ends["low"], ends["high"]):
        return value
    low, high = _figure(row, ends["low"]), _figure(row, ends["high"])
    return f"{value}\n{low.removesuffix(PERCENT)}–{high}"


def _figure(row: Data, value: float | None) -> str:
    """Return a value as text: accuracies in percent, others with three digits, or four."""
    if value is None:
        return "–"
    if row["group"] == "accuracy" or row["name"] in ("test", "retain", "forget") or "mia" in row["name"]:
        return tight(percent(value))
    if value and not 1e-4 <= abs(value) < 1e4:
        return f"{value:.2e}"
    if 0 < abs(value) < 1e-3:
        return f"{value:.4f}"
    return f"{value:.3f}" if abs(value) < 100 else f"{value:,.0f}"


def _reproduction(report: Report, data: Data) -> None:
    found, method = data["environment"], data["method"]
    report.section("How to reproduce it")
    if method["command"]:
        report.code(method["command"])
    report.properties(found["versions"] | found["devices"])
    kernels = [{"kernel": name, "state": state} for name, state in found["kernels"].items()]
    report.table(kernels, "Kernels in use", folded=True)
    text = "With the JSON file, and what was audited. The metrics drew with random_state="
    report.paragraph(f"{text}{method['audit_random_state']}.", "To check this audit").code(VERIFY)


def _maker(data: Data) -> str:
    version = data["environment"]["versions"]["unlearnkit"]
    return f"unlearnkit {version}" if version[:1].isdigit() else f"unlearnkit ({version})"


def tight(text: str) -> str:
    """Keep a number and its unit on one line."""
    return re.sub(r"(?<=\d) (?=(%|s)(\W|$))", "\N{NO-BREAK SPACE}", text)


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _seconds(seconds: float) -> str:
    return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:,.0f} s"
