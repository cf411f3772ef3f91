# SPDX-License-Identifier: BSD-3-Clause
"""The demo as a whole: what it prints and leaves behind."""

import sys
import warnings

import pytest
import torch

from unlearnkit import UnlearnWarning, demo


@pytest.mark.slow
def test_prints_tables_edits_and_where_the_page_is(done, scanner, whole_class):
    for outcomes in (scanner, whole_class):
        first = outcomes[0]
        assert first.request.title in done.printed
        assert str(first.edit) in done.printed
        assert f"ToW {sum(o.results['unlearned']['tow'] for o in outcomes) / 2:.3f}" in done.printed
    assert done.printed.count("every bit was right both times") == 2
    assert (done.folder / "index.html").resolve().as_uri() in done.printed


@pytest.mark.slow
def test_leaves_an_edit_per_request_and_seed(done):
    names = sorted(path.name for path in done.folder.iterdir())
    edits = [f"{name}-{seed}.safetensors" for name in ("class", "scanner") for seed in (0, 1)]
    assert names == sorted([*edits, "demo.png", "index.html"])


def run(folder, **options):
    """Run it in a hurry, without training enough for ASSD to be content."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnlearnWarning)
        return demo.run(folder, seeds=1, epochs=2, **options)


def test_without_the_extra_all_but_the_page_is_done(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    threads = torch.get_num_threads()
    studies = run(tmp_path / "made" / "where missing")
    assert torch.get_num_threads() == threads
    assert [len(outcomes) for outcomes in studies] == [1, 1]
    assert "page: left out, a report needs matplotlib" in capsys.readouterr().out


def test_a_picture_without_the_extra_is_refused_before_the_work(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"pip install 'unlearnkit\[report\]'"):
        run(tmp_path, image=tmp_path / "demo.png")
    assert capsys.readouterr().out == ""
