# SPDX-License-Identifier: BSD-3-Clause
"""The parts of an audit as plain data: what JSON can hold, every number finite or None."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor, nn

from unlearnkit.edit import WeightEdit
from unlearnkit.exceptions import DataError
from unlearnkit.parameters import digest, named_buffers, named_parameters, named_tensors, unwrap
from unlearnkit.report._digests import model_digest

TOLD = 3  # tensors whose own digests are told
REVERSING = dict.fromkeys([*range(0x202A, 0x202F), *range(0x2066, 0x206A)])
LONGEST = 300  # characters of a parameter's text


def clean(text: Any) -> str:
    """Return text that every file and page can hold, and that reads as it is written.

    Without control characters, halves of a pair, and marks that reverse the order of letters.
    """
    text = str(text).encode("utf-8", "replace").decode("utf-8").translate(REVERSING)
    return "".join(
        " " if (ord(char) < 32 and char != "\n") or ord(char) == 127 else char for char in text
    ).strip()


def finite(value: Any) -> float | None:
    """Return a number, None where there is none or it is not finite."""
    return float(value) if value is not None and math.isfinite(value) else None


def request_facts(request: Mapping[str, Any] | None) -> dict[str, str]:
    """Return a request's fields as text, in the order given; those that are None are left out.

    Raises
    ------
    DataError
        If it is not a mapping of names to texts.
    """
    if not isinstance(request, Mapping | None):
        raise DataError(f'request must be a mapping such as {{"id": "17"}}, got {type(request).__name__}')
    fields = {clean(key): value for key, value in (request or {}).items()}
    for key, value in fields.items():
        if isinstance(value, Tensor | np.ndarray | Mapping | Sequence) and not isinstance(value, str):
            raise DataError(
                f"request[{key!r}] must be text, got {type(value).__name__}: a report holds no samples and no "
                "tables of them; name the ticket that does"
            )
    return {key: clean(value) for key, value in fields.items() if value is not None}


def method_facts(method: Any, seconds: float | None) -> dict[str, Any]:
    """Return name, call and every parameter of an estimator; a text is taken as the name.

    Raises
    ------
    DataError
        If it is neither, or the seconds are no length of time.
    """
    if seconds is not None and not (isinstance(seconds, float | int) and 0 <= seconds < math.inf):
        raise DataError(f"seconds must be how long the unlearning took, 0 or more, got {seconds!r}")
    if isinstance(method, str):
        return {
            "name": clean(method),
            "call": "",
            "parameters": [],
            "fitted": False,
            "seconds": finite(seconds),
        }
    if isinstance(method, type) or not hasattr(method, "get_params"):
        raise DataError(f"method must be a text or an estimator, such as ASSD(), got {type(method).__name__}")
    if seconds is None:
        seconds = getattr(method, "seconds_", None)
    return {
        "name": type(method).__name__,
        "call": _described(method),
        "parameters": list(_parameters(method)),
        "fitted": getattr(method, "edit_", None) is not None,
        "seconds": finite(seconds),
    }


def model_facts(model: nn.Module, unlearned: nn.Module, edit: WeightEdit) -> dict[str, Any]:
    """Return the class, the size and the digests of base and result, and of some tensors: changed ones first."""
    inner, tensors = unwrap(model), named_tensors(model)
    first = sorted(tensors, key=lambda name: name not in edit)[:TOLD]
    told = [name for name in tensors if name in first]
    persistent = [tensor for name, tensor in named_buffers(model).items() if name in tensors]
    return {
        "class": f"{type(inner).__module__}.{type(inner).__qualname__}",
        "n_tensors": len(tensors),
        "n_weights": sum(tensor.numel() for tensor in named_parameters(model).values()),
        "n_buffer_values": sum(tensor.numel() for tensor in persistent),
        "digests": "BLAKE2b of 16 bytes: a tensor's of its dtype, shape and bits; a model's of the lines 'name "
        "digest' of its tensors, in its order",
        "base": _digests(model, told),
        "result": _digests(unlearned, told),
    }


def edit_facts(model: nn.Module, edit: WeightEdit, notes: Mapping[str, str]) -> dict[str, Any]:
    """Return how much of each tensor changes, in the model's order, those that do not included."""
    weights = named_parameters(model)
    rows = []
    for name, tensor in named_tensors(model).items():
        changed, total = (edit[name].n_changed if name in edit else 0), tensor.numel()
        share = changed / total if total else 0.0
        row = {
            "name": clean(name),
            "changed": changed,
            "total": total,
            "share": share,
            "is_buffer": name not in weights,
        }
        rows.append(row)
    return {
        "n_changed": edit.n_changed,
        "n_total": edit.n_total,
        "share": edit.density,
        "n_changed_in_buffers": edit.n_changed_in_buffers,
        "tensors": rows,
        "notes": {clean(key): clean(value) for key, value in notes.items()},
    }


