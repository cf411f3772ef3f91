# SPDX-License-Identifier: BSD-3-Clause
"""The weights with the highest scores, within a budget: one by one, by channel, or by layer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Real
from typing import Any, Literal

import torch
from torch import Tensor, nn

from unlearnkit.exceptions import DataError, IneffectiveWarning, warn
from unlearnkit.ops import channel_scores, kth_value
from unlearnkit.parameters import named_parameters
from unlearnkit.selection._eligible import Patterns, eligible_scores
from unlearnkit.selection.mask import ParameterMask

FAN_IN = 0.1
"""The share of a row whose mean ranks it, where ``top="fan_in"``."""

NO_RANK = (
    "all scores of the {n:,} weights are 0, so which are selected says nothing: the earliest are. A loss that has its "
    "minimum at this model, such as the distance to what it gave before, has no gradient there: measure with another, "
    "as in importance=GradientSaliency(loss=...)."
)


def select(
    scores: Mapping[str, Tensor],
    budget: float,
    granularity: Literal["weight", "channel", "layer"] = "weight",
    top: Literal["fan_in", "code", "all"] | float = "fan_in",
    include: Patterns = None,
    exclude: Patterns = None,
    model: nn.Module | None = None,
) -> ParameterMask:
    """Select the weights with the highest scores, within a budget of all eligible weights.

    One ranking over all tensors; of equal scores the earlier is taken, in the order of the model's
    parameters and then of their elements.

    Parameters
    ----------
    scores : mapping of str to Tensor
        By canonical parameter name and of the parameter's shape: zero or more, infinite allowed.
    budget : float
        Share of the n eligible weights, above 0 and at most 1.
    granularity : {"weight", "channel", "layer"}, default="weight"
        What is selected whole. ``"weight"``: exactly ``int(budget * n)`` single weights.
        ``"channel"``: indices of the first dimension of tensors that have more than one; the
        weights of the others compete one by one. ``"layer"``: the parameters of a module that are
        its own, by the mean of their scores. Of the latter two a unit is taken where it still fits
        the budget, which is never exceeded.
    top : {"fan_in", "code", "all"} or float, default="fan_in"
        A channel's score is the mean of its h largest. ``"fan_in"``: h is a tenth of the row,
        rounded up. ``"code"``: a tenth of the number of rows, rounded down, as the authors' code of
        DEL has it. ``"all"``: the whole row. A number: that share of the row, rounded up. Never
        less than 1, nor more than the row.
    include, exclude : str or sequence of str, optional
        Patterns of parameter names, as ``"layer4.*"`` (:mod:`fnmatch`): only those that one of
        `include` matches are eligible, and none that one of `exclude` does.
    model : nn.Module, optional
        The mask then covers all of its parameters, and those that are frozen are not eligible.
        Without it, the mask covers those that have scores.

    Returns
    -------
    ParameterMask
        On the CPU.

    Raises
    ------
    DataError
        If a parameter is none of those it can be, nothing is eligible, nothing fits the budget, or
        the scores do not fit the model, or are NaN or negative.

    Warns
    -----
    IneffectiveWarning
        If a part is to be selected and all scores are 0, so that nothing ranks the weights.

    Notes
    -----
    Weights: Fan et al., "SalUn", arXiv 2310.12508, in its code's form, a rank rather than a
    threshold. Channels: Torkzadehmahani et al., "Improved Localized Machine Unlearning Through the
    Lens of Memorization", arXiv 2412.02432, algorithm 1.
    """
    _validate(budget, granularity, top)
    found = eligible_scores(scores, model, include, exclude)
    n = sum(score.numel() for score in found.values())
    if granularity == "weight":
        chosen = highest(found, int(budget * n))
    else:
        units = _channels(found, top) if granularity == "channel" else _layers(found)
        chosen = _whole(units, found, int(budget * n))
    if not any(bool(mask.any()) for mask in chosen.values()):
        smallest = 1 if granularity == "weight" else min(int(sizes.min()) for _, sizes, _ in units)
        raise DataError(
            f"budget={budget:g} is {int(budget * n):,} of {n:,} weights, and the smallest {granularity} "
            f"has {smallest:,}: raise budget to {_enough(smallest, n):g} or more."
        )
    if budget < 1 and not any(bool(score.any()) for score in found.values()):
        warn(NO_RANK.format(n=n), IneffectiveWarning)
    shapes = {name: score.shape for name, score in scores.items()}
    if model is not None:
        shapes = {name: parameter.shape for name, parameter in named_parameters(model).items()}
    masks = {name: chosen.get(name, torch.zeros(shape, dtype=torch.bool)) for name, shape in shapes.items()}
    return ParameterMask(masks, budget, list(found))


def highest(scores: Mapping[str, Tensor], count: int) -> dict[str, Tensor]:
    """Return the masks of exactly `count` of the highest scores; of equal ones the earlier."""
    infinite = sum(int(score.isinf().sum()) for score in scores.values())
    finite = sum(score.numel() for score in scores.values()) - infinite
    if count == 0:
        return {name: torch.zeros(score.shape, dtype=torch.bool) for name, score in scores.items()}
    # the least score that is selected
    least = math.inf if count <= infinite else kth_value(scores.values(), finite + infinite - count + 1)
    masks = {name: score > least for name, score in scores.items()}
    left = count - sum(int(mask.sum()) for mask in masks.values())
    for name, score in scores.items():
        if left == 0:
            break
        ties = (score == least).reshape(-1).nonzero()[:left, 0]
        left -= len(ties)
        masks[name] = masks[name].reshape(-1).index_fill(0, ties, True).view(score.shape)
    return {name: mask.cpu() for name, mask in masks.items()}


Unit = tuple[Tensor, Tensor, tuple[str, ...]]
"""The scores [U] of units, their sizes [U], and the tensors that they are of: one unit of several
tensors, or the rows of one."""


def _channels(scores: Mapping[str, Tensor], top: str | float) -> list[Unit]:
    units: list[Unit] = []
    for name, score in scores.items():
        if score.dim() > 1:
            length = score.numel() // len(score)
            (means,) = channel_scores([score], [score.new_ones(()).expand_as(score)], _h(top, score, length))
        else:
            means, length = score.reshape(-1), 1
        units.append((means.double().cpu(), torch.full((len(means),), length), (name,)))
    return units


def _h(top: str | float, score: Tensor, length: int) -> int:
    """Return how many of a row's scores count."""
    if top == "all":
        return length
    if top == "code":
        return min(max(int(0.1 * len(score)), 1), length)
    share = FAN_IN if isinstance(top, str) else top
    # .1 * 70 is 7.000000000000001, and means 7
    return min(max(math.ceil(round(share * length, 9)), 1), length)


