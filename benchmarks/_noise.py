# SPDX-License-Identifier: BSD-3-Clause
"""Training sets of which a part is bad, the hidden truth beside them, and how well it was found."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from _data import Data, Splits, _draw, forget_flipped


class Noisy(NamedTuple):
    """What a user has (`train`), what they do not know (`is_noisy`, bool [N]), and clean held-out data."""

    train: Data
    is_noisy: Tensor
    validation: Data
    test: Data


def input_noise(splits: Splits, seed: int, share: float, sigma: float) -> Noisy:
    """Spoil a random `share` of the training images: + N(0, sigma^2), then clamped to [0, 1]; labels stay.

    As RLAP's code does it, to images that are standardised already, so that the spoilt ones differ
    from the others in their range too. Of each sample the noise is drawn once, with a seed of its
    own (theirs is drawn anew at each access).
    """
    x, y = splits.train
    chosen, spoilt = _draw(len(y), seed, share), x.clone()
    for at in chosen.tolist():
        words = np.random.SeedSequence([seed, at]).generate_state(1, np.uint64)
        generator = torch.Generator().manual_seed(int(words[0] >> 1))
        spoilt[at] = (x[at] + sigma * torch.randn(x[at].shape, generator=generator)).clamp(0, 1)
    return Noisy((spoilt, y), _mask(len(y), chosen), *splits[1:])


def label_noise(splits: Splits, seed: int, share: float) -> Noisy:
    """Give a random `share` of the training samples a wrong label, uniform over the other classes."""
    flipped = forget_flipped(splits, seed, share).train
    return Noisy(flipped, flipped[1] != splits.train[1], *splits[1:])


ARMS: dict[str, Callable[[Splits, int], Noisy]] = {
    "input": partial(input_noise, share=0.5, sigma=4.5),
    "label20": partial(label_noise, share=0.2),
    "label40": partial(label_noise, share=0.4),
}


def quality(is_noisy: Tensor, noise: Tensor, found: Tensor) -> dict[str, float]:
    """How good a partition is: `noise` [N] says how likely each sample is bad, `found` [N] what is taken out.

    `auc` is that of `noise`, 0.5 by chance; `purity` the share of clean samples among those kept,
    `recall` the share of the noisy ones that are taken out, `removed` that of all samples.
    """
    kept = ~found
    return {
        "auc": float(roc_auc_score(is_noisy.numpy(), noise.numpy())),
        "purity": float((~is_noisy)[kept].float().mean()) if kept.any() else float("nan"),
        "recall": float(found[is_noisy].float().mean()),
        "removed": float(found.float().mean()),
    }


def _mask(total: int, chosen: Tensor) -> Tensor:
    mask = torch.zeros(total, dtype=torch.bool)
    mask[chosen] = True
    return mask
