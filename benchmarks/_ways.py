# SPDX-License-Identifier: BSD-3-Clause
"""Ways to the diagonal of the Fisher, ours and those of others.

A way is made for a model and the loss of its samples, and returns ``run(batch) -> {name: sum_n g_n^2}``. What
need not be done for every batch is done when it is made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor, nn

from _tasks import Batch

Loss = Callable[[Callable[..., Tensor], Batch], Tensor]
Squares = dict[str, Tensor]
Run = Callable[[Batch], Squares]


class Refused(Exception):  # noqa: N818  (an answer, not an error)
    """A way cannot do this model, and why."""


def plain(model: nn.Module, loss: Loss) -> Run:
    """One forward and backward pass: the price that all others are divided by. No Fisher."""

    def run(batch: Batch) -> Squares:
        model.zero_grad()
        loss(model, batch).sum().backward()
        return {}

    return run


def unlearnkit(model: nn.Module, loss: Loss) -> Run:
    """Ours; UNLEARNKIT_BACKEND says by which kernels."""
    from unlearnkit.gradients import SquareSums

    engine = SquareSums(model, loss)
    totals = engine.zeros()  # once a measurement, as the proof, which the first call has in it

    def run(batch: Batch) -> Squares:
        engine.add(batch, totals)
        return totals

    return run


def batch_squares(model: nn.Module, loss: Loss) -> Run:
    """What the code of SSD's authors squares, the gradient of a batch's mean loss: not the Fisher."""

    def run(batch: Batch) -> Squares:
        model.zero_grad()
        loss(model, batch).mean().backward()
        # times N: for one sample this is the Fisher
        return {name: len(batch[0]) * p.grad.square() for name, p in model.named_parameters()}

    return run


def loop(model: nn.Module, loss: Loss) -> Run:
    """One sample after the other: slow, and beyond doubt."""

    def run(batch: Batch) -> Squares:
        totals = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
        for part in chunks(batch, 1):
            model.zero_grad()
            loss(model, part).sum().backward()
            for name, p in model.named_parameters():
                totals[name].addcmul_(p.grad, p.grad)
        return totals

    return run


def vmap(model: nn.Module, loss: Loss) -> Run:
    """``torch.func``: gradients of some samples at a time, squared and summed."""
    from torch.func import functional_call, grad
    from torch.func import vmap as over
    from torch.nn.attention import SDPBackend, sdpa_kernel

    weights = {name: p.detach() for name, p in model.named_parameters()}

    def one(weights: Squares, x: Tensor, y: Tensor) -> Tensor:
        return loss(partial(functional_call, model, weights), (x[None], y[None])).sum()

    gradients = over(grad(one), (None, 0, 0))

    def run(batch: Batch) -> Squares:
        totals: Squares = {}
        # vmap has no rule for fused attention, and would call it sample by sample
        with sdpa_kernel(SDPBackend.MATH):
            for part in chunks(batch, 8 if batch[0].device.type == "cpu" else 32):
                for name, g in gradients(weights, *part).items():
                    square = g.square_().sum(0)
                    totals[name] = totals[name].add_(square) if name in totals else square
        return totals

    return run


def backpack(model: nn.Module, loss: Loss) -> Run:
    """BackPACK's ``SumGradSquared``."""
    from backpack import backpack as watching
    from backpack import extend
    from backpack.extensions import SumGradSquared

    try:  # its converter makes modules of what is none, such as the sums of residual networks
        extended = extend(model, use_converter=True).eval()
    except (AttributeError, NotImplementedError):  # the converter has no rule for what attention does
        extended = extend(model)

    def run(batch: Batch) -> Squares:
        extended.zero_grad()
        with watching(SumGradSquared()):
            loss(extended, batch).sum().backward()
        # of a layer that it does not know it leaves none
        parameters = extended.named_parameters()
        return {name: p.sum_grad_squared for name, p in parameters if hasattr(p, "sum_grad_squared")}

    return run


