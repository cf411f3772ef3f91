# SPDX-License-Identifier: BSD-3-Clause
"""What a generator still makes: the share of a class, and how far its images are from real ones.

Legend: N images, C channels, H x W pixels, K classes, D features.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.random import RandomState
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from unlearnkit.data import device_of, evaluating, forward
from unlearnkit.exceptions import DataError, SmallSampleWarning, UnsupportedModuleError, warn
from unlearnkit.metrics import Interval, mean_interval
from unlearnkit.metrics.classification import check_logits
from unlearnkit.parameters import unwrap
from unlearnkit.structure.layers import before_head, called_layers

__all__ = ["class_share", "features_of", "frechet_distance"]

FEW = 10  # images a feature: with fewer a Fréchet distance is mostly its bias


def class_share(
    classifier: nn.Module,
    images: Tensor,
    classes: ArrayLike,
    *,
    confidence: float = 0.95,
    n_bootstrap: int = 1000,
    batch_size: int = 128,
    random_state: int | RandomState | None = 0,
) -> Interval:
    """Share of generated images that a classifier takes for the class they were made for.

    Of images made for the forgotten class it is what is left of it, and 1 less the share is the
    "unlearning accuracy" (UA) of Fan et al., "SalUn", arXiv 2310.12508, whose code takes 500 images and
    a ResNet-34 fine-tuned on the data set. Of images for the other classes it is what was kept.

    Parameters
    ----------
    classifier : nn.Module
        Of the same classes. It takes images in the generator's range; put what scales or normalises
        them before it: ``nn.Sequential(Resize(224), network)``. It is left as it was found.
    images : Tensor [N, C, H, W]
    classes : array_like [N]
        What each was made for.
    confidence, n_bootstrap, random_state
        As of :func:`unlearnkit.metrics.mean_interval`.
    batch_size : int
        Images at a time.

    Returns
    -------
    Interval
        Over the draw of the noise, for this very model and classifier.

    Raises
    ------
    DataError
        If there is no image, or the classifier's output or the classes do not fit.

    Notes
    -----
    **A small share is no evidence of forgetting.** Noise, grey areas and images of another class all have
    it: look at them (:func:`~unlearnkit.diffusion.sample_grid`) and at the other classes. It is as right as the
    classifier, which knows no class "none of these" and was not trained on what a generator gets wrong;
    on real images it shows how right that is. And it is about this very prompt: another prompt or a few
    steps of training may bring back what is gone here.
    """
    labels = _labels(classes, len(images))
    logits = seen_by(classifier, images, batch_size)[0]
    check_logits(logits, labels)
    hits = (logits.argmax(1) == labels).numpy()  # [N]
    return mean_interval(hits, confidence=confidence, n_bootstrap=n_bootstrap, random_state=random_state)


def features_of(classifier: nn.Module, images: Tensor, batch_size: int = 128) -> NDArray[np.float64]:
    """Input of a classifier's last linear layer, for each image.

    Parameters
    ----------
    classifier : nn.Module
        Its last layer with a matrix of weights is its head; a convolution will do, too. It is left as it
        was found.
    images : Tensor [N, C, H, W]
    batch_size : int
        Images at a time.

    Returns
    -------
    array [N, D]
        float64; means over positions (pixels, tokens) where there are any.

    Raises
    ------
    DataError
        If there is no image.
    UnsupportedModuleError
        If the classifier has no such layer, or calls it more than once a pass.
    """
    return seen_by(classifier, images, batch_size)[1]


def frechet_distance(first: Any, second: Any) -> float:
    r"""Fréchet distance of two sets of features, taken for two normal distributions.

    .. math:: |m_1 - m_2|^2 + \mathrm{tr}(S_1 + S_2 - 2 (S_1 S_2)^{1/2})

    With means and covariances (of divisor N - 1) of Inception's 2,048 features it is the FID of Heusel
    et al., "GANs trained by a two time-scale update rule" (NeurIPS 2017); the squared Wasserstein-2 distance
    of the two normal distributions (Dowson and Landau, 1982).

    Parameters
    ----------
    first, second : Tensor or array_like [N, D]
        Features; N may differ.

    Returns
    -------
    float
        0 for equal means and covariances; in squared units of the features, so that distances in two
        feature spaces cannot be compared.

    Raises
    ------
    DataError
        If D differs, there are fewer than two rows, or a value is not finite.

    Warns
    -----
    SmallSampleWarning
        If there are fewer than 10 rows a feature: see below.

    Notes
    -----
    The trace of the root is the sum of the singular values of ``A B^T`` for centred samples A and B, whose
    squares are the eigenvalues of the symmetric ``S_1^{1/2} S_2 S_1^{1/2}``. Nothing is inverted, and no root
    is taken of a rounding error, so it is exact for singular covariances too; the usual root of the
    unsymmetric product is not.

    **It is biased upwards**, the more the fewer the rows: of two sets of one standard normal distribution it is about
    ``D (D + 5) / 4 (1 / N_1 + 1 / N_2)`` in place of 0, for N much larger than D (Chong and Forsyth, "Effectively
    unbiased FID", CVPR 2020, on why it differs from model to model). So compare at equal N, and beside the
    distance of two real sets of that N. It sees means and covariances alone.
    """
    one, other = _features(first, "first"), _features(second, "second")
    if one.shape[1] != other.shape[1]:
        raise DataError(
            f"first has {one.shape[1]} features a row and second {other.shape[1]}: take both from one classifier."
        )
    n, width = min(len(one), len(other)), one.shape[1]
    if n < FEW * width:
        what = "their covariance is singular, and " if n < width + 1 else ""
        warn(
            f"a Fréchet distance of {width} features rests on {n} rows: {what}it is biased upwards, by about "
            f"{width * (width + 5) / 4 * (1 / len(one) + 1 / len(other)):.3g} were the features standard normal. "
            "Compare it only at equal numbers, or take ten rows a feature or more.",
            SmallSampleWarning,
        )
    return plain_frechet(one, other)


def plain_frechet(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Return the distance of features [N, D], unchecked and without a warning."""
    shift = one.mean(0) - other.mean(0)  # [D]
    roots = [_factor(features) for features in (one, other)]
    spread = sum(float((root**2).sum()) for root in roots)
    common = float(np.linalg.svd(roots[0] @ roots[1].T, compute_uv=False).sum())
    return max(float(shift @ shift) + spread - 2 * common, 0.0)


def seen_by(
    classifier: nn.Module, images: Tensor, batch_size: int = 128
) -> tuple[Tensor, NDArray[np.float64]]:
    """Return a classifier's logits [N, K] and features [N, D] of images, on the CPU.

    Raises
    ------
    DataError
        If there is no image.
    UnsupportedModuleError
        If it has no head whose input can be read.
    """
    if not isinstance(images, Tensor) or images.dim() < 2 or len(images) == 0:
        got = list(images.shape) if isinstance(images, Tensor) else type(images).__name__
        raise DataError(f"images must be a tensor [N, C, H, W] with at least one image, got {got}.")
    inner, device = unwrap(classifier), device_of(classifier)
    floating = (p.dtype for p in classifier.parameters() if p.is_floating_point())
    images = images.detach().to(next(floating, images.dtype))
    inputs: list[Tensor] = []
    logits, features = [], []
    head = _head(inner, images[:1])
    hook = head.register_forward_pre_hook(lambda _, given: inputs.append(given[0].detach()))
    try:
        with evaluating(inner), torch.no_grad():
            for part in images.split(batch_size):
                batch = part.to(device), torch.zeros(len(part), dtype=torch.long)
                logits.append(forward(inner, batch).float().cpu())
                features.append(_rows(head, inputs, len(part)))
                inputs.clear()
    finally:
        hook.remove()
    return torch.cat(logits), torch.cat(features).double().numpy()


def _head(classifier: nn.Module, images: Tensor) -> nn.Module:
    layers = called_layers(classifier, (images, torch.zeros(len(images), dtype=torch.long)))
    at = len(before_head(layers))
    if at == len(layers) or not any(p.dim() > 1 for p in layers[at][1].parameters()):
        raise UnsupportedModuleError(
            "the classifier calls no layer with a matrix of weights as a module, so its features are unknown: pass one "
            "that ends in a Linear."
        )
    return layers[at][1]


def _rows(head: nn.Module, inputs: list[Tensor], n: int) -> Tensor:
    """Return the head's only input as [N, D]."""
    if len(inputs) != 1 or inputs[0].dim() < 2 or len(inputs[0]) != n:
        shapes = [list(one.shape) for one in inputs]
        raise UnsupportedModuleError(
            f"the classifier's last layer, {type(head).__name__}, was given {shapes} for {n} images: its features "
            "are its input where it is called once, with a row for each image."
        )
    found = inputs[0].cpu().float()
    if found.dim() == 2:
        return found
    return found.flatten(1, -2).mean(1) if isinstance(head, nn.Linear) else found.flatten(2).mean(2)


def _labels(classes: ArrayLike, n: int) -> Tensor:
    found = torch.as_tensor(classes).detach().cpu()
    if found.shape != (n,):
        raise DataError(
            f"classes must hold one class for each of {n} images, got the shape {list(found.shape)}."
        )
    return found


def _features(values: Any, name: str) -> NDArray[np.float64]:
    if isinstance(values, Tensor):
        values = values.detach().double().cpu().numpy()
    found = np.asarray(values, dtype=np.float64)
    if found.ndim != 2 or len(found) < 2 or found.shape[1] == 0 or not np.isfinite(found).all():
        raise DataError(
            f"{name} must hold finite features [N, D] of at least two images, got the shape {list(found.shape)} with "
            f"{int((~np.isfinite(found)).sum())} values that are not finite: features_of makes them."
        )
    return found


def _factor(features: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a factor of the covariance, ``R^T R = S``, of at most D rows."""
    centred = (features - features.mean(0)) / np.sqrt(len(features) - 1)  # [N, D]
    return np.asarray(np.linalg.qr(centred, mode="r")) if len(centred) > centred.shape[1] else centred
