# SPDX-License-Identifier: BSD-3-Clause
"""What an audit is put together of: losses, layers, parameters, the verdict."""

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from unlearnkit import SSD, Retrain, WeightEdit
from unlearnkit.report._audit_page import _figure
from unlearnkit.report._digests import model_digest, samples_digest
from unlearnkit.report._layers import by_layer
from unlearnkit.report._losses import BINS, rank_share, spread
from unlearnkit.report._open_points import TEXTS, open_points
from unlearnkit.report._record import edit_facts, finite, method_facts, model_facts, score_facts
from unlearnkit.report._verdict import HEADLINES, percent, verdict

values = st.lists(st.one_of(st.integers(0, 5), st.floats(0, 100)), min_size=1, max_size=30)


@given(values, values)
def test_rank_share_is_the_area_under_the_curve(low, high):
    found = rank_share(np.array(low, float), np.array(high, float))
    truth = [1] * len(low) + [0] * len(high)
    assert found["value"] == pytest.approx(roc_auc_score(truth, [-value for value in low + high]))
    assert 0 <= found["low"] <= found["value"] <= found["high"] <= 1
    assert found["low"] < found["high"]  # never certain
    assert found["n"] == len(low) + len(high)


def test_rank_share_covers_the_truth():
    draw = np.random.default_rng(0)
    truth = 0.5 * (1 + math.erf(0.7 / 2))  # of two normals 0.7 apart, each of variance 1
    runs = [rank_share(draw.normal(0, 1, 60), draw.normal(0.7, 1, 80)) for _ in range(400)]
    assert 0.92 <= np.mean([run["low"] <= truth <= run["high"] for run in runs]) <= 0.98


def test_a_loss_that_is_nan_counts_as_the_largest():
    found = rank_share(np.array([np.nan, 1.0]), np.array([2.0, np.inf]))
    assert found["value"] == (0 + 0.5 + 1 + 1) / 4


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), min_size=1, max_size=40), values)
def test_every_finite_loss_is_in_a_bin(before, after):
    sets = ("forget", "retain", "unseen")
    losses = {
        "before": dict.fromkeys(sets, np.array(before)),
        "after": dict.fromkeys(sets, np.array(after, float)),
    }
    with np.errstate(over="ignore", invalid="ignore"):
        found = spread(losses, "loss")
    edges = np.array(found["edges"])
    assert len(edges) == BINS + 1
    assert np.isfinite(edges).all() and (np.diff(edges) > 0).all()
    assert found["scale"] == "linear" or edges[0] > 0
    for model, one in {"before": before, "after": after}.items():
        counted = found["sets"][model]["forget"]
        assert sum(counted["counts"]) == np.isfinite(one).sum() == counted["n"] - counted["n_not_finite"]


@pytest.mark.parametrize(
    ("losses", "scale"),
    [
        (np.geomspace(1e-9, 20, 500), "log"),
        (np.r_[np.zeros(200), np.geomspace(1e-3, 5, 300)], "log"),
        (np.linspace(1, 4, 100), "linear"),
        (np.linspace(-5, 5, 100), "linear"),
        (np.zeros(50), "linear"),
        (np.full(50, 1e30), "linear"),
    ],
)
def test_the_axis_suits_the_losses(losses, scale):
    found = spread({"before": dict.fromkeys(("forget", "unseen"), losses)}, "loss")
    assert found["scale"] == scale
    if scale == "log":
        assert found["edges"][0] >= losses.max() * 0.99e-6


def rows(names, changed=1, total=10):
    return [{"name": name, "changed": changed, "total": total, "is_buffer": False} for name in names]


def test_few_layers_stay_what_they_are():
    tensors = rows(["conv.weight", "conv.bias", "fc.weight", "scale"])
    tensors[1]["changed"] = 4
    tensors.append({"name": "bn.running_mean", "changed": 5, "total": 5, "is_buffer": True})
    found = by_layer(tensors)
    assert [(one.name, one.changed, one.total, one.is_group) for one in found] == [
        ("conv", 5, 20, False),
        ("fc", 1, 10, False),
        ("scale", 1, 10, False),
    ]
    assert found[0].share == 0.25


