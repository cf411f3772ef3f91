# SPDX-License-Identifier: BSD-3-Clause
"""Noise and time steps that are a sample's own: a function of its values and a seed.

A loss that draws noise is another function at each call, so no two measurements agree, and a sample alone
is not what it is in a batch. Here the draws follow from the sample by integer arithmetic, which every
device does alike and ``vmap`` can walk.

Legend: N samples, D values of each.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

GOLDEN = 0x9E3779B97F4A7C15 - 2**64  # as signed numbers of 64 bits, here and below
FIRST, SECOND = 0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64
STREAM = 0x2545F4914F6CDD1D


def mixed(value: Tensor) -> Tensor:
    """Scramble int64 numbers, each of its own: the finaliser of SplitMix64.

    Notes
    -----
    Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.
    """
    value = value + GOLDEN
    value = (value ^ _shifted(value, 30)) * FIRST
    value = (value ^ _shifted(value, 27)) * SECOND
    return value ^ _shifted(value, 31)


def keys_of(x: Tensor, seed: int) -> Tensor:
    """Return a number for each sample [N], int64: another one wherever a value differs in float32.

    Parameters
    ----------
    x : Tensor [N, ...]
    seed : int
    """
    values = x.detach().float().contiguous().flatten(1).view(torch.int32).long()  # [N, D]
    places = mixed(torch.arange(values.shape[1], device=x.device) + _wrapped(seed * STREAM))
    return mixed(mixed(values + places).sum(1))


def uniform(keys: Tensor, stream: int) -> Tensor:
    """Return numbers in (0, 1), float64, one for each key; each stream's are others."""
    bits = _shifted(mixed(keys + _wrapped(stream * STREAM)), 11)  # 53 of them
    return (bits.double() + 0.5) * 2.0**-53


def normal(keys: Tensor, shape: torch.Size, stream: int) -> Tensor:
    """Return standard normal numbers [N, *shape], float64, by Box and Muller's way.

    Parameters
    ----------
    keys : Tensor [N]
    shape : torch.Size
    stream : int
        Each stream's are others.
    """
    pairs = (shape.numel() + 1) // 2
    places = mixed(torch.arange(2 * pairs, device=keys.device) + STREAM)  # [2 pairs]
    drawn = uniform(keys[:, None] + places, stream)  # [N, 2 pairs]
    length = (-2 * drawn[:, :pairs].log()).sqrt()
    angle = 2 * math.pi * drawn[:, pairs:]
    both = torch.cat([length * angle.cos(), length * angle.sin()], 1)[:, : shape.numel()]
    return both.reshape(-1, *shape)


def _wrapped(number: int) -> int:
    """Return the number as 64 bits hold it."""
    return (number + 2**63) % 2**64 - 2**63


def _shifted(value: Tensor, by: int) -> Tensor:
    """Shift right, with zeros from the left."""
    return (value >> by) & (2 ** (64 - by) - 1)
