# SPDX-License-Identifier: BSD-3-Clause
"""Python objects by name: ``package.module:name``, ``path/to/file.py:name``, ``train.py:build(classes=10)``."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from unlearnkit.cli._errors import WrongUse, near, user_code

FORM = "module:name or path/to/file.py:name, as in train.py:build"

_NAME = re.compile(r"(?P<where>.+?):(?P<name>[^\W\d][\w.]*)(?P<call>\(.*\))?", re.DOTALL)


@dataclass(frozen=True)
class Name:
    """A name taken apart.

    Attributes
    ----------
    text : str
        As it was given.
    where, name : str
        The module, or its file; the object in it, perhaps an attribute of one.
    arguments : tuple of (list, dict), or None
        What to call it with; None where the text does not say.
    """

    text: str
    where: str
    name: str
    arguments: tuple[list[Any], dict[str, Any]] | None

    @classmethod
    def parse(cls, text: str, option: str) -> Name:
        """Take a name apart.

        Raises
        ------
        WrongUse
            If it is none; `option` is named.
        """
        found = _NAME.fullmatch(text)
        if found is None:
            raise WrongUse(f"{option} {text}: name a Python object as {FORM}.")
        where, call = found["where"], found["call"]
        if where.endswith(".py") and not Path(where).is_file():
            raise WrongUse(f"{option} {text}: there is no file {where!r} (looked for in {os.getcwd()}).")
        return cls(text, where, found["name"], None if call is None else _arguments(text, call, option))

    def find(self) -> Any:
        """Import the module, and return the object itself.

        Raises
        ------
        WrongUse
            If there is none.
        UserCodeError
            If the import fails.
        """
        found: Any = _from_file(Path(self.where)) if self.where.endswith(".py") else _module(self.where)
        for part in self.name.split("."):
            if not hasattr(found, part):
                names = (
                    [name for name in vars(found) if not name.startswith("_")]
                    if hasattr(found, "__dict__")
                    else []
                )
                raise WrongUse(f"{self.text}: {self.where} has no {part!r}{near(part, names)}.")
            found = getattr(found, part)
        return found

    def make(self, ready: type | tuple[type, ...] = ()) -> Any:
        """Return what the object makes when it is called; of the kinds in `ready`, the object itself.

        Raises
        ------
        WrongUse, UserCodeError
            As :meth:`find`, and if the call fails.
        """
        found = self.find()
        if self.arguments is None and (isinstance(found, ready) or not callable(found)):
            return found
        args, named = self.arguments or ([], {})
        with user_code(self.text):
            return found(*args, **named)


def is_name(text: str) -> bool:
    """Tell whether a text is of the form of a name."""
    return _NAME.fullmatch(text) is not None


@contextmanager
def importable() -> Iterator[None]:
    """Put the current folder on the path that modules are looked for on, and restore it at the end."""
    before = list(sys.path)
    sys.path.insert(0, os.getcwd())
    try:
        yield
    finally:
        sys.path[:] = before


def _arguments(text: str, call: str, option: str) -> tuple[list[Any], dict[str, Any]]:
    try:
        node = ast.parse(f"f{call}", mode="eval").body
        if not isinstance(node, ast.Call) or any(word.arg is None for word in node.keywords):
            raise ValueError
        named = {str(word.arg): ast.literal_eval(word.value) for word in node.keywords}
        return [ast.literal_eval(one) for one in node.args], named
    except (ValueError, SyntaxError) as error:
        raise WrongUse(
            f"{option} {text}: in the parentheses stand plain values, as in train.py:build(classes=10, name='small')."
        ) from error


def _module(name: str) -> ModuleType:
    try:
        found = importlib.util.find_spec(name)
    except (ImportError, ValueError):  # a package above it lacks, or is no package
        found = None
    if found is None:
        hint = f" (did you mean {name}.py?)" if Path(f"{name}.py").is_file() else ""
        raise WrongUse(f"there is no module {name!r} here or among the installed packages{hint}.")
    with user_code(f"importing {name}"):
        return importlib.import_module(name)


def _from_file(path: Path) -> ModuleType:
    """Import a file under its own name, as a script beside it would, and once."""
    path, name = path.resolve(), path.stem
    known = sys.modules.get(name)
    if known is not None and getattr(known, "__file__", None) == str(path):
        return known
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise WrongUse(f"{path} cannot be imported.")
    module = importlib.util.module_from_spec(spec)
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    if known is None or not hasattr(known, "__spec__") or _ours.get(name) is known:
        # where what it makes is pickled (workers of a loader), it is found by this name
        sys.modules[name] = _ours[name] = module
    try:
        with user_code(f"importing {path.name}"):
            spec.loader.exec_module(module)
    except BaseException:
        if sys.modules.get(name) is module:
            del sys.modules[name], _ours[name]
        raise
    return module


_ours: dict[str, ModuleType] = {}
