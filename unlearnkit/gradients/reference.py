# SPDX-License-Identifier: BSD-3-Clause
"""Per-sample gradients of any model, without a rule for anything: the oracle, and the fallback.

Every sample passes through the model in a batch of its own, so the numbers are exact by construction:
one by one in :func:`looped`, side by side under ``torch.func.vmap`` in :func:`vmapped`.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from unlearnkit.data import Batch, Loss, batch_size, take, tensors_of, tree_map
from unlearnkit.exceptions import DataError, UnsupportedModuleError
from unlearnkit.gradients._straight import StraightBatchNorm
from unlearnkit.parameters import named_parameters

Parameters = dict[str, nn.Parameter]
VMAP_BYTES = 256 * 2**20


def measured_parameters(model: nn.Module) -> Parameters:
    """Return the parameters that are measured: all that require a gradient.

    Raises
    ------
    UnsupportedModuleError
        If there is none, or one is complex.
    """
    parameters = named_parameters(model, trainable=True)
    if not parameters:
        raise UnsupportedModuleError(
            "no parameter of the model requires a gradient, so there is nothing to measure: call "
            "model.requires_grad_(True), or set it for those that may be edited."
        )
    for name, parameter in parameters.items():
        if parameter.is_complex():
            raise UnsupportedModuleError(
                f"parameter {name} is complex, and importance is defined for real ones only: "
                "exclude it with requires_grad_(False)."
            )
    return parameters


def zeros(parameters: Parameters) -> dict[str, Tensor]:
    """Return totals in float64 with the parameters' strides; on the CPU where a device has none."""
    return {
        name: torch.zeros_like(
            parameter,
            dtype=torch.float64,
            device="cpu" if parameter.device.type == "mps" else parameter.device,
            requires_grad=False,
        )
        for name, parameter in parameters.items()
    }


@contextmanager
def plain_eager(model: nn.Module) -> Iterator[None]:
    """No autocast (squares underflow in halves), no compiled graphs (they cannot be watched)."""
    with ExitStack() as stack:
        stack.enter_context(torch.enable_grad())
        for device in ("cpu", "cuda"):
            stack.enter_context(torch.autocast(device, enabled=False))
        stack.enter_context(torch.compiler.set_stance("force_eager"))
        stack.callback(torch.backends.mha.set_fastpath_enabled, torch.backends.mha.get_fastpath_enabled())
        torch.backends.mha.set_fastpath_enabled(False)  # it drops padding, where no gradient is asked for
        if any(isinstance(module, nn.RNNBase) for module in model.modules()):
            # cuDNN has no backward pass of an RNN in eval mode
            stack.enter_context(torch.backends.cudnn.flags(enabled=False))
        yield


def per_sample_losses(model: nn.Module, loss: Loss, batch: Batch) -> Tensor:
    """Return loss(model, batch), a finite value for each of its N samples.

    Raises
    ------
    DataError
        If it is not a tensor [N], or a value is NaN or infinite.
    """
    losses, n = loss(model, batch), batch_size(batch)
    if not isinstance(losses, Tensor) or losses.shape != (n,):
        got = f"shape {list(losses.shape)}" if isinstance(losses, Tensor) else type(losses).__name__
        raise DataError(
            f"loss(model, batch) must return one value a sample, shape [{n}], got {got}: use "
            "reduction='none', and reduce over what is not the sample dimension."
        )
    finite = torch.isfinite(losses.detach())
    if not bool(finite.all()):
        at = int((~finite).nonzero()[0])
        raise DataError(
            f"the loss of sample {at} of a batch is {losses[at].item()}: look for NaN or infinite values in "
            "the data and in the model's weights, and for labels outside its classes."
        )
    return losses


def loss_values(model: nn.Module, loss: Loss, batch: Batch) -> Tensor:
    """Return loss(model, batch) as numbers, without a graph.

    Raises
    ------
    DataError
        As :func:`per_sample_losses`.
    """
    try:
        with torch.no_grad():
            return per_sample_losses(model, loss, batch)
    except RuntimeError:  # forces, penalties: the model or the loss may call autograd itself
        return per_sample_losses(model, loss, batch).detach()


