# SPDX-License-Identifier: BSD-3-Clause
"""Rules of the norm layers. Their gradients are small, so they are taken as they are.

Legend: N samples, m rows of a sample, C channels.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from unlearnkit.exceptions import UnsupportedModuleError
from unlearnkit.gradients._straight import straight
from unlearnkit.gradients._use import Split, Use, first_dim, is_weight, leading, rule
from unlearnkit.gradients.pairs import Contribution, Direct, accumulation_dtype, upcast


def _normalised(
    input: Tensor, normalise: Callable[[Tensor], Tensor], run: Any, weights: Any, kept: int | None
) -> Use:
    """An affine norm layer, of which `kept` trailing dimensions (None: channels, 1) carry the weights.

    The normalised input is computed again, never (y - b) / w: a weight may be zero.
    """

    def contribute(g: Tensor, split: Split) -> list[Contribution]:
        scaled, shift = upcast(g) * normalise(upcast(input)), upcast(g)
        if kept is None:
            # [N, m, C, ...], or [N, m, C] without positions, to [N, C]
            return [Direct(split(t)[..., None].flatten(3).sum((1, 3))) for t in (scaled, shift)]
        return [Direct(split(t).flatten(1, -kept - 1).sum(1)) for t in (scaled, shift)]

    dims = first_dim if kept is None else leading(kept)
    return Use(weights, run, dims, contribute, (input,))


@rule(F.layer_norm)
def layer_norm(
    input: Tensor, normalized_shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5
) -> Use:
    """g_n of gamma is sum_t g xhat, of beta sum_t g."""
    return _normalised(
        input,
        lambda x: F.layer_norm(x, normalized_shape, eps=eps),
        lambda w: F.layer_norm(input, normalized_shape, w[0], w[1], eps),
        [weight, bias],
        len(normalized_shape),
    )


@rule(F.rms_norm)
def rms_norm(input: Tensor, normalized_shape: Any, weight: Any = None, eps: float | None = None) -> Use:
    """g_n of gamma is sum_t g xhat."""
    return _normalised(
        input,
        lambda x: F.rms_norm(
            x, normalized_shape, eps=_default_eps(input.dtype, input.device) if eps is None else eps
        ),
        lambda w: F.rms_norm(input, normalized_shape, w[0], eps),
        [weight],
        len(normalized_shape),
    )


@functools.cache
def _default_eps(dtype: torch.dtype, device: torch.device) -> float:
    """Return what rms_norm adds where it is given no eps, which must survive the upcast.

    By its documentation the machine epsilon of the input's dtype; torch 2.13 takes float32's for halves.
    """
    if dtype == accumulation_dtype(dtype):
        return torch.finfo(dtype).eps
    probe = F.rms_norm(torch.full((1,), 1e-3, dtype=dtype, device=device), (1,))
    return torch.finfo(dtype if float(probe) < 0.5 else torch.float32).eps


@rule(F.group_norm)
def group_norm(
    input: Tensor, num_groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5
) -> Use:
    """g_n of gamma is sum over space of g xhat, a channel each."""
    return _normalised(
        input,
        lambda x: F.group_norm(x, num_groups, eps=eps),
        lambda w: F.group_norm(input, num_groups, w[0], w[1], eps),
        [weight, bias],
        None,
    )


@rule(F.instance_norm)
def instance_norm(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Use:
    """As GroupNorm; with running statistics in eval mode, as BatchNorm."""

    def call(x: Tensor, mean: Any, var: Any, w: Any, b: Any) -> Tensor:
        return F.instance_norm(x, mean, var, w, b, use_input_stats, momentum, eps)

    def normalise(x: Tensor) -> Tensor:
        # the statistics are moved by a call that uses the input's own, so this one does not see them
        mean, var = (None, None) if use_input_stats else (running_mean, running_var)
        return call(x, _like(mean, x), _like(var, x), None, None)

    return _normalised(
        input, normalise, lambda w: call(input, running_mean, running_var, *w), [weight, bias], None
    )


@rule(F.batch_norm)
def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Use | None:
    """In eval mode an affine map of each channel. In train mode samples mix, and it is refused."""
    if is_weight(input):  # weight standardisation
        return None
    if training:
        raise UnsupportedModuleError(
            "BatchNorm that normalises by the batch's own statistics mixes its samples, so the gradient of one "
            "sample is not defined. Call model.eval(); with track_running_stats=False, replace the layer "
            "(GroupNorm normalises sample by sample)."
        )

    def normalise(x: Tensor) -> Tensor:
        return F.batch_norm(x, _like(running_mean, x), _like(running_var, x), eps=eps)

    return _normalised(
        input,
        normalise,
        lambda w: straight(F.batch_norm(input, running_mean, running_var, w[0], w[1], False, momentum, eps)),
        [weight, bias],
        None,
    )


def _like(statistics: Tensor | None, x: Tensor) -> Tensor | None:
    return None if statistics is None else statistics.to(x.dtype)
