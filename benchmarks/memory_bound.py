# SPDX-License-Identifier: BSD-3-Clause
"""The operators that only read and write memory: how much of a copy's bandwidth they reach.

    python benchmarks/memory_bound.py [--repeats 7] [--threads 1 2] [--out benchmarks/results/cpu/memory_bound.json]

Dampening and channel scoring run over the parameters of ResNet-18 (11.2 million, CIFAR stem) and of a ViT-B/16
(86.6 million), drawn at random, in float32. Bytes are counted as those that must move: of a weight, scoring
reads 8 (weight, gradient); dampening reads 12 (weight, F_f, F_D) and writes 4 for each that it touches, since
what it leaves alone it need not write; the share if all were written (16) stands beside that. A copy between
two tensors counts bytes read and written; each buffer has half of what the operator's lists take, so that both
lie in the caches alike. The operator and the copy are timed in turn, and the fastest of each is taken. The
percentile of 1e8 numbers is timed likewise beside numpy.percentile, which knows one thread.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from _environment import environment
from _networks import resnet18
from unlearnkit import ops

ALPHA = 30.0  # of F_f / F_D, where both are squares of normal numbers: some 12 % of all are touched
TOP = 0.01  # of a row, in scoring


def vit_b16() -> list[tuple[int, ...]]:
    """Shapes of a ViT-B/16 for 224 x 224 pixels and 1000 classes; 86,567,656 weights."""
    width = 768
    vector, block = [(width,)], []
    for outputs, inputs in ((3 * width, width), (width, width), (4 * width, width), (width, 4 * width)):
        block += [(outputs, inputs), (outputs,)]
    head = [(1, 1, width), (1, 197, width), (width, 3, 16, 16), *vector]
    return head + 12 * (4 * vector + block) + 2 * vector + [(1000, width), (1000,)]


def shapes() -> dict[str, list[tuple[int, ...]]]:
    return {"ResNet-18": [tuple(p.shape) for p in resnet18().parameters()], "ViT-B/16": vit_b16()}


def fastest(
    repeats: int, *functions: Callable[[], Any], before: Callable[[], Any] = lambda: None
) -> list[float]:
    """Time functions in turn (A B A B ...), so that a drift of the machine meets all of them."""
    seconds = [[0.0] * len(functions) for _ in range(repeats)]
    for function in functions:
        function()
    for row in seconds:
        before()
        for place, function in enumerate(functions):
            start = time.perf_counter()
            function()
            row[place] = time.perf_counter() - start
    return [min(column) for column in zip(*seconds, strict=True)]


def copying(n_bytes: int) -> Callable[[], Any]:
    source, target = (torch.zeros(n_bytes // 8).fill_(1) for _ in range(2))
    return lambda: target.copy_(source)


def report(row: dict[str, Any]) -> dict[str, Any]:
    print(
        "  ".join(
            f"{name} {value:.3g}" if isinstance(value, float) else str(value) for name, value in row.items()
        )
    )
    return row


def dampening(model: str, lists: list[list[Tensor]], threads: int, repeats: int) -> dict[str, Any]:
    weights, forget, reference = lists
    n = sum(weight.numel() for weight in weights)
    original = [weight.clone() for weight in weights]

    def restore() -> None:  # weights dampened again and again would end as subnormal numbers, which are slow
        for weight, value in zip(weights, original, strict=True):
            weight.copy_(value)

    touched = sum(ops.dampen_(weights, forget, reference, ALPHA))
    run = lambda: ops.dampen_(weights, forget, reference, ALPHA)  # noqa: E731
    seconds, copy = fastest(repeats, run, copying(12 * n), before=restore)
    restore()
    bandwidth = 12 * n / copy / 1e9
    row = {
        "what": "dampening",
        "model": model,
        "threads": threads,
        "seconds": seconds,
        "touched": touched / n,
    }
    row["copy_gb_s"] = bandwidth
    row["share_of_copy"] = (12 * n + 4 * touched) / seconds / 1e9 / bandwidth
    return row | {"share_if_all_were_written": 16 * n / seconds / 1e9 / bandwidth}


def scoring(
    model: str, lists: list[list[Tensor]], threads: int, repeats: int, top: float | None
) -> dict[str, Any]:
    weights, gradients = lists
    n = sum(weight.numel() for weight in weights)
    h = None if top is None else [max(1, int(top * (w.numel() // len(w)))) for w in weights]
    seconds, copy = fastest(repeats, lambda: ops.channel_scores(weights, gradients, h), copying(8 * n))
    bandwidth = 8 * n / copy / 1e9
    what = "scoring, mean of all" if top is None else f"scoring, mean of the top {top:.0%}"
    row = {"what": what, "model": model, "threads": threads, "seconds": seconds, "copy_gb_s": bandwidth}
    return row | {"share_of_copy": 8 * n / seconds / 1e9 / bandwidth}


def ranking(name: str, values: Tensor, threads: int, repeats: int) -> dict[str, Any]:
    array = values.numpy()
    seconds, numpy = fastest(
        repeats, lambda: ops.percentile([values], 97.6), lambda: np.percentile(array, 97.6)
    )
    assert ops.percentile([values], 97.6) == float(np.percentile(array, 97.6))
    row = {"what": f"percentile of {len(values):.0e}, {name}", "threads": threads, "seconds": seconds}
    return row | {"numpy_seconds": numpy, "times_as_fast": numpy / seconds}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.manual_seed(0)
    rows = []
    for model, sizes in shapes().items():
        weights, forget, reference = ([torch.randn(size) for size in sizes] for _ in range(3))
        for value in forget + reference:
            value.square_()
        for threads in options.threads:
            torch.set_num_threads(threads)
            rows.append(report(dampening(model, [weights, forget, reference], threads, options.repeats)))
            for top in (TOP, 10 * TOP, None):
                rows.append(report(scoring(model, [weights, forget], threads, options.repeats, top)))
    del weights, forget, reference
    n = 100_000_000
    for name, values in (
        ("normal", torch.randn(n)),
        ("squares", torch.randn(n) ** 2),
        ("equal", torch.ones(n)),
    ):
        for threads in options.threads:
            torch.set_num_threads(threads)
            rows.append(report(ranking(name, values, threads, max(2, options.repeats // 3))))
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        about = {"what": "memory-bound operators, float32", "kernels": ops.build_info()}
        content = {**about, "environment": environment(), "rows": rows}
        options.out.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
