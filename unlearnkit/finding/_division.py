# SPDX-License-Identifier: BSD-3-Clause
"""From two clusters to a clean and a noisy part, and how far to trust them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from unlearnkit.finding._clusters import Array, Clusters

# What two clusters must reach to be told from each other: a distance, and how far their mean surprise lies apart, in
# standard deviations. Measured with two small networks on digits and on 6,000 images of CIFAR-10, three seeds each,
# after three lengths of training (3 to 60 epochs). In brackets the surprise of the runs that come closest.
#   distance: clean data to 1.8 (0.4), wrong labels to 2.2 (0.2), input noise on half of the images from 2.4 (0.6)
#   bhattacharyya: clean data to 0.85 (0.5) and 0.77 (1.7), 20 and 40 % wrong labels from 0.89 (1.9), and to 0.75
#   where they are known by heart
LEAST: dict[str, tuple[float, float]] = {"distance": (2.25, 0.35), "bhattacharyya": (0.85, 1.0)}
ROOM = 60  # samples: two clusters of a single cloud of 8 columns lie as far apart as distance * (1 + ROOM / samples)
FEW = 50  # samples among which two clusters fall out by chance
IN_A_CLUSTER = 10
OF_A_CLASS = (
    0.8  # what of a class is no noise: to 0.67 of one with 40 % wrong labels, from 0.83 of one that is hard
)
AT_LEAST = 20  # samples that a class must have for that
MOST = 0.8  # of the samples: what more of them are is not noise; of half the images 0.71 were found


@dataclass(frozen=True)
class Division:
    """A division of N samples in two.

    Attributes
    ----------
    noise : array, shape [N]
        The probability of each to belong to the noisy part.
    separation : float
        In units of the least that counts as separated; the smaller of the two in :data:`LEAST`.
    trouble : str
        Why the parts are hardly to be told from each other; empty where they are.
    """

    noise: Array
    separation: float
    trouble: str = ""


def divide(
    candidates: Iterable[Clusters | None],
    rows: Iterable[tuple[int, Array]],
    labels: Array | None,
    surprise: Array,
    by: str,
    even: float = -np.inf,
) -> Division:
    """Divide samples by two clusters of their features.

    Parameters
    ----------
    candidates : iterable of Clusters or None
        Fits from different starts, of which the one that separates best is taken: the likeliest
        may be of two groups of classes. None where all rows are alike; without any other no sample is noisy.
    rows : iterable of (int, array of shape [m, D])
        Features in pieces, each with the number of its first sample.
    labels : array, shape [N], or None
        Classes whose means are taken off the features.
    surprise : array, shape [N]
        The cluster in which its mean is higher is the noisy one.
    by : {"distance", "bhattacharyya"}
        How separation is measured.
    even : float
        What the mean surprise of the noisy cluster must lie above.
    """
    fitted = [clusters for clusters in candidates if clusters is not None]
    if not fitted:
        return Division(np.zeros(len(surprise)), 0.0, "all of them look alike")
    posteriors = [np.empty((len(surprise), 2)) for _ in fitted]
    for start, part in rows:
        stop = start + len(part)
        own = None if labels is None else labels[start:stop]
        for clusters, found in zip(fitted, posteriors, strict=True):
            found[start:stop] = clusters.posteriors(part, own)
    divisions = [
        _division(getattr(clusters, by), found, surprise, by, even)
        for clusters, found in zip(fitted, posteriors, strict=True)
    ]
    return max(divisions, key=lambda division: (not division.trouble, division.separation))


def _division(distance: float, posteriors: Array, surprise: Array, by: str, even: float) -> Division:
    """Return which of two clusters is noisy, by `posteriors` [N, 2], and whether to trust it."""
    sizes = posteriors.sum(0)
    shares = posteriors / np.maximum(sizes, np.finfo(float).tiny)
    means = surprise @ shares  # [2]
    spread = np.sqrt(np.mean(((surprise[:, None] - means) ** 2 * shares).sum(0)))
    with np.errstate(over="ignore"):
        apart = abs(means[1] - means[0]) / max(spread, np.finfo(float).tiny)
    least, least_apart = LEAST[by]
    if by == "distance":
        least *= 1 + ROOM / len(surprise)
    separation = float(min(distance / least, apart / least_apart))
    noise = posteriors[:, int(np.argmax(means))]
    trouble = ""
    if len(surprise) < FEW:
        trouble = f"they are only {len(surprise)}, among which two clusters fall out by chance"
    elif sizes.min() < IN_A_CLUSTER:
        trouble = f"one cluster holds all but {sizes.min():.0f} of them"
    elif noise.mean() > MOST:
        trouble = f"the cluster of higher loss holds {noise.mean():.0%} of them, and noise is the exception"
    elif separation < 1:
        what = "overlap" if distance / least < apart / least_apart else "have much the same loss"
        trouble = (
            f"the two clusters {what}: their separation is {separation:.2f}, and 1 is the least that counts"
        )
    elif means.max() <= even:
        trouble = "the model holds the labels of both clusters to be likelier right than wrong"
    return Division(noise, separation, trouble)


def of_a_class(is_noisy: Array, labels: Array | None) -> str:
    """Say which class the noisy part is mostly made of; nothing where it is of all of them.

    Of a class that is hard to tell from another every loss is large, whether a label is wrong or not.

    Parameters
    ----------
    is_noisy : array of bool, shape [N]
    labels : array, shape [N], or None
    """
    if labels is None or not len(labels):
        return ""
    classes, members = np.unique(labels, return_inverse=True)
    count = np.bincount(members)
    shares = np.where(count < AT_LEAST, 0.0, np.bincount(members, weights=is_noisy) / count)  # [K]
    hit, whole = int(shares.argmax()), float(is_noisy.mean())
    if len(classes) < 2 or shares[hit] < OF_A_CLASS or whole >= OF_A_CLASS:
        return ""
    return (
        f"it holds {shares[hit]:.0%} of the samples of class {classes[hit]}, and {whole:.0%} of all, so it may be "
        "what is hard and not what is wrong: look at some of them"
    )
