# SPDX-License-Identifier: BSD-3-Clause
"""Prompts, images and numbers as a user gives them, checked and made plain lists."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any

from unlearnkit.exceptions import DataError


def texts(name: str, given: Any) -> list[str]:
    """Return one prompt or several as a list.

    Raises
    ------
    DataError
        If it is neither, or empty.
    """
    found = [given] if isinstance(given, str) else given
    if not isinstance(found, Sequence) or not found or not all(isinstance(one, str) for one in found):
        got = "nothing" if isinstance(found, Sequence) and not found else repr(given)
        raise DataError(f"{name} must be a prompt or a list of prompts, got {got:.200}.")
    return list(found)


def replacements(instead: Any, prompts: list[str]) -> list[str] | None:
    """Return what replaces each prompt: one for all, one for each, or by prompt; None where nothing does.

    Raises
    ------
    DataError
        If it is none of these, or leaves a prompt out.
    """
    if instead is None:
        return None
    if isinstance(instead, Mapping):
        if missing := [prompt for prompt in prompts if prompt not in instead]:
            raise DataError(f"instead says nothing of the prompt {missing[0]!r}: add it.")
        return texts("instead", [instead[prompt] for prompt in prompts])
    found = texts("instead", instead)
    if isinstance(instead, str):
        return found * len(prompts)
    if len(found) != len(prompts):
        raise DataError(
            f"instead must be one prompt for all or one for each of {len(prompts)} prompts, got {len(found)}."
        )
    return found


def count_of(images: Any, samples: int | None, prompts: list[str]) -> int:
    """Return the number of images that are given.

    Raises
    ------
    DataError
        If they are not images that can be counted, or do not go with the prompts.
    """
    if not (hasattr(images, "__len__") and hasattr(images, "__getitem__")) or len(images) == 0:
        got = "none" if hasattr(images, "__len__") else type(images).__name__
        raise DataError(
            f"images must be a tensor [N, 3, H, W] in [-1, 1] or a sequence of PIL images, got {got}."
        )
    count = len(images)
    if samples is not None:
        raise DataError(
            f"samples={samples} is for images that are drawn, and {count} are given: leave it out."
        )
    if len(prompts) not in (1, count):
        raise DataError(
            f"{count} images have one prompt for all or one for each, got {len(prompts)} prompts."
        )
    return count


def check_numbers(low: int, **given: Any) -> None:
    """Check that parameters are whole numbers, `low` or more, or None.

    Raises
    ------
    DataError
        It names the one that is not.
    """
    for name, value in given.items():
        whole = isinstance(value, Integral) and not isinstance(value, bool)
        if value is not None and not (whole and value >= low):
            raise DataError(f"{name} must be a whole number, {low} or more, got {value!r}.")
