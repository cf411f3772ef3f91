# SPDX-License-Identifier: BSD-3-Clause
"""The demo's page holds the figures, plots and pictures of the outcome it is about."""

import re

import pytest

from unlearnkit.demo.tables import rows

pytestmark = pytest.mark.slow
image = pytest.importorskip("matplotlib.image")


@pytest.fixture(scope="module")
def html(done):
    return (done.folder / "index.html").read_text(encoding="utf-8")


def test_page_is_one_file(html):
    assert "://" not in html
    assert "<script" not in html
    assert len(html) < 400_000


def test_page_holds_every_figure(html, scanner, whole_class):
    cells = re.findall(r"<td>(.*?)</td>", html)
    tables = [rows(outcomes[0]) for outcomes in (scanner, whole_class)]
    assert cells == [row[model] for table in tables for row in table for model in list(row)[1:]]


def test_page_has_plots_and_pictures(html):
    assert html.count("<svg ") == 2 * 4
    pictures = re.findall(r'<img src="data:image/png;base64,[^"]+" alt="([^"]+)"', html)
    assert len(pictures) == 2 * 12
    assert re.fullmatch(r"a \d, labelled \d, read as \d before and as \d after", pictures[0])


def test_cards_say_what_the_networks_predict(html, scanner):
    first = scanner[0]
    said = [
        [int(first.models[name](first.request.forgotten.images[:1]).argmax()), role]
        for name, role in (("original", "before"), ("unlearned", "after"))
    ]
    text = " and ".join(f"as {digit} {role}" for digit, role in said)
    assert text in html


def test_page_says_what_the_edit_is(html, scanner):
    edit, size = scanner[0].edit, scanner[0].path.stat().st_size
    assert f"{100 * edit.density:.1f} %" in html
    assert f"{size / 1000:.0f} kB" in html
    assert "every bit" in html
    assert all(f">{name}<" in html for name in edit)


def test_picture_is_drawn(done):
    path = done.folder / "demo.png"
    assert path.stat().st_size < 200_000
    height, width, _ = image.imread(path).shape
    assert (height, width) == (492, 1080)
