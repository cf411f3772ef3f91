# SPDX-License-Identifier: BSD-3-Clause
"""Digests by which a report can be held against models, samples and itself, and holds none of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from unlearnkit.data import as_loader, batch_size, in_order, preserved_rng, tensors_of
from unlearnkit.exceptions import DataError
from unlearnkit.parameters import bits, digest, named_tensors

SIZE = 16  # bytes of a BLAKE2b digest


def model_digest(model: nn.Module) -> str:
    """Return one digest of all tensors of a model: of the lines ``name digest``, in the model's order."""
    lines = (f"{name} {digest(tensor)}\n" for name, tensor in named_tensors(model).items())
    return hashlib.blake2b("".join(lines).encode(), digest_size=SIZE).hexdigest()


def samples_digest(data: Any, salt: str, name: str) -> tuple[str, int]:
    """Return a digest of a set of samples, and their number.

    Neither order nor batches count: each sample's tensors are digested under the key `salt`, and the
    sorted digests again.

    Raises
    ------
    DataError
        If there are no samples.
    """
    loader = as_loader(data, name=name)
    key = hashlib.blake2b(salt.encode()).digest() if salt else b""
    found: list[bytes] = []
    with preserved_rng(loader):
        for batch in in_order(loader):
            size = batch_size(batch)
            parts = [part for part in tensors_of(batch) if part.dim() > 0 and len(part) == size]
            found.extend(_one([part[at] for part in parts], key) for at in range(size))
    if not found:
        raise DataError(f"{name} is empty: it yielded no sample. Check its indices or filter.")
    whole = hashlib.blake2b(b"".join(sorted(found)), digest_size=SIZE, key=key)
    return whole.hexdigest(), len(found)


def content_digest(content: Mapping[str, Any]) -> str:
    """Return SHA-256 of a report's JSON without its own digest: keys sorted, no spaces, UTF-8."""
    rest = {key: value for key, value in content.items() if key != "digest"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


def _one(parts: list[Tensor], key: bytes) -> bytes:
    state = hashlib.blake2b(digest_size=SIZE, key=key)
    for part in parts:
        state.update(f"{part.dtype} {list(part.shape)}".encode())
        state.update(bits(part).cpu().numpy().tobytes())
    return state.digest()
