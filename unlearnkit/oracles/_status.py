# SPDX-License-Identifier: BSD-3-Clause
"""What a bank holds, for a person to read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from unlearnkit._tensor_file import read_manifest
from unlearnkit.exceptions import DataError
from unlearnkit.oracles._slot import KIND, ORACLE, VERSION

SHOWN = 60  # characters of a recipe


def rows(folder: Path) -> list[dict[str, Any]]:
    """Return a row for each key of a bank; see :meth:`unlearnkit.OracleBank.status`."""
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.glob("*/seed-*/*.safetensors")):
        key = path.parts[-3]
        row = found.setdefault(key, _row(key))
        try:
            manifest = read_manifest(path, KIND, VERSION)
        except DataError:
            row["damaged"] += 1
            continue
        row["bytes"] += path.stat().st_size
        if manifest["name"] == ORACLE:
            row["seeds"] = sorted([*row["seeds"], manifest["seed"]])
            row["seconds"] += manifest["seconds"]
            row |= {name: manifest[name] for name in ("recipe", "samples", "data")}
    return list(found.values())


def _row(key: str) -> dict[str, Any]:
    known: dict[str, Any] = {"recipe": "", "samples": None, "data": "", "seeds": [], "seconds": 0.0}
    return {**known, "bytes": 0, "damaged": 0, "key": key}


def table(rows: list[dict[str, Any]]) -> str:
    """Return rows as text, under a line that sums them up."""
    if not rows:
        return "empty"
    models, size = sum(len(row["seeds"]) for row in rows), sum(row["bytes"] for row in rows)
    lines = [
        f"{models} oracle{'s' * (models != 1)}, {_size(size)}, {sum(row['seconds'] for row in rows):,.1f} s of training"
    ]
    heads = ("samples", "seeds", "size", "seconds", "recipe")
    cells = [heads, *(_cells(row) for row in rows)]
    widths = [max(len(line[at]) for line in cells) for at in range(len(heads) - 1)]
    for line in cells:
        numbers = "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=False))
        lines.append(f"  {numbers}  {line[-1]}")
    damaged = sum(row["damaged"] for row in rows)
    if damaged:
        lines.append(f"  {damaged} damaged files, which are made again when they are needed")
    return "\n".join(lines)


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    samples = "?" if row["samples"] is None else f"{row['samples']:,}"
    recipe = row["recipe"] if len(row["recipe"]) <= SHOWN else f"{row['recipe'][: SHOWN - 3]}..."
    return samples, _ranges(row["seeds"]), _size(row["bytes"]), f"{row['seconds']:,.1f}", recipe


def _ranges(seeds: list[int]) -> str:
    """Return ascending numbers as ``0-3, 7``."""
    parts: list[list[int]] = []
    for seed in seeds:
        if parts and seed == parts[-1][1] + 1:
            parts[-1][1] = seed
        else:
            parts.append([seed, seed])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in parts)


def _size(count: int) -> str:
    size = float(count)
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"
