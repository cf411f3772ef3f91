# SPDX-License-Identifier: BSD-3-Clause
"""The place of one oracle on disk, which several processes may want at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from torch import Tensor

from unlearnkit._tensor_file import read_manifest, read_tensors, write_tensors
from unlearnkit.exceptions import DataError, FallbackWarning, warn

KIND, VERSION = "unlearnkit.OracleBank", 1
ORACLE = "oracle"
LEFTOVERS = (".*.tmp", "*.part")


@dataclass(frozen=True)
class Slot:
    """A folder for what is kept of one oracle: its weights, its logits, and a lock.

    Files appear whole. All are written by the process that holds the lock, which the system frees
    when that process ends, however it ends.

    Parameters
    ----------
    root : Path
        The bank's folder.
    key : str
        Of data, recipe and form.
    seed : int
    """

    root: Path
    key: str
    seed: int

    @property
    def folder(self) -> Path:
        """Where the files lie."""
        return self.root / self.key / f"seed-{self.seed}"

    @contextmanager
    def claimed(self) -> Iterator[bool]:
        """Hold the lock; False, at once, where another process or thread holds it.

        Raises
        ------
        OSError
            If the folder cannot be written to.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.folder / "lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            held = False
        else:
            held = True
        try:
            if held:  # then what was being written is written by nobody any more
                for pattern in LEFTOVERS:
                    for path in self.folder.glob(pattern):
                        path.unlink(missing_ok=True)
            yield held
        finally:
            if held:
                lock.release()

    def read(self, name: str) -> dict[str, Tensor]:
        """Return the tensors that were kept under a name.

        Raises
        ------
        DataError
            If there are none, or the file is damaged, or belongs to another place.
        """
        path = self._path(name)
        manifest, tensors = read_tensors(path, KIND, VERSION)
        if (manifest.get("key"), manifest.get("seed"), manifest.get("name")) != (self.key, self.seed, name):
            raise DataError(f"cannot load {str(path)!r}: it was moved here, or renamed")
        return tensors

    def manifest(self, name: str) -> dict[str, Any]:
        """Return what was said of it, beside the tensors.

        Raises
        ------
        DataError
            If there is no such file.
        """
        return read_manifest(self._path(name), KIND, VERSION)

    def has(self, name: str) -> bool:
        """Tell whether something was kept under a name, and is undamaged."""
        try:
            self.read(name)
        except DataError:
            return False
        return True

    def recall(self, name: str) -> dict[str, Tensor] | None:
        """Return what was kept; None where there is nothing or, with a warning, where it is damaged."""
        if not self._path(name).exists():
            return None
        try:
            return self.read(name)
        except DataError as error:
            warn(f"{error}. It is computed again and replaced.", FallbackWarning)
            return None

    def write(self, name: str, about: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Keep tensors under a name; the lock must be held.

        Raises
        ------
        OSError
            If they cannot be written. Nothing is left behind then.
        """
        manifest = {"key": self.key, "seed": self.seed, "name": name, **about}
        # a copy: contiguous, on the CPU, and in memory that no other tensor shares
        copies = {key: tensor.detach().cpu().contiguous().clone() for key, tensor in tensors.items()}
        write_tensors(self._path(name), KIND, VERSION, manifest, copies)

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.safetensors"