def test_many_layers_are_gathered_by_block_or_in_runs():
    blocks = [f"blocks.{block}.{part}.weight" for block in range(12) for part in ("q", "k", "v", "mlp")]
    found = by_layer(rows(["embed.weight", *blocks]))
    assert [one.name for one in found] == ["embed", *(f"blocks.{block}" for block in range(12))]
    assert [one.is_group for one in found] == [False] + [True] * 12
    deep = by_layer(rows([f"layers.{at}.weight" for at in range(200)]))
    assert deep[0].name == "layers.0 … 8"
    assert deep[-1].name == "layers.198 … 199"
    assert by_layer(rows([f"{at}.weight" for at in range(30)]))[0].name == "0 … 1"


@given(st.lists(st.lists(st.sampled_from("abc12"), min_size=1, max_size=4).map(".".join), max_size=200))
def test_gathering_keeps_every_weight(names):
    tensors = rows([f"{name}.weight" for name in names], 3, 7)
    found = by_layer(tensors)
    assert len(found) <= 24
    assert sum(one.total for one in found) == 7 * len(names)
    assert sum(one.changed for one in found) == 3 * len(names)


def test_a_models_digest_knows_names_values_and_order():
    one, other = nn.Sequential(nn.Linear(2, 2)), nn.Sequential(nn.Linear(2, 2))
    other.load_state_dict(one.state_dict())
    assert model_digest(one) == model_digest(other) == model_digest(nn.DataParallel(one))
    with torch.no_grad():
        other[0].bias[0] = -other[0].bias[0]
    assert model_digest(one) != model_digest(other)
    assert model_digest(one) != model_digest(one[0])


@given(st.permutations(range(9)), st.integers(1, 9))
def test_a_samples_digest_knows_no_order_and_no_batches(order, size):
    X, y = torch.arange(18.0).view(9, 2), torch.arange(9)
    told = samples_digest((X, y), "salt", "forget")
    loader = DataLoader(TensorDataset(X[list(order)], y[list(order)]), batch_size=size, shuffle=True)
    assert samples_digest(loader, "salt", "forget") == told
    assert samples_digest((X, y), "", "forget")[0] != told[0]
    assert samples_digest((X, y + 1), "salt", "forget")[0] != told[0]
    assert samples_digest((X[[0, *range(8)]], y[[0, *range(8)]]), "salt", "forget")[0] != told[0]


def test_every_parameter_is_told_and_nothing_of_the_data():
    data = torch.full((3,), 0.12345)
    method = Retrain(factory=lambda: nn.Linear(2, 2), epochs=3)
    found = {one["name"]: one for one in method_facts(method, 1)["parameters"]}
    assert set(method.get_params(deep=True)) == set(found)
    assert (found["epochs"]["value"], found["epochs"]["is_default"]) == (3, False)
    assert "lambda" in found["factory"]["value"] and "0x" not in found["factory"]["value"]
    odd = SSD(alpha=math.inf, reference={"a": data, "b": [data.numpy()] * 20})
    found = {one["name"]: one for one in method_facts(odd, None)["parameters"]}
    assert found["alpha"]["value"] == "inf"
    assert "0.12" not in str(found) and "20 in all" in found["reference"]["value"]
    assert found["lambda_"] == {"name": "lambda_", "value": 1.0, "is_default": True}


