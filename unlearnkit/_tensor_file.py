# SPDX-License-Identifier: BSD-3-Clause
"""Tensors and a JSON manifest in one safetensors file that is written whole and read intact.

The library's entry in the file's metadata names what kind of object the file holds, the version
of its layout, the manifest, and a checksum over manifest and tensors. The entry is one string:
safetensors stores several entries in random order, and equal objects shall make equal files.
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from unlearnkit.exceptions import DataError
from unlearnkit.parameters import digest

_ENTRY = "unlearnkit"


def write_tensors(
    path: str | os.PathLike[str],
    kind: str,
    version: int,
    manifest: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
) -> None:
    """Write a file that holds everything or, after an error, is what it was before.

    Parameters
    ----------
    path : str or path-like
        File to make or replace. Its folder must exist.
    kind : str
        What the file holds, such as ``"unlearnkit.WeightEdit"``.
    version : int
        Version of the manifest's layout.
    manifest : mapping
        Anything that JSON can hold.
    tensors : mapping of str to torch.Tensor
        Contiguous, on the CPU, of any dtype that safetensors knows.

    Raises
    ------
    DataError
        If `path` is a folder, or lies in a folder that does not exist.
    """
    target = Path(os.path.realpath(path))  # through a link: replace the file, not the link
    if target.is_dir():
        raise DataError(f"cannot save to {str(path)!r}: it is a folder; give a file's name")
    if not target.parent.is_dir():
        raise DataError(
            f"cannot save to {str(path)!r}: its folder {str(target.parent)!r} does not exist; make it first"
        )
    head = {"kind": kind, "version": version, "manifest": manifest}
    entry = _json({**head, "checksum": _checksum(head, tensors)})
    content = safetensors.torch.save(dict(tensors), metadata={_ENTRY: entry})
    temporary = target.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        with open(temporary, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def read_tensors(
    path: str | os.PathLike[str], kind: str, version: int
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read a file of :func:`write_tensors`, and check that it is one and undamaged.

    Parameters
    ----------
    path : str or path-like
        The file.
    kind : str
        What it should hold.
    version : int
        Newest version of the manifest's layout that the caller can read.

    Returns
    -------
    manifest : dict
        As it was written, after a passage through JSON.
    tensors : dict of str to torch.Tensor
        On the CPU, in memory of their own.

    Raises
    ------
    DataError
        If the file is missing, damaged, of another kind or of a newer version.
    """
    with _opened(path, kind, version) as (file, head):
        keys = file.keys()
        tensors = {key: file.get_tensor(key).clone() for key in keys}
    if head.pop("checksum", None) != _checksum(head, tensors):
        raise DataError(
            f"cannot load {os.fspath(path)!r}: it is damaged, for its content does not match its checksum; "
            "fetch the file again"
        )
    return head["manifest"], tensors


def read_manifest(path: str | os.PathLike[str], kind: str, version: int) -> dict[str, Any]:
    """Read the manifest alone, whatever the size of the tensors: the checksum is not checked.

    Parameters
    ----------
    path, kind, version
        As of :func:`read_tensors`.

    Raises
    ------
    DataError
        If the file is missing, cut short, of another kind or of a newer version.
    """
    with _opened(path, kind, version) as (_, head):
        manifest: dict[str, Any] = head["manifest"]
    return manifest


@contextmanager
def _opened(path: str | os.PathLike[str], kind: str, version: int) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Open a file, and explain what is wrong with it, here and where it is read."""
    name = repr(os.fspath(path))
    if not os.path.isfile(path):
        found = "it is a folder" if os.path.isdir(path) else "there is no such file"
        raise DataError(f"cannot load {name}: {found}; give the path of a saved {kind}")
    try:
        with safe_open(os.fspath(path), framework="pt") as file:
            yield file, _head((file.metadata() or {}).get(_ENTRY), name, kind, version)
    except (SafetensorError, OSError) as error:
        raise DataError(
            f"cannot load {name}: it is no safetensors file, or it is cut short or damaged "
            f"({error}); give the path of a saved {kind}, or fetch the file again"
        ) from error


def _head(entry: str | None, name: str, kind: str, version: int) -> dict[str, Any]:
    """Return the parsed entry of a file, once it is of this kind and of a version that we know."""
    if entry is None:
        raise DataError(
            f"cannot load {name}: it is a safetensors file, but not one of unlearnkit (perhaps a "
            f"model's state dict); give the path of a saved {kind}"
        )
    try:
        head = json.loads(entry)
        found, its_version, _ = head["kind"], int(head["version"]), head["manifest"]
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(
            f"cannot load {name}: its unlearnkit entry is damaged ({error!r}); fetch the file again"
        ) from error
    if found != kind:
        raise DataError(f"cannot load {name}: it holds a {found}, expected a {kind}")
    if its_version > version:
        raise DataError(
            f"cannot load {name}: a newer unlearnkit wrote it (layout {its_version}, this one "
            f"reads up to {version}); upgrade unlearnkit"
        )
    return dict(head)


def _checksum(head: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    digests = {name: digest(tensor) for name, tensor in sorted(tensors.items())}
    return hashlib.blake2b(_json([head, digests]).encode(), digest_size=16).hexdigest()


def _json(content: Any) -> str:
    return json.dumps(content, separators=(",", ":"))
