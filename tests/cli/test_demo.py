# SPDX-License-Identifier: BSD-3-Clause
"""``unlearnkit demo``: that its options arrive."""

import pytest

from unlearnkit import demo


@pytest.mark.parametrize(
    ("arguments", "called"),
    [
        (["demo"], ("unlearnkit-demo", 0, 3, None)),
        (
            ["demo", "--seed", "4", "--seeds", "2", "--out", "here", "--picture", "a.png"],
            ("here", 4, 2, "a.png"),
        ),
    ],
)
def test_it_gets_its_options(arguments, called, monkeypatch, run):
    calls = []
    monkeypatch.setattr(demo, "run", lambda *given: calls.append(given))
    assert run(*arguments).code == 0
    assert calls == [called]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seeds", "0"], "'0' is not a whole number from 1 on"),
        (["--seeds", "-1"], "'-1' is not a whole number from 1 on"),
        (["--seed", "one"], "'one' is not a whole number from 0 on"),
    ],
)
def test_misuse_is_explained(run, arguments, message):
    ran = run("demo", *arguments)
    assert (ran.code, message in ran.err) == (2, True)


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path, run):
    file = tmp_path / "file"
    file.touch()
    ran = run("demo", "--out", file)
    assert ran.code == 1
    assert "file" in ran.err
    assert ran.err.count("\n") == 1
