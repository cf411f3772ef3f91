# SPDX-License-Identifier: BSD-3-Clause
"""Data in the forms that users have it, and data that cannot serve."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from unlearnkit.data import cross_entropy
from unlearnkit.exceptions import DataError, UnlearnError
from unlearnkit.testing._task import CLASSES, FORGET, RETAIN, Dense, Task, TwoInputs
from unlearnkit.testing._tools import (
    Check,
    fresh,
    has_parameter,
    needs_retain,
    refused,
    require,
    require_close,
    require_same,
    works_or_refuses,
)


@Check
def check_data_forms(estimator: Any) -> None:
    """Loaders, data sets, tensors, NumPy arrays and lists of batches give one edit."""
    task = Task()
    retain, forget = task.arrays(RETAIN), task.arrays(FORGET)
    wanted = estimator.fit(task.model, retain, forget).edit_
    forms: dict[str, Callable[[Tensor, Tensor], Any]] = {
        "DataLoader": lambda X, y: DataLoader(TensorDataset(X, y), batch_size=128),
        "Dataset": lambda X, y: TensorDataset(X, y),
        "NumPy arrays": lambda X, y: (X.numpy(), y.numpy()),
        "NumPy arrays of float64 and int32": lambda X, y: (X.double().numpy(), y.int().numpy()),
    }
    for what, form in forms.items():
        found = estimator.fit(task.model, form(*retain), form(*forget)).edit_
        require_same(wanted, found, f"{what}, and tensors")
    listed = estimator.fit(task.model, [retain], [forget]).edit_
    # a walk over a loader draws a random number, a walk over a list does not
    if not has_parameter("random_state")(estimator):
        require_same(wanted, listed, "Lists of batches, and tensors")


@Check
def check_dict_batches(estimator: Any) -> None:
    """Batches may be dicts, as the transformers library makes them."""
    task = Task()
    retain, forget = list(task.retain), list(task.forget)
    wanted = estimator.fit(task.model, retain, forget).edit_
    dicts = [[{"input": X, "labels": y} for X, y in batches] for batches in (retain, forget)]
    require_same(wanted, estimator.fit(task.model, *dicts).edit_, "Dicts and tuples")


@Check
def check_several_inputs(estimator: Any) -> None:
    """Batches may hold several inputs: (x1, x2, ..., y)."""
    task = Task(TwoInputs)
    retain, forget = list(task.retain), list(task.forget)
    wanted = estimator.fit(task.model, retain, forget).transform(task.model)
    parts = [[(X[:, :2], X[:, 2:], y) for X, y in batches] for batches in (retain, forget)]
    estimator.fit(task.model, *parts)
    require_close(wanted, estimator.transform(task.model), "Two inputs, and one made of both")


@Check
def check_empty_batches(estimator: Any) -> None:
    """An empty batch among others counts for nothing."""
    task = Task()
    nothing = task.arrays(slice(0, 0))
    batches = [list(task.retain), list(task.forget)]
    wanted = estimator.fit(task.model, *batches).transform(task.model)
    estimator.fit(task.model, [nothing, *batches[0], nothing], [nothing, *batches[1]])
    require_close(wanted, estimator.transform(task.model), "With empty batches, and without")


@Check
def check_nan_in_data(estimator: Any) -> None:
    """NaN in the data is a DataError that says so, unless it is in a sample that does not count."""
    for part in (FORGET, RETAIN) if needs_retain(estimator) else (FORGET,):
        task = Task()
        wanted = task.fit(fresh(estimator)).edit_
        task.arrays(part)[0][-1, 0, 0, 0] = torch.nan
        try:
            found = task.fit(estimator).edit_
        except DataError as error:
            said = str(error).lower()
            require("nan" in said and "data" in said, f"the error should name NaN; it says: {error}")
        else:
            require_same(wanted, found, f"NaN in samples {part} was accepted as if they did not count")
        task.arrays(part)[0][:] = torch.nan
        with refused(f"NaN in all samples {part}", DataError, naming=("nan", "data")):
            task.fit(estimator)


@Check
def check_labels_out_of_range(estimator: Any) -> None:
    """A label outside the model's classes is a DataError, unless labels do not count."""
    for label in (CLASSES, -1):
        task = Task()
        wanted = task.fit(estimator).edit_
        task.arrays(FORGET)[1][-1] = label
        try:
            found = task.fit(estimator).edit_
        except DataError as error:
            require("label" in str(error), f"the error should name the label; it says: {error}")
        else:
            require_same(wanted, found, f"Label {label} was accepted as if it did not count")


