# SPDX-License-Identifier: BSD-3-Clause
"""The demo's page, and the picture in the README."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from unlearnkit.demo.study import Outcome
from unlearnkit.demo.tables import over_seeds, rows
from unlearnkit.metrics import confidence_from_logits, predict_logits
from unlearnkit.report import Card, Drawing, Report, bars, draw, histogram, points, shares
from unlearnkit.report.plots import LIGHT, new_figure, style

SETS = {"test": "test", "kept": "retain", "forget set": "forget"}
SHOWN = 12

INTRODUCTION = """\
Two requests to forget, carried out on real data in a few seconds and without retraining. Each \
compares three networks: the original, one retrained from scratch without what is to be \
forgotten, and the original after ASSD has dampened the weights that matter more for what goes \
than for what stays. Unlearning succeeds where the third is like the second."""

CODE = """\
from unlearnkit import ASSD, WeightEdit

assd = ASSD().fit(model, retain, forget)     # a class; ASSD(target=0.02) for wrong labels
clean = assd.transform(model)                # a copy that has forgotten; model is untouched
assd.edit_.save("request-17.safetensors")    # new values only, bound to this very model

undo = WeightEdit.load("request-17.safetensors").apply_(deployed)    # in place
undo.apply_(deployed)                                                # and back, bit by bit"""

LIMITS = """\
Dampening forgets what the network does in one connected way: a class, a source of data, a \
systematic error. Wrong labels that are scattered at random are learned by heart one by one; \
dampening alone removes only a part of them, at a price, and ASSD warns that it stopped short. \
Each request here meets a freshly trained network; one that was dampened before forgets less well.
The membership attack (MIA) is a weak one and proves no privacy; read it beside the retrained \
network's value. Everything was measured on 8x8 images and a small network, where retraining \
is quick too: its seconds grow with data and epochs, those of ASSD with one pass over the data."""


def page(studies: Sequence[Sequence[Outcome]]) -> Report:
    """Put the page together.

    Parameters
    ----------
    studies : sequence of sequences of Outcome
        By request: the outcomes over seeds, of which the first is shown in detail.

    Raises
    ------
    ImportError
        If the extra ``report`` is not installed.
    """
    report = Report("Making a network forget", INTRODUCTION)
    for outcomes in studies:
        first = outcomes[0]
        report.section(first.request.title, first.request.story)
        report.facts(_facts(first))
        report.gallery(_cards(first), f"The first {SHOWN} images of the forget set, as they come.")
        report.table(rows(first), f"Three networks, seed {first.seed}.")
        report.plots(dict(_plots(outcomes)))
        if len(outcomes) > 1:
            said = over_seeds(outcomes).replace(" %", "\N{NO-BREAK SPACE}%")
            report.paragraph(f"Means and ranges of {said}.")
    report.section("The same with a model of yours").code(CODE)
    report.section("What this does not show", LIMITS)
    return report


def picture(studies: Sequence[Sequence[Outcome]], path: str | os.PathLike[str]) -> None:
    """Draw the requests side by side, and write them to an image file."""
    figure = new_figure((9, 4.1))
    with style():
        parts = figure.subfigures(1, len(studies), wspace=0.06)
        for part, outcomes in zip(parts, studies, strict=True):
            first = outcomes[0]
            part.suptitle(first.request.title, x=0.02, ha="left", weight="bold", fontsize=11.5)
            grid = part.subplots(2, 6, height_ratios=(1, 2.4))
            for axes, card in zip(grid[0], _cards(first), strict=False):
                axes.imshow(card.picture, "gray", vmin=0, vmax=1, interpolation="bicubic")
                axes.set_axis_off()
                for row, (role, line) in enumerate(card.lines):
                    where = {"transform": axes.transAxes, "ha": "center", "va": "top"}
                    look = {"fontsize": 7.5, "color": LIGHT[role]}
                    axes.text(0.5, -0.08 - 0.3 * row, line, **where, **look)
            below = grid[1, 0].get_gridspec()[1, :]
            for axes in grid[1]:
                axes.remove()
            bars(part.add_subplot(below), list(SETS), _accuracies(first))
        figure.savefig(path, dpi=120)


def _facts(outcome: Outcome) -> dict[str, str]:
    seconds = {name: results["seconds"] for name, results in outcome.results.items()}
    return {
        "of the weights changed": f"{100 * outcome.edit.density:.1f} %",
        "is the edit's file": f"{outcome.path.stat().st_size / 1000:.0f} kB",
        f"to unlearn; {seconds['retrained']:.1f} s to retrain": f"{seconds['unlearned']:.1f} s",
        "came back when the edit was undone": "every bit" if outcome.exact else "not every bit",
    }


def _cards(outcome: Outcome) -> Iterator[Card]:
    """Yield the first images to be forgotten, with what the network said before and after."""
    request = outcome.request
    images, labels = request.forgotten
    shown = request.shown[request.forget]
    before, after = (_predicted(outcome.models[name], images) for name in ("original", "unlearned"))
    for image, *said in zip(images[:SHOWN], shown, labels, before, after, strict=False):
        digit, label, old, new = map(int, said)
        words = f"a {digit}, labelled {label}, read as {old} before and as {new} after"
        shows = f"a {digit}" if label == digit else f"{digit}, label {label}"
        roles = ("soft", "original", "unlearned")
        lines = zip(roles, (shows, f"before {old}", f"after {new}"), strict=True)
        yield Card(1 - image[0].numpy(), words, list(lines))


def _plots(outcomes: Sequence[Outcome]) -> Iterator[tuple[str, Drawing]]:
    first = outcomes[0]
    accuracies = _accuracies(first)
    words = [f"{name} {_percents(values)}" for name, values in accuracies.items()]
    plot = partial(bars, groups=list(SETS), series=accuracies)
    yield "Accuracy", draw(plot, f"{', '.join(SETS)}: {'; '.join(words)}")

    confidence = {
        name: confidence_from_logits(*predict_logits(model, first.request.forgotten))
        for name, model in first.models.items()
    }
    words = [f"{name} {values.mean():.2f}" for name, values in confidence.items()]
    xlabel = "probability that the network gives to the label"
    plot = partial(histogram, series=confidence, xlabel=xlabel)
    yield "Confidence in the labels to forget", draw(plot, f"means: {', '.join(words)}")

    share = {row.name: row.share for row in first.edit.summary()}
    share = {name: share[name] for name in first.edit}  # in the model's order
    plot = partial(shares, rows=share, xlabel="share of each tensor's weights")
    said, size = f"{', '.join(share)}: {_percents(share.values())}", (4.6, 0.6 + 0.3 * len(share))
    yield "Where the edit changes weights", draw(plot, said, size)

    if len(outcomes) > 1:
        runs = {name: [_accuracies(outcome)[name] for outcome in outcomes] for name in accuracies}
        plot = partial(points, groups=list(SETS), series=runs)
        yield f"Accuracy over {len(outcomes)} seeds", draw(plot, over_seeds(outcomes))


def _accuracies(outcome: Outcome) -> dict[str, list[float]]:
    """Return accuracies by model, in the order of `SETS`."""
    return {model: [results[key] for key in SETS.values()] for model, results in outcome.results.items()}


def _predicted(model: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        return model(images).argmax(1)


def _percents(values: Iterable[float]) -> str:
    return ", ".join(f"{100 * value:.0f} %" for value in values)
