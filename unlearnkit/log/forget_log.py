# SPDX-License-Identifier: BSD-3-Clause
"""ForgetLog: one model, one request after another, with a record that a kill does not tear."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Literal

from torch import Tensor, nn

from unlearnkit.data import Batch, as_loader
from unlearnkit.edit import WeightEdit
from unlearnkit.exceptions import DataError, DriftError, DriftWarning, warn
from unlearnkit.importance import Importance, ImportanceEstimator
from unlearnkit.log import revision
from unlearnkit.log.attempt import prepared
from unlearnkit.log.entries import Budget, Drift, Entry, drift_of
from unlearnkit.log.reference import check_reference
from unlearnkit.log.request import Request, carry_out, check_same, samples_of
from unlearnkit.log.samples import sample_digests
from unlearnkit.log.session import Session
from unlearnkit.log.store import State, Store, edit_file

RETRAIN = "Train a newly built model on log.retained(train), and begin a log for it, in a folder of its own."


class ForgetLog:
    """Requests to forget, applied to a model one after another, and kept in a folder.

    A request is recorded wholly or not at all: a process may be killed at any moment, and opening the
    folder again goes on where the last whole request ended. Several processes may use one folder; they
    wait for each other. No sample is kept, but a keyed digest of each that was forgotten.

    Parameters
    ----------
    folder : path
        Made where it does not exist; else what it holds goes on.
    model : nn.Module
        The base, of a new log; of one that goes on the base too, or the model as it is after one of the
        requests. Only with the base (or what came before the last request) can that be undone.
    reference : Importance, optional
        Measured on the base, over its whole training set. Then a request needs no retain set, and the
        reference is kept up to date: each request's samples are subtracted. Of a log that goes on, what
        is in the folder counts.
    validation : DataLoader, Dataset or (X, y), optional
        Held-out samples of what the model is still wanted for: passed to every fit, and watched.
    importance : ImportanceEstimator, optional
        What measured the reference, where its kind does not tell.
    n_train : int, optional
        Size of the base's training set; the reference's where left out.
    max_drop, max_forgotten : float or None
        The budget: by how much accuracy on validation may fall since the base, and which share of the
        training set may be forgotten, before the model should be trained anew. None: no bound.
    on_budget : {"warn", "refuse"}
        A request beyond the budget is recorded, with a :class:`DriftWarning`; or it is not, and a
        :class:`DriftError` is raised.
    inplace : bool
        Edit `model` itself, and not a copy.
    salt : bytes, optional
        Key of the samples' digests, 16 to 64 bytes. Left out, one is made and kept in the folder, where
        whoever can read it can test whether a sample that they have was forgotten; given, it is not kept.
        Whoever has folder and base can confirm a guess without it: keep the folder as you keep the data.
    random_state : int
        With the request's id it seeds every estimator that has no seed, so that a request that is done
        again after a kill ends in the same bits.

    Attributes
    ----------
    model : nn.Module
        As it is after the last request. Do not train it: the next request would be refused.

    Raises
    ------
    DataError
        If the folder is not a log's, is damaged, or belongs to other settings; if the reference does
        not fit.
    EditMismatchError
        If `model` is none of the states that the log knows.

    Examples
    --------
    >>> import tempfile, torch
    >>> from unlearnkit import FineTune, ForgetLog
    >>> model = torch.nn.Linear(3, 2)
    >>> X, y = torch.randn(20, 3), torch.randint(2, (20,))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     log = ForgetLog(folder, model, n_train=20)
    ...     log.apply(FineTune(epochs=1), (X[:2], y[:2]), request_id="ticket 7", retain=(X, y))
    Entry 1, 'ticket 7': 2 samples, 8 of 8 weights
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        model: nn.Module,
        reference: Importance | None = None,
        validation: Any = None,
        *,
        importance: ImportanceEstimator | None = None,
        n_train: int | None = None,
        max_drop: float | None = 0.05,
        max_forgotten: float | None = 0.2,
        on_budget: Literal["warn", "refuse"] = "warn",
        inplace: bool = False,
        salt: bytes | None = None,
        random_state: int = 0,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}.")
        if on_budget not in ("warn", "refuse"):
            raise DataError(f"on_budget must be 'warn' or 'refuse', got {on_budget!r}.")
        self.budget, self.on_budget = Budget(max_drop, max_forgotten), on_budget
        self.validation = None if validation is None else as_loader(validation, name="validation")
        if reference is not None:
            check_reference(reference, model)
            n_train = reference.samples if n_train is None else n_train
        self._session = Session(
            Store(folder), model, reference, importance, n_train, inplace, salt, random_state
        )

    @property
    def model(self) -> nn.Module:
        """The model as it is after the last request."""
        return self._session.head.model

    @property
    def requests(self) -> tuple[Entry, ...]:
        """What is recorded, in the order in which requests came; undone ones too."""
        return self._session.state.entries

    @property
    def reference(self) -> Importance | None:
        """Importance of what is retained, on the model that the reference was measured on."""
        return self._session.reference

    @property
    def drift(self) -> Drift:
        """How far the requests have taken the model."""
        return _drift(self._session.state)

    @property
    def advice(self) -> str:
        """What should be done, and why; empty where nothing."""
        said = self.budget.exceeded(self.drift)
        return f"Retrain: {'; and '.join(said)}. {RETRAIN}" if said else ""

    def history(self) -> list[dict[str, Any]]:
        """Return a row a request: its entry, and how far the model had come by then.

        Added are ``n_forgotten``, ``forgotten``, ``drop``, ``changed`` and ``moved``, as of :class:`Drift`.
        """
        rows, state = [], self._session.state
        for entry in state.entries:
            drift = _drift(replace(state, entries=state.entries[: entry.number]))
            names = ("n_forgotten", "forgotten", "drop", "changed", "moved")
            rows.append(entry.to_dict() | {name: getattr(drift, name) for name in names})
        return rows

    def to_frame(self) -> Any:
        """Return :meth:`history` as a ``pandas.DataFrame``, a row a request."""
        try:
            from pandas import DataFrame
        except ImportError as error:
            raise ImportError(
                "to_frame needs pandas: pip install 'unlearnkit[report]'; history needs nothing"
            ) from error
        return DataFrame(self.history())

    def edit(self, request_id: str) -> WeightEdit:
        """Return the edit of a request that stands.

        Raises
        ------
        DataError
            If there is none of that name.
        """
        entry = self._session.standing(request_id)
        if entry is None:
            raise DataError(f"no request that stands is named {request_id!r}: log.requests lists them.")
        return WeightEdit.load(self._session.store.folder / edit_file(entry.number))

    def retained(self, data: Any) -> Iterable[Batch]:
        """Return the samples of `data` that no request has forgotten, unshuffled.

        A sample that equals a forgotten one to the last bit is taken for it.

        Parameters
        ----------
        data : DataLoader, Dataset or (X, y)

        Returns
        -------
        iterable of batches
            `data` itself, as a loader, where none of it was forgotten.

        Raises
        ------
        DataError
            As :meth:`is_forgotten`.
        """
        forgotten = self._session.forgotten
        return forgotten.without(forgotten.recognisable(data))[0]

    def is_forgotten(self, data: Any) -> Tensor:
        """Return which samples of `data` were forgotten, in the order in which it is read unshuffled.

        For data that is augmented while it is read: ask about the samples as they are without that, and
        take a ``Subset`` of the data set by the answer.

        Parameters
        ----------
        data : DataLoader, Dataset or (X, y)

        Returns
        -------
        Tensor, shape [N], bool

        Raises
        ------
        DataError
            If `data` is a loader that draws its samples at random, or samples differ from walk to walk.
        """
        forgotten = self._session.forgotten
        return forgotten.among(sample_digests(forgotten.recognisable(data), forgotten.salt))

    def apply(
        self,
        estimator: Any,
        forget: Any,
        *,
        request_id: str,
        retain: Any = None,
        validation: Any = None,
        note: str = "",
    ) -> Entry:
        """Make the model forget, and record it.

        Parameters
        ----------
        estimator : Unlearner
            Cloned; the clone is fitted on the model as it is.
        forget : DataLoader, Dataset or (X, y)
            The samples.
        request_id : str
            A name for the request, such as a ticket's number. A request that is recorded already is
            returned and not done again, so that a job that was killed can be run again from its start.
        retain : DataLoader, Dataset or (X, y), optional
            What is to be kept; samples that are forgotten, now or before, are left out. Where it is not
            given, the log's reference serves, if the method needs no samples; else the rest of the data
            set that `forget` is a ``Subset`` of.
        validation : optional
            In the place of the log's.
        note : str
            Kept with the entry.

        Returns
        -------
        Entry

        Raises
        ------
        DataError
            If the data cannot serve, or the id is that of another request.
        DriftError
            With ``on_budget="refuse"``, if the request would exceed the budget.
        EditMismatchError
            If :attr:`model`, or the model that the reference was measured on, was changed by others.
        """
        if not isinstance(request_id, str) or not request_id:
            raise DataError(f"request_id must be a name such as 'ticket 17', got {request_id!r}.")
        session = self._session
        samples, digests = samples_of(forget, session.forgotten.salt)
        fitted = prepared(estimator, session.state.random_state, request_id)
        held_out = self.validation if validation is None else as_loader(validation, name="validation")
        request = Request(request_id, fitted, samples, digests, retain, held_out, note)
        with session.locked():
            if (done := session.standing(request_id)) is not None:
                check_same(done, request, session.store.read_samples(done))
                return done
            entry = carry_out(session, request, self._allow)
        if advice := self.advice:
            warn(advice, DriftWarning)
        return entry

    def undo(self) -> Entry:
        """Take the last request back, bit by bit: model, reference, and the samples' digests.

        Its entry stays, marked as undone, and its id may be used again. Only the last request can be
        undone, and only where its old values are known: by the log that applied it, or one that was
        opened with a model from before it.

        Returns
        -------
        Entry

        Raises
        ------
        UnlearnError
            If there is nothing that can be undone.
        """
        return revision.undo(self._session)

    def seal(self) -> None:
        """Make the last request final: what could bring it back is removed, here and in the folder.

        That is the reference from before it, which tells of the forgotten samples, and the undo in
        memory. The next request does the same to the one before.
        """
        revision.seal(self._session)

    def renew(self, reference: Importance | None) -> None:
        """Replace the reference by one measured on :attr:`model`, over what is retained of the data.

        The further the model has moved from the one that the reference was measured on, the less that
        says of it. The last request can then not be undone any more.

        Parameters
        ----------
        reference : Importance or None
            Such as ``FisherDiagonal().measure(log.model, log.retained(train))``. None: go on without.

        Raises
        ------
        DataError
            If it does not fit the model, or saw more samples than are retained.
        """
        revision.renew(self._session, reference)

    def __repr__(self) -> str:
        """Say what it is at a glance."""
        drift, undone = self.drift, len(self.requests) - self.drift.n_requests
        share = "" if drift.forgotten is None else f" ({drift.forgotten:.1%})"
        drop = "" if drift.drop is None else f", accuracy on validation {-100 * drift.drop:+.1f} points"
        counted = (
            f"{drift.n_requests} request{'s'[: drift.n_requests != 1]}"
            + f" and {undone} undone" * bool(undone)
        )
        return f"ForgetLog: {counted}, {drift.n_forgotten:,} samples forgotten{share}{drop}"

    def _allow(self, state: State) -> None:
        """Refuse a state beyond the budget, where that is the user's will."""
        said = self.budget.exceeded(_drift(state))
        if said and self.on_budget == "refuse":
            raise DriftError(f"the request is not recorded: with it, {'; and '.join(said)}. {RETRAIN}")


def _drift(state: State) -> Drift:
    return drift_of(state.entries, state.n_train, state.base_length)
