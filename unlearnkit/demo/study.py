# SPDX-License-Identifier: BSD-3-Clause
"""One request from end to end: train, retrain, unlearn, judge, store the edit, undo it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from unlearnkit.demo.digits import EPOCHS, Request, trained
from unlearnkit.edit import WeightEdit
from unlearnkit.methods.assd import ASSD
from unlearnkit.metrics import Timer, accuracy, evaluate
from unlearnkit.parameters import copy_of


@dataclass(frozen=True)
class Outcome:
    """What became of a request.

    Attributes
    ----------
    request : Request
        What was to be forgotten.
    seed : int
        Of the data's split and of the networks.
    models : dict of str to torch.nn.Module
        "original", "retrained" (a new network, trained on what is retained; what unlearning is to
        come close to) and "unlearned".
    results : dict of str to dict of str to float
        By model: "test", "retain", "forget", "probe" (accuracies), "mia", "tow", "seconds".
    edit : WeightEdit
        What turns "original" into "unlearned".
    path : pathlib.Path
        Where the edit is stored.
    exact : bool
        Whether the edit, loaded from its file and applied to the original in place, made the
        unlearned model bit by bit, and whether its undo then brought back every bit.
    """

    request: Request
    seed: int
    models: dict[str, nn.Module]
    results: dict[str, dict[str, float]]
    edit: WeightEdit
    path: Path
    exact: bool


def study(ask: Callable[[int], Request], seed: int, folder: Path, epochs: int = EPOCHS) -> Outcome:
    """Carry out a request, and compare the result with retraining.

    Parameters
    ----------
    ask : callable
        Makes the request from the seed.
    seed : int
        Fixes every number but the seconds.
    folder : pathlib.Path
        Where the edit is stored.
    epochs : int
        Length of a training.
    """
    request = ask(seed)
    with Timer() as training:
        original = trained(request.train, seed, f"seed {seed}, original", epochs)
    with Timer() as retraining:
        retrained = trained(request.retained, seed + 1000, f"seed {seed}, retrained", epochs)
    with Timer() as unlearning:
        assd = ASSD(target=request.target).fit(original, request.retained, request.forgotten)
        unlearned = assd.transform(original)

    models: dict[str, nn.Module]
    models = {"original": original, "retrained": retrained, "unlearned": unlearned}
    seconds = training.seconds, retraining.seconds, unlearning.seconds
    results = {
        name: judge(model, request, retrained) | {"seconds": spent}
        for (name, model), spent in zip(models.items(), seconds, strict=True)
    }
    path = folder / f"{request.name}-{seed}.safetensors"
    exact = stored_and_undone(assd.edit_, original, unlearned, path)
    return Outcome(request, seed, models, results, assd.edit_, path, exact)


def judge(model: nn.Module, request: Request, oracle: nn.Module) -> dict[str, float]:
    """Measure a model: accuracies, membership inference, and the distance to the oracle."""
    results = evaluate(
        model,
        retain=request.retained,
        forget=request.forgotten,
        test=request.test,
        oracle=oracle,
    )
    return results | {"probe": accuracy(model, request.probe)}


def stored_and_undone(edit: WeightEdit, original: nn.Module, unlearned: nn.Module, path: Path) -> bool:
    """Store an edit, load it, apply it in place, revert it; return whether every bit was right."""
    edit.save(path)
    deployed = copy_of(original)
    undo = WeightEdit.load(path).apply_(deployed)
    applied = not WeightEdit.between(unlearned, deployed)
    undo.apply_(deployed)
    return applied and not WeightEdit.between(original, deployed)
