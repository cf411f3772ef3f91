# SPDX-License-Identifier: BSD-3-Clause
"""Values as they are typed: ``10``, ``paper``, ``Trainer(clip=1.0)``, ``train.py:build``; and lists of them."""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from typing import Any

from unlearnkit.cli._errors import WrongUse, near
from unlearnkit.cli._names import Name, is_name

Makers = Mapping[str, Callable[..., Any]]

WORDS = {"true": True, "false": False, "none": None, "null": None}


def setting(text: str, option: str) -> tuple[str, str]:
    """Take ``NAME=VALUE`` apart.

    Raises
    ------
    WrongUse
        If it is not of this form.
    """
    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise WrongUse(f"{option} {text}: expected NAME=VALUE, as in {option} alpha=10.")
    return name.strip(), value.strip()


def value_of(text: str, option: str, makers: Makers) -> Any:
    """Return the value of a text: a Python literal, a call of one of `makers`, an object's name, or a word.

    Raises
    ------
    WrongUse
        If a call is of none of them, or an object is not there.
    """
    if text.lower() in WORDS:
        return WORDS[text.lower()]
    try:
        node = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError):
        return Name.parse(text, option).find() if is_name(text) else text
    if isinstance(node, ast.Call):
        return _made(node, text, option, makers)
    try:
        return ast.literal_eval(node)
    except ValueError:
        return text


def values_of(text: str, option: str, makers: Makers) -> list[Any]:
    """Return the values of a list that commas separate, those inside brackets and quotes apart.

    Raises
    ------
    WrongUse
        If one is left out; and as :func:`value_of`.
    """
    parts = split(text)
    if not all(parts):
        raise WrongUse(f"{option} {text}: a value is missing beside a comma.")
    return [value_of(part, option, makers) for part in parts]


def split(text: str) -> list[str]:
    """Split at commas that no bracket and no quote holds."""
    parts, depth, quote = [""], 0, ""
    for char in text:
        if quote:
            quote = "" if char == quote else quote
        elif char in "'\"":
            quote = char
        depth += 0 if quote else (char in "([{") - (char in ")]}")
        if char == "," and depth == 0 and not quote:
            parts.append("")
        else:
            parts[-1] += char
    return [part.strip() for part in parts]


def _made(node: ast.Call, text: str, option: str, makers: Makers) -> Any:
    name = node.func.id if isinstance(node.func, ast.Name) else ast.unparse(node.func)
    if name not in makers:
        raise WrongUse(
            f"{option} {text}: {name!r} is not known{near(name, makers)}. Known are {', '.join(sorted(makers))}."
        )
    try:
        args = [_argument(one, text, option, makers) for one in node.args]
        named = {str(word.arg): _argument(word.value, text, option, makers) for word in node.keywords}
        return makers[name](*args, **named)
    except (TypeError, ValueError) as error:
        raise WrongUse(f"{option} {text}: {error}.") from error


def _argument(node: ast.expr, text: str, option: str, makers: Makers) -> Any:
    return _made(node, text, option, makers) if isinstance(node, ast.Call) else ast.literal_eval(node)
