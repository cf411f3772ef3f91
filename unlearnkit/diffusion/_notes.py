# SPDX-License-Identifier: BSD-3-Clause
"""What a reader of an evaluation of generators must know beside the figures, in plain words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from unlearnkit.metrics import Evaluation

SMALL = 30


def scale(images: Tensor, rows: tuple[Tensor, Tensor] | None) -> str | None:
    """Say so where real images seem to be of another range than the generated ones."""
    if rows is None:
        return None
    ends = [
        torch.quantile(one.flatten()[:: max(1, one.numel() // 100_000)].float(), torch.tensor([0.01, 0.99]))
        for one in (images, rows[0])
    ]
    if bool(((ends[0] - ends[1]).abs() <= 0.5 * (ends[0][1] - ends[0][0])).all()):
        return None
    spans = [f"{low:.3g} to {high:.3g}" for low, high in (one.tolist() for one in ends)]
    return (
        f"The images before lie in {spans[0]} and the real ones in {spans[1]}: if the scales differ, no figure here is "
        "right. Pass real images in the generator's range."
    )


def small(scores: Mapping[str, Evaluation], wide: int, n: int) -> Iterator[str]:
    """Yield a line for what rests on so few images that it is mostly chance.

    Parameters
    ----------
    scores : mapping of str to Evaluation
        By model.
    wide : int
        D.
    n : int
        Images of the Fréchet distance; 0 without one.
    """
    made = scores["after"].scores["forgotten_share"].n
    if made < SMALL:
        yield f"The forgotten share rests on {made} images: it is known to about ± {0.98 / made**0.5:.2f}."
    if n and n < wide + 1:
        yield (
            f"The Fréchet distance of {wide} features rests on {n} images, so their covariances are singular: read it "
            "beside that of real images, which has the same bias, or take more per_class."
        )


def notes(
    scores: Mapping[str, Evaluation], wide: int, n: int, confidence: float, other_scale: str | None
) -> Iterator[str]:
    """Yield what is weak, rests on too little, or was not verified."""
    if other_scale:
        yield other_scale
    yield from small(scores, wide, n)
    if "real" in scores:
        parts = {"forgotten_share": "the forgotten", "kept_accuracy": "the kept"}
        right = [
            f"{100 * scores['real'][name]:.1f} % of {part}"
            for name, part in parts.items()
            if name in scores["real"]
        ]
        yield (
            f"Of real images the classifier recognises {' and '.join(right)} classes ('real'): where it errs, the "
            "shares err too."
        )
        yield (
            f"This Fréchet distance is in the space of this classifier's {wide} features, of {n} images of the kept "
            "classes on either side. It is not the paper's FID, of Inception's features and 45,000 images, and cannot "
            "be set beside it. 'real' is that of real images to other real ones: what a perfect generator would have."
        )
    else:
        yield "No real images: how right the classifier is, and the Fréchet distance, were not measured. Pass real=."
    yield (
        "A small forgotten share is no evidence that the class is gone: noise has it too. Look: "
        "sample_grid(result.images, result.classes, forget=result.forget)."
    )
    yield (
        f"The {100 * confidence:g} % intervals say how far the figures would move with other noise, for these very "
        "models; another training seed moves them too: repeat with several."
    )
    if "oracle" not in scores:
        yield "No oracle: what a generator that was trained without these classes would have is not known."
    yield "Not verified: whether another prompt, or a few steps of training, brings the class back."
