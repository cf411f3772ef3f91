# SPDX-License-Identifier: BSD-3-Clause
"""Memory that outlives a call."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class Workspace:
    """Buffers that are used again and again: fresh memory costs more than what is computed in it.

    Every page of a large new tensor is mapped and zeroed by the operating system at its first touch; for the
    im2col of a ResNet that took longer than the convolutions.
    """

    def __init__(self) -> None:
        self._buffers: dict[tuple[str, torch.dtype, torch.device], Tensor] = {}

    def take(self, slot: str, shape: Sequence[int], like: Tensor) -> Tensor:
        """Return an uninitialised tensor, valid until the next call for the same slot."""
        size = torch.Size(shape).numel()
        key = (slot, like.dtype, like.device)
        buffer = self._buffers.get(key)
        if buffer is None or buffer.numel() < size:
            buffer = self._buffers[key] = like.new_empty(size)
        return buffer[:size].view(*shape)
