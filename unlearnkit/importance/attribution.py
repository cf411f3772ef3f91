# SPDX-License-Identifier: BSD-3-Clause
"""What a model sees in each sample: gradients and activations at a layer, as rows of features.

Legend: N samples, C channels (or units), P positions of a map.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from unlearnkit.data import Batch, Loss
from unlearnkit.exceptions import DataError
from unlearnkit.gradients import refuse_batch_statistics
from unlearnkit.importance._attribution import Attribution, Seen, one_of, plain, untouched
from unlearnkit.importance._site import Site
from unlearnkit.parameters import unwrap


class GradCAM(Attribution):
    """Grad-CAM: which positions of a map speak for a class, and through which channels.

    With activations A [P, C] at the layer and a score s of the sample, ``alpha = mean over
    positions of ds/dA`` [C], and ``map = relu(A @ alpha)`` [P].

    Parameters
    ----------
    layer : str or None, default=None
        The module whose output is looked at, by its canonical name; where it is called several
        times, its last call. None: the last convolution before the head; of a transformer the last
        layer norm behind which more than one token matters; of a network without maps the last
        hidden layer, whose units are channels with a single position.
    target : {"label", "predicted", "margin", "loss"}, default="label"
        The score: the logit of the given label, that of the predicted class, the label's less the
        largest other, or the loss with its sign turned, which any task has.
    features : {"channels", "map", "summary"}, default="channels"
        What a row holds. ``"channels"``: ``alpha * mean over positions of A``, what each channel
        adds to the mean of the map before its ReLU. ``"map"``: the map, flat. ``"summary"``: the
        map's mean, its largest value, its entropy when it is scaled to sum 1 (in nats, that of an
        even map where it is zero everywhere), and the loss of the given label.

    Notes
    -----
    Selvaraju et al., "Grad-CAM", arXiv 1610.02391, equations 1 and 2. Of a vision transformer the
    positions are its patches; class and register tokens are left out.

    Examples
    --------
    >>> import torch
    >>> from unlearnkit import GradCAM
    >>> model = torch.nn.Sequential(
    ...     torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(144, 3)
    ... )
    >>> data = (torch.randn(5, 1, 8, 8), torch.randint(3, (5,)))
    >>> GradCAM().measure(model, data).shape, GradCAM().maps(model, data).shape
    (torch.Size([5, 4]), torch.Size([5, 6, 6]))
    """

    _targets = ("label", "predicted", "margin", "loss")
    _of_map = True

    def __init__(
        self,
        layer: str | None = None,
        target: Literal["label", "predicted", "margin", "loss"] = "label",
        features: Literal["channels", "map", "summary"] = "channels",
    ) -> None:
        self.layer = layer
        self.target = target
        self.features = features

    def maps(self, model: nn.Module, batch: Batch, loss: Loss | None = None) -> Tensor:
        """Return the map of each sample of one batch.

        Parameters
        ----------
        model : nn.Module
        batch : Batch
        loss : callable, optional
            As of :meth:`stream`.

        Returns
        -------
        Tensor, shape [n, h, w]
            Of float32, on the CPU, zero or more, at the resolution of the layer. A layer with one
            dimension of positions, or none, has h = 1; one with three has [n, d, h, w].

        Raises
        ------
        DataError, UnsupportedModuleError
            As :meth:`stream`.
        """
        self._validate()
        inner = unwrap(model)
        refuse_batch_statistics(inner)
        with untouched(inner):
            batch = plain(batch, inner)
            site = self._site(inner, batch, loss)
            seen = self._look(inner, batch, site, loss)
            found = cam(*_patches(seen, site))  # [n, P]
        return found.float().cpu().reshape(len(found), *seen.shape)

    def _features(self, model: nn.Module, batch: Batch, site: Site, loss: Loss | None) -> Tensor:
        seen = self._look(model, batch, site, loss)
        activation, gradient = _patches(seen, site)
        if self.features == "channels":
            return activation.mean(1) * gradient.mean(1)
        found = cam(activation, gradient)
        return found if self.features == "map" else summary(found, seen.scores.losses(model, batch, loss))

    def _validate(self) -> None:
        super()._validate()
        one_of("features", self.features, ("channels", "map", "summary"))


class GradientActivation(Attribution):
    """Gradient times activation of each unit: to first order, what it adds to a score.

    Of a layer with positions (a convolution, tokens), the sum over them.

    Parameters
    ----------
    layer : str or None, default=None
        The module whose output is looked at, by its canonical name; where it is called several
        times, its last call. None: the last ``Linear`` or convolution before the head.
    target : {"predicted", "label", "margin", "max", "loss"}, default="predicted"
        The score: the logit of the predicted class, that of the given label, the label's less the
        largest other, or the loss with its sign turned. ``"max"``: of each unit's gradients of all
        K logits the largest, which takes K passes backwards through what follows the layer.
    signed : bool, default=False
        Keep the sign: below zero is what speaks against the class. Otherwise absolute values.

    Notes
    -----
    RLAP (arXiv 2506.11615), as its authors' code has it: ``target="max"`` at the hidden layer
    before its ReLU. Where one Linear with weight W follows the ReLU, that is
    ``relu(z_j) |max_c W_cj|``, in which labels have no part. ``"label"``, ``"margin"`` and
    ``"loss"`` look at them.

    Examples
    --------
    >>> import torch
    >>> from unlearnkit import GradientActivation
    >>> model = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.ReLU(), torch.nn.Linear(4, 3))
    >>> GradientActivation("0").measure(model, (torch.randn(5, 2), torch.zeros(5).long())).shape
    torch.Size([5, 4])
    """

    def __init__(
        self,
        layer: str | None = None,
        target: Literal["predicted", "label", "margin", "max", "loss"] = "predicted",
        signed: bool = False,
    ) -> None:
        self.layer = layer
        self.target = target
        self.signed = signed

    def _features(self, model: nn.Module, batch: Batch, site: Site, loss: Loss | None) -> Tensor:
        seen = self._look(model, batch, site, loss)
        found = (seen.activation * seen.gradient).sum(1)  # [n, C]
        return found if self.signed else found.abs()

    def _validate(self) -> None:
        super()._validate()
        if not isinstance(self.signed, bool):
            raise DataError(f"signed must be True or False, got {self.signed!r}.")


def _patches(seen: Seen, site: Site) -> tuple[Tensor, Tensor]:
    """Return activations and gradients [n, P, C] without the positions that are no patches."""
    return seen.activation[:, site.extra :], seen.gradient[:, site.extra :]


def cam(activation: Tensor, gradient: Tensor) -> Tensor:
    """Return the map [N, P] of activations and gradients [N, P, C] (Grad-CAM, equation 2)."""
    alpha = gradient.mean(1)  # [N, C]
    return torch.einsum("npc,nc->np", activation, alpha).relu()


def summary(maps: Tensor, losses: Tensor) -> Tensor:
    """Return mean, maximum and entropy of maps [N, P] that are zero or more, beside losses [N]: [N, 4]."""
    total = maps.sum(1, keepdim=True)
    share = torch.where(total > 0, maps / total, 1 / maps.shape[1])  # [N, P]
    return torch.stack([maps.mean(1), maps.amax(1), torch.special.entr(share).sum(1), losses.to(maps)], 1)
