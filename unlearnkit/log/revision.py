# SPDX-License-Identifier: BSD-3-Clause
"""What changes a log beside a request: undo, seal, renew."""

from __future__ import annotations

from dataclasses import replace

from unlearnkit.exceptions import DataError, UnlearnError
from unlearnkit.importance import Importance
from unlearnkit.log.entries import Entry
from unlearnkit.log.reference import check_reference
from unlearnkit.log.request import now
from unlearnkit.log.session import Session
from unlearnkit.parameters import copy_of


def undo(session: Session) -> Entry:
    """Take the last request back; see :meth:`unlearnkit.ForgetLog.undo`."""
    with session.locked():
        state, head = session.state, session.head
        if not state.undoable:
            raise UnlearnError(
                "there is no request to undo: only the last one can be, once, and not after seal() or renew()."
            )
        if head.undo is None:
            raise UnlearnError(
                "the values that the last request replaced are not on disk: open the log with the base, as "
                "ForgetLog(folder, base), and undo there."
            )
        head.check(state)
        last = replace(state.standing[-1], status="undone", undone_at=now(), samples_checksum="")
        redo = head.undo.apply_(head.model)
        try:
            session.commit(
                replace(
                    session.measured(),
                    entries=tuple(last if one.number == last.number else one for one in state.entries),
                    undoable=False,
                    reference=None if state.reference is None else state.reference.back(),
                )
            )
        finally:
            if session.is_at(state):
                redo.apply_(head.model)
            else:
                head.undo, head.position = None, len(session.state.standing)
    return last


def seal(session: Session) -> None:
    """Make the last request final; see :meth:`unlearnkit.ForgetLog.seal`."""
    with session.locked():
        kept = session.state.reference
        if kept is not None:
            kept = replace(kept, previous="")
        session.commit(replace(session.state, undoable=False, reference=kept))
        session.head.undo = None


def renew(session: Session, reference: Importance | None) -> None:
    """Replace the reference; see :meth:`unlearnkit.ForgetLog.renew`."""
    with session.locked():
        state, head, stored = session.state, session.head, None
        head.check(state)
        if reference is not None:
            check_reference(reference, head.model)
            before = session.reference
            if before is not None and reference.samples > before.samples:
                raise DataError(
                    f"the reference saw {reference.samples:,} samples, and {before.samples:,} are retained: "
                    "measure it on log.retained(train)."
                )
            stored = session.written(reference, state, len(state.standing))
        session.commit(replace(state, undoable=False, reference=stored))
        head.undo = None
        head.anchor = None if reference is None else copy_of(head.model)
