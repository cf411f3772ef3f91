# SPDX-License-Identifier: BSD-3-Clause
"""Twenty requests, one after another, on the digits: what a model becomes, and what a kill does to the log.

    python benchmarks/forget_log.py [--seeds 2] [--out benchmarks/results/cpu/requests.json]
    python benchmarks/forget_log.py --plot docs/requests.png     # draws what was measured, and measures nothing

What stands in the file is not measured again.

Two streams of requests: `groups`, the images of one digit that look alike (a cluster of them), and
`scattered`, images drawn at random. Each request goes through a `ForgetLog`, but for one way that the
log does not take: to subtract the importance of a request as it is on the current model. Then a
process of its own does the requests and is killed with signal 9 in one of them, and another goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from sklearn.cluster import KMeans
from torch import Tensor, nn

from _data import digits
from _environment import environment
from unlearnkit import ASSD, FisherDiagonal, FisherReset, ForgetLog, Importance
from unlearnkit.demo.digits import Data, network, trained
from unlearnkit.exceptions import UnlearnWarning
from unlearnkit.metrics import accuracy
from unlearnkit.parameters import digest, named_tensors

RESULTS = Path(__file__).parent / "results" / "cpu" / "requests.json"
REQUESTS, CLUSTERS, SCATTERED = 20, 60, 11
LOWEST = 0.7  # accuracy that is drawn
EVERY = 5  # requests from one retrained network to the next, and from one renewal to the next
TRAIN, VALIDATION, TEST = (Data(*part) for part in digits())

Step = Callable[[nn.Module, Data], nn.Module]
"""``step(model, forget) -> model``."""


def groups(seed: int) -> list[Tensor]:
    """Indices of images of one digit that look alike, a request each."""
    pixels = TRAIN.images.flatten(1).numpy()
    cluster = torch.tensor(KMeans(CLUSTERS, n_init=1, random_state=seed).fit(pixels).labels_)
    chosen = np.random.default_rng(seed).permutation(CLUSTERS)[:REQUESTS]
    found = []
    for one in chosen:
        members = (cluster == one).nonzero()[:, 0]
        labels = TRAIN.labels[members]
        found.append(members[labels == labels.mode().values])
    return found


def scattered(seed: int) -> list[Tensor]:
    """Indices of images drawn at random, a request each."""
    drawn = np.random.default_rng(seed).permutation(len(TRAIN.labels))
    return list(torch.tensor(drawn[: REQUESTS * SCATTERED]).split(SCATTERED))


STREAMS = {"groups": groups, "scattered": scattered}


def part(indices: Tensor) -> Data:
    """Return some of the training images."""
    return Data(TRAIN.images[indices], TRAIN.labels[indices])


@contextmanager
def through_a_log(base: nn.Module, method: str) -> Iterator[tuple[Step, Callable[[], float | None]]]:
    """Yield what does a request in a log, and what tells how far the model has moved."""
    with tempfile.TemporaryDirectory() as folder:
        stored = FisherDiagonal().measure(base, TRAIN) if "reference" in method else None
        log = ForgetLog(folder, base, stored, VALIDATION, n_train=len(TRAIN.labels))

        def step(model: nn.Module, forget: Data) -> nn.Module:
            number = len(log.requests)
            if "renewed" in method and number and number % EVERY == 0:
                log.renew(FisherDiagonal().measure(log.model, log.retained(TRAIN)))
            estimator = FisherReset() if method.startswith("FisherReset") else ASSD()
            kept = None if "reference" in method else TRAIN  # what is forgotten the log leaves out
            log.apply(estimator, forget, request_id=str(number), retain=kept)
            return log.model

        yield step, lambda: log.drift.moved


@contextmanager
def clamped(base: nn.Module, method: str) -> Iterator[tuple[Step, Callable[[], float | None]]]:
    """Yield what subtracts the importance that a request has on the current model, down to zero."""
    fisher = FisherDiagonal()
    rest = fisher.measure(base, TRAIN)

    def step(model: nn.Module, forget: Data) -> nn.Module:
        nonlocal rest
        gone = fisher.measure(model, forget)
        sums = {name: (value - gone.sums[name]).clamp(min=0) for name, value in rest.sums.items()}
        rest = Importance(sums, rest.count - gone.count, rest.kind)
        return ASSD().fit_transform(model, retain=rest + gone, forget=forget, validation=VALIDATION)

    yield step, lambda: None


METHODS = {
    "ASSD, reference": through_a_log,
    "ASSD, reference renewed": through_a_log,
    "ASSD, retain data": through_a_log,
    "FisherReset, retain data": through_a_log,
    "ASSD, clamped": clamped,
}
RETRAINED = "retrained"


def study(stream: str, seed: int, methods: Collection[str]) -> Iterator[dict[str, Any]]:
    """Yield a row a request and method, and a row a retrained network."""
    requests = STREAMS[stream](seed)
    base = trained(TRAIN, seed, "base")
    after = [torch.ones(len(TRAIN.labels), dtype=torch.bool)]
    for indices in requests:
        after.append(after[-1].clone())
        after[-1][indices] = False

    def row(method: str, number: int, model: nn.Module, **more: Any) -> dict[str, Any]:
        gone, kept = TRAIN.where(~after[number]), TRAIN.where(after[number])
        return {
            "stream": stream,
            "seed": seed,
            "method": method,
            "request": number,
            "forgotten": len(gone.labels) / len(TRAIN.labels),
            "forget": accuracy(model, gone) if number else None,
            "retain": accuracy(model, kept),
            "test": accuracy(model, TEST),
            **more,
        }

    if RETRAINED in methods:
        for number in range(0, REQUESTS + 1, EVERY):
            model = trained(TRAIN.where(after[number]), seed + 1000, RETRAINED) if number else base
            yield row(RETRAINED, number, model)
    for method, opened in METHODS.items():
        if method not in methods:
            continue
        with opened(base, method) as (step, moved):
            model = base
            for number, indices in enumerate(requests, 1):
                before = accuracy(model, part(indices))
                start = time.perf_counter()
                model = step(model, part(indices))
                seconds = time.perf_counter() - start
                own = [before, accuracy(model, part(indices))]
                yield row(method, number, model, own=own, moved=moved(), seconds=seconds)


def work(folder: Path, method: str) -> None:
    """Do all requests of the first stream in a log: what a process is started for, and killed in."""
    base = network()
    base.load_state_dict(load_file(folder.parent / "base.safetensors"))
    stored = FisherDiagonal().measure(base, TRAIN)
    log = ForgetLog(folder, base.eval(), stored, VALIDATION, max_drop=None)
    estimator, kept = (ASSD(), None) if method == "ASSD" else (FisherReset(), TRAIN)
    for number, indices in enumerate(groups(0)):
        log.apply(estimator, part(indices), request_id=f"request {number}", retain=kept)
    state = {name: digest(tensor) for name, tensor in named_tensors(log.model).items()}
    sums = {name: digest(tensor) for name, tensor in log.reference.sums.items()}  # type: ignore[union-attr]
    changing = ("seconds", "started", "samples_checksum")  # the last follows from the log's own salt
    entries = [{k: v for k, v in e.to_dict().items() if k not in changing} for e in log.requests]
    text = json.dumps({"weights": state, "reference": sums, "requests": entries})
    folder.with_suffix(".json").write_text(text, encoding="utf-8")


def killed(method: str) -> dict[str, Any]:
    """Kill a process in the middle of a request; say what another one makes of what is left."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        save_file(trained(TRAIN, 0, "base").state_dict(), root / "base.safetensors")

        def command(folder: str) -> list[str]:
            return [sys.executable, __file__, "--work", str(root / folder), "--method", method]

        process = subprocess.Popen(command("killed"))
        target = root / "killed" / "edits" / "0012.safetensors"
        while not target.exists() and process.poll() is None:
            pass  # the edit is there, and the log does not name it yet
        os.kill(process.pid, signal.SIGKILL)
        status = process.wait()
        content = json.loads((root / "killed" / "log.json").read_bytes())["log"]
        files = {str(path.relative_to(root / "killed")) for path in (root / "killed").glob("*/*")}
        done = len(content["entries"])
        torn = f"{done + 1:04d}"
        orphans = sorted(file for file in files if torn in file and not file.startswith("reference"))
        orphans += ["a temporary file" for file in files if file.endswith(".tmp")]
        for folder in ("killed", "whole"):
            subprocess.run(command(folder), check=True)
        found = [json.loads((root / f"{folder}.json").read_bytes()) for folder in ("killed", "whole")]
    return {
        "method": method,
        "status": status,
        "requests_done_when_killed": done,
        "left_behind": orphans,
        "requests_in_the_end": len(found[0]["requests"]),
        "equal": {key: found[0][key] == found[1][key] for key in found[0]},
    }


