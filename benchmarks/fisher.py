# SPDX-License-Identifier: BSD-3-Clause
"""The exact Fisher diagonal beside a plain backward pass: time and peak memory, ours and those of the peers.

    python benchmarks/fisher.py [--device cuda] [--models resnet18 vit] [--out FILE]
    python benchmarks/fisher.py --sweep [--device cuda] [--out FILE]
    python benchmarks/fisher.py --scale tiny --rounds 1
    python benchmarks/fisher.py --table benchmarks/results/cpu/fisher.json

Models in eval mode on random samples, float32 (TF32 off). Every way has a process of its own, so that its
peak memory is its own; the processes take turns, round after round, so that a machine whose speed drifts
favours none. Before it is timed, a way's result is compared with that of single samples in float64. A way
that is not installed, or cannot do a model, is listed with the reason.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any

import torch

from _environment import environment
from _tasks import MODELS, SCALES, find
from _ways import BACKENDS, PEERS, WAYS

FOLDER = Path(__file__).parent
Row = dict[str, Any]

SWEPT = ("plain", "unlearnkit", "loop", "vmap", "backpack", "nngeometry")
BATCHES = {"tiny": (2, 4), "small": (4, 8, 16, 32, 64), "large": (8, 32, 128, 512)}
PAGE_MIB = 1 / 256  # the least that can be seen of a process's memory
WIDTHS = {"tiny": (4, 8), "small": (16, 32, 64, 96), "large": (32, 64, 128, 256)}


class Process:
    """The process of one way; it waits until it is asked."""

    def __init__(self, way: str, model: str, scale: str, batch: int | None, device: str) -> None:
        self.way = way
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  (open as long as the process)
        spec = {"way": way, "model": model, "scale": scale, "batch": batch, "device": device}
        self.process = subprocess.Popen(
            [sys.executable, str(FOLDER / "_worker.py"), json.dumps(spec)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            env=os.environ | ({"UNLEARNKIT_BACKEND": BACKENDS[way]} if way in BACKENDS else {}),
        )

    def ask(self, line: str) -> Row:
        """Send a line and wait for its answer; a process that has died is a way that cannot do it."""
        try:
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()
            answer = self.process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if answer:
            return json.loads(answer)
        self.errors.seek(0)
        tail = self.errors.read().strip().splitlines()[-1:] or ["it said nothing"]
        return {"refused": f"its process ended with status {self.process.wait()}: {tail[0][:200]}"}

    def close(self) -> None:
        """End the process."""
        self.process.stdin.close()
        self.process.wait()
        self.errors.close()


def measure(
    model: str, ways: Sequence[str], options: argparse.Namespace, batch: int | None = None
) -> dict[str, Any]:
    """Measure some ways on one model.

    Returns
    -------
    dict
        What was measured, and ``rows``: of each way ``seconds`` (best and median), their ratios to plain's,
        the memory, whether it is exact; or ``missing`` or ``refused`` with the reason.
    """
    task = find(options.scale, model, batch)
    batch = task.batch
    processes = [Process(way, model, options.scale, batch, options.device) for way in ways]
    try:
        for one in processes:  # they import at the same time, and measure one at a time
            one.ask("ready")
        rows = {one.way: {"way": one.way} | one.ask("start") for one in processes}
        able = [one for one in processes if "peak_mib" in rows[one.way]]
        taken: dict[str, list[list[float]]] = {one.way: [] for one in able}
        for _ in range(options.rounds):
            for one in list(able):
                answer = one.ask(f"time {options.calls}")
                if "seconds" in answer:
                    taken[one.way].append(answer["seconds"])
                else:
                    able.remove(one)
                    rows[one.way] = {"way": one.way} | answer
    finally:
        for one in processes:
            one.close()
    if "plain" not in {one.way for one in able}:
        raise SystemExit(f"{task.title}: the plain pass failed: {rows['plain']}")
    plain = taken["plain"]
    for one in able:
        row, own = rows[one.way], taken[one.way]
        row["seconds"] = min(map(min, own))
        row["median_seconds"] = median(second for turn in own for second in turn)
        row["ratio"] = row["seconds"] / min(map(min, plain))
        # round by round, so that both saw the machine in the same state
        row["median_ratio"] = median(min(mine) / min(its) for mine, its in zip(own, plain, strict=True))
        # a tiny model may find all it needs among pages that are there already
        row["memory_ratio"] = max(row["peak_mib"], PAGE_MIB) / max(rows["plain"]["peak_mib"], PAGE_MIB)
    parameters = rows["plain"].pop("parameters")
    for row in rows.values():
        row.pop("parameters", None)
    about = {"model": model, "title": task.title, "parameters": parameters, "batch": batch}
    return about | {"rows": list(rows.values())}


def table(result: dict[str, Any]) -> str:
    """The rows of one model, for a person."""
    lines = [
        f"\n{result['title']}, {result['parameters']:,} weights, {result['batch']} samples",
        f"  {'':17s} {'time':>9s} {'median':>9s} {'memory':>9s} {'seconds':>9s} {'MiB':>8s}  exact",
    ]
    for row in result["rows"]:
        reason = row.get("refused") or row.get("missing")
        if reason:
            lines.append(f"  {row['way']:17s} {'refuses' if 'refused' in row else 'not installed'}: {reason}")
            continue
        exact = {True: "yes", False: "no", None: "-"}[row.get("exact")]
        if "relative_error" in row:
            exact += f" ({row['relative_error']:.0e}; {row['float32_median_error']:.0e} in float32)"
        lines.append(
            f"  {row['way']:17s} {row['ratio']:7.2f} x {row['median_ratio']:7.2f} x "
            f"{row['memory_ratio']:7.2f} x {row['seconds']:9.4f} {row['peak_mib']:8.0f}  {exact}"
        )
        lines += [f"    {warning}" for warning in row.get("warnings", ())]
    return "\n".join(lines)


NAMES = {
    "plain": "plain forward and backward pass, no Fisher",
    "unlearnkit": "**unlearnkit**",
    "unlearnkit-torch": "unlearnkit, pure PyTorch",
    "batch-squares": "squared batch gradients, as SSD's code: not the Fisher",
    "loop": "one sample after the other",
    "vmap": "`torch.func.vmap(grad)`",
    "opacus": "Opacus",
    "backpack": "BackPACK `SumGradSquared`",
    "nngeometry": "NNGeometry `PMatDiag`",
}


def markdown(content: dict[str, Any]) -> str:
    """Time and memory of all ways on all models: the table of the README."""
    models = content["models"]
    lines = [["way", *(f"{model['title']}, {model['batch']} samples" for model in models)]]
    lines.append(["---", *["---:"] * len(models)])
    for way, name in NAMES.items():
        rows = [row for model in models for row in model["rows"] if row["way"] == way]
        if not any("ratio" in row for row in rows):
            continue
        cells = []
        for row in rows:
            inexact = way != "batch-squares" and row.get("exact") is False
            text = f"{row['ratio']:.2f} x, {row['peak_mib']:,.0f} MiB" if "ratio" in row else "refuses"
            cells.append("not installed" if "missing" in row else f"{text}, wrong" if inexact else text)
        lines.append([name, *cells])
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def describe(options: argparse.Namespace) -> dict[str, Any]:
    """What holds for all results of a run: the protocol, the machine, the versions."""
    versions = {}
    for name in PEERS:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    return {
        "what": "sum over samples of squared gradients, float32, TF32 off, model in eval mode",
        "ratio": "to one plain forward and backward pass of the same batch, best of all rounds",
        "memory": "peak allocated on the device"
        if options.device != "cpu"
        else "peak of the process, less what it was after its imports",
        "device": options.device,
        "rounds": options.rounds,
        "calls_each_round": options.calls,
        "environment": environment(),
        "peers": versions,
    }


def main() -> None:
    """Measure, print ratios, write JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu", help="cpu (the default) or cuda")
    parser.add_argument("--models", nargs="+", default=MODELS, choices=MODELS, metavar="MODEL")
    parser.add_argument("--ways", nargs="+", choices=tuple(WAYS), metavar="WAY", help="beside plain")
    parser.add_argument(
        "--scale", choices=tuple(SCALES), help="of the models: small on a CPU, large on a GPU"
    )
    parser.add_argument("--batch", type=int, help="samples at a time, in place of each model's own")
    parser.add_argument("--rounds", type=int, default=5, help="turns of every way")
    parser.add_argument("--calls", type=int, default=1, help="timed calls in a turn")
    parser.add_argument("--sweep", action="store_true", help="ResNet-18 over batch sizes and widths instead")
    parser.add_argument("--out", type=Path, help="JSON, written anew after each model")
    parser.add_argument("--table", type=Path, metavar="FILE", help="print stored results as Markdown")
    options = parser.parse_args()
    if options.table:
        print(markdown(json.loads(options.table.read_text(encoding="utf-8"))), end="")
        return
    if options.device != "cpu" and not torch.cuda.is_available():
        parser.error(f"--device {options.device}: torch sees no CUDA device")
    options.scale = options.scale or ("small" if options.device == "cpu" else "large")
    ways = options.ways or (SWEPT if options.sweep else tuple(WAYS))
    ways = tuple(dict.fromkeys(("plain", *ways)))
    points: list[tuple[str, str, int | None]] = [("models", name, options.batch) for name in options.models]
    if options.sweep:
        points = [("batch", "resnet18", size) for size in BATCHES[options.scale]]
        points += [("width", f"resnet18/{width}", options.batch) for width in WIDTHS[options.scale]]
    content = describe(options)
    for part, name, batch in points:
        result = measure(name, ways, options, batch)
        print(table(result), flush=True)
        content.setdefault(part, []).append(result)
        if options.out:
            options.out.parent.mkdir(parents=True, exist_ok=True)
            options.out.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