def test_size_and_changes_are_counted():
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    other = copy.deepcopy(model)
    with torch.no_grad():
        other[0].weight[0] += 1
        other[1].running_mean += 1
    facts = model_facts(model, other, WeightEdit.between(model, other))
    assert (facts["n_weights"], facts["n_buffer_values"], facts["n_tensors"]) == (12, 5, 7)
    assert [one["name"] for one in facts["base"]["tensors"]] == ["0.weight", "0.bias", "1.running_mean"]
    pairs = zip(facts["base"]["tensors"], facts["result"]["tensors"], strict=True)
    assert [old["digest"] == new["digest"] for old, new in pairs] == [False, True, False]
    edit = edit_facts(model, WeightEdit.between(model, other), {})
    assert (edit["n_changed"], edit["n_changed_in_buffers"]) == (3, 2)
    assert {row["name"]: row["changed"] for row in edit["tensors"] if row["changed"]} == {
        "0.weight": 3,
        "1.running_mean": 2,
    }


def test_scores_of_one_model_alone_have_no_counterpart():
    found = score_facts({"a": 1.0, "b": 2.0}, {"a": 3.0, "c": float("inf")})
    assert [(row["name"], row["before"] and row["before"]["value"], row["after"] and row["after"]["value"])
            for row in found] == [("a", 1.0, 3.0), ("c", None, None), ("b", 2.0, None)]  # fmt: skip
    assert found[1]["before"] is None and found[1]["after"] is not None


@given(st.floats(0, 1))
def test_percent_never_rounds_something_to_nothing_or_all(share):
    said = percent(share)
    assert (said == "0.0 %") == (share == 0)
    assert (said == "100.0 %") == (share == 1)
    assert abs(float(said.strip("<> %")) - 100 * share) <= 0.1


def ends(value, low=None, high=None):
    return {"value": value, "low": low, "high": high}


def facts(scores=(), changed=5, shares=None, broken=0, oracle=("models", 1), checks=()):
    """Return the least data that a verdict is made of."""
    shares = shares or {"before": ends(0.9, 0.8, 1.0), "after": ends(0.5, 0.4, 0.6)}
    counted = {name: {"n": 10, "n_not_finite": 0} for name in ("forget", "retain", "unseen")}
    after = {name: one | {"n_not_finite": broken} for name, one in counted.items()}
    return {
        "edit": {"n_changed": changed, "n_changed_in_buffers": 0},
        "losses": {
            "sets": {"before": counted, "after": after},
            "forget_below_unseen": shares,
            "max_samples": 20,
        },
        "scores": list(scores),
        "checks": list(checks),
        "oracle": {"kind": oracle[0], "n": oracle[1]},
        "method": {"fitted": True, "seconds": 1.0},
    }


def row(name, before, after, target=None, group="accuracy"):
    return {
        "name": name,
        "before": before,
        "after": after,
        "target": target,
        "group": group,
        "n": 9,
        "meaning": "",
    }


RETRAINED = {"before": ends(0.9, 0.85, 0.95), "retrained": ends(0.5, 0.4, 0.6)}


@pytest.mark.parametrize(
    ("data", "level"),
    [
        (facts(changed=0), "unchanged"),
        (facts(broken=2), "broken"),
        (facts(), "unknown"),
        (facts([row("tow", ends(0.5, 0.4, 0.6), ends(0.9, 0.8, 1.0))]), "closer"),
        (facts([row("tow", ends(0.9, 0.8, 1.0), ends(0.5, 0.4, 0.6))]), "further"),
        (facts([row("tow", ends(0.5, 0.4, 0.8), ends(0.9, 0.7, 1.0))]), "unclear"),
        (facts([row("tow", ends(0.1), ends(0.9))]), "unclear"),
        (facts([row("tow", ends(0.9), ends(0.1))]), "unclear"),
        (facts([row("tow", ends(0.1), ends(0.9, 0.8, 1.0))]), "unclear"),
        (facts([row("avg_gap", ends(0.5, 0.4, 0.6), ends(0.1, 0.0, 0.2))]), "closer"),
        (facts([row("avg_gap", ends(0.1, 0.0, 0.2), ends(0.5, 0.4, 0.6))]), "further"),
        (facts([row("tow", None, ends(0.5, 0.4, 0.6))]), "unknown"),
        (facts(shares=RETRAINED | {"after": ends(0.52, 0.45, 0.6)}), "closer"),
        (facts(shares=RETRAINED | {"after": ends(0.88, 0.8, 0.95)}), "unclear"),
        (facts(shares=RETRAINED | {"after": ends(0.01, 0.0, 0.02)}), "further"),
    ],
)
def test_the_verdict_follows_the_figures(data, level):
    found = verdict(data)
    assert (found["level"], found["headline"]) == (level, HEADLINES[level])
    assert all(sentence.endswith(".") for sentence in found["sentences"])


