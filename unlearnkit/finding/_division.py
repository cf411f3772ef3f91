# SPDX-License-Identifier: BSD-3-Clause
"""From two clusters to a clean and a noisy part, and how far to trust them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from unlearnkit.finding._clusters import Array, Clusters

# Measured with a small network on digits and on 6,000 images of CIFAR-10, three seeds each, after three
# lengths of training: 18 runs of clean data, and 18 of each kind and degree of noise.
DISTANCE = 2.5  # of attributions: clean data to 1.8, wrong labels to 2.3, input noise on half from 3.1
BHATTACHARYYA = (
    0.75  # of losses: clean data to 0.64, 20 and 40 % wrong labels that are not learned yet from 0.89
)
UNLIKE = 0.25  # standard deviations between the surprise of the two: input noise on half from 0.5
FEW = 50  # samples among which two clusters fall out by chance
IN_A_CLUSTER = 10


@dataclass(frozen=True)
class Division:
    """A division of N samples in two.

    Attributes
    ----------
    noise : array, shape [N]
        The probability of each to belong to the noisy part.
    separation : float
        In units of the least that counts as separated.
    trouble : str
        Why the parts are hardly to be told from each other; empty where they are.
    """

    noise: Array
    separation: float
    trouble: str = ""


def divide(
    clusters: Clusters | None,
    rows: Iterable[tuple[int, Array]],
    labels: Array | None,
    surprise: Array,
    by: str,
) -> Division:
    """Divide samples by two clusters of their features.

    Parameters
    ----------
    clusters : Clusters or None
        None where all rows are alike: then no sample is noisy.
    rows : iterable of (int, array of shape [m, D])
        Features in pieces, each with the number of its first sample.
    labels : array, shape [N], or None
        Classes whose means are taken off the features.
    surprise : array, shape [N]
        The cluster in which its mean is lower is the clean one.
    by : {"distance", "bhattacharyya"}
        How separation is measured.
    """
    total = len(surprise)
    if clusters is None:
        return Division(np.zeros(total), 0.0, "all of them look alike")
    posteriors = np.empty((total, 2))
    for start, part in rows:
        stop = start + len(part)
        posteriors[start:stop] = clusters.posteriors(part, None if labels is None else labels[start:stop])
    sizes = posteriors.sum(0)
    shares = posteriors / np.maximum(sizes, np.finfo(float).tiny)
    means = surprise @ shares  # [2]
    spread = np.sqrt(np.mean(((surprise[:, None] - means) ** 2 * shares).sum(0)))
    noisy = int(np.argmax(means))
    measured = clusters.distance / DISTANCE if by == "distance" else clusters.bhattacharyya / BHATTACHARYYA
    trouble = ""
    if total < FEW:
        trouble = f"they are only {total}, among which two clusters fall out by chance"
    elif sizes.min() < IN_A_CLUSTER:
        trouble = f"one cluster holds all but {sizes.min():.0f} of them"
    elif measured < 1:
        trouble = (
            f"the two clusters overlap: their separation is {measured:.2f}, and 1 is the least that counts"
        )
    elif abs(means[1] - means[0]) < UNLIKE * spread:
        trouble = "the two clusters have much the same loss, so that either may be the clean one"
    return Division(posteriors[:, noisy], float(measured), trouble)