def _layers(scores: Mapping[str, Tensor]) -> list[Unit]:
    layers: dict[str, list[str]] = {}
    for name in scores:
        layers.setdefault(name.rpartition(".")[0], []).append(name)
    units: list[Unit] = []
    for names in layers.values():
        size = sum(scores[name].numel() for name in names)
        total = sum(float(scores[name].double().sum()) for name in names)
        mean = torch.tensor([total / size], dtype=torch.float64)
        units.append((mean, torch.tensor([size]), tuple(names)))
    return units


def _whole(units: list[Unit], scores: Mapping[str, Tensor], count: int) -> dict[str, Tensor]:
    """Return the masks of the units taken, none in part and `count` weights at most."""
    taken = greedy(torch.cat([unit[0] for unit in units]), torch.cat([unit[1] for unit in units]), count)
    masks: dict[str, Tensor] = {}
    for part, (_, _, names) in zip(taken.split([len(unit[0]) for unit in units]), units, strict=True):
        for name in names:
            shape = scores[name].shape
            rows = part.view(-1, *[1] * (len(shape) - 1)) if shape else part.view(())
            masks[name] = rows.expand(shape).clone()
    return masks


def greedy(scores: Tensor, sizes: Tensor, count: int) -> Tensor:
    """Take units in the order of their scores, each where it still fits into `count`.

    Parameters
    ----------
    scores, sizes : Tensor, shape [U]
        Of equal scores the earlier comes first.
    count : int

    Returns
    -------
    bool Tensor, shape [U]
    """
    taken = torch.zeros(len(scores), dtype=torch.bool)
    left = scores.sort(descending=True, stable=True).indices
    while len(left := left[sizes[left] <= count]):  # what does not fit now fits never
        fitting = int((sizes[left].cumsum(0) <= count).sum())
        taken[left[:fitting]] = True
        count -= int(sizes[left[:fitting]].sum())
        left = left[fitting:]
    return taken


def _enough(count: int, n: int) -> float:
    """Return a budget of six decimals at most under which `count` of n weights fit."""
    millionths = math.ceil(count / n * 1e6)
    while int(millionths / 1e6 * n) < count:
        millionths += 1
    return millionths / 1e6


def _validate(budget: Any, granularity: Any, top: Any) -> None:
    if not _is_share(budget):
        raise DataError(f"budget must be a share of the weights, above 0 and at most 1, got {budget!r}.")
    if granularity not in ("weight", "channel", "layer"):
        raise DataError(f"granularity must be 'weight', 'channel' or 'layer', got {granularity!r}.")
    if not _is_share(top) and not (isinstance(top, str) and top in ("fan_in", "code", "all")):
        raise DataError(
            f"top must be 'fan_in', 'code', 'all' or a share of the row, above 0 and at most 1, got {top!r}."
        )


def _is_share(value: Any) -> bool:
    number = isinstance(value, Real) and not isinstance(value, bool)
    return number and 0 < value <= 1
