# SPDX-License-Identifier: BSD-3-Clause
"""What the engine checks on a few samples before it trusts itself."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from unlearnkit.data import Batch, Loss, batch_size, take, tensors_of, tree_map
from unlearnkit.exceptions import FallbackWarning, UnsupportedModuleError, warn
from unlearnkit.gradients.pairs import upcast
from unlearnkit.gradients.reference import (
    Parameters,
    in_company,
    looped,
    loss_values,
    per_sample_losses,
    vmapped,
)

KINKS = 0.03
"""What rounding may add up to, relatively, where it moves units over the kinks of ReLUs."""

ALONE = 8
"""About how many samples of a batch pass through the model alone, to see whether their losses change."""


MIXES = (
    "the model mixes the samples of a batch: the loss of one depends on the others, so the gradient of one sample "
    "is not defined. BatchNorm in train mode or with track_running_stats=False does this (call model.eval(), or "
    "use GroupNorm), and so does a mean or a norm over dimension 0."
)


def tolerance(tensor: Tensor) -> float:
    """Return what rounding may add up to, relatively: far below what any wrong layout does."""
    if tensor.dtype == torch.float64:
        return 1e-8
    if tensor.dtype == torch.float32:
        return 1e-3 if tensor.device.type == "cpu" else 1e-2  # convolutions in TF32
    return 0.2


def vanishing(tensor: Tensor) -> float:
    """Return which share of the largest squared gradient may be nothing but rounding."""
    return {torch.float64: 1e-20, torch.float32: 1e-9}.get(tensor.dtype, 1e-4)


def refuse_batch_statistics(model: nn.Module) -> None:
    """Refuse a BatchNorm that has no statistics but those of the batch.

    Raises
    ------
    UnsupportedModuleError
        Naming the layer.
    """
    for path, module in model.named_modules():
        if isinstance(module, _BatchNorm) and module.running_mean is None:
            raise UnsupportedModuleError(
                f"{path or 'the model'} is a BatchNorm without running statistics: in eval mode too it mixes "
                "the samples of a batch, so the gradient of one sample is not defined. Replace it (GroupNorm "
                "normalises sample by sample)."
            )


def refuse_mixing(model: nn.Module, loss: Loss, batch: Batch, losses: Tensor, pair: Batch) -> None:
    """Refuse a model in which the loss of one sample depends on another.

    Seen in two ways: the loss of one has a gradient at the other's input, or it changes with its company.

    Parameters
    ----------
    batch, losses
        A whole batch, and its losses.
    pair : two samples of it

    Raises
    ------
    UnsupportedModuleError
        If it does.
    """
    leaves = tree_map(lambda t: t.clone().requires_grad_() if t.is_floating_point() else t, pair)
    # a leaf must not be written to, and a model may begin with an operation in place
    both = per_sample_losses(model, loss, tree_map(lambda t: t * 1 if t.requires_grad else t, leaves))
    inputs = [t for t in tensors_of(leaves) if t.requires_grad and t.dim() > 0 and len(t) == 2]
    reached = False
    if inputs and both.requires_grad:
        for own in (0, 1):
            try:
                found = torch.autograd.grad(both[own], inputs, allow_unused=True, retain_graph=True)
            except RuntimeError:  # reentrant checkpointing forbids autograd.grad
                break
            reached |= any(g is not None and bool(g[1 - own].ne(0).any()) for g in found)

    n = len(losses)
    some = slice(None, None, max(1, n // ALONE))
    if (
        reached
        or _moved(model, loss, pair, both, 1)
        or _moved(model, loss, batch, losses, (n + 1) // 2)
        or _moved(model, loss, take(batch, some), losses[some], 1)
    ):
        raise UnsupportedModuleError(MIXES)


def refuse_company(model: nn.Module, loss: Loss, batch: Batch, losses: Tensor) -> None:
    """Look at one sample of a batch: refuse the model if its loss is another one alone.

    Raises
    ------
    UnsupportedModuleError
        If it is.
    """
    at = int(losses.argmin())  # the proof has looked at large ones
    one = slice(at, at + 1)
    if len(losses) > 1 and _moved(model, loss, take(batch, one), losses[one], 1):
        raise UnsupportedModuleError(MIXES)


def _moved(model: nn.Module, loss: Loss, batch: Batch, losses: Tensor, size: int) -> bool:
    """Tell whether the losses of samples change in batches of another size."""
    parts = [take(batch, slice(start, start + size)) for start in range(0, batch_size(batch), size)]
    try:
        apart = torch.cat([loss_values(model, loss, part) for part in parts])
    except Exception as error:
        raise UnsupportedModuleError(
            "the model runs on a batch, but not on one sample of it alone, and so the gradient of one sample "
            f"is not defined: look for squeeze() without a dimension. ({type(error).__name__}: {error})"
        ) from error
    return bool(((losses.detach() - apart).abs() > tolerance(apart) * (1 + apart.abs())).any())


def refuse_random(model: nn.Module, loss: Loss, batch: Batch, parameters: Parameters) -> None:
    """Refuse a model whose loss, or gradient, is another one at each call.

    Raises
    ------
    UnsupportedModuleError
        If two calls differ: at all, where random numbers are drawn, else by more than rounding.
    """
    before = _random_states()
    first, second = (loss_values(model, loss, batch) for _ in range(2))
    moved = (first - second).abs() > tolerance(first) * (1 + first.abs())
    differs = bool(moved.any())
    if not differs and _random_states() != before:
        # noise may hide in a branch that is almost switched off, and be all there is to its gradients
        once, again = (squares(looped(model, loss, batch, parameters)) for _ in range(2))
        differs = not torch.equal(first, second) or bool(disagreeing(once, again, parameters))
    if differs:
        raise UnsupportedModuleError(
            "the model is random in eval mode: the loss of the same samples differs from call to call, and so "
            "would its gradients. Look for F.dropout without training=self.training, for noise added in forward, "
            "or for a buffer that every call moves; if the loss draws noise (diffusion), draw it from the batch "
            "instead."
        )


def _random_states() -> list[object]:
    states: list[object] = [random.getstate(), repr(np.random.get_state(legacy=False))]
    tensors = [torch.get_rng_state()]
    if torch.cuda.is_initialized():
        tensors += torch.cuda.get_rng_state_all()
    return states + [tensor.numpy().tobytes() for tensor in tensors]


def squares(rows: Iterable[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Return the sum of squares of what each sample has."""
    totals: dict[str, Tensor] = {}
    for row in rows:
        for name, value in row.items():
            value = upcast(value.detach())
            if name in totals:
                totals[name].addcmul_(value, value)
            else:
                totals[name] = value.square()
        row.clear()  # the next one needs the memory
    return totals


