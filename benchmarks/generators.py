# SPDX-License-Identifier: BSD-3-Clause
"""Forgetting a class in generators that are no diffusion models: a conditional VAE and GAN of the digits.

    python benchmarks/generators.py             three seeds, some minutes on one thread
    python benchmarks/generators.py --tune      how the learning rates were chosen
    python benchmarks/generators.py --smoke     in seconds, to see that it runs

Each is made to forget class 3 by methods of unlearnkit through ``loss=`` alone: the losses are this benchmark's own, in
_generators.py. SalUn and RandomLabel give the class the looks of the next one, by the loss's method ``misaligned``.
The GAN forgets in its generator alone, without images or discriminator: a batch is (z, classes), and what is kept is
what the generator made before. That loss has its minimum, and no gradient, at the original model: gradient ascent,
NegGrad+ and fine-tuning have nothing to begin with and are left out, and saliencies are measured with another loss,
how far the class is from the next one.

Every method trains with Adam, batches of 32 and some 310 steps, gradient ascent with 40; the originals had 1,080 (VAE)
and 2,700 (GAN). The learning rate is the best of five on seed 100, which is not reported: of those within .02 of the
best (accuracy on the kept classes less the share of the forgotten one) the one with the least Fréchet distance to the
training images. Where the VAE's z come from made no difference there, so it is the prior, and the posterior an arm.

A classifier judges 200 images a class. Fréchet distances are in its 32 features, of the kept classes, to the test
images, with as many images of each class; for "real images" these are of the training set.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import mean, stdev
from time import perf_counter
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from _data import Data, Request, Splits, digits, forget_class
from _environment import environment
from _generators import (
    CLASSES,
    GAN,
    GAN_LATENT,
    VAE,
    DistilLoss,
    ElboLoss,
    following,
    train_classifier,
    train_gan,
    train_vae,
)
from unlearnkit import (
    DEL,
    FineTune,
    GradientAscent,
    GradientSaliency,
    NegGradPlus,
    RandomLabel,
    SalUn,
    WeightedSaliency,
)
from unlearnkit.diffusion import class_share, features_of, frechet_distance, sample_grid
from unlearnkit.exceptions import SmallSampleWarning

ROOT = Path(__file__).parents[1]
FORGET, TUNING_SEED, PER_CLASS, RATES = 3, 100, 200, (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
FIGURES = ("forgotten_share", "next_share", "kept_accuracy", "frechet", "reconstructed")
HEADS = ("forgotten class", "as the next", "kept classes", "Fréchet", "forgotten images rebuilt")

Generator = VAE | GAN
Row = dict[str, Any]
Pictures = dict[str, Tensor]


class Epochs(NamedTuple):
    """How long everything is trained; `paired` are passes over the forget set, `kept` over the rest."""

    vae: int = 60
    gan: int = 150
    classifier: int = 25
    paired: int = 78
    kept: int = 10


class Case(NamedTuple):
    """A generator before, the data to fit methods with, the methods by name, and how to retrain it."""

    before: Generator
    retain: Data
    forget: Data
    arms: dict[str, Callable[..., Any]]
    retrain: Callable[[], Generator]


CHOSEN: dict[str, dict[str, float]] = {  # learning rates
    "VAE": {
        "SalUn": 3e-3,
        "SalUn, z of the posterior": 3e-3,
        "RandomLabel, no mask": 3e-3,
        "SalUn, random mask": 3e-3,
        "GradientAscent": 1e-3,
        "NegGradPlus": 3e-4,
        "FineTune": 1e-2,
        "DEL": 1e-2,
    },
    "GAN": {
        "SalUn": 1e-2,
        "RandomLabel, no mask": 3e-3,
        "SalUn, random mask": 1e-2,
        "DEL": 1e-2,
    },
}


def vae_case(request: Request, seed: int, epochs: Epochs) -> Case:
    torch.manual_seed(seed)
    before = train_vae(request.train, epochs.vae)
    paired = {"order": "paired", "epochs": epochs.paired, "loss": ElboLoss()}
    plain = {"epochs": epochs.kept, "loss": ElboLoss()}
    arms = {
        "SalUn": partial(SalUn, **paired),
        "SalUn, z of the posterior": partial(SalUn, **{**paired, "loss": ElboLoss("posterior")}),
        "RandomLabel, no mask": partial(RandomLabel, **paired),
        "SalUn, random mask": partial(SalUn, importance="random", **paired),
        "GradientAscent": partial(GradientAscent, **plain),
        "NegGradPlus": partial(NegGradPlus, **plain),
        "FineTune": partial(FineTune, **plain),
        "DEL": partial(DEL, **plain),
    }
    return Case(before, request.retain, request.forget, arms, lambda: train_vae(request.retain, epochs.vae))


def gan_case(request: Request, seed: int, epochs: Epochs) -> Case:
    torch.manual_seed(seed)
    before = train_gan(request.train, epochs.gan)
    retain, forget = (
        (torch.randn(len(y), GAN_LATENT), y) for _, y in (request.retain, request.forget)
    )  # z [N, Z] and classes [N]
    loss = DistilLoss(before)
    paired = {"order": "paired", "epochs": epochs.paired, "loss": loss}
    saliency = GradientSaliency(loss=loss.saliency)
    arms = {
        "SalUn": partial(SalUn, importance=saliency, **paired),
        "RandomLabel, no mask": partial(RandomLabel, **paired),
        "SalUn, random mask": partial(SalUn, importance="random", **paired),
        "DEL": partial(DEL, importance=WeightedSaliency(loss=loss.saliency), epochs=epochs.kept, loss=loss),
    }
    return Case(before, retain, forget, arms, lambda: train_gan(request.retain, epochs.gan))


CASES: dict[str, Callable[[Request, int, Epochs], Case]] = {"VAE": vae_case, "GAN": gan_case}


def forgotten(case: Case, arm: str, lr: float, seed: int) -> tuple[Generator, float]:
    """Return the generator after, and the seconds."""
    method = case.arms[arm](lr=lr, optimizer="adam", batch_size=32, weight_decay=0.0, random_state=seed)
    start = perf_counter()
    after = method.fit(case.before, case.retain, case.forget).transform(case.before)
    return after, perf_counter() - start


def images_of(model: Generator, seed: int) -> tuple[Tensor, Tensor]:
    """Return images [N, 1, 8, 8] in [0, 1] and classes [N], from the same noise for every model."""
    c = torch.arange(CLASSES).repeat_interleave(PER_CLASS)
    z = torch.randn(len(c), model.latent, generator=torch.Generator().manual_seed(5000 + seed))
    with torch.no_grad():
        return model.images(z, c), c


def first_of_each(data: Data, counts: Tensor) -> Tensor:
    """Return the first so many images of each class but the forgotten one."""
    x, c = data
    return torch.cat([x[c == k][: counts[k]] for k in range(CLASSES) if k != FORGET])


def look(model: Generator, classifier: nn.Module, real: Data, unseen: Data, seed: int) -> Row:
    """Judge a generator; `real` are what the Fréchet distance is to, `unseen` what a VAE rebuilds."""
    images, c = images_of(model, seed)
    gone = c == FORGET
    counts = torch.bincount(real[1], minlength=CLASSES).clamp(max=PER_CLASS)
    share = partial(class_share, classifier, n_bootstrap=10)
    row = {
        "forgotten_share": share(images[gone], c[gone]).value,
        "next_share": share(images[gone], following(c[gone])).value,
        "kept_accuracy": share(images[~gone], c[~gone]).value,
        "frechet": frechet(classifier, first_of_each((images, c), counts), first_of_each(real, counts)),
    }
    if isinstance(model, VAE):
        x, y = (part[unseen[1] == FORGET] for part in unseen)
        with torch.no_grad():
            rebuilt = model.images(model.encode(x, y)[0], y)
        row["reconstructed"] = share(rebuilt, y).value
    return row


def frechet(classifier: nn.Module, first: Tensor, second: Tensor) -> float:
    return frechet_distance(features_of(classifier, first), features_of(classifier, second))


def best(rows: Sequence[Row]) -> Row:
    """Return the row whose learning rate is taken."""
    score = [row["kept_accuracy"] - row["forgotten_share"] for row in rows]
    near = [row for row, one in zip(rows, score, strict=True) if one >= max(score) - 0.02]
    return min(near, key=lambda row: row["frechet"])


def tune(request: Request, classifier: nn.Module, epochs: Epochs) -> list[Row]:
    """Return a row for each generator, method and learning rate on the seed for choosing."""
    rows = []
    for name, make in CASES.items():
        case = make(request, TUNING_SEED, epochs)
        for arm in case.arms:
            for lr in RATES:
                after, _ = forgotten(case, arm, lr, TUNING_SEED)
                found = look(after, classifier, request.retain, request.validation, TUNING_SEED)
                rows.append({"generator": name, "arm": arm, "lr": lr, **found})
                print(told(rows[-1]), flush=True)
    return rows


def measured(seed: int, splits: Splits, classifier: nn.Module, epochs: Epochs) -> tuple[list[Row], Pictures]:
    """Return a row for each generator and method on a seed, and the VAE's images by what made them."""
    rows: list[Row] = []
    pictures: Pictures = {}
    request = forget_class(splits, FORGET)
    for name, make in CASES.items():
        case = make(request, seed, epochs)
        made: dict[str, tuple[Generator, float | None]] = {"before": (case.before, None)}
        for arm in case.arms:
            made[arm] = forgotten(case, arm, CHOSEN[name][arm], seed)
        start = perf_counter()
        made["retrained"] = case.retrain(), perf_counter() - start
        for arm, (model, seconds) in made.items():
            found = look(model, classifier, splits.test, splits.test, seed)
            about = {"generator": name, "arm": arm, "seed": seed, "lr": CHOSEN[name].get(arm)}
            rows.append({**about, **found, "seconds": seconds})
            print(told(rows[-1]), flush=True)
        if name == "VAE":
            pictures = {
                arm: images_of(made[arm][0], seed)[0]
                for arm in ("before", "SalUn", "NegGradPlus", "retrained")
            }
    return rows, pictures


