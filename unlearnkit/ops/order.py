# SPDX-License-Identifier: BSD-3-Clause
"""Order statistics over lists of tensors."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from unlearnkit.exceptions import DataError


def percentile(tensors: Iterable[Tensor], q: float) -> float:
    """Return the q-th percentile over the finite values of all tensors together.

    By NumPy's ``linear`` method, and without the limit of ``torch.quantile`` to 2^24 values.

    Parameters
    ----------
    tensors : iterable of Tensor
    q : float
        From 0 to 100.

    Raises
    ------
    DataError
        If no value is finite.
    """
    parts = [tensor.detach().flatten() for tensor in tensors]
    parts = [part[torch.isfinite(part)] for part in parts]
    if sum(part.numel() for part in parts) == 0:
        raise DataError("no value is finite, so there is no percentile.")
    # NumPy knows no bfloat16
    arrays = [part.to(torch.promote_types(part.dtype, torch.float32)).cpu().numpy() for part in parts]
    return float(np.percentile(np.concatenate(arrays), q, overwrite_input=True))
