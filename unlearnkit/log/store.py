# SPDX-License-Identifier: BSD-3-Clause
"""The folder of a log: what is in it appears by one rename, or not at all.

``log.json`` names every other file that counts. A request's files are written first, then
``log.json`` is replaced; what a killed process left behind is named by nothing, and swept up.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import secrets
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock

from unlearnkit.exceptions import DataError
from unlearnkit.log.entries import Entry
from unlearnkit.log.samples import SIZE, check_salt

KIND, VERSION = "unlearnkit.ForgetLog", 1
FOLDERS = ("edits", "samples", "reference")
OURS = re.compile(r"\d{4,}\.(safetensors|bin)|\..*\.tmp")
BEGUN = re.compile(r"0001\.safetensors|\..*\.tmp")
"""What a log that was killed while it was made may have left in the folder of references."""


@dataclass(frozen=True)
class Reference:
    """Where the importance of what is retained is kept, and what it was measured on.

    Attributes
    ----------
    file : str
    kind : str
        As :attr:`unlearnkit.Importance.kind`.
    anchor : int
        After how many of the requests that stand the model was as it was measured: 0 is the base.
    previous : str
        The file before the last request, which undo needs; empty where there is none.
    """

    file: str
    kind: str
    anchor: int = 0
    previous: str = ""

    def back(self) -> Reference:
        """Return what it was before the last request."""
        return replace(self, file=self.previous, previous="")


@dataclass(frozen=True)
class State:
    """The content of ``log.json``.

    Attributes
    ----------
    revision : int
        Goes up by one with every commit.
    base, head : str
        Digests of the model before the first request and after the last.
    tensors : dict of str to str
        Digest of each tensor of the head.
    base_length : float
        Euclidean length of the base's weights.
    salt_digest : str
        Of the salt, wherever that is kept.
    random_state : int
    n_train : int or None
    entries : tuple of Entry
        In the order in which they came.
    undoable : bool
        Whether the last request that stands may be undone.
    reference : Reference or None
    """

    base: str
    head: str
    tensors: dict[str, str]
    base_length: float
    salt_digest: str
    random_state: int
    n_train: int | None = None
    entries: tuple[Entry, ...] = ()
    undoable: bool = False
    reference: Reference | None = None
    revision: int = 0

    @property
    def standing(self) -> list[Entry]:
        """The requests that were not undone."""
        return [entry for entry in self.entries if entry.status == "applied"]

    @property
    def digests(self) -> list[str]:
        """Of the model before the first of the requests that stand, and after each of them."""
        return [self.base, *(entry.result for entry in self.standing)]

    def files(self) -> set[str]:
        """Return the files that count, relative to the folder."""
        named = {edit_file(entry.number) for entry in self.standing}
        named |= {samples_file(entry.number) for entry in self.standing}
        if self.reference is not None:
            named |= {self.reference.file, self.reference.previous} - {""}
        return named


def edit_file(number: int) -> str:
    """Return where a request's edit is."""
    return f"edits/{number:04d}.safetensors"


def samples_file(number: int) -> str:
    """Return where the digests of a request's samples are."""
    return f"samples/{number:04d}.bin"