def test_the_verdict_says_when_chance_is_not_ruled_out():
    said = " ".join(verdict(facts([row("tow", ends(0.5), ends(0.6))]))["sentences"])
    assert "No interval was computed, so chance is not ruled out" in said
    said = " ".join(verdict(facts([row("tow", ends(0.5, 0.4, 0.8), ends(0.9, 0.7, 1.0))]))["sentences"])
    assert "The intervals overlap" in said


def test_the_verdict_says_whether_the_measures_tell_the_two_apart():
    tow = row("tow", ends(0.5, 0.4, 0.6), ends(0.9, 0.8, 1.0), 1.0, "closeness")
    inside = row("test", ends(0.9, 0.8, 1.0), ends(0.9, 0.8, 1.0), 0.85)
    outside = row("forget", ends(1.0, 0.9, 1.0), ends(0.5, 0.4, 0.6), 0.1)
    without = row("mia", ends(0.1, 0.0, 0.2), ends(0.1), 0.9, "membership")
    for rows, number, apart in [
        ([inside, outside], "2 measures with a retrained model's value one has it", "can still be told"),
        (
            [inside, inside],
            "2 measures with a retrained model's value all have it",
            "do not tell the two apart",
        ),
        ([outside, outside], "2 measures with a retrained model's value none has it", "can still be told"),
        ([inside], "the one measure with a retrained model's value has it in its interval", "does not tell"),
        ([outside], "the one measure with a retrained model's value does not have it", "can still be told"),
    ]:
        said = verdict(facts([tow, *rows, without]))["sentences"]
        assert any(number in line and apart in line for line in map(str.lower, said)), said


def test_the_verdict_tells_what_was_found_wrong():
    checks = [{"what": "Right", "passed": True}, {"what": "Its edit", "passed": False}]
    said = verdict(facts(checks=checks))["sentences"]
    assert [line for line in said if "Not true" in line] == ["Not true: Its edit."]


def test_open_points_follow_from_what_was_passed():
    none = {one["title"] for one in open_points(facts(oracle=("none", 0)))}
    assert {TEXTS[key][0] for key in ("no oracle", "loss alone", "average", "relearning", "copies")} <= none
    strong = [row("klom", None, ends(0.1)), row("relearning_steps", None, ends(3.0))]
    many = {one["title"] for one in open_points(facts(strong, oracle=("models", 3)))}
    assert not many & {
        TEXTS[key][0] for key in ("no oracle", "one oracle", "average", "relearning", "loss alone")
    }
    assert TEXTS["copies"][0] in many
    data = facts()
    data["losses"]["max_samples"] = 10
    assert any("at most 10 samples" in one["text"] for one in open_points(data))
    assert open_points(facts(), ["Weak: mia.", "One oracle: unknown."])[-1] == {
        "title": "",
        "text": "Weak: mia.",
    }


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "–"),
        (0.0, "0.000"),
        (8.39e-4, "0.0008"),
        (-5e-4, "-0.0005"),
        (2e-5, "2.00e-05"),
        (0.25, "0.250"),
        (1234.5, "1,234"),
    ],
)
def test_a_small_figure_is_not_zero(value, shown):
    assert _figure({"name": "avg_gap", "group": "closeness"}, value) == shown


def test_finite_is_a_number_or_none():
    assert [finite(value) for value in (1, None, math.nan, -math.inf, np.float32(2))] == [
        1.0,
        None,
        None,
        None,
        2.0,
    ]
