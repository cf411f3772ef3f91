# SPDX-License-Identifier: BSD-3-Clause
"""Can dampening forget a class with the model and the forget set alone?

ASSD compares the Fisher diagonal of the forget set, F_f, with that of all data. Here the data to
keep is gone, no reference was stored, and something else takes its place in the denominator. A
rule works if at ONE percentile, in every run, accuracy on the forgotten class is at least halved
and accuracy on the rest falls by at most 3 points.

What came out (results/cpu/data_free.md): the Fisher diagonal of the forget inputs, changed by
gradient descent until the model takes them for other classes, works in 8 of 9 runs at one
percentile, as often as that of the data to keep itself; nothing else does in more than 6. With
these inputs for its retain data, ASSD() forgets the class altogether in all 9, and the rest
loses at most 3 points in 7 and at most 6 in the other two. So no rule works in every run.

    python benchmarks/data_free.py --data DIR [--seeds 3]      measure, about 20 minutes
    python benchmarks/data_free.py --table                     print the table again
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from itertools import product
from pathlib import Path
from statistics import mean

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from _data import Data, Request, cifar10, digits, forget_class
from _environment import write_environment
from _models import digits_cnn, small_cnn, small_cnn_bn, train
from unlearnkit import ASSD, FisherDiagonal, Importance
from unlearnkit.metrics import accuracy

RESULTS = Path(__file__).parent / "results" / "cpu" / "data_free.json"
PERCENTILES = (99.5, 99, 98, 97, 95, 93, 90, 80)
SIDES = ("forget", "retain", "test")
SAMPLES = 300  # of each, for the accuracies

Sums = dict[str, Tensor]


def fisher(model: nn.Module, data: Data, labels: str = "true") -> Sums:
    """Mean per-sample Fisher diagonal."""
    return FisherDiagonal(labels=labels, random_state=0).measure(model, data).mean()


def noise(forget: Data, samples: int = 300) -> Data:
    """Normal noise of the inputs' shape; the labels are those of the forget set, to be replaced."""
    x, y = forget
    return torch.randn(samples, *x.shape[1:]), y[:1].expand(samples)


def others(model: nn.Module, y: Tensor, x: Tensor) -> Tensor:
    """For every label in y another one, drawn uniformly."""
    with torch.no_grad():
        classes = model(x[:1]).shape[1]
    return (y + torch.randint(1, classes, y.shape)) % classes


def made(model: nn.Module, x: Tensor, y: Tensor, steps: int = 30) -> Data:
    """Inputs that the model takes for classes other than y, made from x by gradient descent."""
    y = others(model, y, x)
    optimizer = torch.optim.Adam([x := x.clone().requires_grad_()], lr=0.15 * x.std().item())
    for _ in range(steps):
        (x.grad,) = torch.autograd.grad(F.cross_entropy(model(x), y, reduction="sum"), x)
        optimizer.step()
    return x.detach(), y


def weights_squared(model: nn.Module) -> Sums:
    """The squares of the weights; the small number is for weights that are 0."""
    return {name: w.detach().double() ** 2 + 1e-12 for name, w in model.named_parameters()}


Rule = Callable[[nn.Module, Request, Sums], Sums]
RULES: dict[str, Rule] = {
    "F of the data to keep (control)": lambda m, r, f: fisher(m, r.retain),
    "uniform": lambda m, r, f: {k: torch.ones_like(v) for k, v in f.items()},
    "layer mean of F_f": lambda m, r, f: {k: v.mean().expand_as(v) for k, v in f.items()},
    "weight squared": lambda m, r, f: weights_squared(m),
    "1 / weight squared": lambda m, r, f: {k: 1 / v for k, v in weights_squared(m).items()},
    "F of noise, drawn labels": lambda m, r, f: fisher(m, noise(r.forget), "sampled"),
    "F of forget inputs, drawn labels": lambda m, r, f: fisher(m, r.forget, "sampled"),
    "F of forget inputs, predicted labels": lambda m, r, f: fisher(m, r.forget, "predicted"),
    "F of forget inputs, other labels": lambda m, r, f: fisher(
        m, (r.forget[0], others(m, r.forget[1], r.forget[0]))
    ),
    "F of noise made into other classes": lambda m, r, f: fisher(m, made(m, *noise(r.forget))),
    "F of forget inputs made into other classes": lambda m, r, f: fisher(m, made(m, *some(r.forget))),
}
STAND_IN = "forget inputs made into other classes, as the retain data of ASSD()"


