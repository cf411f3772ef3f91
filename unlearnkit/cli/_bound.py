# SPDX-License-Identifier: BSD-3-Clause
"""Edits on checkpoints, without the code of the model."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from unlearnkit.cli._checkpoint import Checkpoint, plain, stand_in
from unlearnkit.cli._models import Subject
from unlearnkit.edit import WeightEdit
from unlearnkit.exceptions import DataError, EditMismatchError
from unlearnkit.parameters import digest, named_tensors

ASK = "pass --model, which knows"


def bare(checkpoint: Checkpoint, edit: WeightEdit) -> Subject:
    """Return a checkpoint as a model that has its tensors, under the names that an edit of it uses.

    Raises
    ------
    DataError
        If a name cannot be one of a model's tensors.
    """
    own = all(name in checkpoint.tensors for name in edit)
    rename: Callable[[str], str] = str if own else plain
    names = {name: rename(name) for name in checkpoint.tensors}
    if len(set(names.values())) < len(names):
        raise DataError(
            f"{checkpoint.path} holds tensors of two models: their names agree but for a wrapper's prefix."
        )
    return Subject(stand_in(checkpoint, rename), checkpoint, names)


def check_ties(checkpoint: Checkpoint, names: dict[str, str], edit: WeightEdit) -> None:
    """Check that no tensor beside the edited ones holds the same values: it may be the same weight.

    Raises
    ------
    DataError
        If one does; the file does not say whether the two are tied.
    """
    before = {change.before: name for name, change in edit.items() if change.numel > 1}
    for its, mine in names.items():
        if mine in edit or checkpoint.tensors[its].numel() < 2:
            continue
        if (twin := before.get(digest(checkpoint.tensors[its]))) is not None:
            raise DataError(
                f"{checkpoint.path}: {its!r} holds the same values as {twin!r}, which the edit changes, and the file "
                f"does not say whether they are one weight: {ASK}."
            )


def applied(edit: WeightEdit, model: nn.Module, path: str, done: str) -> WeightEdit:
    """Apply an edit in place, and return its undo; an error says of which file it is.

    Raises
    ------
    EditMismatchError
        If it was not made for this model; `done` says what it means if the model has its values already.
    """
    tensors = named_tensors(model)
    if edit and all(
        name in tensors and digest(tensors[name]) == change.after for name, change in edit.items()
    ):
        raise EditMismatchError(f"{path}: {done}")
    try:
        return edit.apply_(model)
    except EditMismatchError as error:
        raise EditMismatchError(f"{path}: {error}") from error
