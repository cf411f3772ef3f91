# SPDX-License-Identifier: BSD-3-Clause
"""SalUn for generation: a class-conditional diffusion model forgets a class.

After Fan et al., arXiv 2310.12508, section 5: the share of images made for the forgotten class that a
classifier still takes for it (the paper's UA is 1 less that), the accuracy of the other classes' images, and a
Fréchet distance of these to real test images, in the features of that classifier. It is not the paper's FID.

    python benchmarks/papers/salun_ddpm.py                                       digits: an hour on one core
    python benchmarks/papers/salun_ddpm.py --seeds 1                             one seed, in a process of its own
    python benchmarks/papers/salun_ddpm.py --size cifar10 --data DIR --device cuda [--steps N]
    python benchmarks/papers/salun_ddpm.py --table                               print the table again
    python benchmarks/papers/salun_ddpm.py --grid docs/generation.png --seeds 0  draw what the models make

The digit 3 + seed is forgotten. A model and its oracle, trained anew without that class, are kept in --work, and
what stands in the file of results is not run again. Learning rates and epochs were chosen on another training,
for which no figure is reported; the same for all that train on misaligned conditions.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from _ddpm import CLASSES, NULL, SIZES, Size, accuracy, classifier, schedules, trained, unet
from _environment import environment
from unlearnkit import (
    ASSD,
    DEL,
    SSD,
    FineTune,
    FisherReset,
    GradientAscent,
    GradientSaliency,
    NegGradPlus,
    RandomLabel,
    SalUn,
    Trainer,
)
from unlearnkit.base import Unlearner
from unlearnkit.diffusion import (
    DiffusionLoss,
    class_share,
    features_of,
    frechet_distance,
    generate,
    sample_grid,
)
from unlearnkit.exceptions import UnlearnWarning

RESULTS = Path(__file__).parents[1] / "results" / "cpu"
BEFORE, ORACLE = "before", "retrained"
SHOWN = ("SalUn", "ASSD", "GA")


def methods(size: Size, seed: int) -> dict[str, Callable[[], Unlearner]]:
    """Return what is compared: SalUn, its variants, its controls, and what no paper has tried on diffusion."""
    forward, _ = schedules()

    def loss(**given: Any) -> DiffusionLoss:
        return DiffusionLoss(forward, null=NULL, **given)

    lr = size.unlearn["lr"]
    kept = {"optimizer": "adam", "batch_size": 2 * size.unlearn["batch_size"], "random_state": seed}
    paired = {
        "loss": loss(), "order": "paired", "optimizer": "adam", "weight_decay": 0.0, "random_state": seed,
        **size.unlearn,
    }  # fmt: skip
    moving = {**paired, "loss": loss(target="current")}
    guided = GradientSaliency(loss=loss(guidance=2.0, reduction="sum"), clip=1.0)
    published = {
        **paired,
        "loss": loss(target="current", condition_drop=0.1),
        "importance": guided,
        "alpha": 3.07,
    }
    another = {**moving, "loss": loss(target="current", instead="random")}
    few = max(1, size.unlearn["epochs"] // 5)
    return {
        "SalUn": lambda: SalUn(**paired),
        "SalUn, random mask": lambda: SalUn(**paired, importance="random"),
        "RL: no mask": lambda: RandomLabel(**paired),
        "SalUn, current target": lambda: SalUn(**moving),
        "SalUn, current target, random mask": lambda: SalUn(**moving, importance="random"),
        "RL: no mask, current target": lambda: RandomLabel(**moving),
        "channels by DEL's criterion, current target": lambda: RandomLabel(
            **moving, importance="weighted", granularity="channel", budget=0.3
        ),
        "SalUn, current target, another class at random": lambda: SalUn(**another),
        "SalUn as published": lambda: SalUn(**published, trainer=Trainer(clip=1.0)),
        "GA": lambda: GradientAscent(
            **{**kept, "batch_size": size.unlearn["batch_size"]}, loss=loss(), lr=0.04 * lr, epochs=5
        ),
        "NegGrad+": lambda: NegGradPlus(**kept, loss=loss(), lr=0.3 * lr, epochs=max(1, few // 3), alpha=0.8),
        "DEL": lambda: DEL(**kept, loss=loss(), lr=lr, epochs=3 * few),
        "FT": lambda: FineTune(**kept, loss=loss(), lr=lr, epochs=few),
        "FisherReset": lambda: FisherReset(
            loss=loss(), optimizer="adam", lr=lr, witness_lr=lr, random_state=seed
        ),
        "SSD": lambda: SSD(loss=loss(draws=4), importance="per_sample", alpha=3.0),
        "ASSD": lambda: ASSD(loss=loss(draws=4), percentile=97.0),
    }


class Bench:
    """The models and data of a seed.

    Parameters
    ----------
    size : Size
    folder : Path or None
        Of the data set.
    work : Path
        Where trained models are kept.
    seed : int
    device : str
    """

    def __init__(
        self, name: str, size: Size, folder: Path | None, work: Path, seed: int, device: str
    ) -> None:
        self.name, self.size, self.work, self.seed, self.device = name, size, work, seed, device
        self.label = (3 + seed) % CLASSES
        self.splits = size.data(folder)
        x, y = self.splits.train
        gone = y == self.label
        self.forget, self.retain = (x[gone], y[gone]), (x[~gone], y[~gone])
        self.classifier = classifier(size, self.splits.train, device)
        self.made_for = torch.arange(CLASSES).repeat_interleave(size.per_class)

    def model(self, which: str) -> nn.Module:
        """Return the model before, or its oracle: trained now, or read."""
        path = self.work / f"{self.name}-{self.size.steps}-{self.seed}-{which}.safetensors"
        if not path.exists():
            start = time.perf_counter()
            data = self.splits.train if which == BEFORE else self.retain
            model = trained(self.size, data, self.seed if which == BEFORE else 1000 + self.seed, self.device)
            path.parent.mkdir(parents=True, exist_ok=True)
            seconds = {"seconds": f"{time.perf_counter() - start:.1f}"}
            save_file({key: value.contiguous() for key, value in model.state_dict().items()}, path, seconds)
        model = unet(self.size, self.splits.train[0].shape[1:])
        model.load_state_dict(load_file(path))
        return model.to(self.device).eval()

    def images(self, model: nn.Module) -> Tensor:
        """Return what a model makes, as many of each class."""
        size = self.size
        return generate(
            model, schedules()[1], self.made_for, steps=size.sampling, guidance=size.guidance, null=NULL,
            random_state=self.seed, batch_size=500,
        )  # fmt: skip

    def look(self, model: nn.Module) -> dict[str, Any]:
        """Return what the classifier says of a model's images."""
        made, gone = self.images(model), self.made_for == self.label
        x, y = self.splits.test
        seen = torch.cat([self.classifier(part).argmax(1).cpu() for part in made.split(500)])
        still = class_share(self.classifier, made[gone], self.made_for[gone])
        kept = class_share(self.classifier, made[~gone], self.made_for[~gone])
        first, second = (
            features_of(self.classifier, part.to(self.device)) for part in (made[~gone], x[y != self.label])
        )
        return {
            "forgotten": still.value, "forgotten_low": still.low, "forgotten_high": still.high,
            "kept": kept.value, "kept_low": kept.low, "kept_high": kept.high,
            "frechet": float(frechet_distance(first, second)),
            "seen_as": torch.bincount(seen[gone], minlength=CLASSES).tolist(),
        }  # fmt: skip

    def look_at_real(self) -> dict[str, Any]:
        """Return the same of the test images; for the distance, as many training images stand for those made."""
        x, y = self.splits.test
        gone, (x_train, y_train) = y == self.label, self.retain
        chosen = torch.cat(
            [(y_train == label).nonzero()[: self.size.per_class, 0] for label in y_train.unique()]
        )
        sets = [features_of(self.classifier, part.to(self.device)) for part in (x_train[chosen], x[~gone])]
        return {
            "forgotten": accuracy(self.classifier, (x[gone], y[gone]), self.device),
            "kept": accuracy(self.classifier, (x[~gone], y[~gone]), self.device),
            "frechet": float(frechet_distance(*sets)),
        }


