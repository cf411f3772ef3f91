# SPDX-License-Identifier: BSD-3-Clause
import json
import pickle
import sys

import pytest

from unlearnkit.exceptions import DataError
from unlearnkit.metrics import Evaluation, Score

TOW = Score("tow", 0.93, 0.88, 0.97, 40, "tug of war; 1 is best", 1.0, "closeness")
RTE = Score("rte", 1234.5, None, None, 1, "times <faster> & so on", None, "cost")
FOUND = Evaluation({"tow": TOW, "rte": RTE}, ("One oracle.", "a < b"))


def test_it_is_a_mapping_to_numbers():
    assert FOUND["tow"] == 0.93 and FOUND.scores["tow"].low == 0.88
    assert dict(FOUND) == FOUND == {"tow": 0.93, "rte": 1234.5}
    assert list(FOUND) == ["tow", "rte"] and len(FOUND) == 2 and "mia" not in FOUND
    assert {**FOUND, "a": 1} == FOUND | {"a": 1} == {"a": 1} | FOUND
    assert (FOUND | {"tow": 0}) == {"tow": 0, "rte": 1234.5}
    assert ({"tow": 0} | FOUND)["tow"] == 0.93
    assert type(FOUND | {}) is dict


def test_a_missing_metric_names_those_there_are():
    with pytest.raises(KeyError, match="no metric 'mia' was measured; there are tow, rte"):
        FOUND["mia"]
    assert FOUND.get("mia") is None


def test_json_round_trip():
    again = Evaluation.from_dict(json.loads(json.dumps(FOUND.to_dict(), allow_nan=False)))
    assert again.scores == FOUND.scores and again.notes == FOUND.notes


def test_pickle_round_trip():
    again = pickle.loads(pickle.dumps(FOUND))
    assert again.scores == FOUND.scores and again.notes == FOUND.notes


@pytest.mark.parametrize(
    "stored", [{}, {"scores": {}}, {"scores": {"a": {"value": 1}}, "notes": []}, {"scores": 3, "notes": []}]
)
def test_what_is_no_evaluation_is_refused(stored):
    with pytest.raises(DataError, match=r"as Evaluation\.to_dict makes it"):
        Evaluation.from_dict(stored)


def test_frame():
    frame = FOUND.to_frame()
    assert list(frame.columns) == ["group", "value", "low", "high", "n", "target", "meaning"]
    assert list(frame.index) == ["tow", "rte"] and frame.index.name == "metric"
    assert frame.loc["tow", "high"] == 0.97 and frame.loc["rte", "low"] != frame.loc["rte", "low"]  # NaN
    assert frame["value"].dtype == frame["target"].dtype == float


def test_frame_without_pandas_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match=r"unlearnkit\[report\]"):
        FOUND.to_frame()


def test_text_stands_in_columns():
    lines = repr(FOUND).splitlines()
    assert lines[0].split() == ["metric", "value", "interval", "oracle", "n"]
    assert lines[1].split() == ["tow", "0.930", "0.880", "to", "0.970", "1.000", "40"]
    assert lines[2].split() == ["rte", "1,234", "1"]
    assert len(lines[0]) == len(lines[1]) == len(lines[2])
    assert lines[3:] == ["- One oracle.", "- a < b"]


def test_html_is_a_table_and_escapes():
    html = FOUND._repr_html_()
    assert html.count("<tr>") == 3 and html.count("<td") == 12
    assert "times &lt;faster&gt; &amp; so on" in html and "<li>a &lt; b</li>" in html
    assert "<ul" not in Evaluation({"tow": TOW})._repr_html_()