def floor(splits: Splits, classifier: nn.Module) -> Row:
    """Return what real images get in the place of generated ones."""
    counts = torch.bincount(splits.test[1], minlength=CLASSES).clamp(max=PER_CLASS)
    x, y = splits.test
    return {
        "kept_accuracy": class_share(classifier, x[y != FORGET], y[y != FORGET], n_bootstrap=10).value,
        "forgotten_share": class_share(classifier, x[y == FORGET], y[y == FORGET], n_bootstrap=10).value,
        "frechet": frechet(
            classifier, first_of_each(splits.train, counts), first_of_each(splits.test, counts)
        ),
    }


def told(row: Row) -> str:
    parts = [f"{row['generator']:4}{row['arm']:26}"]
    parts += [f"{name} {row[name]:.4g}" for name in ("seed", "lr", *FIGURES) if row.get(name) is not None]
    return "  ".join(parts)


def table(rows: Sequence[Row], real: Row) -> str:
    """Return the means and standard deviations over seeds, a table a generator."""
    seeds = len({row["seed"] for row in rows})
    lines = [
        f"Means and standard deviations over {seeds} seeds. Shares, in percent, of images that the classifier takes",
        "for the class they were made for, or for the next one.",
        "",
    ]
    for name in CASES:
        shown = [at for at in FIGURES if name == "VAE" or at != "reconstructed"]
        lines += [f"### {name}", ""]
        lines += [f"| | {' | '.join(HEADS[FIGURES.index(at)] for at in shown)} | lr | seconds |"]
        lines += [f"| --- |{' ---: |' * (len(shown) + 2)}"]
        mine = [row for row in rows if row["generator"] == name]
        for arm in dict.fromkeys(row["arm"] for row in mine):
            own = [row for row in mine if row["arm"] == arm]
            cells = [spread([row[at] for row in own], at) for at in shown]
            rate = "" if own[0]["lr"] is None else f"{own[0]['lr']:g}"
            seconds = "" if own[0]["seconds"] is None else f"{mean(row['seconds'] for row in own):.1f}"
            lines.append(f"| {arm} | {' | '.join(cells)} | {rate} | {seconds} |")
        cells = [spread([real[at]], at) if at in real else "" for at in shown]
        lines += [f"| real images | {' | '.join(cells)} | | |", ""]
    return "\n".join(lines)


