# SPDX-License-Identifier: BSD-3-Clause
"""Leaving no trace: what runs inside :func:`evaluating` leaves the model bit by bit as it was."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn

_Item = TypeVar("_Item")


@contextmanager
def preserved_rng(*sources: Any) -> Iterator[None]:
    """Give the caller its random state back: Python's, NumPy's, torch's on every device in use.

    Of `sources` that are loaders, the generators of their own too.
    """
    restore = _snapshot(sources)
    try:
        yield
    finally:
        restore()


def aside(source: Iterable[_Item]) -> Iterator[_Item]:
    """Yield what a loader or stream does, and keep the caller's random state out of it.

    What `source` draws at random it draws from a state of its own, which begins as the caller's and
    goes on from item to item.
    """
    with preserved_rng(source):
        items = iter(source)
        resume = _snapshot([source])
    while True:
        with preserved_rng(source):
            resume()
            try:
                item = next(items)
            except StopIteration:
                return
            resume = _snapshot([source])
        yield item


def _snapshot(sources: Iterable[Any]) -> Callable[[], None]:
    """Return a function that puts the random state back to what it is now."""
    own = [(generator, generator.get_state()) for generator in _generators(sources)]
    python, numpy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []

    def restore() -> None:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(cpu)
        if cuda:
            torch.cuda.set_rng_state_all(cuda)
        for generator, state in own:
            generator.set_state(state)

    return restore


def seed_rng(seed: int, *sources: Any) -> None:
    """Seed all that :func:`preserved_rng` gives back: what data sets, samplers and models draw from."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    for number, generator in enumerate(_generators(sources), 1):
        generator.manual_seed((seed + number) % 2**63)


def _generators(sources: Iterable[Any]) -> list[torch.Generator]:
    """Return the generators that loaders and their samplers have of their own, each once."""
    found: dict[int, torch.Generator] = {}
    for source in sources:
        batches = getattr(source, "batch_sampler", None)
        for part in (source, getattr(source, "sampler", None), batches, getattr(batches, "sampler", None)):
            generator = getattr(part, "generator", None)
            if isinstance(generator, torch.Generator):
                found[id(generator)] = generator
    return list(found.values())


@contextmanager
def evaluating(model: nn.Module) -> Iterator[nn.Module]:
    """Put the model in eval mode, and restore it at the end, even after an error.

    Restored: training flags, buffers, ``requires_grad``, ``.grad``, weights that a forward pass
    rewrites (``max_norm`` of an Embedding), and the caller's random state.
    """
    flags = [(module, module.training) for module in model.modules()]
    gradients = [(p, p.requires_grad, p.grad) for p in model.parameters()]
    buffers = [
        (module, name, buffer, None if buffer is None else buffer.detach().clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
    ]
    rewritten = [
        (weight, weight.detach().clone())
        for module in model.modules()
        if getattr(module, "max_norm", None) is not None
        for weight in module.parameters(recurse=False)
    ]
    with preserved_rng():
        try:
            model.eval()
            for parameter, _, _ in gradients:
                parameter.grad = None
            yield model
        finally:
            for module, training in flags:
                module.training = training
            for parameter, required, gradient in gradients:
                parameter.requires_grad_(required)
                parameter.grad = gradient
            with torch.no_grad():
                for module, name, buffer, value in buffers:
                    module._buffers[name] = buffer
                    if buffer is not None and value is not None:
                        buffer.copy_(value)
                for weight, value in rewritten:
                    weight.copy_(value)


def device_of(model: nn.Module) -> torch.device:
    """Return the device of the model's first tensor; the CPU where it has none."""
    for tensor in (*model.parameters(), *model.buffers()):
        return tensor.device
    return torch.device("cpu")
