# SPDX-License-Identifier: BSD-3-Clause
"""The walk behind every attribution: batch by batch, and the model as it was in between."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from sklearn.base import BaseEstimator
from torch import Tensor, nn
from tqdm.auto import tqdm

from unlearnkit.data import (
    Batch,
    Loss,
    aside,
    batch_size,
    device_of,
    evaluating,
    in_order,
    take,
    to_device,
    tree_map,
    warn_if_random,
)
from unlearnkit.exceptions import DataError
from unlearnkit.gradients import refuse_batch_statistics
from unlearnkit.gradients.pairs import upcast
from unlearnkit.gradients.reference import plain_eager
from unlearnkit.importance._score import TARGETS, Scores, scores_of
from unlearnkit.importance._site import Site, find_site, refuse_other_order
from unlearnkit.importance._watch import Watch, gradient_at
from unlearnkit.importance.base import NoSamplesError, refuse_bad_weights
from unlearnkit.parameters import unwrap

FEW = 8  # samples that show what a layer's output is like


@dataclass(frozen=True)
class Seen:
    """What is seen of a batch at a layer.

    Attributes
    ----------
    activation, gradient : Tensor, shape [n, P, C]
        The gradient is that of the scores.
    shape : tuple of int
        Of a map of its positions, those before an image's patches left out.
    scores : Scores
    """

    activation: Tensor
    gradient: Tensor
    shape: tuple[int, ...]
    scores: Scores


class Attribution(BaseEstimator):
    """Base of what makes a row of features of each sample.

    Attributes
    ----------
    layer : str or None
        The module whose output is looked at.
    target : str
        The score whose gradient is taken.
    """

    layer: str | None
    target: str
    _targets: tuple[str, ...] = TARGETS
    _of_map = False

    def stream(self, model: nn.Module, data: Any, loss: Loss | None = None) -> Iterator[Tensor]:
        """Yield the features of one batch after the other; nothing is kept.

        Between two batches the model is as it was before, and so it is after an error.

        Parameters
        ----------
        model : nn.Module
            Its parameters need not require gradients.
        data : DataLoader, Dataset or (X, y)
            Read in the order of its indices, also where a loader shuffles. A stream, or a sampler
            that draws at random, is read as it comes.
        loss : callable, optional
            ``loss(model, batch) -> Tensor [N]``, for features that use it; cross-entropy where left
            out.

        Yields
        ------
        Tensor, shape [n, D]
            Of float32, on the CPU. Independent of how samples are batched.

        Raises
        ------
        DataError
            If the data is empty or does not fit the model, the layer is none that can be looked at,
            or a weight or feature is not finite.
        UnsupportedModuleError
            If a BatchNorm has no statistics but those of the batch, which mixes its samples; if the
            output does not depend on the layer; or no layer is named and none is found.
        """
        self._validate()
        refuse_bad_weights(model)
        inner, loader = unwrap(model), in_order(data)
        refuse_batch_statistics(inner)
        warn_if_random(loader, "attribution")
        return self._stream(inner, loader, loss)

    def measure(
        self, model: nn.Module, data: Any, loss: Loss | None = None, progress: bool = False
    ) -> Tensor:
        """Return the features [N, D] of all samples. See :meth:`stream`.

        Parameters
        ----------
        model, data, loss
            As of :meth:`stream`.
        progress : bool
            Show a progress bar.
        """
        batches = self.stream(model, data, loss)
        return torch.cat(list(tqdm(batches, desc="attribution", disable=not progress, leave=False)))

    def _stream(self, model: nn.Module, loader: Iterable[Batch], loss: Loss | None) -> Iterator[Tensor]:
        site, width = None, 0
        for batch in aside(loader):
            if batch_size(batch) == 0:
                continue
            with untouched(model):
                batch = plain(batch, model)
                site = site or self._site(model, batch, loss)
                rows = self._features(model, batch, site, loss).float().cpu()  # [n, D]
            width = width or rows.shape[1]
            if rows.shape[1] != width:
                raise DataError(
                    f"rows of {width} features, and then of {rows.shape[1]}: samples are not all of one size, and "
                    "features='map' has a value for each position. Use features='channels' or 'summary'."
                )
            finite = rows.isfinite().all(1)
            if not bool(finite.all()):
                raise DataError(
                    f"the attribution of sample {int((~finite).nonzero()[0])} of a batch is not finite: look for "
                    "NaN or infinite values in the data."
                )
            yield rows
        if site is None:
            raise NoSamplesError(
                "the data is empty: it yielded no sample. Check the indices or the filter that made it."
            )

    @abstractmethod
    def _features(self, model: nn.Module, batch: Batch, site: Site, loss: Loss | None) -> Tensor:
        """Return the features [n, D] of a batch; the model may be run as :func:`untouched` allows."""

    def _site(self, model: nn.Module, batch: Batch, loss: Loss | None) -> Site:
        few = take(batch, slice(0, FEW))
        # of a fitted sample the loss has no gradient, and logits always have one
        target = "loss" if self.target == "loss" and loss is not None else "predicted"
        return find_site(
            model, few, self.layer, lambda: scores_of(model, few, target, loss).values, self._of_map
        )

    def _look(self, model: nn.Module, batch: Batch, site: Site, loss: Loss | None) -> Seen:
        with Watch({site.name: site.module}) as watch:
            scores = scores_of(model, batch, self.target, loss)
        output = watch.outputs[site.name]
        refuse_other_order(site.name, output, batch_size(batch))
        gradient = gradient_at(site.name, output, scores.values)
        a, g = (site.by_position(upcast(tensor.detach())) for tensor in (output, gradient))
        return Seen(a, g, site.map_shape(output), scores)

    def _validate(self) -> None:
        if self.layer is not None and not (isinstance(self.layer, str) and self.layer):
            raise DataError(f"layer must be the name of a module, or None, got {self.layer!r}.")
        one_of("target", self.target, self._targets)


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Let a model be looked at in eval mode with gradients at activations alone; leave it as it was."""
    with torch.inference_mode(False), evaluating(model), plain_eager(model):
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        yield


def plain(batch: Batch, model: nn.Module) -> Batch:
    """Return a batch on the model's device, without tensors that autograd refuses."""
    batch = to_device(batch, device_of(model))
    return tree_map(lambda t: t.clone() if t.is_inference() else t, batch)


def one_of(name: str, value: object, known: tuple[str, ...]) -> None:
    """Check a parameter that is one of some words."""
    if value not in known:
        said = ", ".join(map(repr, known[:-1]))
        raise DataError(f"{name} must be {said} or {known[-1]!r}, got {value!r}.")
