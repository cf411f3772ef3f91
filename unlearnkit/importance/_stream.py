# SPDX-License-Identifier: BSD-3-Clause
"""One walk over samples that gathers, for every layer, what a regression on its units' activations needs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from unlearnkit.data import Batch, Loss, batch_size, cross_entropy, device_of, to_device
from unlearnkit.exceptions import DataError, UnsupportedModuleError
from unlearnkit.gradients.reference import loss_values
from unlearnkit.importance._regression import Moments
from unlearnkit.importance.base import NoSamplesError, walk
from unlearnkit.importance.evidence import NOTHING_TO_KEEP
from unlearnkit.parameters import named_parameters
from unlearnkit.structure import Units, activations_of, forward_pass, units_of


class Stream:
    """Adds samples to the moments of (activations, target), layer by layer.

    Parameters
    ----------
    model : nn.Module
        In eval mode.
    loss : callable or None
        What runs the model; the forward pass alone where left out, unless it is the target.
    before : bool
        Take what units put out before their activation function.
    layers : str, sequence of str or None
        Patterns of the names of the layers to measure.

    Attributes
    ----------
    units : dict of str to Units
        By layer: those with a trainable part that are not the model's outputs. Known after the first batch.
    moments : dict of str to Moments
        Of rows of O activations and the target.
    samples : int
    """

    def __init__(
        self, model: nn.Module, loss: Loss | None, before: bool, layers: str | Sequence[str] | None
    ) -> None:
        self.model, self.loss, self.before, self.layers = model, loss, before, layers
        self.units: dict[str, Units] = {}
        self.moments: dict[str, Moments] = {}
        self.samples = 0
        self._least, self._most = math.inf, -math.inf

    def read(self, role: str, source: Iterable[Batch], target: Tensor | None, progress: bool) -> None:
        """Add the samples of a role.

        Parameters
        ----------
        role : str
        source : iterable of batches
        target : Tensor, shape [N] or [], or None
            One value for each sample of `source`, or for all; None for the loss of each.
        progress : bool

        Raises
        ------
        DataError
            If there is no sample, or as many as values.
        """
        start, device = self.samples, device_of(self.model)

        def add(batch: Batch) -> None:
            here, batch = self.samples - start, to_device(batch, device)
            self.samples += (n := batch_size(batch))
            self.units = self.units or self._chosen(batch)
            losses: list[Tensor] = []

            def run(model: nn.Module, batch: Batch) -> None:
                if target is None or self.loss is not None:
                    losses[:] = [loss_values(model, self.loss or cross_entropy, batch)]
                else:
                    forward_pass(model, batch)

            found = activations_of(self.model, batch, self.units, run, self.before)
            if target is None:
                values = losses[0]
            else:
                values = target[here : here + n] if target.dim() else target.expand(n)  # [N]
                if len(values) < n:
                    raise DataError(_uneven(role, len(target)))
            self._add(found, values)

        try:
            walk(source, add, progress)
        except NoSamplesError as error:
            if role == "retain":
                raise DataError(NOTHING_TO_KEEP) from error
            raise DataError(f"the {role} set: {error}") from error
        if target is not None and target.dim() and self.samples - start < len(target):
            raise DataError(_uneven(role, len(target)))

    def check(self) -> None:
        """Check that there is something to regress on, once all samples are read.

        Raises
        ------
        DataError
            If the target does not vary, or an activation is not finite.
        """
        if self._least == self._most:
            raise DataError(
                f"the target is {self._least:g} for every sample, so no unit can tell them apart: look at how "
                "the two sets were made."
            )
        for layer, moments in self.moments.items():
            if not bool(moments.scatter.isfinite().all()):
                raise DataError(
                    f"an activation of layer {layer!r} is NaN or infinite: look for such values in the data."
                )

    def _add(self, found: dict[str, Tensor], values: Tensor) -> None:
        self._least = min(self._least, float(values.min()))
        self._most = max(self._most, float(values.max()))
        for layer, activations in found.items():
            column = values.to(activations.device, torch.float64)[:, None]
            rows = torch.cat([activations, column], 1)  # [N, O + 1]
            if layer in self.moments:
                self.moments[layer].add(rows)
            else:
                self.moments[layer] = Moments(rows)

    def _chosen(self, batch: Batch) -> dict[str, Units]:
        """Return the units that are measured."""

        def run(model: nn.Module, batch: Batch) -> object:
            return forward_pass(model, batch) if self.loss is None else loss_values(model, self.loss, batch)

        found, parameters = units_of(self.model, batch, run), named_parameters(self.model)
        hidden = {
            layer: units
            for layer, units in found.items()
            if not units.is_output and any(parameters[name].requires_grad for name in units.parameters)
        }
        patterns = [self.layers] if isinstance(self.layers, str) else self.layers
        if patterns is None:
            chosen = hidden
        else:
            chosen = {
                layer: units
                for layer, units in hidden.items()
                if any(fnmatchcase(layer, pattern) for pattern in patterns)
            }
        if not chosen:
            raise UnsupportedModuleError(_nothing(list(hidden), self.layers, found.left_out))
        return chosen


def _uneven(role: str, count: int) -> str:
    return (
        f"there are {count:,} values for the {role} set, and another number of samples: the data has changed "
        "since it was divided, so divide it again."
    )


def _nothing(hidden: list[str], layers: object, left_out: dict[str, str]) -> str:
    if hidden:
        return f"layers={layers!r} matches none of the layers that have units: {', '.join(hidden)}."
    why = "".join(f"; {layer or 'the model itself'}: {reason}" for layer, reason in left_out.items())
    return (
        "the model has no linear layer or convolution before its output layer whose weights require a gradient "
        f"and whose units can be told apart{why}. Set another importance, such as importance='fisher_ratio'."
    )
