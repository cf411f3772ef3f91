# SPDX-License-Identifier: BSD-3-Clause
"""What the metrics of many models say where there is nothing to find, and where there is.

    python benchmarks/null_calibration.py [--models 32] [--epochs 25] [--threads 1] \\
        [--out benchmarks/results/cpu/null_calibration.json]

A small MLP on scikit-learn's digits, with two requests: 10 % of the samples at random, and 2.5 % whose
label was wrong. For each, two sets of `--models` networks are retrained without the forget set and
differ in their seeds alone (the *null*), a third is trained with it and not unlearned (*untouched*),
and a fourth with as many test samples in its place (for the swap test). A metric is calibrated if the
null is what its documentation says, and of use if the untouched models are told from it.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
from torch import Tensor

from _data import Data, Request, digits, forget_flipped, forget_random
from _environment import environment
from _models import digits_mlp, train
from unlearnkit.exceptions import SmallSampleWarning
from unlearnkit.metrics import forgetting_quality, iam, klom, margins, ruli, swap_quality, u_lira

REQUESTS: dict[str, Callable[..., Request]] = {
    "random 10 %": partial(forget_random, share=0.1),
    "flipped 2.5 %": partial(forget_flipped, share=0.025),
}
SHADOWS = 4


def sets_of_models(request: Request, test: Data, count: int, epochs: int) -> dict[str, list[torch.nn.Module]]:
    """Train the four sets of models, each model with its own seed."""
    recipe: dict[str, Any] = {"epochs": epochs, "lr": 0.1, "batch_size": 32}
    unseen = tuple(torch.cat(parts) for parts in zip(request.retain, test, strict=True))
    data = {"null": request.retain, "oracles": request.retain, "untouched": request.train, "swap": unseen}
    return {
        name: [train(digits_mlp, part, seed=1000 * at + k, **recipe) for k in range(count)]
        for at, (name, part) in enumerate(data.items())
    }


def like_forget(request: Request, flipped: bool) -> Data:
    """Return as many test samples as there are to be forgotten, with labels as often wrong."""
    (X, y), n = request.test, len(request.forget[1])
    if flipped:
        y = (y + 1 + torch.arange(len(y)) % 9) % 10
    return X[:n], y[:n]


def compare(phi: dict[str, Tensor], phi_test: dict[str, Tensor], name: str) -> dict[str, Any]:
    """Every metric of the models `name` beside the oracles, on margins of the forget and test samples."""
    ours, oracles = phi[name], phi["oracles"]
    # Retrained on the retain set, a model is the same in the split and in its swap.
    swap = "oracles" if name == "null" else "swap"
    swapped = phi[swap], phi_test[swap]
    found: dict[str, Any] = {
        "klom": klom(ours, oracles, phi["untouched"]),
        "u_lira": u_lira(ours, oracles),
        "ruli": ruli(ours, oracles).privacy["all"],
        "forgetting_quality": forgetting_quality(ours, oracles),
        "swap": swap_quality((ours, phi_test[name]), swapped),
        "swap, one model": swap_quality((ours[:1], phi_test[name][:1]), tuple(part[:1] for part in swapped)),
    }
    for count in (1, SHADOWS):
        rows = [iam(one, oracles[:count], phi["untouched"][0]) for one in ours[:8]]
        found[f"iam, {count} shadow{'s' if count > 1 else ''}"] = {
            "value": mean(row.value for row in rows),
            "low": mean(row.low for row in rows),
            "high": mean(row.high for row in rows),
            "level": rows[0].level,
            "untouched": rows[0].untouched,
        }
    return {key: value if isinstance(value, dict) else plain(value) for key, value in found.items()}


def plain(result: Any) -> dict[str, Any]:
    """Return what JSON knows of a result: all but the values per sample."""
    return {key: value for key, value in asdict(result).items() if not isinstance(value, np.ndarray)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", type=int, default=32, help="of each of the four sets")
    parser.add_argument("--epochs", type=int, default=25)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore", SmallSampleWarning)
    results: dict[str, Any] = {}
    for title, make in REQUESTS.items():
        request = make(digits(), seed=0)
        test = like_forget(request, flipped=title.startswith("flipped"))
        start = time.perf_counter()
        models = sets_of_models(request, test, options.models, options.epochs)
        seconds = time.perf_counter() - start
        phi = {name: margins(chosen, request.forget) for name, chosen in models.items()}
        phi_test = {name: margins(chosen, test) for name, chosen in models.items()}
        start = time.perf_counter()
        results[title] = {name: compare(phi, phi_test, name) for name in ("null", "untouched")}
        results[title] |= {
            "samples": len(test[1]),
            "seconds_training": seconds,
            "seconds_metrics": time.perf_counter() - start,
        }
        for name in ("null", "untouched"):
            for metric, row in results[title][name].items():
                beside = [
                    f"{key} {row[key]:.3f}" for key in ("floor", "null", "level", "p_value") if row.get(key)
                ]
                print(
                    f"{title:14} {name:10} {metric:20} {row['value']:.3f} ({row['low']:.3f} to {row['high']:.3f})",
                    *beside,
                    flush=True,
                )
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        about = {
            "what": "metrics of many models, of retrained ones beside retrained ones and of untouched ones",
            "models": options.models,
            "epochs": options.epochs,
            "environment": environment(),
        }
        options.out.write_text(json.dumps({**about, "requests": results}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
