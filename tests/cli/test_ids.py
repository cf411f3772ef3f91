# SPDX-License-Identifier: BSD-3-Clause
"""What is to be forgotten: lists and files of positions and keys, and every error's line and value."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unlearnkit.cli._errors import WrongUse
from unlearnkit.cli._ids import entries, positions
from unlearnkit.exceptions import DataError

KEYS = ["anna", "ben", "anna", "id", "7"]


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def meant(text, total=50, keys=None, column=None):
    return positions(entries(text, column), total, keys)


def in_file(content, name="ids.csv", **more):
    with open(name, "w", encoding="utf-8") as file:
        file.write(content)
    return meant(name, **more)


@given(st.sets(st.integers(0, 49), min_size=1, max_size=49), st.randoms(use_true_random=False))
def test_any_list_of_positions(chosen, random):
    shuffled = sorted(chosen)
    random.shuffle(shuffled)
    assert meant(",".join(map(str, shuffled))) == sorted(chosen)


@given(st.integers(0, 49), st.integers(0, 49))
def test_ranges_include_both_ends(low, high):
    if high < low:
        with pytest.raises(DataError, match="ends before it begins"):
            meant(f"{low}-{high}")
    elif (low, high) != (0, 49):
        assert meant(f"{low}-{high}") == list(range(low, high + 1))


@pytest.mark.parametrize(
    "content",
    [
        "3\n1\n2\n",
        "index\n3\n1\n2\n",
        "\ufeff3\n1\n2",
        "3\r\n1\r\n2\r\n",
        "\n 3 \n\n1-2\n",
        '"id"\n"3"\n"1"\n"2"\n',
        "3\n1\n2-2\n",
    ],
)
def test_files_with_and_without_a_header(content):
    assert in_file(content) == [1, 2, 3]
    assert in_file(content, name="ids.txt") == [1, 2, 3]


def test_a_column_of_a_file():
    table = "user,row\nanna,3\nben,1\n"
    assert in_file(table, column="row") == [1, 3]
    assert in_file(table, column="user", total=5, keys=KEYS) == [0, 1, 2]
    with pytest.raises(WrongUse, match=r"it has 2 columns; choose one with --column. There are user, row"):
        meant("ids.csv")
    with pytest.raises(WrongUse, match=r"no such column \(did you mean 'row'\?\)"):
        meant("ids.csv", column="rows")


def test_tabs_part_the_columns_of_a_tsv_file():
    content = "position\tname, given\n3\tann\n17\tben\n"
    assert in_file(content, "ids.tsv", column="position") == [3, 17]
    assert in_file("3\n17\n", "ids.tsv") == [3, 17]


def test_a_key_means_every_sample_that_has_it():
    assert meant("anna", 5, KEYS) == [0, 2]
    assert in_file("id\nben\n", total=5, keys=KEYS) == [1, 3]  # where it is a key, it is no header
    assert in_file("id\nben\n", total=5, keys=[*KEYS[:3], "carl", "7"]) == [1]
    assert in_file("7\n", total=5, keys=KEYS) == [4]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "index\n3\n50\n",
            r"ids.csv, line 3: 50 is out of range: the data has 50 samples, with positions 0 to 49",
        ),
        ("3\n40-60\n", r"ids.csv, line 2: 60 is out of range"),
        ("3\n4\n3\n", r"ids.csv, line 3: sample 3 is named by 3, and before by 3 \(ids.csv, line 1\)"),
        ("3-9\n5\n", r"line 2: sample 5 is named by 5, and before by 3-9 \(ids.csv, line 1\)"),
        ("3\nfour\n", r"ids.csv, line 2: 'four' is not a position"),
        ("3x\n4\n", r"ids.csv, line 1: '3x' is not a position"),
        ("3\n-4\n", r"line 2: '-4' is not a position"),
        ("3\n4.0\n", r"line 2: '4.0' is not a position"),
        ("3\n\n\n1-\n", r"line 4: '1-' is not a position"),
        ("index\n", r"line 1: 'index' is not a position"),
        ("", "ids.csv is empty: it names no sample to forget"),
        ("\n\n", "ids.csv is empty"),
        ("0-49", "all 50 samples of the data are to be forgotten"),
    ],
)
def test_errors_name_the_line_and_the_value(content, message):
    with pytest.raises(DataError, match=message):
        in_file(content)


def test_a_value_below_a_column_is_never_a_header():
    with pytest.raises(DataError, match="line 2: 'x' is not a position"):
        in_file("row\nx\n3\n", column="row")
    with pytest.raises(DataError, match="line 3: nothing stands in the column"):
        in_file("user,row\na,1\nb,\n", column="row")


def test_errors_of_keys():
    with pytest.raises(DataError, match=r"line 2: no sample has the key 'bem' \(did you mean 'ben'\?\)"):
        in_file("anna\nbem\n", total=5, keys=KEYS)
    with pytest.raises(DataError, match=r"line 1: no sample has the key 'ann'"):
        in_file("ann\nben\n", total=5, keys=KEYS)  # mistyped, not a header
    with pytest.raises(DataError, match="sample 0 is named by anna, and before by anna"):
        meant("anna,ben,anna", 5, KEYS)
    with pytest.raises(DataError, match="no sample has the key '0-3'"):
        meant("0-3", 5, KEYS)


@pytest.mark.parametrize("text", ["no.csv", "no.txt", "folder/ids"])
def test_a_missing_file_is_no_list(text):
    with pytest.raises(WrongUse, match="there is no such file"):
        entries(text)


@pytest.mark.parametrize("text", ["", " "])
def test_an_empty_list_is_told_as_one(text):
    with pytest.raises(WrongUse, match="--forget is empty: give a file"):
        entries(text)


def test_a_file_that_is_no_text():
    with open("ids.csv", "wb") as file:
        file.write(b"\xff\xfe3\x00")
    with pytest.raises(DataError, match="no CSV file in UTF-8"):
        entries("ids.csv")
