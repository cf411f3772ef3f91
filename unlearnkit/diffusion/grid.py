# SPDX-License-Identifier: BSD-3-Clause
"""A picture of what generators make: a block of rows a model, a column a class.

Legend: N images, C channels, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from unlearnkit.exceptions import DataError

__all__ = ["sample_grid"]

DPI = 200
SMALL, LARGE = 112, 176  # dots that an image is wide, at least and at most
GAP, BLOCK_GAP, PAD, EDGE = 6, 34, 8, 28  # dots between images, between models, around a mark, around all

INK, SOFT, MARK, TINT, PAPER = "#1c2027", "#5c6470", "#b8480a", "#fbe9dd", "#ffffff"  # as reports have them


class Block(NamedTuple):
    """Of one model, the pixels of the images [R, H, W] or [R, H, W, 3] of each class."""

    name: str
    columns: list[NDArray[np.float64]]


def sample_grid(
    images: Mapping[str, Any],
    classes: ArrayLike,
    *,
    forget: int | Sequence[int] = (),
    shown: Sequence[int] | None = None,
    rows: int = 3,
    names: Sequence[str] | Mapping[int, str] | None = None,
    title: str | None = None,
) -> Any:
    """Draw images of several generators below each other, so that the same noise stands in the same column.

    Parameters
    ----------
    images : mapping of str to Tensor [N, C, H, W] or (Tensor, classes)
        Images in [-1, 1] of one channel or three, by the name of what made them; what is beyond is cut. A
        pair has classes of its own, as real images do.
    classes : array_like [N]
        What each image was made for.
    forget : int or sequence of int
        The forgotten classes, whose columns are marked.
    shown : sequence of int, optional
        The columns; where left out, all of `classes` in ascending order.
    rows : int
        Images of each class and model: the first ones.
    names : sequence or mapping of str, optional
        What classes are called.
    title : str, optional
        Above all.

    Returns
    -------
    matplotlib.figure.Figure
        ``figure.savefig("grid.png")`` shows every pixel as a square of whole dots.

    Raises
    ------
    DataError
        If images and classes do not fit, or images are of another form or range.
    ImportError
        If matplotlib is not installed.

    Examples
    --------
    >>> # result = evaluate_generator(before, after, scheduler, classifier, forget=0, classes=10)
    >>> # sample_grid(result.images, result.classes, forget=result.forget).savefig("grid.png")
    """
    if not isinstance(rows, int) or rows < 1:
        raise DataError(f"rows must be a whole number of 1 or more, got {rows!r}.")
    if not isinstance(images, Mapping) or not images:
        raise DataError("images must be a mapping of names to tensors [N, C, H, W], with at least one.")
    gone = [int(one) for one in np.atleast_1d(np.asarray(forget, dtype=np.int64))]
    pairs = {name: _pair(name, made, classes) for name, made in images.items()}  # of each (images, classes)
    if shown is None:
        shown = sorted({int(one) for _, own in pairs.values() for one in own})
    columns = [int(one) for one in shown]
    if not columns:
        raise DataError("shown names no class: leave it out for all.")
    blocks = [
        Block(name, [_pixels(x[own == at][:rows]) for at in columns]) for name, (x, own) in pairs.items()
    ]
    return _drawn(blocks, columns, gone, _titles(columns, names), title)


def _drawn(
    blocks: list[Block], columns: list[int], gone: list[int], titles: list[str], title: str | None
) -> Any:
    """Draw on one axes whose unit is a dot, so that every pixel is a square of whole dots."""
    wide, across, down = _tile(blocks)
    points = next((size for size in (8, 7.5, 7) if max(_width(one, size) for one in titles) <= across), None)
    longest = _width(titles[-1], 8) if points is None else 0
    names_high = 34 if points else 34 + round(0.7 * max(_width(one, 8) for one in titles))
    left = EDGE + 18 + max(_width(block.name, 9) for block in blocks)
    top = EDGE + (58 if title else 0) + names_high
    places, x = [], left
    for at in columns:
        x += PAD * (at in gone)
        places.append(x)
        x += across + GAP + PAD * (at in gone)
    heights = [max(len(one) for one in block.columns) * (down + GAP) - GAP for block in blocks]
    inner = sum(heights) + BLOCK_GAP * (len(blocks) - 1)
    marked = any(at in gone for at in columns)
    size = max(x - GAP + EDGE, x - across + longest), top + inner + (PAD + 26) * marked + EDGE
    figure = _extra("matplotlib.figure").Figure((size[0] / DPI, size[1] / DPI), dpi=DPI, facecolor=PAPER)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    if title:
        axes.text(left, EDGE, title, size=11, color=INK, va="top", weight="bold")
    for at, x, label in zip(columns, places, titles, strict=True):
        style = {"color": SOFT, "size": points or 8, "va": "baseline", "rotation_mode": "anchor"}
        style |= {"ha": "center"} if points else {"ha": "left", "rotation": 40}
        if at in gone:
            style |= {"color": MARK, "weight": "bold"}
            _mark(axes, (x - PAD, top - PAD, across + 2 * PAD, inner + 2 * PAD + 26))
            under = {"size": 7, "color": MARK, "ha": "center", "va": "center"}
            axes.text(x + across / 2, top + inner + (PAD + 26) / 2 + 2, "forgotten", **under)
        axes.text(x + across * (0.5 if points else 0.3), top - 17, label, **style)
    y = top
    for block, height in zip(blocks, heights, strict=True):
        style = {"size": 9, "color": INK, "weight": "bold", "ha": "right", "va": "center"}
        axes.text(left - 18, y + height / 2, block.name, **style)
        for x, found in zip(places, block.columns, strict=True):
            for row, pixels in enumerate(found):
                above = y + row * (down + GAP)
                axes.imshow(
                    pixels,
                    extent=(x, x + across, above + down, above),
                    interpolation="nearest" if wide <= across else "antialiased",
                    cmap="gray",
                    vmin=0,
                    vmax=1,
                    zorder=2,
                )
        y += height + BLOCK_GAP
    axes.set(xlim=(0, size[0]), ylim=(size[1], 0), aspect="auto")  # which imshow has set otherwise
    return figure


def _tile(blocks: list[Block]) -> tuple[int, int, int]:
    """Return the images' width in pixels, and in dots the width and height at which they are drawn."""
    high, wide = _sides(blocks)
    if wide > LARGE:
        return wide, LARGE, max(1, LARGE * high // wide)
    scale = -(-SMALL // wide)
    return wide, scale * wide, scale * high


def _mark(axes: Any, box: tuple[float, float, float, float]) -> None:
    """Lay a tinted panel behind a column."""
    x, y, wide, high = box
    style = {"facecolor": TINT, "edgecolor": MARK, "linewidth": 0.8, "zorder": 1}
    kind = _extra("matplotlib.patches").FancyBboxPatch
    axes.add_patch(kind((x, y), wide, high, boxstyle="round,pad=0,rounding_size=8", **style))


def _pair(name: str, made: Any, classes: ArrayLike) -> tuple[Tensor, NDArray[np.int64]]:
    """Return the images [N, C, H, W] and their classes [N]."""
    x, given = made if isinstance(made, tuple) else (made, classes)
    own = np.asarray(torch.as_tensor(given).detach().cpu(), dtype=np.int64)
    if not isinstance(x, Tensor) or x.dim() != 4 or x.shape[1] not in (1, 3):
        got = list(x.shape) if isinstance(x, Tensor) else type(x).__name__
        raise DataError(
            f"images[{name!r}] must be a tensor [N, C, H, W] of one channel or three, got {got}: decode latents first."
        )
    if own.shape != (len(x),):
        raise DataError(
            f"images[{name!r}] has {len(x)} images, and classes are of shape {list(own.shape)}: one class an image."
        )
    x = x.detach().float().cpu()
    if len(x) and not bool(x.abs().max() <= 16):
        raise DataError(
            f"images[{name!r}] reaches {float(x.abs().max()):.3g}: images lie in [-1, 1]; of bytes make x / 127.5 - 1."
        )
    return x, own


def _pixels(x: Tensor) -> NDArray[np.float64]:
    """Return images [R, C, H, W] in [-1, 1] as what imshow takes, [R, H, W] or [R, H, W, 3] in [0, 1]."""
    shown = ((x.double() + 1) / 2).clamp(0, 1).numpy()
    return shown[:, 0] if x.shape[1] == 1 else shown.transpose(0, 2, 3, 1)


def _sides(blocks: list[Block]) -> tuple[int, int]:
    """Return height and width of the images, which must agree."""
    sides = {found.shape[1:3] for block in blocks for found in block.columns}
    if len(sides) != 1:
        raise DataError(
            f"images are of the sizes {sorted(sides)}: bring them to one, with torch.nn.functional.interpolate."
        )
    if not any(len(found) for block in blocks for found in block.columns):
        raise DataError("there is no image of the classes shown: look at classes and shown.")
    high, wide = sides.pop()
    return int(high), int(wide)


def _titles(columns: list[int], names: Sequence[str] | Mapping[int, str] | None) -> list[str]:
    try:
        return [str(at if names is None else names[at]) for at in columns]
    except (KeyError, IndexError) as error:
        raise DataError(f"names has none for a class among {columns}: name each that is shown.") from error


def _width(text: str, points: float) -> int:
    """Return about how many dots a text is wide."""
    return round(0.62 * len(text) * points * DPI / 72)


def _extra(name: str) -> Any:
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise ImportError(
            "a picture needs matplotlib, which is not installed: pip install 'unlearnkit[report]'"
        ) from error