@Check
def check_missing_labels(estimator: Any) -> None:
    """Samples without labels are a DataError that asks for them, unless they do not count."""
    task = Task()
    X = task.arrays(FORGET)[0]
    forms = {"an array X": X, "a data set of X": TensorDataset(X), "batches of X": [(X,)]}
    for what, forget in forms.items():
        with refused(what.capitalize(), DataError, naming=("labels",)):
            estimator.fit(task.model, task.retain, forget)
    wanted = task.fit(estimator).edit_
    try:
        found = estimator.fit(task.model, task.retain, [{"input": X}]).edit_
    except DataError as error:
        require("labels" in str(error), f"the error should ask for labels; it says: {error}")
    else:
        require_same(wanted, found, "Dicts without labels were accepted as if they did not count")


@Check
def check_samples_must_pair_up(estimator: Any) -> None:
    """X and y of different lengths are a DataError that gives both."""
    task = Task()
    X, y = task.arrays(FORGET)
    with refused("8 samples and 7 labels", DataError, naming=("8", "7")):
        estimator.fit(task.model, task.retain, (X, y[:-1]))


@Check
def check_one_shot_iterator(estimator: Any) -> None:
    """An iterator, which can be walked but once, is a DataError that says what to pass."""
    task = Task()
    for role in ("forget", "retain", "validation"):
        for once in (iter(task.forget), (batch for batch in task.forget)):
            data = {"retain": task.retain, "forget": task.forget, role: once}
            with refused(f"An iterator as {role}", DataError, naming=(role, "list(")):
                estimator.fit(task.model, **data)


@Check
def check_several_targets(estimator: Any) -> None:
    """A sample may have many targets, as pixels, or a DataError names a parameter that helps."""
    task = Task(Dense)

    pixels = [
        [(X, y[:, None, None].expand(-1, 4, 4)) for X, y in data] for data in (task.retain, task.forget)
    ]
    if works_or_refuses(estimator, lambda: estimator.fit(task.model, *pixels), "A class a pixel"):
        estimator.transform(task.model)


@Check.where(has_parameter("loss"))
def check_own_loss(estimator: Any) -> None:
    """A loss of one's own is used, or a DataError names a parameter that helps."""
    task = Task()
    wanted = task.fit(estimator).edit_
    estimator.set_params(loss=cross_entropy)
    if works_or_refuses(estimator, lambda: task.fit(estimator), "A loss of one's own"):
        require_same(wanted, estimator.edit_, "Cross-entropy given, and by default")
        own = task.fit(estimator.set_params(loss=_squared_error)).edit_
        if wanted == own:  # as it must be where labels do not count
            task.train.tensors[1].add_(1).remainder_(CLASSES)
            relabelled = task.fit(estimator.set_params(loss=None)).edit_
            require(wanted == relabelled, "another loss should give another edit.")


@Check.where(has_parameter("loss"))
def check_loss_must_be_per_sample(estimator: Any) -> None:
    """A loss that is no function, or returns anything but a value a sample, is refused by name."""
    task = Task()
    wrong = {"a loss's name": "mse", "the mean": _mean_error, "a number": lambda model, batch: 1.0}
    for what, loss in wrong.items():
        with refused(what.capitalize(), UnlearnError, TypeError, naming=("loss",)):
            task.fit(estimator.set_params(loss=loss))


def _squared_error(model: nn.Module, batch: Any) -> Tensor:
    X, y = batch
    error: Tensor = (model(X) - F.one_hot(y, CLASSES)).square().sum(1)
    return error  # [N]


def _mean_error(model: nn.Module, batch: Any) -> Tensor:
    return _squared_error(model, batch).mean()