def opacus(model: nn.Module, loss: Loss) -> Run:
    """Opacus' per-sample gradients, squared and summed."""
    from opacus.grad_sample import GradSampleModule

    # its hooks work in training mode alone; what would differ there, BatchNorm, it refuses
    watched = GradSampleModule(model.train(), loss_reduction="sum")

    def run(batch: Batch) -> Squares:
        watched.zero_grad()
        loss(watched, batch).sum().backward()
        totals = {}
        for name, p in model.named_parameters():
            totals[name] = p.grad_sample.square_().sum(0)
            p.grad_sample = None
        return totals

    return run


def nngeometry(model: nn.Module, loss: Loss) -> Run:
    """NNGeometry's diagonal of the covariance of the gradients, of a function that is each sample's loss."""
    from nngeometry.backend import TorchHooksJacobianBackend
    from nngeometry.layercollection import LayerCollection
    from nngeometry.object import PMatDiag
    from torch.utils.data import DataLoader

    layers = LayerCollection.from_model(model)

    def losses(*batch: Tensor) -> Tensor:
        return loss(model, batch)[:, None]

    def run(batch: Batch) -> Squares:
        backend = TorchHooksJacobianBackend(model, losses, layer_collection=layers)
        # a data set of one sample, which is the batch: so the mean is the sum, and nothing is copied
        examples = DataLoader([tuple(part.detach() for part in batch)], batch_size=None)
        flat = PMatDiag(backend, examples=examples).data
        totals, start = {}, 0
        for name in layers.layers:
            for own, p in model.get_submodule(name).named_parameters(recurse=False):
                totals[f"{name}.{own}"] = flat[start : start + p.numel()].view_as(p)
                start += p.numel()
        return totals

    return run


WAYS: dict[str, Callable[[nn.Module, Loss], Run]] = {
    "plain": plain,
    "unlearnkit": unlearnkit,
    "unlearnkit-torch": unlearnkit,
    "batch-squares": batch_squares,
    "loop": loop,
    "vmap": vmap,
    "opacus": opacus,
    "backpack": backpack,
    "nngeometry": nngeometry,
}
LIBRARIES = {
    "unlearnkit": "unlearnkit.gradients",
    "unlearnkit-torch": "unlearnkit.gradients",
    "vmap": "torch.func",
    "opacus": "opacus.grad_sample",
    "backpack": "backpack.extensions",
    "nngeometry": "nngeometry.object",
}
"""What a way imports, before its memory is measured."""

BACKENDS = {"unlearnkit": "auto", "unlearnkit-torch": "torch"}
"""UNLEARNKIT_BACKEND in the process of a way."""

PEERS = ("backpack-for-pytorch", "opacus", "nngeometry", "opt_einsum")
"""Packages whose versions stand beside a result (torch's einsum, in BackPACK, uses opt_einsum if it is there)."""


def chunks(batch: Batch, size: int) -> Iterator[Batch]:
    """Yield `size` samples at a time."""
    yield from zip(*(part.split(size) for part in batch), strict=True)


def relative_errors(found: Squares, exact: Squares) -> dict[str, float]:
    """Of each tensor the largest difference over the largest value.

    Tensors that are zero but for rounding, such as the bias of keys in attention, which a softmax cancels,
    are held against 1e-6 of the largest value of all.

    Raises
    ------
    Refused
        If a parameter is missing.
    """
    missing = sorted(exact.keys() - found.keys())
    if missing:
        raise Refused(
            f"gives no value for {len(missing)} of {len(exact)} parameters, {missing[0]} among them"
        )
    floor = 1e-6 * max(float(value.max()) for value in exact.values())
    return {
        name: float((found[name].detach().double() - value).abs().max()) / max(float(value.max()), floor)
        for name, value in exact.items()
    }


def in_double(batch: Batch) -> Batch:
    """The same samples in float64, if they are no text."""
    x, y = batch
    return (x.double() if x.is_floating_point() else x), y


def exact_squares(model: nn.Module, loss: Loss, batch: Batch) -> Squares:
    """The oracle: sample by sample, in float64. It leaves the model in float64."""
    return loop(model.double(), loss)(in_double(batch))
