# SPDX-License-Identifier: BSD-3-Clause
"""Tensors gathered into layers, and many layers into fewer, so that one can look at them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

MOST = 24  # rows


class Layer(NamedTuple):
    """A layer, or neighbouring ones: how many of its weights changed."""

    name: str
    changed: int
    total: int
    is_group: bool = False

    @property
    def share(self) -> float:
        """``changed / total``."""
        return self.changed / self.total if self.total else 0.0


def by_layer(tensors: Sequence[Mapping[str, Any]], most: int = MOST) -> list[Layer]:
    """Return at most `most` layers, in the model's order; buffers are left out.

    A layer is what tensors share up to the last dot of their names. Where there are more, names are
    cut at fewer dots; where even their first parts are too many, neighbours are put together.
    """
    weights = [row for row in tensors if not row["is_buffer"]]
    names = [row["name"].rpartition(".")[0] or row["name"] for row in weights]
    layers = _gathered(names, weights)
    depth = max((name.count(".") + 1 for name in names), default=1)
    wide = layers
    while len(layers) > most and depth > 1:
        depth -= 1
        layers = _gathered([".".join(name.split(".")[:depth]) for name in names], weights)
        if len(layers) < most / 4:  # a step too far: rather runs of the finer names
            break
        wide = layers
    return layers if most / 4 <= len(layers) <= most or len(wide) <= most else _runs(wide, most)


def _gathered(names: Sequence[str], weights: Sequence[Mapping[str, Any]]) -> list[Layer]:
    found: dict[str, Layer] = {}
    for name, row in zip(names, weights, strict=True):
        old = found.get(name)
        whole = Layer(name, row["changed"], row["total"])
        if old is not None:
            own = name == (row["name"].rpartition(".")[0] or row["name"])
            whole = Layer(
                name, old.changed + row["changed"], old.total + row["total"], old.is_group or not own
            )
        found[name] = whole
    return list(found.values())


def _runs(layers: Sequence[Layer], most: int) -> list[Layer]:
    size = -(-len(layers) // most)
    parts = [layers[at : at + size] for at in range(0, len(layers), size)]
    return [
        Layer(
            part[0].name if len(part) == 1 else _from_to(part[0].name, part[-1].name),
            sum(one.changed for one in part),
            sum(one.total for one in part),
            len(part) > 1 or part[0].is_group,
        )
        for part in parts
    ]


def _from_to(first: str, last: str) -> str:
    """Return both names, the second without the words that both begin with."""
    same = 0
    for at, (one, other) in enumerate(zip(first, last, strict=False)):
        if one != other:
            break
        if one in "._":
            same = at + 1
    return f"{first} … {last[same:]}"