def unproved(
    model: nn.Module,
    loss: Loss,
    few: Batch,
    totals: dict[str, Tensor],
    truth: dict[str, Tensor],
    parameters: Parameters,
) -> list[str]:
    """Name the parameters whose `totals` are not those of autograd, sample by sample.

    A unit at the kink of a ReLU may be on in a batch and off alone, by nothing but rounding, and all
    gradients in front of it change by some per mille. Where `truth`, of samples alone, is missed by no more
    than a few per cent, autograd on the same batch decides.
    """
    wrong = disagreeing(totals, truth, parameters)
    if not wrong or disagreeing({name: totals[name] for name in wrong}, truth, parameters, KINKS):
        return wrong
    try:
        together = squares(in_company(model, loss, few, parameters))
    except RuntimeError:  # checkpointing, graph surgery
        return wrong
    return disagreeing({name: totals[name] for name in wrong}, together, parameters)


def disagreeing(
    totals: dict[str, Tensor], truth: dict[str, Tensor], parameters: Parameters, least: float = 0.0
) -> list[str]:
    """Name the parameters whose `totals` are not the sums of squares in `truth`.

    `least` is a tolerance that is used where the usual one is smaller.
    """
    # gradients that vanish but for rounding (a bias before a norm layer) agree by this floor
    largest = max((float(value.max()) for value in truth.values() if value.numel()), default=0.0)
    wrong = []
    for name, value in totals.items():
        true = truth[name]
        allowed = (
            max(least, tolerance(parameters[name])) * float(true.sum())
            + vanishing(parameters[name]) * largest * true.numel()
        )
        if float((value.to(true) - true).abs().sum()) > allowed:
            wrong.append(name)
    return wrong


def vmap_agrees(
    model: nn.Module, loss: Loss, batch: Batch, truth: dict[str, Tensor], own: Parameters
) -> bool:
    """Tell whether vmap runs this model, and gives each sample the gradient that it has alone."""
    try:
        found = squares(
            {name: gradients[j] for name, gradients in part.items()}
            for part in vmapped(model, loss, batch, own)
            for j in range(len(next(iter(part.values()))))
        )
    except UnsupportedModuleError:
        return False
    return not disagreeing(found, truth, own)


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
    warn(
        "the gradients of some parameters are computed sample by sample, exact but slower "
        f"({'; '.join(parts)}).",
        FallbackWarning,
    )
