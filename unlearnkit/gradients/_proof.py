# SPDX-License-Identifier: BSD-3-Clause
"""What the engine checks on a few samples before it trusts itself."""

from __future__ import annotations

import warnings
from collections import defaultdict

import torch
from torch import Tensor, nn

from unlearnkit.data import Batch, Loss, batch_size, take, tensors_of, tree_map
from unlearnkit.exceptions import FallbackWarning, UnsupportedModuleError
from unlearnkit.gradients.reference import Parameters, per_sample_losses, vmapped


def tolerance(tensor: Tensor) -> float:
    """Return what rounding may add up to, relatively: far below what any wrong layout does."""
    if tensor.dtype == torch.float64:
        return 1e-8
    if tensor.dtype == torch.float32:
        return 1e-3 if tensor.device.type == "cpu" else 1e-2  # convolutions in TF32
    return 0.2


def refuse_mixing(model: nn.Module, loss: Loss, pair: Batch) -> None:
    """Refuse a model in which the loss of one sample depends on another.

    Seen in two ways: the loss of one has a gradient at the other's input, or it changes when it is alone.

    Raises
    ------
    UnsupportedModuleError
        If it does.
    """
    leaves = tree_map(lambda t: t.clone().requires_grad_() if t.is_floating_point() else t, pair)
    # a leaf must not be written to, and a model may begin with an operation in place
    losses = per_sample_losses(model, loss, tree_map(lambda t: t * 1 if t.requires_grad else t, leaves))
    inputs = [t for t in tensors_of(leaves) if t.requires_grad and t.dim() > 0 and len(t) == 2]
    reached = False
    if inputs and losses.requires_grad:
        for own in (0, 1):
            try:
                found = torch.autograd.grad(losses[own], inputs, allow_unused=True, retain_graph=True)
            except RuntimeError:  # reentrant checkpointing forbids autograd.grad
                break
            reached |= any(g is not None and bool(g[1 - own].ne(0).any()) for g in found)
    with torch.no_grad():
        alone = torch.cat([per_sample_losses(model, loss, take(pair, slice(j, j + 1))) for j in (0, 1)])
        moved = (losses - alone).abs() > tolerance(losses) * (1 + alone.abs())
    if reached or bool(moved.any()):
        raise UnsupportedModuleError(
            "the model mixes the samples of a batch: the loss of one depends on the others, so the gradient of "
            "one sample is not defined. BatchNorm in train mode or with track_running_stats=False does this "
            "(call model.eval(), or use GroupNorm), and so does a mean or a norm over dimension 0."
        )


def refuse_random(model: nn.Module, loss: Loss, batch: Batch) -> None:
    """Refuse a model whose loss is another one at each call.

    Raises
    ------
    UnsupportedModuleError
        If two calls differ.
    """
    with torch.no_grad():
        first, second = (per_sample_losses(model, loss, batch) for _ in range(2))
    if bool(((first - second).abs() > tolerance(first) * (1 + first.abs())).any()):
        raise UnsupportedModuleError(
            "the model is random in eval mode: the loss of the same samples differs from call to call, and so "
            "would its gradients. Look for F.dropout without training=self.training, or for noise added in "
            "forward; if the loss draws noise (diffusion), draw it from the batch instead."
        )


def disagreeing(
    totals: dict[str, Tensor], alone: list[dict[str, Tensor]], parameters: Parameters
) -> list[str]:
    """Name the parameters whose `totals` are not the sums of squares of the gradients in `alone`."""
    truth = {
        name: torch.stack([gradients[name].detach().double().square() for gradients in alone]).sum(0)
        for name in parameters
    }
    # gradients that vanish but for rounding (a bias before a norm layer) agree by this floor
    floor = 1e-9 * max((float(value.max()) for value in truth.values() if value.numel()), default=0.0)
    wrong = []
    for name, value in truth.items():
        allowed = tolerance(parameters[name]) * float(value.sum()) + floor * value.numel()
        if name in totals and float((totals[name].to(value) - value).abs().sum()) > allowed:
            wrong.append(name)
    return wrong


def vmap_agrees(
    model: nn.Module, loss: Loss, batch: Batch, alone: list[dict[str, Tensor]], own: Parameters
) -> bool:
    """Tell whether vmap runs this model, and gives each sample the gradient that it has alone."""
    try:
        parts = list(vmapped(model, loss, batch, own))
    except UnsupportedModuleError:
        return False
    n = batch_size(batch)
    rows = [{name: torch.cat([part[name] for part in parts])[j] for name in own} for j in range(n)]
    totals = {name: torch.stack([row[name].double().square() for row in rows]).sum(0) for name in own}
    return not disagreeing(totals, alone, own)


def announce(reasons: dict[str, str]) -> None:
    """Say once which parameters are measured the slow way, and why."""
    if not reasons:
        return
    grouped: dict[str, list[str]] = defaultdict(list)
    for name, why in reasons.items():
        grouped[why].append(name)
    parts = [
        f"{', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}: {why}"
        for why, names in grouped.items()
    ]
    warnings.warn(
        "the gradients of some parameters are computed sample by sample, exact but slower "
        f"({'; '.join(parts)}).",
        FallbackWarning,
        stacklevel=7,
    )