def spread(values: Sequence[float], figure: str) -> str:
    """Return mean and standard deviation: shares in percent, distances as they are."""
    factor = 1 if figure == "frechet" else 100
    values = [factor * value for value in values]
    return f"{mean(values):.1f}" + (f" ± {stdev(values):.1f}" if len(values) > 1 else "")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--tune", action="store_true", help="try the learning rates, and write nothing")
    parser.add_argument("--smoke", action="store_true", help="one seed and one epoch of each")
    parser.add_argument("--out", type=Path, help="benchmarks/results/cpu/generators.json; after --smoke none")
    parser.add_argument("--picture", type=Path, help="docs/generators.png; after --smoke none")
    options = parser.parse_args()
    if not options.smoke:
        options.out = options.out or ROOT / "benchmarks/results/cpu/generators.json"
        options.picture = options.picture or ROOT / "docs/generators.png"
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", SmallSampleWarning)
    splits, epochs = digits(), Epochs(1, 1, 1, 1, 1) if options.smoke else Epochs()
    torch.manual_seed(7)
    classifier = train_classifier(splits.train, epochs.classifier)
    if options.tune:
        tried = tune(forget_class(splits, FORGET), classifier, epochs)
        for name, arm in dict.fromkeys((row["generator"], row["arm"]) for row in tried):
            print(
                "best:", told(best([row for row in tried if (row["generator"], row["arm"]) == (name, arm)]))
            )
        return
    rows: list[Row] = []
    pictures: Pictures = {}
    for seed in range(1 if options.smoke else options.seeds):
        found, made = measured(seed, splits, classifier, epochs)
        rows += found
        pictures = pictures or made
    real = floor(splits, classifier)
    about = {"what": "a class of the digits forgotten in a conditional VAE and a conditional GAN"}
    settings = {"forget": FORGET, "per_class": PER_CLASS, "epochs": epochs._asdict()}
    everything = {**about, "environment": environment(), "settings": settings, "real": real, "rows": rows}
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(everything, indent=1) + "\n", encoding="utf-8")
        options.out.with_suffix(".md").write_text(table(rows, real), encoding="utf-8")
    if options.picture:
        classes = torch.arange(CLASSES).repeat_interleave(PER_CLASS)
        grid = sample_grid({name: 2 * x - 1 for name, x in pictures.items()}, classes, forget=FORGET)
        grid.savefig(options.picture)


if __name__ == "__main__":
    main()
