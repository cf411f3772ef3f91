# SPDX-License-Identifier: BSD-3-Clause
"""How much a unit's activation says about a sample being noisy: a regression, layer by layer."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from numbers import Real
from typing import Any, Literal

import torch
from torch import Tensor, nn

from unlearnkit.data import (
    Batch,
    ForgetRetain,
    Loss,
    Measured,
    Partition,
    evaluating,
    in_order,
    warn_if_random,
)
from unlearnkit.exceptions import DataError
from unlearnkit.gradients.reference import measured_parameters, plain_eager, zeros
from unlearnkit.importance._regression import regress
from unlearnkit.importance._stream import Stream
from unlearnkit.importance.base import Importance, refuse_bad_weights
from unlearnkit.importance.estimator import ImportanceEstimator
from unlearnkit.parameters import named_parameters, unwrap

MARGIN = 2.0**-20
"""How far, as a share of their range, the scores of units lie above those of what is no unit's."""


class Sensitivity(ImportanceEstimator):
    """RLAP's criterion: how a unit's activation predicts that a sample is noisy.

    For each linear layer and convolution, a ridge regression on the standardised activations of its
    units, all samples at once. A unit of a large positive coefficient is active for noisy samples
    and not for clean ones, so it is selected first. A unit's row, its bias and its following affine
    (:func:`unlearnkit.structure.units_of`) share its score; whatever belongs to no unit, and the
    model's output layer, comes last.

    Parameters
    ----------
    target : {"component", "posterior", "error"}, default="component"
        What is predicted: 1 for a sample of the forget set, 0 for one of the retain set; its
        probability of being noisy, which a :class:`~unlearnkit.Partition` holds; or its loss.
    ridge : float, default=1e-2
        The penalty on the squared coefficients, times the number of samples; 0 for ordinary least
        squares, of several solutions the smallest.
    mode : {"signed", "absolute"}, default="signed"
        Whether the largest coefficients rank first, or the largest magnitudes: these take units
        that are typical of clean samples too.
    features : {"activation", "preactivation"}, default="activation"
        What a unit puts out after its norm and activation function, or after the norm alone; the
        mean over positions (pixels, tokens).
    standardise : bool, default=True
        Divide by standard deviations, so that a unit's scale counts for nothing.
    layers : str or sequence of str, optional
        Patterns of layer names, as ``"fc*"`` (:mod:`fnmatch`): only these are measured.

    Notes
    -----
    "RLAP", arXiv 2506.11615. The authors' code regresses as :meth:`published` does. One pass over
    the data, in float64; a layer of O units takes 8 O^2 bytes.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> from unlearnkit import Sensitivity
    >>> from unlearnkit.data import ForgetRetain
    >>> model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))
    >>> with torch.no_grad():
    ...     _ = model[0].weight.copy_(torch.eye(2))
    >>> y = torch.zeros(4, dtype=torch.long)
    >>> clean = [(torch.tensor([[1.0, 3.0], [2.0, 1.0], [1.0, 2.0], [3.0, 2.0]]), y)]
    >>> noisy = [(torch.tensor([[9.0, 1.0], [8.0, 2.0], [9.0, 3.0], [7.0, 2.0]]), y)]
    >>> found = Sensitivity().measure(model, ForgetRetain(noisy, clean))
    >>> found.sums["0.weight"].argmax(0)  # the first unit of the first layer
    tensor([0, 0])
    """

    def __init__(
        self,
        target: Literal["component", "posterior", "error"] = "component",
        ridge: float = 1e-2,
        mode: Literal["signed", "absolute"] = "signed",
        features: Literal["activation", "preactivation"] = "activation",
        standardise: bool = True,
        layers: str | Sequence[str] | None = None,
    ) -> None:
        self.target = target
        self.ridge = ridge
        self.mode = mode
        self.features = features
        self.standardise = standardise
        self.layers = layers

    @classmethod
    def published(cls, layers: str | Sequence[str] | None = None) -> Sensitivity:
        """Return the setting of the authors' code: least squares on pre-activations, and magnitudes.

        They regress at the one hidden linear layer before the head, which `layers` can name.
        """
        return cls("component", 0.0, "absolute", "preactivation", standardise=False, layers=layers)

    @property
    def kind(self) -> str:
        """What is measured, as :attr:`Importance.kind` has it."""
        return f"sensitivity/{self.target}"

    def measure(
        self, model: nn.Module, data: Any, loss: Loss | None = None, progress: bool = False
    ) -> Importance:
        """Regress at every layer, in eval mode; the model is left as it was.

        Parameters
        ----------
        model : nn.Module
        data : ForgetRetain, Partition, or a Subset whose rest is the retain set
        loss : callable, optional
            ``loss(model, batch) -> Tensor [N]``, which then runs the model, and is the target
            ``"error"``; cross-entropy where left out.
        progress : bool
            Show progress bars.

        Returns
        -------
        Importance
            Signed coefficients in float64, -inf for what belongs to no unit. They do not add up.

        Raises
        ------
        DataError
            If a parameter is none of those it can be, the data is empty, is an importance or does
            not fit the model, the retain set or the probabilities are missing, the target is the
            same for all samples, or a weight, a loss or an activation is not finite.
        UnsupportedModuleError
            If no parameter requires a gradient, one is complex, or there are no units to measure.
        """
        self._validate()
        roles = data if isinstance(data, ForgetRetain) else _resolved(data)
        inner = unwrap(model)
        sums = zeros(measured_parameters(inner))
        refuse_bad_weights(inner)
        sources = self._sources(roles)
        stream = Stream(inner, loss, self.features == "preactivation", self.layers)
        with evaluating(inner), plain_eager(inner):
            for role, source, target in sources:
                warn_if_random(source, "importance")
                stream.read(role, source, target, progress)
        stream.check()
        for value in sums.values():
            value.fill_(-math.inf)
        parameters = named_parameters(inner)
        for layer, units in stream.units.items():
            single = parameters[units.weight].dtype is not torch.float64
            rounding = 4 * torch.finfo(torch.float32 if single else torch.float64).eps
            found = regress(stream.moments[layer], float(self.ridge), self.standardise, rounding)  # [O]
            for name in units.parameters:
                if name in sums:
                    column = found.view(-1, *[1] * (sums[name].dim() - 1))
                    sums[name].copy_(column.expand_as(sums[name]))
        return Importance(sums, 1, self.kind, stream.samples)

    def locate(
        self, model: nn.Module, roles: ForgetRetain, loss: Loss | None = None, progress: bool = False
    ) -> Importance:
        """Measure on both roles. See :meth:`measure`."""
        return self.measure(model, roles, loss, progress)

    def scores(self, model: nn.Module, measured: Importance) -> dict[str, Tensor]:
        """Return the coefficients in their order, shifted to above 0; 0 for what is no unit's.

        See :meth:`ImportanceEstimator.scores`.
        """
        self._validate()
        of_units = {name: value.isfinite() for name, value in measured.sums.items()}
        values = measured.sums
        if self.mode == "absolute":
            values = {name: value.abs() for name, value in values.items()}
        known = [value[of_units[name]] for name, value in values.items() if bool(of_units[name].any())]
        least = min(float(value.min()) for value in known)
        most = max(float(value.max()) for value in known)
        lift = (most - least) * MARGIN or 1.0
        return {name: torch.where(of_units[name], value - least + lift, 0) for name, value in values.items()}

    def _sources(self, roles: ForgetRetain) -> list[tuple[str, Iterable[Batch], Tensor | None]]:
        """Return both roles: the name, the samples, and the target where these do not have it."""
        if not _is_data(roles.forget) or not _is_data(roles.retain):
            role, source = ("retain", roles.retain) if _is_data(roles.forget) else ("forget", roles.forget)
            got = "nothing" if source is None else f"an {type(source).__name__}"
            raise DataError(
                f"Sensitivity compares the samples of the forget set and the retain set, and got {got} for the "
                f"{role} set: pass fit(model, retain, forget), or a Partition."
            )
        targets: tuple[Tensor | None, Tensor | None] = (None, None)
        if self.target == "component":
            targets = torch.tensor(1.0), torch.tensor(0.0)
        elif self.target == "posterior":
            if roles.partition is None:
                raise DataError(
                    "target='posterior' is each sample's probability of being noisy, which a Partition holds: "
                    "pass Partition.of(data, probabilities), or set target='component'."
                )
            noise, is_noisy = roles.partition.noise, roles.partition.is_noisy
            targets = noise[is_noisy], noise[~is_noisy]
        return [
            ("forget", in_order(roles.forget), targets[0]),
            ("retain", in_order(roles.retain), targets[1]),
        ]

    def _validate(self) -> None:
        choices: dict[str, tuple[object, ...]] = {
            "target": ("component", "posterior", "error"),
            "mode": ("signed", "absolute"),
            "features": ("activation", "preactivation"),
            "standardise": (True, False),
        }
        for name, allowed in choices.items():
            if (value := getattr(self, name)) not in allowed:
                raise DataError(f"{name} must be one of {', '.join(map(repr, allowed))}, got {value!r}.")
        ridge: Any = self.ridge
        is_number = isinstance(ridge, Real) and not isinstance(ridge, bool)
        if not is_number or not 0 <= ridge < math.inf:
            raise DataError(f"ridge must be a number from 0 on, got {ridge!r}.")
        names = [self.layers] if isinstance(self.layers, str) else self.layers
        if names is not None and not (
            isinstance(names, Sequence) and all(isinstance(name, str) for name in names)
        ):
            raise DataError(f"layers must be a pattern of layer names or a list of them, got {names!r}.")


def _is_data(source: Any) -> bool:
    return source is not None and not isinstance(source, Measured)


def _resolved(data: Any) -> ForgetRetain:
    """Return the roles of a partition, or of a forget set and its rest."""
    if isinstance(data, Partition):
        return ForgetRetain.resolve((data,))
    return ForgetRetain.resolve((), forget=data)
