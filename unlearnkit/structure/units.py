# SPDX-License-Identifier: BSD-3-Clause
"""Units: the rows of a linear layer's weight and the output channels of a convolution, with what is theirs.

Legend: N samples, O units.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from unlearnkit.data import Batch, batch_size, device_of, evaluating, forward, to_device
from unlearnkit.parameters import named_parameters, unwrap
from unlearnkit.structure._owners import affine_of, has_samples, owners_of
from unlearnkit.structure._watch import Call, Watch

Run = Callable[[nn.Module, Batch], object]


@torch.no_grad()
def forward_pass(model: nn.Module, batch: Batch) -> Tensor:
    """Run the model on a batch without its labels, and without a graph."""
    return forward(model, batch)


@dataclass(frozen=True)
class Units:
    """The units of a layer.

    Attributes
    ----------
    layer : str
        The module's name.
    weight : str
        The parameter whose rows they are.
    bias : str or None
    affine : tuple of str
        Weight and bias of the norm that takes the layer's output directly; empty where none does.
    count : int
        How many there are.
    is_output : bool
        Whether they are the model's outputs, of which none can be spared.
    """

    layer: str
    weight: str
    bias: str | None
    affine: tuple[str, ...]
    count: int
    is_output: bool = False

    @property
    def parameters(self) -> tuple[str, ...]:
        """Name all parameters of whose first dimension a unit owns an index."""
        return (self.weight, *((self.bias,) if self.bias else ()), *self.affine)


class UnitsByLayer(Mapping[str, Units]):
    """The units of a model by the name of their layer, in the order in which layers are run.

    Attributes
    ----------
    left_out : dict of str to str
        Layers whose units are not told apart, and why.
    """

    def __init__(self, units: Mapping[str, Units], left_out: Mapping[str, str]) -> None:
        self._units, self.left_out = dict(units), dict(left_out)

    def __getitem__(self, layer: str) -> Units:
        return self._units[layer]

    def __iter__(self) -> Iterator[str]:
        return iter(self._units)

    def __len__(self) -> int:
        return len(self._units)

    def __repr__(self) -> str:
        """Say how many there are."""
        count = sum(units.count for units in self.values())
        return f"UnitsByLayer: {count:,} units of {len(self)} layers, {len(self.left_out)} left out"


def units_of(model: nn.Module, batch: Batch, run: Run = forward_pass) -> UnitsByLayer:
    """Find the units of every linear layer and convolution that a forward pass calls.

    A unit owns a row of the layer's weight, an element of its bias, and one of the affine of the
    norm that takes the layer's output: the very tensor, the norm's channels being the units, both
    called once. All of it zero, the unit puts out zero.

    Parameters
    ----------
    model : nn.Module
        Run once in eval mode, and left as it was.
    batch : Batch
        Any samples.
    run : callable, optional
        ``run(model, batch)`` runs it; by default it is given the batch without its labels.

    Returns
    -------
    UnitsByLayer
        Names are canonical. A weight that linear layers or convolutions share has its units under
        its first name. Left out are transposed convolutions, weights that are shared with other
        modules or computed from others, and layers that are not called, or whose output does not
        have the samples in its first dimension.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> from unlearnkit.structure import units_of
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
    >>> units_of(model, (torch.zeros(3, 4), torch.zeros(3)))["0"].parameters
    ('0.weight', '0.bias', '1.weight', '1.bias')
    """
    inner = unwrap(model)
    batch = to_device(batch, device_of(inner))
    n, names = batch_size(batch), {id(p): name for name, p in named_parameters(inner).items()}
    owners, left_out = owners_of(inner, names)
    shapes: dict[str, list[torch.Size]] = {}
    norms: dict[str, list[nn.Module]] = {}

    def seen(call: Call, module: nn.Module | None, value: Tensor) -> None:
        if module in watch.layers:
            shapes.setdefault(call[0], []).append(value.shape)
        elif module is not None:
            norms.setdefault(call[0], []).append(module)

    watch = Watch({module: layer for layer, modules in owners.items() for module in modules}, seen)
    with evaluating(inner), watch.on(inner):
        last = watch.call_of(run(inner, batch))
    found: dict[str, Units] = {}
    for layer, made in shapes.items():
        first, *others = owners[layer]
        if not all(has_samples(shape, n) for shape in made):
            left_out[layer] = f"its output does not have the {n:,} samples in its first dimension"
            continue
        biases = [
            names[id(b)] for module in (first, *others) if (b := module._parameters.get("bias")) is not None
        ]
        affine: tuple[str, ...] = ()
        if len(made) == 1 and len(taken := norms.get(layer, [])) == 1 and watch.calls[taken[0]] == 1:
            affine = affine_of(taken[0], first, made[0], inner, names)
        is_output = watch.last in (first, *others) or (last is not None and last[0] == layer)
        weight, bias = first.get_parameter("weight"), biases[0] if biases else None
        found[layer] = Units(layer, names[id(weight)], bias, affine, len(weight), is_output)
    silent = dict.fromkeys(owners.keys() - shapes.keys(), "it is not called in a forward pass")
    return UnitsByLayer(found, left_out | silent)


def closure(
    model: nn.Module, batch: Batch, mask: Mapping[str, Tensor], run: Run = forward_pass
) -> dict[str, Tensor]:
    """Return the mask of whole units: all that is theirs, of each whose row is selected whole.

    What is selected besides, in part or of no unit, is left out; so are the model's outputs, and
    parameters that are frozen.

    Parameters
    ----------
    model : nn.Module
    batch, run
        As of :func:`units_of`.
    mask : mapping of str to bool Tensor
        By canonical name and of the parameter's shape, as a ``ParameterMask`` is.

    Returns
    -------
    dict of str to bool Tensor
        Of every parameter, on the CPU.
    """
    parameters = named_parameters(model)
    found = {name: torch.zeros(p.shape, dtype=torch.bool) for name, p in parameters.items()}
    for units in units_of(model, batch, run).values():
        if units.weight not in mask or units.is_output or mask[units.weight].numel() == 0:
            continue
        rows = mask[units.weight].flatten(1).all(1).cpu()  # [O]
        for name in units.parameters:
            if parameters[name].requires_grad:
                found[name][rows] = True
    return found