def draw(content: dict[str, Any], out: Path) -> None:
    """Draw accuracy and drift by request."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    colours = dict(zip(METHODS, ("#0072B2", "#56B4E9", "#009E73", "#D55E00", "#999999"), strict=False))
    panels = {
        "test": "accuracy on test",
        "forget": "accuracy on all forgotten so far",
        "moved": "distance / length of base, at most",
    }
    pyplot.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
    figure, grid = pyplot.subplots(
        len(STREAMS), 3, figsize=(10, 6.2), sharex=True, squeeze=False, layout="constrained"
    )
    for line, stream in zip(grid, STREAMS, strict=True):
        for panel, (key, label) in zip(line, panels.items(), strict=True):
            for method in [*METHODS, RETRAINED]:
                rows = [r for r in content["rows"] if (r["stream"], r["method"]) == (stream, method)]
                rows = [r for r in rows if r.get(key) is not None]
                if not rows:
                    continue
                places = sorted({r["request"] for r in rows})
                values = [[r[key] for r in rows if r["request"] == place] for place in places]
                middle = [sum(v) / len(v) for v in values]
                if method == RETRAINED:
                    panel.plot(places, middle, "k--o", markersize=4, linewidth=1, label=method, zorder=5)
                    continue
                panel.plot(places, middle, color=colours[method], label=method)
                low, high = [min(v) for v in values], [max(v) for v in values]
                panel.fill_between(places, low, high, color=colours[method], alpha=0.15, linewidth=0)
            panel.set_title(f"{stream}: {label}", fontsize=9, loc="left")
            if key == "moved":
                panel.set_ylim(0)
            else:
                panel.set_ylim(LOWEST, 1.01)
            panel.grid(axis="y", color="#e6e6e6", linewidth=0.7)
    for panel in grid[-1]:
        panel.set_xlabel("requests")
        panel.set_xticks(range(0, REQUESTS + 1, EVERY))
    figure.legend(*grid[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    seeds = len({row["seed"] for row in content["rows"]})
    title = f"Digits CNN, mean and range of {seeds} seeds; what falls below the edge goes down to a tenth"
    figure.suptitle(title, x=0.01, ha="left", fontsize=10)
    figure.savefig(out, dpi=130, facecolor="white")
    pyplot.close(figure)


def table(rows: list[dict[str, Any]]) -> str:
    """Return what is left after the last request, as Markdown."""
    last = max(row["request"] for row in rows)
    lines = [
        "| stream | method | test | forgotten | retain |",
        "| --- | --- |" + " ---: |" * 3,
    ]
    for stream in STREAMS:
        for method in [*METHODS, RETRAINED]:
            found = [r for r in rows if (r["stream"], r["method"]) == (stream, method)]
            end = [r for r in found if r["request"] == last]
            cells = [
                f"{100 * sum(r[key] for r in end) / len(end):.1f} %" for key in ("test", "forget", "retain")
            ]
            lines.append(f"| {stream} | {method} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Measure, or draw, or be the process that is killed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--plot", type=Path, help="draw what was measured, and measure nothing")
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--method", default="ASSD", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", UnlearnWarning)
    if options.work:
        work(options.work, options.method)
    elif options.plot:
        draw(json.loads(options.out.read_text(encoding="utf-8")), options.plot)
    else:
        measure(options.out, options.seeds)


def measure(out: Path, seeds: int) -> None:
    """Measure what is not in the file yet; each part is written as soon as it is known."""
    out.parent.mkdir(parents=True, exist_ok=True)
    content: dict[str, Any] = {"killed": [], "rows": []}
    if out.exists():
        content = json.loads(out.read_text(encoding="utf-8"))
    content["environment"] = environment()

    def write() -> None:
        out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")

    rows = content["rows"]
    for stream, method in product(STREAMS, [*METHODS, RETRAINED]):
        for seed in range(seeds):
            if not any((r["stream"], r["seed"], r["method"]) == (stream, seed, method) for r in rows):
                rows += study(stream, seed, [method])
                write()
    for method in ("ASSD", "FisherReset"):
        if not any(one["method"] == method for one in content["killed"]):
            content["killed"].append(killed(method))
            write()
    print(json.dumps(content["killed"], indent=1))
    print(table(rows))


if __name__ == "__main__":
    main()