def score_facts(before: Mapping[str, Any] | None, after: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """Return a row a metric; `before` and `after` are what `evaluate` returned, or values by name."""
    old, new = _scores(before), _scores(after)
    rows = []
    for name in [*new, *(name for name in old if name not in new)]:
        told = new.get(name, old.get(name))
        row: dict[str, Any] = {"name": clean(name), "group": clean(getattr(told, "group", "basic"))}
        row["meaning"] = clean(getattr(told, "meaning", ""))
        row["n"] = getattr(told, "n", None)
        row["target"] = finite(getattr(told, "target", None))
        row["before"], row["after"] = _ends(old.get(name)), _ends(new.get(name))
        rows.append(row)
    return rows


def _scores(results: Mapping[str, Any] | None) -> dict[str, Any]:
    return dict(getattr(results, "scores", results) or {})


def _ends(score: Any) -> dict[str, float | None] | None:
    if score is None:
        return None
    value = finite(getattr(score, "value", score))
    return {
        "value": value,
        "low": finite(getattr(score, "low", None)),
        "high": finite(getattr(score, "high", None)),
    }


def _digests(model: nn.Module, told: Sequence[str]) -> dict[str, Any]:
    tensors = named_tensors(model)
    rows = [{"name": clean(name), "digest": digest(tensors[name])} for name in told]
    return {"digest": model_digest(model), "tensors": rows}


def _parameters(estimator: Any, prefix: str = "") -> Iterator[dict[str, Any]]:
    """Yield every parameter, those of nested estimators by scikit-learn's ``outer__inner``."""
    defaults = inspect.signature(type(estimator)).parameters
    for name, value in sorted(estimator.get_params(deep=False).items()):
        default = defaults[name].default if name in defaults else inspect.Parameter.empty
        is_plain = value is None or isinstance(value, bool | int | str) or type(value) is float
        shown: Any = value if is_plain and _is_storable(value) else _described(value)
        yield {
            "name": prefix + name,
            "value": clean(shown)[:LONGEST] if isinstance(shown, str) else shown,
            "is_default": value is default
            or (is_plain and type(value) is type(default) and value == default),
        }
        if hasattr(value, "get_params") and not isinstance(value, type):
            yield from _parameters(value, f"{prefix}{name}__")


def _is_storable(value: Any) -> bool:
    """Tell whether JSON can hold a plain value as it is."""
    return not isinstance(value, float) or math.isfinite(value)


def _described(value: Any) -> str:
    """Return what a value is, with no number of a tensor and no address in memory."""
    if isinstance(value, Tensor | np.ndarray):
        return f"{type(value).__name__} {list(value.shape)}, {value.dtype}"
    if isinstance(value, nn.Module):
        return f"a {type(value).__name__}"
    if isinstance(value, Mapping):
        return _joined([f"{key!r}: {_described(part)}" for key, part in value.items()], "{}")
    if isinstance(value, list | tuple):
        return _joined([_described(part) for part in value], "[]" if isinstance(value, list) else "()")
    if callable(value) and hasattr(value, "__qualname__"):
        return f"{value.__module__}.{value.__qualname__}"
    text = re.sub(r" at 0x[0-9a-fA-F]+", "", " ".join(repr(value).split()))
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def _joined(parts: list[str], brackets: str) -> str:
    shown = parts[:8] + [f"… {len(parts)} in all"] * (len(parts) > 8)
    return brackets[0] + ", ".join(shown) + brackets[1]
