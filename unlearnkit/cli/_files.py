# SPDX-License-Identifier: BSD-3-Clause
"""The files that a command writes: refused before the work where they cannot be, written whole or not at all."""

from __future__ import annotations

import os
import signal
import threading
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from unlearnkit.cli._errors import WrongUse

TENSORS = (".safetensors",)
PAGES = (".html", ".json")
TABLES = (".csv",)


class Outputs:
    """The outputs of one command.

    They are written under other names beside their place, and all put there by :meth:`commit`;
    without it, after an error or an interrupt, none is.

    Parameters
    ----------
    force : bool
        Whether files may be replaced.
    inputs : iterable of str or None
        What the command reads, which is never replaced.
    """

    def __init__(self, force: bool, inputs: Iterable[str | None]) -> None:
        self._force = force
        self._inputs = [Path(text) for text in inputs if text and Path(text).exists()]
        self._places: dict[str, tuple[Path, Path]] = {}
        self.options: dict[str, list[str]] = {}

    def add(self, option: str, paths: str | Sequence[str] | None, suffixes: Sequence[str]) -> None:
        """Announce files to be written.

        Raises
        ------
        WrongUse
            If one cannot be, must not be, or has an ending that says something else than its content.
        """
        for text in [paths] if isinstance(paths, str) else paths or ():
            self._check(option, text, suffixes)
            place = Path(os.path.realpath(text))  # through a link: replace the file, not the link
            hidden = place.with_name(f".{place.stem}.{uuid.uuid4().hex[:12]}.tmp{place.suffix}")
            self._places[text] = place, hidden
            self.options.setdefault(option, []).append(text)

    def row(self) -> dict[str, str]:
        """Return what a person is told of the files; nothing where there are none."""
        return {"written": ", ".join(self._places)} if self._places else {}

    def at(self, text: str) -> Path:
        """Return where to write an announced file for the time being."""
        return self._places[text][1]

    def commit(self) -> None:
        """Put all files into their places."""
        with _uninterrupted():
            for place, hidden in self._places.values():
                if hidden.exists():
                    os.replace(hidden, place)

    def __enter__(self) -> Outputs:
        return self

    def __exit__(self, *error: object) -> None:
        for _, hidden in self._places.values():
            hidden.unlink(missing_ok=True)

    def _check(self, option: str, text: str, suffixes: Sequence[str]) -> None:
        path = Path(text)
        if path.suffix.lower() not in suffixes:
            raise WrongUse(
                f"{option} {text}: the file's name must end in {' or '.join(suffixes)}, as what it will hold."
            )
        if path.is_dir():
            raise WrongUse(f"{option} {text}: that is a folder; give the name of a file.")
        folder = path.parent
        if not folder.is_dir():
            raise WrongUse(f"{option} {text}: there is no folder {str(folder)!r}; make it first.")
        if not os.access(folder, os.W_OK):
            raise WrongUse(f"{option} {text}: the folder {str(folder)!r} cannot be written to.")
        if path.exists() and any(path.samefile(other) for other in self._inputs):
            raise WrongUse(
                f"{option} {text}: this command reads that file, so it will not write it, even with --force."
            )
        if os.path.realpath(path) in {str(place) for place, _ in self._places.values()}:
            raise WrongUse(f"{option} {text}: two outputs cannot be one file.")
        if path.exists() and not self._force:
            raise WrongUse(f"{option} {text}: the file exists; give another name, or --force to replace it.")


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Let Ctrl-C wait: between two renamings it would leave half of the files."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
