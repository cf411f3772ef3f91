# SPDX-License-Identifier: BSD-3-Clause
"""The page: all that was put in is there, and nothing has to be fetched."""

import base64
import io
import re
import sys

import numpy as np
import pytest

from unlearnkit.report import Card, Drawing, Report

pytest.importorskip("jinja2")
image = pytest.importorskip("matplotlib.image")


@pytest.fixture
def report():
    picture = np.linspace(0, 1, 12).reshape(3, 4)
    return (
        Report("Request 17", "In short.")
        .section("What was forgotten", "Twelve scans.")
        .paragraph("By ASSD.", title="How")
        .facts({"of the weights": "1.7 %"})
        .table([{"": "test\nunseen images", "original": "97 %"}, {"": "forget", "original": "0 %"}])
        .plots({"Accuracy": Drawing("<svg viewBox='0 0 1 1'></svg>", "97 against 96")})
        .gallery([Card(picture, "a four", [("soft", "label 5")])], "Scans")
        .code("edit.save(path)")
    )


def test_all_is_there_in_order(report):
    shown = ["Request 17", "In short.", "What was forgotten", "Twelve scans.", "How", "By ASSD.",
             "of the weights", "1.7 %", "unseen images", "97 %", "forget", "97 against 96",
             "<svg viewBox", "Scans", "a four", "label 5", "edit.save(path)"]  # fmt: skip
    page = report.html()
    places = [page.index(text, page.index("<body>")) for text in shown]
    assert places == sorted(places)


def test_page_needs_nothing_beside_it(report):
    page = report.html()
    assert "://" not in page
    assert not re.search(r"<script|<link|@import|url\(", page)
    assert all(source.startswith("data:") for source in re.findall(r'src="([^"]*)"', page))


def test_picture_keeps_its_pixels(report):
    data = re.search(r"data:image/png;base64,([^\"]+)", report.html())[1]
    pixels = image.imread(io.BytesIO(base64.b64decode(data)))
    assert pixels.shape[:2] == (3, 4)
    np.testing.assert_allclose(pixels[..., 0], np.linspace(0, 1, 12).reshape(3, 4), atol=1 / 255)


def test_text_is_text_and_no_markup():
    page = Report("a < b & <script>").section("<b>", "1 < 2").html()
    assert "<script" not in page
    assert "<b>" not in page
    assert "1 &lt; 2" in page


def test_page_knows_dark_and_narrow(report):
    page = report.html()
    assert "prefers-color-scheme: dark" in page
    assert 'name="viewport"' in page
    assert page.count("--unlearned: #") == 2


def test_save_writes_what_html_returns(report, tmp_path):
    path = report.save(tmp_path / "index.html")
    assert path.read_text(encoding="utf-8") == report.html()


def test_an_empty_table_is_no_error():
    assert "<table>" in Report("t").table([]).html()


@pytest.mark.parametrize(
    ("module", "package", "work"),
    [
        ("jinja2", "jinja2", lambda report: report.html()),
        ("matplotlib.image", "matplotlib", lambda report: report.gallery([Card([[0]], "", [])])),
    ],
)
def test_a_missing_extra_is_named(report, monkeypatch, module, package, work):
    monkeypatch.setitem(sys.modules, module, None)
    message = f"a report needs {package}, .*pip install 'unlearnkit\\[report\\]'"
    with pytest.raises(ImportError, match=message):
        work(report)