def looped(model: nn.Module, loss: Loss, batch: Batch, parameters: Parameters) -> Iterator[dict[str, Tensor]]:
    """Yield the gradients of one sample after the other.

    Raises
    ------
    DataError
        As :func:`per_sample_losses`.
    """
    tensors = list(parameters.values())
    for index in range(batch_size(batch)):
        with StraightBatchNorm():
            total = per_sample_losses(model, loss, take(batch, slice(index, index + 1))).sum()
        try:
            found: tuple[Tensor | None, ...] = torch.autograd.grad(
                total, tensors, allow_unused=True, retain_graph=True
            )
        except RuntimeError as error:
            if "checkpoint" not in str(error).lower():
                raise
            found = _by_backward(total, tensors)  # reentrant checkpointing forbids autograd.grad
        yield {
            name: torch.zeros_like(tensor) if gradient is None else gradient.detach()
            for (name, tensor), gradient in zip(parameters.items(), found, strict=True)
        }


def in_company(
    model: nn.Module, loss: Loss, batch: Batch, parameters: Parameters
) -> Iterator[dict[str, Tensor]]:
    """Yield the gradients of one sample's loss after the other, all samples running together.

    Raises
    ------
    DataError
        As :func:`per_sample_losses`.
    """
    tensors = list(parameters.values())
    with StraightBatchNorm():
        losses = per_sample_losses(model, loss, batch)
    for one in losses:
        found = torch.autograd.grad(one, tensors, allow_unused=True, retain_graph=True)
        yield {
            name: torch.zeros_like(tensor) if gradient is None else gradient
            for (name, tensor), gradient in zip(parameters.items(), found, strict=True)
        }


def _by_backward(total: Tensor, tensors: list[nn.Parameter]) -> tuple[Tensor | None, ...]:
    kept = [tensor.grad for tensor in tensors]
    try:
        for tensor in tensors:
            tensor.grad = None
        total.backward()
        return tuple(tensor.grad for tensor in tensors)
    finally:
        for tensor, gradient in zip(tensors, kept, strict=True):
            tensor.grad = gradient


def vmapped(
    model: nn.Module, loss: Loss, batch: Batch, parameters: Parameters
) -> Iterator[dict[str, Tensor]]:
    """Yield the gradients of some samples at a time, each [n, *shape].

    Raises
    ------
    UnsupportedModuleError
        If the model cannot run under ``torch.func.vmap`` (use :func:`looped`).
    """
    n = batch_size(batch)
    values = {name: parameter.detach() for name, parameter in parameters.items()}
    entries = sum(value.numel() * value.element_size() for value in values.values())
    step = max(1, min(n, 32, VMAP_BYTES // max(entries, 1)))

    for start in range(0, n, step):
        part = take(batch, slice(start, min(start + step, n)))
        size = batch_size(part)
        leaves = tensors_of(part)
        batched = [leaf.dim() > 0 and len(leaf) == size for leaf in leaves]

        def one(
            current: dict[str, Tensor],
            *sample: Tensor,
            part: Batch = part,
            batched: list[bool] = batched,
        ) -> Tensor:
            rebuilt = iter(
                leaf.unsqueeze(0) if own else leaf for leaf, own in zip(sample, batched, strict=True)
            )
            with swapped(model, parameters, current):
                return loss(model, tree_map(lambda _: next(rebuilt), part)).sum()

        dims = (None, *(0 if own else None for own in batched))
        try:
            with (
                torch.no_grad(),
                warnings.catch_warnings(),
            ):  # the other weights want no gradient here
                warnings.simplefilter("ignore", UserWarning)  # where vmap has no rule of its own, it loops
                gradients = torch.func.vmap(torch.func.grad(one), in_dims=dims)(values, *leaves)
        except Exception as error:  # vmap fails in many ways, each with an exception of its own
            raise UnsupportedModuleError(f"the model does not run under torch.func.vmap: {error}") from error
        yield gradients


@contextmanager
def swapped(model: nn.Module, parameters: Parameters, values: dict[str, Tensor]) -> Iterator[None]:
    """Let the model compute with `values` in place of its parameters, wherever they are tied or listed."""
    new = {id(parameter): values[name] for name, parameter in parameters.items()}
    kept: list[tuple[nn.Module, str, nn.Parameter]] = []
    lists: list[tuple[nn.Module, list[Tensor | None]]] = []
    try:
        for module in model.modules():
            for name, parameter in module._parameters.items():
                if parameter is not None and id(parameter) in new:
                    kept.append((module, name, parameter))
                    module._parameters[name] = new[id(parameter)]  # type: ignore[assignment]
            flat = module.__dict__.get("_flat_weights")
            if flat is not None:  # an RNN keeps a list of its own
                lists.append((module, flat))
                module.__dict__["_flat_weights"] = [new.get(id(weight), weight) for weight in flat]
        yield
    finally:
        for module, name, parameter in kept:
            module._parameters[name] = parameter
        for module, weights in lists:
            module.__dict__["_flat_weights"] = weights
