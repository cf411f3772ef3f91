# SPDX-License-Identifier: BSD-3-Clause
"""The model of a log: where among the requests it stands, and how it gets to the last one."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from unlearnkit.edit import WeightEdit
from unlearnkit.exceptions import EditMismatchError, UnlearnError
from unlearnkit.log.store import State, edit_file
from unlearnkit.parameters import copy_of, digest, named_tensors


def tensor_digests(model: nn.Module) -> dict[str, str]:
    """Return the digest of each tensor of a model, by canonical name."""
    return {name: digest(tensor) for name, tensor in named_tensors(model).items()}


def model_digest(tensors: Mapping[str, str]) -> str:
    """Return one digest for those of all tensors."""
    text = "\n".join(f"{name} {value}" for name, value in sorted(tensors.items()))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


@dataclass
class Head:
    """A model after so many of the requests that stand.

    Attributes
    ----------
    model : nn.Module
    position : int
        How many requests it has been through.
    undo : WeightEdit or None
        Takes the last of them back; None where the model came without.
    anchor : nn.Module or None
        The model that the reference was measured on, where it was seen.
    """

    model: nn.Module
    position: int
    undo: WeightEdit | None = None
    anchor: nn.Module | None = None

    @classmethod
    def at(cls, model: nn.Module, state: State, folder: Path, inplace: bool) -> Head:
        """Return a head that begins as a given model and is brought to the last request.

        Raises
        ------
        EditMismatchError
            If the model is neither the base nor what a request made of it.
        """
        tensors = tensor_digests(model)
        position = _first(state.digests, model_digest(tensors))
        if position is None:
            raise EditMismatchError(
                f"the model is neither the base of this log nor its result after any of the "
                f"{len(state.standing)} requests: {_difference(tensors, state.tensors)}. Pass the model as it was "
                "before the first request, or as log.model was after one; for another model begin a log in "
                "another folder."
            )
        head = cls(model if inplace else copy_of(model), position)
        if state.reference is not None and state.digests[state.reference.anchor] == state.digests[position]:
            head.anchor = copy_of(model) if inplace else model
        head.advance(state, folder)
        return head

    def advance(self, state: State, folder: Path) -> None:
        """Apply the edits of the requests that the model has not been through."""
        for entry in state.standing[self.position :]:
            self.undo = WeightEdit.load(folder / edit_file(entry.number)).apply_(self.model)
            self.position += 1
            if state.reference is not None and state.reference.anchor == self.position:
                self.anchor = copy_of(self.model)
        self.check(state)

    def follow(self, before: State, state: State, folder: Path) -> None:
        """Catch up with what another process has committed since `before`.

        Raises
        ------
        UnlearnError
            If it took back a request that this model has been through.
        """
        position = _first(state.digests, before.head)
        if position is None:
            raise UnlearnError(
                "another process has undone a request of this log since: open it anew, as "
                "ForgetLog(folder, model), with the base."
            )
        if (
            state.reference is None
            or before.reference is None
            or state.reference.anchor != before.reference.anchor
        ):
            self.anchor = None
            if state.reference is not None and state.reference.anchor == position:
                self.anchor = copy_of(self.model)
        self.position = position
        self.advance(state, folder)

    def check(self, state: State) -> None:
        """Check that the model is the log's last.

        Raises
        ------
        EditMismatchError
            If it was changed by others.
        """
        tensors = tensor_digests(self.model)
        if model_digest(tensors) != state.head:
            raise EditMismatchError(
                f"the log's model is not what the last request made of it: {_difference(tensors, state.tensors)}. "
                "It was changed since, perhaps by training: work on a copy of log.model, and open the log anew "
                "with the base or an unchanged model."
            )

    def seen_anchor(self, state: State) -> nn.Module | None:
        """Return the model that the reference was measured on; the head itself where they are equal.

        Raises
        ------
        EditMismatchError
            If it was changed since the log was opened.
        """
        if state.reference is None or self.anchor is None:
            return None
        wanted = state.digests[state.reference.anchor]
        if wanted == state.head:
            return self.model
        if model_digest(tensor_digests(self.anchor)) != wanted:
            raise EditMismatchError(
                "the model that the log was opened with was changed since, and the reference was measured on it as "
                "it was: open the log anew with the base, and leave that as it is (edit a copy)."
            )
        return self.anchor


def _first(digests: list[str], wanted: str) -> int | None:
    # the first: requests that changed nothing come after it, and applying them yields their undo
    return digests.index(wanted) if wanted in digests else None


def _difference(tensors: Mapping[str, str], head: Mapping[str, str]) -> str:
    """Say how a model's tensors differ from the head's."""
    for name in head:
        if name not in tensors:
            return f"it has no tensor {name!r}"
    for name in tensors:
        if name not in head:
            return f"it has a tensor {name!r}, which the log does not know"
    wrong = [name for name in head if head[name] != tensors[name]]
    return (
        f"{len(wrong)} of its {len(head)} tensors differ from the last request's, the first is {wrong[0]!r}"
    )
