# SPDX-License-Identifier: BSD-3-Clause
"""SalUn for generation as its authors run it, each setting in its place."""

from __future__ import annotations

from typing import Any, Literal

from unlearnkit.diffusion.loss import DiffusionLoss
from unlearnkit.exceptions import DataError
from unlearnkit.importance import GradientSaliency
from unlearnkit.methods import SalUn, Trainer

__all__ = ["published_salun"]


def published_salun(
    scheduler: Any, null: Any, setting: Literal["ddpm", "stable-diffusion"] = "ddpm", **changes: Any
) -> SalUn:
    """Return SalUn with the settings of the authors' code for generators.

    What both have in common: saliency of the guided loss on the forget set, signs kept until the end, the
    larger half of all weights; then batches of either set in each step, on the next class's prediction (or
    what a batch says under ``"instead"``) by the model as it is being trained; Adam without decay.

    Parameters
    ----------
    scheduler : scheduler of the diffusers library
        As of :class:`DiffusionLoss`.
    null : int or Tensor
        The empty condition: the class that stands for none, or an empty prompt's embedding [L, E].
    setting : {"ddpm", "stable-diffusion"}, default="ddpm"
        ``"ddpm"``, of CIFAR-10: guidance 2.0 and batches clipped to norm 1.0 for saliency; 25 epochs, 1,000
        steps of 128 samples of either set for its 5,000; lr 1e-4, conditions dropped 10 % of the time, steps
        clipped to norm 1.0 before the mask; squared errors of the retain set summed over values, with the
        weight 1e-3.
        ``"stable-diffusion"``, of Imagenette: guidance 7.5; 5 epochs of batches of 8, lr 1e-5; means, with the
        weight 0.5. Their run against nudity has 1 epoch and 0.1. ``include="*attn2*"`` is their ``xattn``.
    **changes
        Parameters of :class:`~unlearnkit.SalUn` that are to be others, as ``set_params`` takes them:
        ``loss__target="original"`` is one of its loss.

    Returns
    -------
    SalUn

    Raises
    ------
    DataError
        If `setting` is unknown.

    Notes
    -----
    Fan et al., arXiv 2310.12508, section 5, and the code that they released. What it does besides: it draws
    time steps in pairs that add up to T - 1, and loads Stable Diffusion's batches such that, until it was
    mended in 2026, the same eight images came each time. Neither is repeated here.

    With other images than CIFAR's ``"ddpm"`` weighs the retain set by their number of values; set
    ``loss__reduction="mean"`` and an ``alpha`` of about 3 to be free of that.

    Examples
    --------
    >>> import torch
    >>> from unlearnkit.diffusion import published_salun
    >>> salun = published_salun(torch.linspace(0.999, 0.01, 1000), null=10, epochs=5)
    >>> salun.order, salun.epochs, salun.alpha
    ('paired', 5, 0.001)
    """
    if setting == "ddpm":
        summed: dict[str, Any] = {"reduction": "sum", "misaligned_reduction": "mean"}
        loss = DiffusionLoss(scheduler, target="current", null=null, condition_drop=0.1, **summed)
        guided = DiffusionLoss(scheduler, null=null, guidance=2.0, reduction="sum")
        own: dict[str, Any] = {
            "importance": GradientSaliency(loss=guided, clip=1.0),
            "epochs": 25,
            "lr": 1e-4,
            "batch_size": 128,
            "alpha": 1e-3,
            "trainer": Trainer(clip=1.0),
        }
    elif setting == "stable-diffusion":
        loss = DiffusionLoss(scheduler, target="current", null=null)
        guided = DiffusionLoss(scheduler, null=null, guidance=7.5)
        own = {
            "importance": GradientSaliency(loss=guided),
            "epochs": 5,
            "lr": 1e-5,
            "batch_size": 8,
            "alpha": 0.5,
        }
    else:
        raise DataError(f"setting must be 'ddpm' or 'stable-diffusion', got {setting!r}.")
    shared: dict[str, Any] = {"loss": loss, "order": "paired", "optimizer": "adam", "weight_decay": 0.0}
    return SalUn(**shared, **own).set_params(**changes)
