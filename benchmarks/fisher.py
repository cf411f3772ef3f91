# SPDX-License-Identifier: BSD-3-Clause
"""The exact per-sample Fisher diagonal: time and peak memory beside a plain backward pass, and the peers.

    python benchmarks/fisher.py [--batch 32] [--repeats 5] [--out benchmarks/results/cpu/fisher_resnet18.json]

ResNet-18 with a CIFAR stem in eval mode, random images. Every way runs in a process of its own, so that its
peak memory is its own; in each process the plain forward and backward pass is timed in turn with the way
(A B A B ...), so that the ratio holds on a machine whose speed drifts. Peers that are not installed are left
out, and said to be.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from _environment import environment
from _models import resnet18

WAYS = ("plain", "unlearnkit", "batch gradients", "vmap", "backpack", "loop")


def build(batch: int) -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    return resnet18().eval(), torch.randn(batch, 3, 32, 32), torch.randint(10, (batch,))


def plain(model: nn.Module, x: Tensor, y: Tensor) -> Callable[[], Any]:
    def run() -> None:
        model.zero_grad()
        F.cross_entropy(model(x), y, reduction="sum").backward()

    return run


def unlearnkit(model: nn.Module, x: Tensor, y: Tensor) -> Callable[[], dict[str, Tensor]]:
    from unlearnkit.data import cross_entropy
    from unlearnkit.gradients import SquareSums

    engine = SquareSums(model, cross_entropy)
    totals = engine.zeros()  # once a measurement, as the proof, which the first call has in it

    def run() -> dict[str, Tensor]:
        engine.add((x, y), totals)
        return totals

    return run


def batch_gradients(model: nn.Module, x: Tensor, y: Tensor) -> Callable[[], dict[str, Tensor]]:
    """What SSD's code measures: not the Fisher, but the price to beat."""

    def run() -> dict[str, Tensor]:
        model.zero_grad()
        F.cross_entropy(model(x), y).backward()
        return {name: p.grad.square() for name, p in model.named_parameters()}

    return run


def vmap(model: nn.Module, x: Tensor, y: Tensor) -> Callable[[], dict[str, Tensor]]:
    from torch.func import functional_call, grad
    from torch.func import vmap as over

    weights = {name: p.detach() for name, p in model.named_parameters()}

    def loss(weights: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(functional_call(model, weights, (x[None],)), y[None])

    def run() -> dict[str, Tensor]:
        return {name: g.square().sum(0) for name, g in over(grad(loss), (None, 0, 0))(weights, x, y).items()}

    return run


def backpack(model: nn.Module, x: Tensor, y: Tensor) -> Callable[[], dict[str, Tensor]]:
    from backpack import backpack as watching
    from backpack import extend
    from backpack.extensions import SumGradSquared

    extended = extend(model, use_converter=True).eval()  # its converter: the residual sums need a graph
    lossfunc = extend(nn.CrossEntropyLoss(reduction="sum"))

    def run() -> dict[str, Tensor]:
        extended.zero_grad()
        with watching(SumGradSquared()):
            lossfunc(extended(x), y).backward()
        return {name: p.sum_grad_squared for name, p in extended.named_parameters()}

    return run


def loop(model: nn.Module, x: Tensor, y: Tensor) -> Callable[[], dict[str, Tensor]]:
    def run() -> dict[str, Tensor]:
        totals = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
        for index in range(len(x)):
            model.zero_grad()
            F.cross_entropy(model(x[index : index + 1]), y[index : index + 1]).backward()
            for name, p in model.named_parameters():
                totals[name] += p.grad.square()
        return totals

    return run


def one(way: str, batch: int, repeats: int) -> dict[str, Any]:
    """Time one way against the plain pass; after that, its own peak memory in a process that ran nothing else."""
    model, x, y = build(batch)
    try:
        run = globals()[way.replace(" ", "_")](model, x, y)
    except ImportError as error:
        return {"way": way, "missing": str(error)}
    start = time.perf_counter()
    run()
    first = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    baseline, pairs = plain(*build(batch)), []
    baseline()
    for _ in range(repeats):
        seconds = []
        for function in (baseline, run):
            start = time.perf_counter()
            function()
            seconds.append(time.perf_counter() - start)
        pairs.append(seconds)
    fastest = [min(column) for column in zip(*pairs, strict=True)]
    return {
        "way": way,
        "seconds": fastest[1],
        "plain_seconds": fastest[0],
        "ratio": fastest[1] / fastest[0],
        "first_call_seconds": first,
        "peak_mib": peak,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--way", choices=WAYS, help="measure this one alone and print JSON")
    options = parser.parse_args()
    if options.way:
        print(json.dumps(one(options.way, options.batch, options.repeats)))
        return
    rows = []
    for way in WAYS:
        command = [sys.executable, __file__, "--way", way, "--batch", str(options.batch)]
        command += ["--repeats", str(options.repeats)]
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        rows.append(json.loads(output.splitlines()[-1]))
        row = rows[-1]
        said = (
            f"{way:16s} not installed ({row['missing']})"
            if "missing" in row
            else f"{way:16s} {row['seconds']:8.2f} s  {row['ratio']:6.2f} x plain  peak {row['peak_mib']:7.0f} MiB"
            f"  first call {row['first_call_seconds']:.2f} s"
        )
        print(said, flush=True)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        about = {"what": "exact Fisher, ResNet-18 (CIFAR stem), float32", "batch": options.batch}
        content = {**about, "environment": environment(), "rows": rows}
        options.out.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
