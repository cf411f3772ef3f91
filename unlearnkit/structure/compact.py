# SPDX-License-Identifier: BSD-3-Clause
"""A smaller model with the same outputs: without units that put out nothing, or always the same.

Legend: O units of a layer.
"""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from unlearnkit.data import device_of, evaluating, to_device
from unlearnkit.exceptions import FallbackWarning, IneffectiveWarning, UnsupportedModuleError, warn
from unlearnkit.parameters import copy_of, unwrap
from unlearnkit.structure._graph import output_of, traced
from unlearnkit.structure._resize import fold, keep_channels, keep_inputs, keep_units
from unlearnkit.structure._routes import Route, plans

M = TypeVar("M", bound=nn.Module)

ROUNDING = {torch.float64: 1e-9, torch.float32: 1e-4}
"""How far outputs may differ, as a share of the largest; in halves 0.05."""


REFUSED = (
    "without its dead units the model {how}. Its forward pass uses channels in a way that its modules do not "
    "show, such as a number that is written out in it: keep the model as it is."
)


def compact(model: M, example: Any) -> M:
    """Return a copy of a model without its dead units, which is smaller, faster, and puts out the same.

    A unit (a row of a linear layer, an output channel of a convolution) is dead where its weights are
    zero, or those of the BatchNorm that follows: what it puts out does not depend on the input. It is
    taken out together with its index in the norm and in the layers that take it, in whose bias goes
    what it puts out if that is not zero. Pruning makes such units (:class:`~unlearnkit.RLAP`).

    Parameters
    ----------
    model : nn.Module
    example : Tensor, tuple or mapping
        What the model is called with: its input, its inputs, or its inputs by keyword. No labels.

    Returns
    -------
    nn.Module
        Of the same class, with the names, dtypes, devices and modes of the original's tensors and
        modules, but other shapes. In eval mode the outputs are equal up to the rounding of sums with
        fewer zeros in them, which is checked on `example`. So they are in training mode, but for
        dropout, which draws other numbers.

    Raises
    ------
    UnsupportedModuleError
        If torch.fx cannot follow the forward pass, the model cannot be copied, or outputs differ.

    Warns
    -----
    FallbackWarning
        Where dead units stay, with the reasons: what is done with their outputs is not known to keep
        channels apart (the sum of a residual block, a concatenation), or a constant that is not zero
        does not fit into the next layer's bias (it has none, or pads its input with zeros).
    IneffectiveWarning
        If no unit is dead.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> from unlearnkit import compact
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> with torch.no_grad():
    ...     _ = model[0].weight[:5].zero_(), model[0].bias[:5].zero_()
    >>> compact(model, torch.zeros(1, 4))[0]
    Linear(in_features=4, out_features=3, bias=True)
    """
    copied = copy_of(model)
    inner = unwrap(copied)
    example = to_device(example, device_of(inner))
    with evaluating(inner):
        expected = output_of(inner, example)
        graphs = [traced(inner, example, training) for training in (False, True)]
    chosen, left = plans(inner, graphs)
    if not chosen and not left:
        warn("no unit of the model is dead, so nothing can be taken out of it.", IneffectiveWarning)
    for layer, dead, route in chosen:
        _take_out(layer, dead, route)
    with evaluating(inner):
        try:
            found = output_of(inner, example)
        except RuntimeError as error:
            raise UnsupportedModuleError(REFUSED.format(how=f"does not run: {error}")) from error
    if not _close(found, expected):
        raise UnsupportedModuleError(REFUSED.format(how="puts out something else"))
    if left:
        warn(f"compact leaves dead units where they are: {'; '.join(left)}.", FallbackWarning)
    return copied


def _take_out(layer: nn.Module, dead: Tensor, route: Route) -> None:
    """Take units [O] out of a layer, and out of all that follows on their way."""
    kept = (~dead).nonzero()[:, 0]
    keep_units(layer, kept)
    for norm in route.norms:
        keep_channels(norm, kept)
    for taker, flow in route.takers.items():
        values = torch.where(dead, flow.value, 0)
        if bool(values.any()):
            fold(taker, values, flow.block)
        keep_inputs(taker, (~dead).repeat_interleave(flow.block).nonzero()[:, 0])


def _close(found: Any, expected: Any) -> bool:
    """Tell whether outputs are equal up to rounding."""
    pairs = zip(tree_leaves(found), tree_leaves(expected), strict=True)
    return all(_near(one, other) for one, other in pairs if isinstance(other, Tensor))


def _near(found: Tensor, expected: Tensor) -> bool:
    if found.shape != expected.shape or found.dtype is not expected.dtype:
        return False
    if not expected.is_floating_point():
        return bool(torch.equal(found, expected))
    size = expected.abs().nan_to_num(0, 0, 0).max() if expected.numel() else 0
    allowed = ROUNDING.get(expected.dtype, 0.05) * float(size)
    return bool(torch.allclose(found, expected, rtol=0, atol=allowed, equal_nan=True))