def matched(reference: Sums, forget: Sums) -> Sums:
    """The reference scaled to the overall mean of the forget set's.

    Which weights are chosen does not depend on the scale, by how much they shrink does.
    """
    scale = sum(v.sum() for v in forget.values()) / sum(v.sum() for v in reference.values())
    return {name: value * scale for name, value in reference.items()}


def some(data: Data) -> Data:
    """At most `SAMPLES` of the data."""
    chosen = torch.randperm(len(data[1]))[:SAMPLES]
    return data[0][chosen], data[1][chosen]


def run(task: str, factory: Callable[[], nn.Module], request: Request, seed: int) -> list[dict]:
    """All rules and percentiles on one model."""
    epochs, batch_size = (25, 32) if task == "digits" else (12, 64)
    model = train(factory, request.train, seed, epochs=epochs, batch_size=batch_size)
    torch.manual_seed(seed)
    sides = {side: some(getattr(request, side)) for side in SIDES}
    base = {"task": task, "seed": seed}
    base |= {f"{side}_before": accuracy(model, data) for side, data in sides.items()}
    forget = FisherDiagonal().measure(model, request.forget)
    rows = []

    def add(rule: str, p: float | str, assd: ASSD) -> None:
        edited = assd.transform(model)
        after = {side: accuracy(edited, data) for side, data in sides.items()}
        rows.append(base | {"rule": rule, "p": p} | after)

    for rule, reference in RULES.items():
        sums = matched(reference(model, request, forget.mean()), forget.mean())
        stored = Importance(sums, 1, forget.kind)
        for p in PERCENTILES:
            add(rule, p, ASSD(against="full", percentile=p).fit(model, stored, forget))
    retain = made(model, *some(request.forget))
    add(STAND_IN, "calibrated", ASSD().fit(model, retain, request.forget))
    return rows


def works(row: dict) -> bool:
    """Accuracy on the class at least halved, on the rest at most 3 points lost."""
    return row["forget"] <= row["forget_before"] / 2 and row["retain"] >= row["retain_before"] - 0.03


def table(rows: list[dict]) -> str:
    """Each rule at the percentile at which most runs work, as Markdown.

    Of equals the percentile that leaves most between the two accuracies.
    """
    tasks = list(dict.fromkeys(row["task"] for row in rows))

    def accuracies(of: list[dict], suffix: str = "") -> list[str]:
        found = []
        for task in tasks:
            own = [row for row in of if row["task"] == task]
            means = (100 * mean(row[side + suffix] for row in own) for side in SIDES)
            found.append(" / ".join(f"{value:.1f}" for value in means))
        return found

    def score(of: list[dict]) -> tuple[int, float]:
        return sum(map(works, of)), mean(row["retain"] - row["forget"] for row in of)

    head = ["denominator", "p", "runs that work"]
    head += [f"{task}: {' / '.join(SIDES)}" for task in tasks]
    cells = [head, ["---"] * len(head), ["untouched", "", "", *accuracies(rows, "_before")]]
    for rule in (*RULES, STAND_IN):
        own = [row for row in rows if row["rule"] == rule]
        tried = dict.fromkeys(row["p"] for row in own)
        at = max(([row for row in own if row["p"] == p] for p in tried), key=score)
        cells.append([rule, str(at[0]["p"]), f"{score(at)[0]} of {len(at)}", *accuracies(at)])
    return "".join("| " + " | ".join(line) + " |\n" for line in cells)


def main() -> None:
    """Measure, or print the table of what was measured."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, help="folder that holds cifar-10-batches-py")
    parser.add_argument("--seeds", type=int, default=3, help="the class forgotten is the seed")
    parser.add_argument("--table", action="store_true", help="print the table of stored results")
    args = parser.parse_args()
    if not args.table:
        if args.data is None:
            parser.error("--data is needed to measure; --table prints what was measured")
        small, images = digits(), cifar10(args.data)
        tasks = {
            "digits": (digits_cnn, small),
            "CIFAR-10": (small_cnn, images),
            "CIFAR-10, BatchNorm": (small_cnn_bn, images),
        }
        rows = []
        for (name, (factory, splits)), seed in product(tasks.items(), range(args.seeds)):
            rows += run(name, factory, forget_class(splits, seed), seed)
            print(f"{name}, seed {seed}", flush=True)
        write_environment(RESULTS.parent)
        lines = ",\n".join(json.dumps(row) for row in rows)
        RESULTS.write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    text = table(json.loads(RESULTS.read_text(encoding="utf-8")))
    RESULTS.with_suffix(".md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
