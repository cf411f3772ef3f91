# SPDX-License-Identifier: BSD-3-Clause
"""The picture: which image stands where, whole dots, and the mark of the forgotten class."""

import sys

import numpy as np
import pytest
import torch

from unlearnkit.diffusion import sample_grid
from unlearnkit.exceptions import DataError

pytest.importorskip("matplotlib")

CLASSES = torch.arange(12) % 3  # [N]


def images(channels=1, high=8, wide=8, seed=0):
    drawn = torch.rand(12, channels, high, wide, generator=torch.Generator().manual_seed(seed))
    return drawn * 2 - 1


def rendered(figure):
    """The figure as an array of dots [H, W, 3]."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]


def texts(figure):
    return {text.get_text(): text for text in figure.axes[0].texts}


def test_a_block_a_model_and_a_column_a_class():
    one, other = images(), images(seed=1)
    figure = sample_grid({"before": one, "after": other}, CLASSES, rows=2)
    tiles = figure.axes[0].images
    wanted = [x[at::3][:2] for x in (one, other) for at in range(3)]  # [R, 1, H, W] each
    for tile, x in zip(tiles, torch.cat(wanted), strict=True):
        np.testing.assert_allclose(tile.get_array(), (x[0] + 1) / 2, atol=1e-6)
    left, right = (sorted({tile.get_extent()[at] for tile in tiles}) for at in (0, 2))
    assert len(left) == 3 and len(right) == 4  # columns and rows
    assert set(texts(figure)) == {"before", "after", "0", "1", "2"}
    before = [tile.get_extent()[3] for tile in tiles[:6]]
    assert max(before) < min(tile.get_extent()[3] for tile in tiles[6:])


@pytest.mark.parametrize("channels", [1, 3])
def test_every_pixel_is_a_square_of_whole_dots(channels):
    x = (images(channels) > 0) * 2.0 - 1
    figure = sample_grid({"made": x}, CLASSES, rows=1, forget=1)
    shown = rendered(figure)
    for tile, image in zip(figure.axes[0].images, x[:3], strict=True):
        at, until, below, above = map(int, tile.get_extent())
        dots = shown[above:below, at:until] / 255  # [8 k, 8 k, 3]
        side = len(dots) // 8
        wanted = ((image + 1) / 2).permute(1, 2, 0).expand(-1, -1, 3).numpy()
        np.testing.assert_array_equal(dots, wanted.repeat(side, 0).repeat(side, 1))


def test_the_forgotten_class_is_marked():
    figure = sample_grid({"made": images()}, CLASSES, forget=[1], names=["ant", "bee", "cat"])
    shown = texts(figure)
    assert set(shown) == {"made", "ant", "bee", "cat", "forgotten"}
    assert shown["bee"].get_color() == shown["forgotten"].get_color() != shown["ant"].get_color()
    (panel,) = figure.axes[0].patches
    box, tiles = panel.get_bbox(), figure.axes[0].images
    inside = [box.x0 < tile.get_extent()[0] and tile.get_extent()[1] < box.x1 for tile in tiles]
    assert inside == [False] * 3 + [True] * 3 + [False] * 3
    assert not sample_grid({"made": images()}, CLASSES).axes[0].patches


@pytest.mark.parametrize("wide", [3, 32, 300])
@pytest.mark.parametrize("names", [list("abc"), ["a long name indeed", "b", "another of that kind"]])
def test_nothing_is_cut_off(wide, names):
    figure = sample_grid(
        {"made": images(high=wide, wide=wide), "trained without it": images(high=wide, wide=wide)},
        CLASSES,
        forget=2,
        names=names,
        title="What is made",
    )
    rendered(figure)
    high, across = (side * figure.dpi for side in figure.get_size_inches()[::-1])
    boxes = {name: text.get_window_extent() for name, text in texts(figure).items()}
    for box in boxes.values():
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= across and box.y1 <= high
    tops = high - min(tile.get_extent()[3] for tile in figure.axes[0].images)
    assert min(boxes[name].y0 for name in names) >= tops
    assert boxes["What is made"].y0 >= max(boxes[name].y1 for name in names)
    edge = min(tile.get_extent()[0] for tile in figure.axes[0].images)
    assert boxes["trained without it"].x1 <= edge


def test_real_images_have_classes_of_their_own():
    real = images(seed=2)[:4], [2, 2, 0, 2]
    figure = sample_grid({"made": images(), "real": real}, CLASSES, shown=[2, 0])
    tiles = figure.axes[0].images
    assert len(tiles) == 2 * 3 + 3 + 1  # class 0 has one real image
    np.testing.assert_allclose(tiles[-1].get_array(), (real[0][2, 0] + 1) / 2, atol=1e-6)
    assert set(texts(figure)) == {"made", "real", "2", "0"}


def test_what_cannot_be_drawn_is_refused():
    x = images()
    with pytest.raises(DataError, match=r"got \[12, 4, 8, 8\]: decode latents"):
        sample_grid({"made": images(4)}, CLASSES)
    with pytest.raises(DataError, match="12 images, and classes are of shape"):
        sample_grid({"made": x}, CLASSES[:3])
    with pytest.raises(DataError, match=r"reaches 255.*x / 127\.5 - 1"):
        sample_grid({"made": torch.full_like(x, 255)}, CLASSES)
    with pytest.raises(DataError, match="reaches nan"):
        sample_grid({"made": torch.full_like(x, float("nan"))}, CLASSES)
    with pytest.raises(DataError, match=r"sizes \[\(8, 8\), \(9, 8\)\]"):
        sample_grid({"made": x, "other": images(high=9)}, CLASSES)
    with pytest.raises(DataError, match="names has none"):
        sample_grid({"made": x}, CLASSES, names=["one"])
    with pytest.raises(DataError, match="rows must be"):
        sample_grid({"made": x}, CLASSES, rows=0)
    with pytest.raises(DataError, match="at least one"):
        sample_grid({}, CLASSES)
    with pytest.raises(DataError, match="shown names no class"):
        sample_grid({"made": x}, CLASSES, shown=[])
    with pytest.raises(DataError, match="no image of the classes shown"):
        sample_grid({"made": x}, CLASSES, shown=[7])


def test_without_matplotlib_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install 'unlearnkit\[report\]'"):
        sample_grid({"made": images()}, CLASSES)
