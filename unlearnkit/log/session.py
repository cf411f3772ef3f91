# SPDX-License-Identifier: BSD-3-Clause
"""A log as one process holds it: what the folder says, and the model that goes with it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from numbers import Integral
from typing import Any

from torch import nn

from unlearnkit.exceptions import DataError
from unlearnkit.importance import Importance, ImportanceEstimator
from unlearnkit.log.entries import Entry
from unlearnkit.log.evidence import length
from unlearnkit.log.head import Head, model_digest, tensor_digests
from unlearnkit.log.reference import estimator_of
from unlearnkit.log.samples import Forgotten
from unlearnkit.log.store import Reference, State, Store, salt_digest


class Session:
    """An open log.

    Parameters
    ----------
    store : Store
    model : nn.Module
    reference, importance, n_train, inplace, salt, random_state
        As of :class:`~unlearnkit.ForgetLog`.

    Attributes
    ----------
    state : State
        What was committed last, as far as this process knows.
    head : Head
        The model, brought to that.
    forgotten : Forgotten
    reference : Importance or None
    """

    def __init__(
        self,
        store: Store,
        model: nn.Module,
        reference: Importance | None,
        importance: ImportanceEstimator | None,
        n_train: int | None,
        inplace: bool,
        salt: bytes | None,
        random_state: int,
    ) -> None:
        self.store, self._importance = store, importance
        random_state = _whole("random_state", random_state, 0)
        n_train = None if n_train is None else _whole("n_train", n_train, 1)
        self.reference: Importance | None
        with store.locked():
            state = store.read()
            store.sweep(state)
            key = store.open_salt(salt, state)
            if state is None:
                tensors = tensor_digests(model)
                base = model_digest(tensors)
                state = State(base, base, tensors, length(model), salt_digest(key), random_state, n_train)
                if reference is not None:
                    state = replace(state, reference=self.written(reference, state))
                state = replace(state, revision=1)
                store.commit(state)
            elif state.random_state != random_state:
                raise DataError(
                    f"this log was begun with random_state={state.random_state}, got {random_state}: pass the "
                    "same, or begin another log."
                )
            self.head = Head.at(model, state, store.folder, inplace)
            self._take(state, key)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes out, once what they have committed is taken over."""
        with self.store.locked():
            state = self.store.read()
            if state is None:
                raise DataError(f"{str(self.store.path)!r} is gone: put a copy of the folder back.")
            if state.revision != self.state.revision:
                self.head.follow(self.state, state, self.store.folder)
                self._take(state, self.forgotten.salt)
            yield

    def commit(self, state: State) -> None:
        """Make `state` the log; its files are there."""
        state = replace(state, revision=self.state.revision + 1)
        self.store.commit(state)
        self._take(state, self.forgotten.salt)
        self.store.sweep(state)

    def is_at(self, state: State) -> bool:
        """Tell whether `state` is still the last one.

        Takes over what this process committed since, where an interrupt (Ctrl-C) came right after that.
        """
        if self.state is state:
            found = self.store.read()
            if found is not None and found.revision != state.revision:
                self._take(found, self.forgotten.salt)
        return self.state is state

    def measured(self) -> State:
        """Return the state with the digests of the model as it is."""
        tensors = tensor_digests(self.head.model)
        return replace(self.state, head=model_digest(tensors), tensors=tensors)

    def written(self, reference: Importance, state: State, anchor: int = 0, previous: str = "") -> Reference:
        """Write a reference to the folder, for the commit after `state`; return where it is."""
        self.importance_of(reference.kind)
        name = f"reference/{state.revision + 1:04d}.safetensors"
        reference.save(self.store.folder / name)
        return Reference(name, reference.kind, anchor, previous)

    def importance_of(self, kind: str) -> ImportanceEstimator:
        """Return what measures the reference.

        Raises
        ------
        DataError
            If that is not known, or is not what was passed.
        """
        if self._importance is None:
            return estimator_of(kind)
        if self._importance.kind != kind:
            raise DataError(
                f"importance={self._importance!r} measures {self._importance.kind!r}, and the reference is "
                f"{kind!r}: pass what measured the reference."
            )
        return self._importance

    def standing(self, request_id: str) -> Entry | None:
        """Return the entry of a request that stands; None where there is none of that name."""
        return next((entry for entry in self.state.standing if entry.request_id == request_id), None)

    def _take(self, state: State, salt: bytes) -> None:
        known = [self.store.read_samples(entry) for entry in state.standing]
        reference = None
        if state.reference is not None:
            reference = Importance.load(self.store.folder / state.reference.file)
        self.forgotten = Forgotten(salt, set().union(*known))
        self.reference, self.state = reference, state


def _whole(name: str, value: Any, low: int) -> int:
    """Return a whole number as Python's own, which JSON can hold."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < low:
        raise DataError(f"{name} must be a whole number, {low} or more, got {value!r}.")
    return int(value)
