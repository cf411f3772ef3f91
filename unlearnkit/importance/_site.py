# SPDX-License-Identifier: BSD-3-Clause
"""Where in a model samples are looked at: a module, and how its output is to be read."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from unlearnkit.data import Batch
from unlearnkit.exceptions import DataError
from unlearnkit.importance._watch import Watch
from unlearnkit.parameters import named_modules
from unlearnkit.structure.layers import before_head, called_layers, last_hidden

CHANNELS_FIRST = (_ConvNd, _NormBase, nn.GroupNorm)
CHANNELS_LAST = (nn.Linear, nn.Embedding, nn.LayerNorm, nn.RMSNorm)


@dataclass(frozen=True)
class Site:
    """A module whose output is looked at.

    Attributes
    ----------
    name : str
    module : nn.Module
    channels : int
        The dimension of its output that counts channels; the first one counts samples, and the
        others are positions.
    extra : int
        Positions before those of an image's patches: class and register tokens.
    grid : tuple of int, or None
        How patches lie in the image; None where the output has dimensions for that.
    """

    name: str
    module: nn.Module
    channels: int
    extra: int = 0
    grid: tuple[int, ...] | None = None

    def by_position(self, tensor: Tensor) -> Tensor:
        """Return an output [N, ...] as [N, P, C], extra positions first."""
        if tensor.dim() < 3:
            return tensor[:, None] if tensor.dim() == 2 else tensor[:, None, None]
        return tensor.movedim(self.channels, -1).flatten(1, -2)

    def map_shape(self, output: Tensor) -> tuple[int, ...]:
        """Return the shape of a map of an output [N, ...]: (h, w); more or fewer dimensions are kept."""
        shape = [size for dim, size in enumerate(output.shape) if dim not in (0, self.channels)]
        if len(shape) > 1:
            return tuple(shape)
        length = shape[0] - self.extra if shape else 1
        return self.grid if self.grid is not None and length == math.prod(self.grid) else (1, length)


def find_site(
    model: nn.Module, batch: Batch, layer: str | None, score: Callable[[], Tensor], of_map: bool
) -> Site:
    """Find out how the output of a module is to be read; where `layer` is None, which module.

    Parameters
    ----------
    model : nn.Module
    batch : Batch
        A few samples.
    layer : str or None
        Its canonical name.
    score : callable
        Runs the model on them, and returns scores [S, N] in the graph.
    of_map : bool
        Where no layer is named: look for the last layer with a map of positions that all matter, the last
        hidden layer where there is none; else take the last hidden layer.

    Raises
    ------
    DataError
        If there is no such module, it is not run, or its output is of no use.
    UnsupportedModuleError
        If no name is given, and no layer found.
    """
    layers = called_layers(model, batch)
    modules = dict(layers)
    if layer is None and not of_map:
        layer = last_hidden(model, batch)
    elif layer is not None:
        known = named_modules(model)
        if layer not in known:
            raise DataError(f"layer={layer!r} is no module of the model. {_would_do(layers)}")
        modules[layer] = known[layer]
    with Watch(modules) as watch:
        scores = score()
    if layer is None:
        layer = _last_map(layers, watch.outputs, scores) or last_hidden(model, batch)
    if layer not in watch.outputs:
        raise DataError(
            f"layer={layer!r} is not run as a module in the forward pass, or its output is no tensor of floats. "
            f"{_would_do(layers)}"
        )
    output = watch.outputs[layer]
    refuse_other_order(layer, output, scores.shape[-1])
    run = list(watch.outputs)
    before = [module for name, module in layers if name in run[: run.index(layer) + 1]]
    site = Site(layer, modules[layer], _channel_dim(output, before))
    if output.dim() != 3:
        return site
    images = [name for name, module in layers if module in before and isinstance(module, _ConvNd)]
    return _with_patches(site, output, watch.outputs[images[-1]].shape[2:]) if images else site


def refuse_other_order(name: str, output: Tensor, n: int) -> None:
    """Refuse an output whose first dimension does not count the `n` samples of a batch.

    Raises
    ------
    DataError
        It names the layer.
    """
    if output.dim() == 0 or len(output) != n:
        raise DataError(
            f"the output of layer={name!r} has the shape {list(output.shape)} for a batch of {n} samples, which must "
            "be its first dimension: build the model with batch_first=True, or name another layer."
        )


def _with_patches(site: Site, output: Tensor, grid: torch.Size) -> Site:
    """Return the site with the grid of an image's patches, if a sequence [N, T, C] is of those.

    The last convolution before it has made them; beside them there are but a few tokens more.
    """
    extra = site.by_position(output).shape[1] - grid.numel()
    return (
        replace(site, extra=extra, grid=tuple(grid)) if len(grid) > 1 and 0 <= extra < grid.numel() else site
    )


def _would_do(layers: list[tuple[str, nn.Module]]) -> str:
    names = [name for name, _ in layers if name]
    if not names:
        return "The model runs no layer as a module of its own, so none can be named."
    return f"Layers that would do, the last ones first: {', '.join(names[:-6:-1])}."


def _channel_dim(output: Tensor, layers: list[nn.Module]) -> int:
    """Return the dimension that counts channels: where the last layer that was run has them.

    A module that moves them (patches of a convolution made a sequence) is seen by their number.
    """
    if output.dim() <= 2:
        return 1
    first, last, layer = 1, output.dim() - 1, layers[-1] if layers else None
    of_images = output.dim() > 3 and not isinstance(layer, CHANNELS_LAST)
    usual, other = (first, last) if of_images or isinstance(layer, CHANNELS_FIRST) else (last, first)
    width = _width(layer)
    return other if output.shape[usual] != width == output.shape[other] else usual


def _width(layer: nn.Module | None) -> int | None:
    """Return how many channels a layer has."""
    shape = getattr(layer, "normalized_shape", None)
    if shape is not None:
        return int(shape[-1]) if len(shape) == 1 else None
    names = ("out_features", "out_channels", "num_features", "num_channels", "embedding_dim")
    return next((getattr(layer, name) for name in names if hasattr(layer, name)), None)


def _last_map(layers: list[tuple[str, nn.Module]], outputs: dict[str, Tensor], scores: Tensor) -> str | None:
    """Return the last convolution or layer norm with a map, and with a gradient at several of its positions.

    Behind the last attention of a transformer that reads its class token no other position matters.
    """
    maps = {
        name: outputs[name]
        for name, module in before_head(layers)
        if isinstance(module, _ConvNd | nn.LayerNorm | nn.RMSNorm)
        and name in outputs
        and outputs[name].dim() > 2
    }
    if not maps or not scores.requires_grad:
        return None
    found: tuple[Tensor | None, ...] = torch.autograd.grad(
        scores.sum(), list(maps.values()), allow_unused=True
    )
    for (name, output), gradient in reversed(list(zip(maps.items(), found, strict=True))):
        if gradient is None:
            continue
        channels = _channel_dim(output, [module for known, module in layers if known == name])
        matters = gradient.abs().sum(channels).flatten(1).count_nonzero(1)  # [N]
        if bool((matters > 1).any()):
            return name
    return next(reversed(maps))
