# SPDX-License-Identifier: BSD-3-Clause
"""A million samples through attribution and partition: the process's peak memory, and the time.

    python benchmarks/partition_memory.py [--samples 1000000] [--threads 1] \\
        [--out benchmarks/results/cpu/partition_memory.json]

Samples are made as they are read: one of ten patterns of 64 numbers, and normal noise; a half of them are
drowned in noise of 4.5 times the deviation and cut to [0, 1], as RLAP's authors do with images. The network is
64-256-10, trained on the first 20,000 for three epochs. Its attributions of a million samples are 1 GB in float32, and
the scaled copies that scikit-learn would make of them 2 GB each; MixtureFinder walks over the data instead: once
for the losses, twice for attributions, and Partition once to count. Peak memory is that of the whole process, torch in
it, as the system counts it; 4 GiB is what it may be. What it was before the partition stands beside it.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.nn import functional as F

from _environment import environment
from unlearnkit import MixtureFinder

LIMIT = 4 * 2**30
INPUTS, HIDDEN, CLASSES, BATCH = 64, 256, 10, 1000


class Made:
    """Batches (X, y), the same at every walk."""

    def __init__(self, samples: int) -> None:
        self.samples = samples
        self.patterns = 2 * torch.randn(CLASSES, INPUTS, generator=torch.Generator().manual_seed(0))

    def batch(self, number: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return X [n, INPUTS], y [n] and which samples are noisy [n]."""
        draw = torch.Generator().manual_seed(number + 1)
        n = min(BATCH, self.samples - number * BATCH)
        y = torch.randint(CLASSES, (n,), generator=draw)
        X = self.patterns[y] + torch.randn(n, INPUTS, generator=draw)
        noisy = torch.rand(n, generator=draw) < 0.5
        drowned = (X + 4.5 * torch.randn(n, INPUTS, generator=draw)).clamp(0, 1)
        return torch.where(noisy[:, None], drowned, X), y, noisy

    def __len__(self) -> int:
        return -(-self.samples // BATCH)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for number in range(len(self)):
            yield self.batch(number)[:2]


def trained(data: Made) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(INPUTS, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, CLASSES))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(3):
        for number in range(min(20, len(data))):
            X, y, _ = data.batch(number)
            for part in torch.randperm(len(y)).split(100):
                optimizer.zero_grad()
                F.cross_entropy(model(X[part]), y[part]).backward()
                optimizer.step()
    return model.eval()


def peak() -> int:
    """Return the most memory [bytes] that this process has held so far; Linux counts it in KiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--samples", type=int, default=1_000_000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    data = Made(options.samples)
    model = trained(data)
    before, start = peak(), time.perf_counter()
    finder = MixtureFinder("attribution", random_state=0)
    found = finder.find(model, data)
    seconds, most = time.perf_counter() - start, peak()
    is_noisy = torch.cat([data.batch(number)[2] for number in range(len(data))])
    row = {
        "samples": options.samples,
        "hidden": HIDDEN,
        "seconds": seconds,
        "peak_bytes": most,
        "peak_before_bytes": before,
        "limit_bytes": LIMIT,
        "within_limit": most <= LIMIT,
        "found": int(found.is_noisy.sum()),
        "auc": float(roc_auc_score(is_noisy.numpy(), found.noise.numpy())),
        "separation": found.separation,
    }
    print("  ".join(f"{name} {value:.4g}" for name, value in row.items()))
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        about = {"what": "attribution and partition of samples that are made as they are read"}
        options.out.write_text(
            json.dumps({**about, "environment": environment(), "row": row}, indent=2) + "\n"
        )


if __name__ == "__main__":
    main()
