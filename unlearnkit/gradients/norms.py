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
from unlearnkit.ops import plane_sums, row_sums


def _planes(
    input: Tensor, run: Any, weights: Any, statistics: Callable[[Tensor], tuple[Tensor, Tensor]]
) -> Use:
    """A norm layer with a weight for each channel; `statistics` returns center and scale, [N, C] or [C].

    The normalised input is computed again, never (y - b) / w: a weight may be zero.
    """

    def contribute(g: Tensor, split: Split) -> list[Contribution]:
        x = upcast(input)
        center, scale = (part.to(x.dtype) for part in statistics(x))
        return [Direct(split(sums).sum(1)) for sums in plane_sums(x, upcast(g), center, scale)]

    return Use(weights, run, first_dim, contribute, (input,))


def _rows(input: Tensor, run: Any, weights: Any, kept: int, eps: float, is_centered: bool) -> Use:
    """A norm layer with a weight for each number in the `kept` trailing dimensions."""
    shape = input.shape[input.dim() - kept :]

    def contribute(g: Tensor, split: Split) -> list[Contribution]:
        x, by_sample = upcast(split(input)), upcast(split(g))
        both = row_sums(x, by_sample, shape.numel(), eps, is_centered)
        return [Direct(sums.unflatten(1, shape)) for sums in both]

    return Use(weights, run, leading(kept), contribute, (input,))


def _moments(x: Tensor, groups: int, eps: float) -> tuple[Tensor, Tensor]:
    """Return mean and 1 / sqrt(var + eps) of groups of channels, for each channel: [N, C]."""
    var, mean = torch.var_mean(x.reshape(len(x), groups, -1), 2, correction=0)  # [N, G]
    repeats = x.shape[1] // groups
    return mean.repeat_interleave(repeats, 1), (var + eps).rsqrt().repeat_interleave(repeats, 1)


@rule(F.layer_norm)
def layer_norm(
    input: Tensor, normalized_shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5
) -> Use:
    """g_n of gamma is sum_t g xhat, of beta sum_t g."""
    return _rows(
        input,
        lambda w: F.layer_norm(input, normalized_shape, w[0], w[1], eps),
        [weight, bias],
        len(normalized_shape),
        eps,
        is_centered=True,
    )


@rule(F.rms_norm)
def rms_norm(input: Tensor, normalized_shape: Any, weight: Any = None, eps: float | None = None) -> Use:
    """g_n of gamma is sum_t g xhat."""
    return _rows(
        input,
        lambda w: F.rms_norm(input, normalized_shape, w[0], eps),
        [weight],
        len(normalized_shape),
        _default_eps(input.dtype, input.device) if eps is None else eps,
        is_centered=False,
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
    return _planes(
        input,
        lambda w: F.group_norm(input, num_groups, w[0], w[1], eps),
        [weight, bias],
        lambda x: _moments(x, num_groups, eps),
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
    # the statistics are moved by a call that uses the input's own, so they are not looked at here
    fixed = None if use_input_stats else (running_mean, running_var)
    return _planes(
        input,
        lambda w: F.instance_norm(
            input, running_mean, running_var, w[0], w[1], use_input_stats, momentum, eps
        ),
        [weight, bias],
        lambda x: _moments(x, x.shape[1], eps) if fixed is None else _given(*fixed, eps),
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

    return _planes(
        input,
        lambda w: straight(F.batch_norm(input, running_mean, running_var, w[0], w[1], False, momentum, eps)),
        [weight, bias],
        lambda x: _given(running_mean, running_var, eps),
    )


def _given(mean: Any, var: Any, eps: float) -> tuple[Tensor, Tensor]:
    """Return center and scale [C] of running statistics."""
    return mean, (var + eps).rsqrt()
