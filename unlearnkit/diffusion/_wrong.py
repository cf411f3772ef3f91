# SPDX-License-Identifier: BSD-3-Clause
"""What a sample of the forget set is to look like instead: another class, another prompt, or none."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Generator, Tensor, nn

from unlearnkit.diffusion._calls import Condition, null_like
from unlearnkit.exceptions import DataError

Instead = str | int | Mapping[int, int] | Callable[[Any, Generator], Any]


def wrong_condition(
    rule: Instead,
    condition: Condition,
    null: Any,
    classes: int | None,
    model: nn.Module,
    generator: Generator,
) -> Condition:
    """Return another condition for each sample.

    Parameters
    ----------
    rule, classes, null
        As of :class:`unlearnkit.diffusion.DiffusionLoss`.
    condition : Tensor [N] of classes, embeddings or a mapping
    model : nn.Module
        Whose number of classes it is, where `classes` is None.
    generator : torch.Generator

    Raises
    ------
    DataError
        If the rule does not fit the condition.
    """
    if rule == "null":
        return null_like(null, condition)
    if callable(rule):
        return rule(condition, generator)
    given = condition.get("class_labels") if isinstance(condition, Mapping) else condition
    if not isinstance(given, Tensor) or given.dim() != 1 or given.is_floating_point():
        got = "nothing" if given is None else f"a condition {list(given.shape)} of {given.dtype}"
        raise DataError(
            f"instead={rule!r} is for classes [N], and the forget set has {got}. Give each sample what it is to "
            "look like instead, as the entry 'instead' of a batch that is a mapping, or pass instead='null' or a "
            "function instead(condition, generator)."
        )
    wrong = _wrong_class(rule, given, classes or _classes_of(model, null), generator)
    if bool((wrong == given).any()):
        raise DataError(f"instead={rule!r} leaves a class of the forget set as it is: name another one.")
    return {**condition, "class_labels": wrong} if isinstance(condition, Mapping) else wrong


def _wrong_class(rule: Any, given: Tensor, classes: int | None, generator: Generator) -> Tensor:
    if isinstance(rule, Mapping):
        if missing := sorted({int(one) for one in given} - set(rule)):
            raise DataError(
                f"instead={dict(rule)} says nothing of the class {missing[0]} of the forget set: add it."
            )
        return torch.tensor([rule[int(one)] for one in given], device=given.device)
    if not isinstance(rule, str):
        return torch.full_like(given, int(rule))
    if classes is None:
        raise DataError(
            f"instead={rule!r} needs the number of classes, and the model has no config that tells: pass "
            "DiffusionLoss(..., classes=K)."
        )
    if rule == "next":
        return (given + 1) % classes
    steps = torch.randint(1, classes, given.shape, generator=generator).to(given)
    return (given + steps) % classes


def _classes_of(model: nn.Module, null: Any) -> int | None:
    """Return the number of classes that a model's configuration tells, without the one that stands for none."""
    config = getattr(model, "config", None)
    count = getattr(config, "num_class_embeds", None) or getattr(config, "num_embeds_ada_norm", None)
    if not isinstance(count, int):
        return None
    return count - int(isinstance(null, int) and null == count - 1)
