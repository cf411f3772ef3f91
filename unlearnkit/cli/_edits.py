# SPDX-License-Identifier: BSD-3-Clause
"""What commands say of an edit."""

from __future__ import annotations

from typing import Any

from unlearnkit.edit import WeightEdit


def edit_line(edit: WeightEdit) -> str:
    """Return an edit in a line, without its class's name."""
    return repr(edit).partition(": ")[2]


def edit_facts(edit: WeightEdit) -> dict[str, Any]:
    """Return an edit for a program."""
    return {
        "n_changed": edit.n_changed,
        "n_total": edit.n_total,
        "density": edit.density,
        "n_changed_in_buffers": edit.n_changed_in_buffers,
        "tensors": {row.name: {"changed": row.changed, "total": row.total} for row in edit.summary()},
        "notes": edit.info,
    }


def edit_table(edit: WeightEdit) -> list[str]:
    """Return a line a tensor, most changed first, and one a note."""
    rows = edit.summary()
    width = max((len(row.name) for row in rows), default=0)
    lines = [
        f"  {name:<{width}}  {changed:>12,} of {total:>12,}  {100 * share:6.2f} %"
        for name, changed, total, share in rows
    ]
    return lines + [f"  {key}: {text}" for key, text in edit.info.items()]