def rows_of(bench: Bench, known: set[str], chosen: list[str] | None) -> Iterator[dict[str, Any]]:
    """Yield a row for each model that is not known yet."""
    common = {"size": bench.name, "seed": bench.seed, "forget": bench.label}
    for which in (BEFORE, ORACLE):
        if which not in known:
            model = bench.model(which)
            yield {**common, "method": which, **bench.look(model), "density": float(which == ORACLE)}
    if "real images" not in known:
        yield {**common, "method": "real images", **bench.look_at_real()}
    model = bench.model(BEFORE)
    retain, forget = (tuple(part.to(bench.device) for part in data) for data in (bench.retain, bench.forget))
    for name, build in methods(bench.size, bench.seed).items():
        if name in known or (chosen is not None and name not in chosen):
            continue
        estimator, start = build(), time.process_time()
        estimator.fit(model, retain, forget)
        row = {
            **common,
            "method": name,
            "seconds": estimator.seconds_,
            "core_seconds": time.process_time() - start,
        }
        yield {**row, "density": estimator.edit_.density, **bench.look(estimator.transform(model))}


def table(rows: list[dict[str, Any]]) -> str:
    """Return the rows as a table, means and standard deviations over seeds."""
    names = list(dict.fromkeys(row["method"] for row in rows))
    seeds = sorted({row["seed"] for row in rows})
    lines = [
        f"Seeds {', '.join(map(str, seeds))}; the class 3 + seed is forgotten.",
        "",
        "| | forgotten class, seen as it | others, seen as theirs | Fréchet distance | weights changed | core s |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name in names:
        own = [row for row in rows if row["method"] == name]
        cells = [
            name,
            _cell(own, "forgotten", 100, 1),
            _cell(own, "kept", 100, 1),
            _cell(own, "frechet", 1, 2),
        ]
        changed = _cell(own, "density", 100, 1) if name not in (BEFORE, ORACLE) else ""
        lines.append(f"| {' | '.join([*cells, changed, _cell(own, 'core_seconds', 1, 0)])} |")
    return "\n".join(lines)


def _cell(rows: list[dict[str, Any]], key: str, scale: float, digits: int) -> str:
    values = [scale * row[key] for row in rows if key in row]
    if not values:
        return ""
    spread = f" ± {stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{mean(values):.{digits}f}{spread}{' %' if scale == 100 else ''}"


def draw(bench: Bench, path: Path) -> None:
    """Draw what the models make, each from the same noise."""
    model = bench.model(BEFORE)
    shown = {"before": bench.images(model)}
    for name in SHOWN:
        estimator = methods(bench.size, bench.seed)[name]()
        clean = estimator.fit(model, bench.retain, bench.forget).transform(model)
        shown[name] = bench.images(clean)
    figure = sample_grid(shown, bench.made_for, forget=bench.label)
    figure.savefig(path, dpi=150, bbox_inches="tight")


def main() -> None:
    """Run what is missing, and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=SIZES, default="digits")
    parser.add_argument("--data", type=Path, help="a folder with cifar-10-batches-py in it")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+")
    parser.add_argument("--steps", type=int, help="of training, in place of the size's own")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument(
        "--work", type=Path, default=Path("ddpm-models"), help="where trained models are kept"
    )
    parser.add_argument("--table", action="store_true", help="only print the table again")
    parser.add_argument("--grid", type=Path, help="only draw what the first seed's models make")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    warnings.simplefilter("ignore", UnlearnWarning)
    size = SIZES[given.size] if given.steps is None else replace(SIZES[given.size], steps=given.steps)
    if given.grid is not None:
        draw(Bench(given.size, size, given.data, given.work, given.seeds[0], given.device), given.grid)
        return
    given.results.mkdir(parents=True, exist_ok=True)
    path = given.results / "papers_salun_ddpm.jsonl"
    if not given.table:
        for seed in given.seeds:
            known = {row["method"] for row in _read(path, given.size) if row["seed"] == seed}
            bench = Bench(given.size, size, given.data, given.work, seed, given.device)
            for row in rows_of(bench, known, given.methods):
                told = {**row, "steps": size.steps, "environment": environment()}
                with open(path, "a", encoding="utf-8") as file:
                    file.write(json.dumps(told) + "\n")
                print(
                    f"{seed} {row['method']}: {row['forgotten']:.3f} {row['kept']:.3f} {row['frechet']:.2f}",
                    flush=True,
                )
    text = table(_read(path, given.size))
    print(text)
    heading = f"# A diffusion model forgets a class: {given.size}\n\n"
    (given.results / f"papers_salun_ddpm_{given.size}.md").write_text(heading + text + "\n", encoding="utf-8")


def _read(path: Path, size: str) -> list[dict[str, Any]]:
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    rows = [row for row in map(json.loads, lines) if row["size"] == size]
    order = {name: at for at, name in enumerate(dict.fromkeys(row["method"] for row in rows))}
    return sorted(rows, key=lambda row: order[row["method"]])


if __name__ == "__main__":
    main()
