# SPDX-License-Identifier: BSD-3-Clause
"""The audit of one request: what was asked, done, measured and left open, as JSON and as a page."""

from __future__ import annotations

import copy
import json
import os
import secrets
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from torch import nn

from unlearnkit.config import configuration
from unlearnkit.data import Loss
from unlearnkit.edit import WeightEdit
from unlearnkit.exceptions import DataError, EditMismatchError
from unlearnkit.metrics import Evaluation
from unlearnkit.report._audit_page import page
from unlearnkit.report._digests import content_digest, model_digest, samples_digest
from unlearnkit.report._examine import checks_of, evaluated, losses_of, oracles_of
from unlearnkit.report._open_points import open_points
from unlearnkit.report._record import clean, edit_facts, method_facts, model_facts, request_facts, score_facts
from unlearnkit.report._verdict import verdict

__all__ = ["FORMAT", "VERSION", "Audit", "audit"]

FORMAT = "unlearnkit.audit"
VERSION = 1
Results = Mapping[str, float]
HANDED_IN = (
    "Metrics were handed in as plain values: that they are of these models and samples was taken on trust."
)


class Audit:
    """A finished audit: plain data, which is the JSON, and a page that is made of it alone.

    Make one with `audit` or `load_json`. It holds no sample: counts, digests and statistics.
    ``unlearnkit/report/audit.schema.json`` (JSON Schema, draft 2020-12) describes the data.

    Parameters
    ----------
    data : mapping
        What `to_dict` returned.
    salt : str, optional
        Of the forget set's digest, where it is at hand.

    Attributes
    ----------
    salt : str or None
        It makes the forget set's digest checkable, and is in neither file: keep it where the forget
        set may be kept. None where it is not known.

    Raises
    ------
    DataError
        If `data` is no audit, one of a newer unlearnkit, or was altered after it was made.
    """

    def __init__(self, data: Mapping[str, Any], salt: str | None = None) -> None:
        _check(data)
        self._data: dict[str, Any] = copy.deepcopy(dict(data))
        self.salt = salt

    @property
    def digest(self) -> str:
        """SHA-256 of the data without this value, as 64 hexadecimal digits: what a ticket can name."""
        found: str = self._data["digest"]
        return found

    @property
    def verdict(self) -> str:
        """The verdict in one sentence."""
        found: str = self._data["verdict"]["headline"]
        return found

    def to_dict(self) -> dict[str, Any]:
        """Return a copy of the data."""
        return copy.deepcopy(self._data)

    def html(self) -> str:
        """Return the page: one file without scripts, which loads nothing.

        Raises
        ------
        ImportError
            If the extra ``report`` is not installed; `to_dict` and `save_json` do without.
        """
        return page(self._data).html()

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the page to a file, and return its path. Errors are those of `html`."""
        return page(self._data).save(path)

    def save_json(self, path: str | os.PathLike[str]) -> Path:
        """Write the data to a JSON file, and return its path."""
        path = Path(path)
        text = json.dumps(self._data, indent=2, ensure_ascii=False, allow_nan=False)
        path.write_text(text + "\n", encoding="utf-8")
        return path

    @classmethod
    def load_json(cls, path: str | os.PathLike[str], salt: str | None = None) -> Audit:
        """Read what `save_json` wrote.

        Raises
        ------
        DataError
            If the file is missing, no audit, or was altered.
        """
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DataError(f"cannot read {os.fspath(path)!r} as an audit: {error}") from error
        return cls(data, salt)

    def verify(
        self,
        model: nn.Module | None = None,
        unlearned: nn.Module | None = None,
        forget: Any = None,
        salt: str | None = None,
    ) -> None:
        """Check that the audit is unaltered and, of what is given, that it is what was audited.

        Parameters
        ----------
        model, unlearned : nn.Module, optional
            Held against the digests of base and result.
        forget : DataLoader, Dataset or (X, y), optional
            Held against the forget set's digest, in any order.
        salt : str, optional
            Of that digest; by default `salt` of this object.

        Raises
        ------
        DataError
            If something is not what it was; the message names it.
        """
        _check(self._data)
        for name, given in (("base", model), ("result", unlearned)):
            told = self._data["model"][name]["digest"]
            if given is not None and (found := model_digest(given)) != told:
                raise DataError(f"this is not the audited {name}: its digest is {found}, the audit's {told}")
        if forget is None:
            return
        told = self._data["forget"]
        salt = self.salt if salt is None else salt
        if salt is None and not told["salted"]:
            salt = ""
        if salt is None:
            raise DataError(
                "the forget set's digest is salted: pass salt=, which was in Audit.salt when the audit was made"
            )
        found, n = samples_digest(forget, salt, "forget")
        if (found, n) != (told["digest"], told["n"]):
            raise DataError(
                f"this is not the audited forget set, or not its salt: {n:,} samples with the digest {found}, the "
                f"audit has {told['n']:,} with {told['digest']}"
            )

    def __repr__(self) -> str:
        return f"Audit {self.digest[:12]}: {self.verdict}"


def audit(
    model: nn.Module,
    unlearned: nn.Module,
    *,
    retain: Any,
    forget: Any,
    test: Any,
    oracle: nn.Module | Sequence[nn.Module] | Results | None = None,
    edit: WeightEdit | None = None,
    method: Any = "",
    request: Mapping[str, Any] | None = None,
    seconds: float | None = None,
    retrain_seconds: float | None = None,
    shadows: Sequence[nn.Module] | None = None,
    evaluation: Results | None = None,
    before: Results | None = None,
    loss: Loss | None = None,
    salt: str | None = None,
    command: str = "",
    max_samples: int | None = 2000,
    random_state: int = 0,
) -> Audit:
    """Examine an unlearned model, and record what was asked, done, measured and left open.

    Both models are only read. Samples are never stored.

    Parameters
    ----------
    model, unlearned : nn.Module
        Base and result: the model before and after the request.
    retain, forget, test : DataLoader, Dataset or (X, y)
        The samples to keep, those to forget, and ones that no model was trained on.
    oracle : nn.Module, several, or mapping of str to float, optional
        Models retrained without the forgotten samples, or their values by metric.
    edit : WeightEdit, optional
        What was applied: it is checked to be the difference of the two models, and its notes are
        kept. By default the difference itself.
    method : estimator or str
        What made the result. Of an estimator every parameter is recorded; if it is fitted, its edit
        is compared with the difference of the models.
    request : mapping of str to text, optional
        Fields of the request, such as "id", "asked by", "date", "reason". They are shown as given.
    seconds : float, optional
        What the unlearning took; by default what a fitted estimator has measured.
    retrain_seconds : float, optional
        What retraining takes.
    shadows : sequence of nn.Module, optional
        Models that were not trained on the forget set, for the metrics that use them.
    evaluation, before : Evaluation or mapping of str to float, optional
        `unlearnkit.metrics.evaluate` of result and base; by default called here.
    loss : callable, optional
        ``loss(model, batch) -> Tensor [N]`` for other tasks than classification. With it accuracies
        and membership are left out, unless `evaluation` brings them.
    salt : str, optional
        Key of the forget set's digest. By default a new random one, found in `Audit.salt`; "" for
        none, where whoever guesses the samples may confirm the guess.
    command : str
        The command line or code that made the result, for the section on reproduction.
    max_samples : int, optional
        Losses are those of at most so many samples of each set; also passed to `evaluate`.
    random_state : int
        Passed to `evaluate`, and recorded.

    Returns
    -------
    Audit

    Raises
    ------
    DataError
        If data is empty or does not fit the models, or an argument is of the wrong kind.
    EditMismatchError
        If the models differ in form, or `edit` is not their difference.

    Examples
    --------
    >>> import torch
    >>> from unlearnkit.report import audit
    >>> base, result = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    >>> X, y = torch.randn(60, 2), torch.arange(60) % 2
    >>> sets = {"retain": (X[:20], y[:20]), "forget": (X[20:40], y[20:40]), "test": (X[40:], y[40:])}
    >>> page = audit(base, result, **sets, method="noise", request={"id": "17"})
    >>> page.to_dict()["forget"]["n"]
    20
    """
    request_fields, said = request_facts(request), method_facts(method, seconds)
    kind, models = oracles_of(oracle)
    difference = WeightEdit.between(model, unlearned)
    if edit is not None and edit != difference:
        raise EditMismatchError(
            "edit= is not what turns model into unlearned: pass the two models before and after this very edit, or "
            "leave edit out"
        )
    salt = secrets.token_hex(16) if salt is None else salt
    forget_digest, n_forget = samples_digest(forget, salt, "forget")
    sets = {"forget": forget, "retain": retain, "unseen": test}
    losses = losses_of(model, unlearned, models, sets, loss, max_samples)
    if loss is None:
        keep = {"retain": retain, "forget": forget, "test": test, "oracle": oracle}
        keep |= {
            "original": model,
            "shadows": shadows,
            "max_samples": max_samples,
            "random_state": random_state,
        }
        times = {"seconds": said["seconds"], "retrain_seconds": retrain_seconds}
        before = evaluated(model, keep) if before is None else before
        evaluation = evaluated(unlearned, keep | times) if evaluation is None else evaluation
    scores = score_facts(before, evaluation)
    if kind == "none" and any(row["target"] is not None for row in scores):
        kind = "values"
    data: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds").replace("+00:00", "Z"),
        "request": request_fields,
        "forget": {
            "n": n_forget,
            "digest": forget_digest,
            "salted": bool(salt),
            "algorithm": "BLAKE2b of 16 bytes over the samples' sorted digests"
            + ", keyed with a salt" * bool(salt),
        },
        "method": said | {"command": clean(command), "audit_random_state": random_state},
        "model": model_facts(model, unlearned, difference),
        "edit": edit_facts(model, difference, {} if edit is None else edit.info),
        "oracle": {"kind": kind, "n": len(models)},
        "losses": losses,
        "scores": scores,
        "checks": checks_of(retain, forget, difference, edit, method),
        "environment": configuration(),
    }
    data["verdict"] = verdict(data)
    notes = tuple(clean(note) for note in getattr(evaluation, "notes", ()))
    if any(results is not None and not isinstance(results, Evaluation) for results in (before, evaluation)):
        notes += (HANDED_IN,)
    data["not_verified"] = open_points(data, notes)
    return Audit(data | {"digest": content_digest(data)}, salt)


def _check(data: Mapping[str, Any]) -> None:
    if not isinstance(data, Mapping) or data.get("format") != FORMAT:
        raise DataError(
            f"this is no audit: its format must be {FORMAT!r}; make one with unlearnkit.report.audit"
        )
    if data.get("version") != VERSION:
        raise DataError(
            f"this audit has the format version {data.get('version')!r}, this unlearnkit reads {VERSION}: use the "
            "unlearnkit that made it"
        )
    if content_digest(data) != data.get("digest"):
        raise DataError(
            "this audit was altered after it was made: its content does not have the digest that it tells. Take the "
            "file as it was saved"
        )