class Store:
    """A log's folder.

    Parameters
    ----------
    folder : path
        Made where it does not exist.

    Raises
    ------
    DataError
        If it is a file, or a folder with other things in it.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        if self.folder.exists() and not self.folder.is_dir():
            raise DataError(f"{str(self.folder)!r} is a file: give the log a folder.")
        known = {"log.json", "salt", "lock", *FOLDERS}
        if self.folder.is_dir() and not self.path.exists():
            others = {path.name for path in self.folder.iterdir()} - known
            if others := {name for name in others if not OURS.fullmatch(name)}:
                raise DataError(
                    f"{str(self.folder)!r} holds other things ({min(others)!r}) and no log: give the log a "
                    "folder of its own."
                )
        for name in FOLDERS:
            (self.folder / name).mkdir(parents=True, exist_ok=True)

    @property
    def path(self) -> Path:
        """The file that counts."""
        return self.folder / "log.json"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes and threads out; waits for the one that is in."""
        with FileLock(self.folder / "lock"):  # a new one: a lock that a fork inherited is none
            yield

    def read(self) -> State | None:
        """Return what was committed last; None where nothing was.

        Raises
        ------
        DataError
            If the log is damaged, or of a newer version, or a file that it names is missing; if there is none,
            and its folders hold what is no new log's.
        """
        if not self.path.exists():
            self._check_new()
            return None
        try:
            content = json.loads(self.path.read_bytes())
            found, version, row = content["kind"], int(content["version"]), content["log"]
            if found != KIND:
                raise DataError(f"{str(self.path)!r} holds a {found}, expected a {KIND}.")
            if version > VERSION:
                raise DataError(
                    f"{str(self.path)!r} was written by a newer unlearnkit (layout {version}, this one reads "
                    f"up to {VERSION}): upgrade unlearnkit."
                )
            if content["checksum"] != _checksum(row):
                raise ValueError("its content does not match its checksum")
            state = _state(row)
        except (ValueError, KeyError, TypeError) as error:
            if isinstance(error, DataError):
                raise
            raise DataError(
                f"{str(self.path)!r} is damaged ({error}): put a copy of the folder back."
            ) from error
        for name in sorted(state.files()):
            if not (self.folder / name).is_file():
                raise DataError(
                    f"{str(self.folder / name)!r} is missing, and the log names it: put a copy of the folder back."
                )
        return state

    def commit(self, state: State) -> None:
        """Make `state` the log, at one moment; the files that it names are there."""
        for name in (*FOLDERS, "."):
            _sync(self.folder / name)
        row = asdict(state)
        content = {"kind": KIND, "version": VERSION, "checksum": _checksum(row), "log": row}
        self._write(self.path, json.dumps(content, indent=1).encode())
        _sync(self.folder)

    def sweep(self, state: State | None) -> None:
        """Remove what nothing names: left by a killed process, or undone."""
        named = set() if state is None else state.files()
        for path in self.folder.glob(".*.tmp"):
            path.unlink()
        for folder in FOLDERS:
            for path in (self.folder / folder).iterdir():
                if f"{folder}/{path.name}" not in named and OURS.fullmatch(path.name):
                    path.unlink()

    def open_salt(self, given: bytes | None, state: State | None) -> bytes:
        """Return the key of the samples' digests: the one given, or the one kept in the folder.

        A new log without a given one makes one and keeps it, for its owner's eyes alone.

        Raises
        ------
        DataError
            If there is none, or it is not this log's.
        """
        path = self.folder / "salt"
        if given is not None:
            check_salt(given)
        if state is None:
            salt = given or secrets.token_bytes(32)
            if given is None:
                self._write(path, salt)
            return salt
        salt = given or (path.read_bytes() if path.exists() else b"")
        if salt_digest(salt) != state.salt_digest:
            if salt:
                said = f"the salt {'given' if given else 'in the folder'} is not the one that this log was begun with"
            else:
                said = "this log's salt is not kept in its folder"
            raise DataError(f"{said}, so it cannot recognise samples: pass the right one as salt=.")
        return salt

    def write_samples(self, number: int, digests: Iterable[bytes]) -> str:
        """Keep the digests of a request's samples, sorted, so that their order tells nothing."""
        content = b"".join(sorted(set(digests)))
        self._write(self.folder / samples_file(number), content)
        return _digest(content)

    def read_samples(self, entry: Entry) -> set[bytes]:
        """Return the digests of a request's samples.

        Raises
        ------
        DataError
            If the file is damaged.
        """
        path = self.folder / samples_file(entry.number)
        content = path.read_bytes()
        if _digest(content) != entry.samples_checksum:
            raise DataError(f"{str(path)!r} is damaged: put a copy of the folder back.")
        return {content[at : at + SIZE] for at in range(0, len(content), SIZE)}

    def _check_new(self) -> None:
        """Refuse folders with things in them, which sweeping would remove.

        Raises
        ------
        DataError
            If there are such.
        """
        for folder in FOLDERS:
            for path in (self.folder / folder).glob("*"):
                if not (folder == "reference" and BEGUN.fullmatch(path.name)):
                    raise DataError(
                        f"{str(path)!r} is there, and no log.json: if this was a log, put a copy of its log.json "
                        "back; if not, give the log a folder of its own."
                    )

    def _write(self, path: Path, content: bytes) -> None:
        temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")
        try:
            with open(temporary, "xb", opener=_private) as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def salt_digest(salt: bytes) -> str:
    """Return what tells a salt from another one."""
    return _digest(b"salt" + salt)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _state(row: dict[str, Any]) -> State:
    entries = tuple(Entry.from_dict(entry) for entry in row["entries"])
    stored = row["reference"]
    reference = None if stored is None else Reference(**stored)
    return State(**{**row, "entries": entries, "reference": reference})


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _checksum(row: dict[str, Any]) -> str:
    return _digest(json.dumps(row, sort_keys=True, separators=(",", ":")).encode())


def _sync(folder: Path) -> None:
    """Have the names in a folder outlive a power failure, where the system can do that."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
