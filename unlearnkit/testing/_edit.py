# SPDX-License-Identifier: BSD-3-Clause
"""What comes of the edit: it is applied, saved, undone, and refused where it does not fit."""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn
from torch.utils.data import Subset

from unlearnkit.edit import WeightEdit
from unlearnkit.exceptions import DataError, EditMismatchError, UnlearnError
from unlearnkit.importance import Importance
from unlearnkit.parameters import named_tensors
from unlearnkit.testing._state import difference, model_state
from unlearnkit.testing._task import CLASSES, N_FORGET, Task, convnet, loader
from unlearnkit.testing._tools import (
    Check,
    fresh,
    refused,
    require,
    require_equal_tensors,
    require_same,
)


@Check
def check_transform_returns_a_copy(estimator: Any) -> None:
    """``transform`` returns a copy that shares nothing with the model, the same every time."""
    task = Task(convnet)
    task.fit(estimator)
    first, second = (estimator.transform(task.model) for _ in range(2))
    require(type(first) is type(task.model), f"it returned a {type(first).__name__}.")
    require_equal_tensors(first, second, "transform, twice")
    its = {tensor.data_ptr() for tensor in named_tensors(task.model).values()}
    shared = [n for n, tensor in named_tensors(first).items() if tensor.data_ptr() in its]
    require(not shared, f"the copy shares the memory of {shared} with the model.")
    flags = [module.training for module in task.model.modules()]
    require([m.training for m in first.modules()] == flags, "the copy is in another mode.")


@Check
def check_save_load_apply_undo(estimator: Any) -> None:
    """The edit is saved, loaded, applied in place and undone without the loss of a bit."""
    task = Task(convnet)
    edit: WeightEdit = task.fit(estimator).edit_
    clean, before = estimator.transform(task.model), copy.deepcopy(task.model)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "request.safetensors")
        edit.save(path)
        loaded = WeightEdit.load(path)
    require_same(edit, loaded, "Saved and loaded")
    require(loaded.info == edit.info, f"the notes {edit.info} come back as {loaded.info}.")
    undo = loaded.apply_(task.model)
    require_equal_tensors(task.model, clean, "apply_ and transform")
    undo.apply_(task.model)
    require_equal_tensors(task.model, before, "The undone model and the original")


@Check
def check_another_model_is_refused(estimator: Any) -> None:
    """``transform`` refuses a model that was not fitted, and leaves it as it is."""
    task = Task()
    edit = task.fit(estimator).edit_
    if not edit:
        return
    name = edit.names[-1]
    retrained = copy.deepcopy(task.model)
    with torch.no_grad():
        named_tensors(retrained)[name].view(-1)[0] += 1
    others: dict[str, tuple[nn.Module, str]] = {
        "a model with another value": (retrained, name),
        "a model of another dtype": (copy.deepcopy(task.model).double(), edit.names[0]),
        "another architecture": (nn.Linear(2, 2), edit.names[0]),
        "a model that was edited already": (estimator.transform(task.model), "already"),
    }
    for what, (other, named) in others.items():
        before = model_state(other)
        with refused(what.capitalize(), EditMismatchError, naming=(named,)):
            estimator.transform(other)
        changed = difference(before, model_state(other))
        require(changed is None, f"{what} was refused, and yet {changed} changed.")


@Check
def check_damaged_files_are_refused(estimator: Any) -> None:
    """A damaged, truncated or foreign file is no edit, and the error says so."""
    task = Task()
    edit = task.fit(estimator).edit_
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "edit.safetensors")
        edit.save(path)
        whole = path.read_bytes()
        cut = {f"a file cut to {size} bytes": whole[:size] for size in (0, 7, len(whole) // 2)}
        flipped = {}
        for at in (0, 20, len(whole) // 3, 2 * len(whole) // 3, len(whole) - 1):
            wrong = bytes([whole[at] ^ 1])
            flipped[f"a file whose byte {at} is wrong"] = whole[:at] + wrong + whole[at + 1 :]
        for what, content in {**cut, **flipped, "text": b"dear reader" * 9}.items():
            path.write_bytes(content)
            with refused(what.capitalize(), DataError, naming=(path.name,)):
                WeightEdit.load(path)
        save_file({"weight": torch.zeros(2)}, path)
        with refused("A state dict's file", DataError, naming=(path.name,)):
            WeightEdit.load(path)
        Importance({"weight": torch.zeros(2)}, 1).save(path)
        with refused("An importance's file", DataError, naming=(path.name, "Importance")):
            WeightEdit.load(path)
        undo = edit.apply_(task.model)
        with refused("Saving the undo", UnlearnError, naming=("undo",)):
            undo.save(path)


@Check
def check_second_request(estimator: Any) -> None:
    """A second request is served on the result of the first."""
    task = Task()
    once = task.fit(estimator).transform(task.model)
    labels = task.train.tensors[1]
    of_class = [(labels == label).nonzero()[:, 0].tolist() for label in range(CLASSES)]
    forget = loader(Subset(task.train, of_class[1][:N_FORGET]))
    gone = set(of_class[0]) | set(of_class[1])
    retain = loader(Subset(task.train, [i for i in range(len(labels)) if i not in gone]))
    second = fresh(estimator).fit(once, retain, forget)
    twice = second.transform(once)
    require_equal_tensors(second.edit_.apply(once), twice, "transform and edit_.apply")
    require_equal_tensors(estimator.transform(task.model), once, "The first request, afterwards")
