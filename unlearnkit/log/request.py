# SPDX-License-Identifier: BSD-3-Clause
"""One request: from data and an estimator to a model that has forgotten, and an entry."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import Any

from torch import Tensor

from unlearnkit.data import Batch, Measured, Partition, as_loader, complement, warn_if_random
from unlearnkit.data.loaders import part_of
from unlearnkit.exceptions import DataError, IneffectiveWarning, NondeterminismWarning, UnlearnWarning, warn
from unlearnkit.log.attempt import attempt, described, seed_of
from unlearnkit.log.entries import Entry
from unlearnkit.log.evidence import distance, look, pair
from unlearnkit.log.reference import Updated, updated
from unlearnkit.log.samples import AUGMENTED, dtypes, reads_alike, sample_digests
from unlearnkit.log.session import Session
from unlearnkit.log.store import State, edit_file
from unlearnkit.parameters import named_parameters

NO_ANCHOR = (
    "the samples of a request are taken out of the reference by measuring them on the model that it was measured "
    "on, and the log was not opened with that one: open it with the base; or pass renew() an importance measured on "
    "log.model over log.retained(train), or None to go on without."
)


@dataclass(frozen=True)
class Request:
    """What is to be done.

    Attributes
    ----------
    request_id, note : str
    estimator : Unlearner
        A clone of the user's, with seeds.
    forget : iterable of batches
    digests : list of bytes
        Of its samples, in order.
    retain : data, or None
    validation : iterable of batches, or None
    """

    request_id: str
    estimator: Any
    forget: Iterable[Batch]
    digests: list[bytes]
    retain: Any
    validation: Iterable[Batch] | None
    note: str

    def __post_init__(self) -> None:
        if not isinstance(self.note, str):
            raise DataError(f"note must be a text, got {self.note!r}.")


def samples_of(data: Any, salt: bytes) -> tuple[Iterable[Batch], list[bytes]]:
    """Return the forget set as a loader, and the digests of its samples.

    Raises
    ------
    DataError
        If its samples are not at hand, there are none, or they could not be recognised later.
    """
    if isinstance(data, Partition):
        raise DataError(
            "forget must be samples, got a Partition: pass partition.forget, and its retain as retain=."
        )
    if isinstance(data, Measured):
        raise DataError(
            f"forget must be samples, which the log is to recognise later, got an {type(data).__name__}."
        )
    loader = as_loader(data, name="forget")
    if not reads_alike(loader, salt):
        raise DataError(f"forget: {AUGMENTED} later: pass them without random transforms.")
    warn_if_random(loader, "forget")
    if digests := sample_digests(loader, salt):
        return loader, digests
    raise DataError("the forget set is empty: there is nothing to forget.")


def check_same(entry: Entry, request: Request, recorded: set[bytes]) -> None:
    """Check that a request whose id is recorded is the recorded one.

    Raises
    ------
    DataError
        If its samples or its estimator differ.
    """
    method = described(request.estimator)
    if recorded == set(request.digests) and entry.method == method:
        return
    what = f"with {entry.method}, not {method}" if recorded == set(request.digests) else "with other samples"
    raise DataError(
        f"request {entry.request_id!r} is recorded already, {what}: give this one a name of its own, or undo() that."
    )


def carry_out(session: Session, request: Request, allow: Callable[[State], None]) -> Entry:
    """Do a request and commit it; after an error the log and its model are as before.

    Parameters
    ----------
    session : Session
        Locked.
    request : Request
    allow : callable
        ``allow(state)`` raises where that state is not to be committed.
    """
    state, head = session.state, session.head
    head.check(state)
    started = now()
    known = session.forgotten.among(request.digests)  # [N]
    if bool(known.any()):
        warn(
            f"{int(known.sum()):,} of the {len(known):,} samples were forgotten by earlier requests already.",
            IneffectiveWarning,
        )
    update = _update(session, request, known)
    retain, source, left_out = _retain(session, request, update)
    loss = getattr(request.estimator, "loss", None)

    def looked() -> list[float | None]:
        return [*look(head.model, request.forget, loss), *look(head.model, request.validation, loss)]

    before = looked()
    seed = seed_of(state.random_state, request.request_id, "data")
    done = attempt(request.estimator, head.model, seed, request.forget, retain, request.validation)
    undo = done.edit.apply_(head.model)
    try:
        found = [pair(*both) for both in zip(before, looked(), strict=True)]
        changed = session.measured()
        number = len(state.entries) + 1
        entry = Entry(
            number=number,
            request_id=request.request_id,
            method=described(request.estimator),
            n_forget=len(known),
            n_new=len(set(request.digests) - session.forgotten.known),
            n_left_out=left_out,
            reference=source,
            seconds=done.seconds,
            n_changed=done.edit.n_changed,
            n_total=sum(weight.numel() for weight in named_parameters(head.model).values()),
            distance=distance(done.edit, undo),
            forget_accuracy=found[0],
            forget_loss=found[1],
            validation_accuracy=found[2],
            validation_loss=found[3],
            warnings=done.warnings,
            result=changed.head,
            started=started,
            samples_checksum=session.store.write_samples(number, request.digests),
            note=request.note,
        )
        done.edit.save(session.store.folder / edit_file(number))
        changed = replace(changed, entries=(*state.entries, entry), undoable=True)
        if update is not None and state.reference is not None:
            written = session.written(update.rest, state, state.reference.anchor, state.reference.file)
            changed = replace(changed, reference=written)
        allow(changed)
        session.commit(changed)
    finally:
        if session.is_at(state):
            undo.apply_(head.model)
            session.store.sweep(state)
        else:
            head.undo, head.position = undo, len(session.state.standing)
    return entry


def now() -> str:
    """Return the time, UTC, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _update(session: Session, request: Request, known: Tensor) -> Updated | None:
    """Return the stored reference with this request; samples in the mask [N] are subtracted already."""
    if session.reference is None or session.state.reference is None:
        return None
    anchor = session.head.seen_anchor(session.state)
    if anchor is None:
        raise DataError(NO_ANCHOR)
    new: Iterable[Batch] | None = request.forget
    if bool(known.any()):
        new = None if bool(known.all()) else part_of(request.forget, ~known)
    return updated(
        session.reference,
        session.importance_of(session.reference.kind),
        anchor,
        session.head.model,
        request.forget,
        new,
        getattr(request.estimator, "loss", None),
    )


def _retain(session: Session, request: Request, update: Updated | None) -> tuple[Any, str, int]:
    """Return what is known of the data to keep, what that is in a word, and how many were left out."""
    estimator, retain = request.estimator, request.retain
    has_own = getattr(estimator, "reference", None) is not None
    if isinstance(retain, Measured) or (retain is None and has_own):
        return retain, "given", 0
    from_stored = getattr(estimator, "needs_retain", "importance") == "importance"
    if retain is None and update is not None and from_stored:
        return update.known, "stored", 0
    found = complement(request.forget) if retain is None else as_loader(retain, name="retain")
    if found is None:
        return None, "none", 0
    if not reads_alike(found, session.forgotten.salt):
        warn(
            f"retain: {AUGMENTED}: leave them out yourself, by their indices; log.is_forgotten(data) says which of "
            "the data without its random transforms.",
            NondeterminismWarning,
        )
    kinds = dtypes(request.forget), dtypes(found)
    if kinds[0] != kinds[1]:
        warn(
            f"a sample of forget is {kinds[0]} and one of retain {kinds[1]}, so those of forget are not recognised in "
            "retain, nor left out: take both from one data set.",
            UnlearnWarning,
        )
    kept, left_out = session.forgotten.without(found, request.digests)
    return kept, "samples", left_out
