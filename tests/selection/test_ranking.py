# SPDX-License-Identifier: BSD-3-Clause
"""Selection beside a plain loop over units, with ties, infinities, odd shapes and frozen weights."""

import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from unlearnkit import select
from unlearnkit.exceptions import DataError, IneffectiveWarning
from unlearnkit.selection.ranking import greedy, highest

SHAPES = {
    "conv.weight": (4, 3, 3, 3),
    "conv.bias": (4,),
    "depthwise.weight": (6, 1, 1, 2),
    "nothing": (0, 5),
    "rows_without_weights": (3, 0),
    "temperature": (),
    "fc.weight": (5, 20),
    "fc.bias": (5,),
}
NAMES = [name for name, shape in SHAPES.items() if math.prod(shape)]
N = sum(math.prod(shape) for shape in SHAPES.values())


def drawn(seed, values=4, infinite=False, dtype=torch.float64):
    """Scores of which many are equal."""
    draw = torch.Generator().manual_seed(seed)
    scores = {}
    for name, shape in SHAPES.items():
        score = torch.randint(values, shape, generator=draw).to(dtype) / 8
        if infinite:
            score[torch.rand(shape, generator=draw) < 0.1] = torch.inf
        scores[name] = score
    return scores


def flat(tensors):
    return np.concatenate([np.asarray(tensors[name]).reshape(-1) for name in SHAPES])


def top_of(mode, rows, length):
    """How many scores of a row count, in whole numbers: a tenth of one thing or another."""
    return {"fan_in": -(-length // 10), "code": max(rows // 10, 1), "all": length}[mode]


def units_of(scores, granularity, mode="fan_in"):
    """List (score, index of the weights among all) of every unit, one after the other."""
    units, at, layers = [], 0, {}
    for name, shape in SHAPES.items():
        score = scores[name].double().numpy()
        places = np.arange(at, at + score.size)
        at += score.size
        if score.size == 0:
            continue
        layers.setdefault(name.rpartition(".")[0], []).append((score.reshape(-1), places))
        if granularity == "channel" and len(shape) > 1:
            for row, where in zip(score.reshape(shape[0], -1), places.reshape(shape[0], -1), strict=True):
                h = min(top_of(mode, shape[0], len(row)), len(row))
                units.append((np.sort(row)[::-1][:h].mean(), where))
        elif granularity == "channel":
            units += [(value, places[[i]]) for i, value in enumerate(score.reshape(-1))]
    if granularity == "layer":
        for parts in layers.values():
            values, where = (np.concatenate(part) for part in zip(*parts, strict=True))
            units.append((values.mean(), where))
    return units


def taken_by_loop(units, count):
    chosen = np.zeros(N, bool)
    for _, where in sorted(units, key=lambda unit: -unit[0]):  # sorted() keeps ties in order
        if chosen.sum() + len(where) <= count:
            chosen[where] = True
    return chosen


BUDGETS = st.floats(0.01, 1) | st.sampled_from([0.1, 0.29, 0.3, 0.5, 0.57, 1.0])


@given(st.integers(0, 2**31), BUDGETS, st.integers(1, 9), st.booleans())
def test_weights_are_the_first_of_a_stable_ranking_and_exactly_as_many_as_asked(
    seed, budget, values, infinite
):
    scores = drawn(seed, values, infinite)
    mask = select(scores, budget)
    expected = np.zeros(N, bool)
    expected[np.argsort(-flat(scores), kind="stable")[: int(budget * N)]] = True
    assert np.array_equal(flat(mask), expected)
    assert mask.n_selected == int(budget * N) == sum(mask.counts.values())
    assert mask.share == mask.density == int(budget * N) / N
    assert mask.requested == budget


@pytest.mark.parametrize("mode", ["fan_in", "code", "all"])
@given(seed=st.integers(0, 2**31), budget=st.floats(0.05, 1), values=st.integers(1, 9))
def test_channels_are_taken_whole_while_they_fit(mode, seed, budget, values):
    scores = drawn(seed, values)
    mask = select(scores, budget, "channel", top=mode)
    expected = taken_by_loop(units_of(scores, "channel", mode), int(budget * N))
    assert np.array_equal(flat(mask), expected)
    assert mask.n_selected <= int(budget * N)
    for name in ("conv.weight", "depthwise.weight", "fc.weight"):
        rows = mask.rows(name)
        assert torch.equal(mask[name].flatten(1), rows[:, None].expand_as(mask[name].flatten(1)))


@given(st.integers(0, 2**31), st.floats(0.12, 1))
def test_layers_are_taken_whole_while_they_fit(seed, budget):
    scores = drawn(seed, 100)
    mask = select(scores, budget, "layer")
    assert np.array_equal(flat(mask), taken_by_loop(units_of(scores, "layer"), int(budget * N)))
    assert len({bool(mask[name].all()) for name in ("fc.weight", "fc.bias")}) == 1
    for name in NAMES:
        assert mask[name].all() or not mask[name].any()


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 9)), min_size=1, max_size=30), st.integers(0, 99))
def test_greedy_takes_what_a_loop_takes(units, count):
    found = greedy(torch.tensor([float(s) for s, _ in units]), torch.tensor([n for _, n in units]), count)
    expected, left = [False] * len(units), count
    for at in sorted(range(len(units)), key=lambda at: -units[at][0]):
        if units[at][1] <= left:
            expected[at], left = True, left - units[at][1]
    assert found.tolist() == expected


@given(st.permutations(range(40)), st.integers(0, 40), st.integers(0, 2**31))
def test_a_permutation_of_distinct_scores_permutes_the_mask(order, count, seed):
    scores = torch.rand(40, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    permuted = highest({"w": scores[order]}, count)["w"]
    assert torch.equal(permuted, highest({"w": scores}, count)["w"][order])


@given(st.integers(0, 2**31), st.floats(0.05, 0.9), st.floats(0.05, 0.9))
def test_a_larger_budget_of_weights_holds_a_smaller_one(seed, one, other):
    scores = drawn(seed)
    small, large = (select(scores, budget) for budget in sorted((one, other)))
    assert all(bool((large[name] | ~small[name]).all()) for name in SHAPES)


def test_a_share_of_the_row_may_be_given_and_its_rounding_is_not_the_floats():
    draw = torch.Generator().manual_seed(0)
    scores = {"w": torch.rand(30, 70, generator=draw, dtype=torch.float64)}
    row = scores["w"].sort(1, descending=True).values
    for share, h in ((0.1, 7), (0.5, 35), (0.01, 1), (1.0, 70)):  # .1 * 70 > 7 in floats
        best = row[:, :h].mean(1).argsort(descending=True)[:6]
        assert select(scores, 0.2, "channel", top=share).rows("w").nonzero()[:, 0].tolist() == sorted(best)


def test_the_codes_mode_of_few_channels_is_the_maximum_and_not_nan():
    scores = {"w": torch.tensor([[0.0, 5.0], [3.0, 3.0], [4.0, 0.0]])}  # int(.1 * 3) is 0
    assert select(scores, 0.34, "channel", top="code").rows("w").tolist() == [True, False, False]
    assert select(scores, 0.34, "channel", top="all").rows("w").tolist() == [False, True, False]
    wide = {"w": torch.rand(200, 3)}  # int(.1 * 200) is more than a row has
    rows = select(wide, 0.5, "channel", top="code").rows("w")
    assert torch.equal(rows, select(wide, 0.5, "channel", top="all").rows("w"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("granularity", ["weight", "channel", "layer"])
def test_dtypes_mixed_or_not_and_memory_orders_give_one_mask(dtype, granularity):
    scores = drawn(3)  # eighths, exact in each
    expected = select(scores, 0.4, granularity)
    assert select(drawn(3, dtype=dtype), 0.4, granularity) == expected
    scores["fc.bias"] = scores["fc.bias"].float()
    scores["conv.weight"] = scores["conv.weight"].to(memory_format=torch.channels_last)
    assert select(scores, 0.4, granularity) == expected


def test_float32_scores_beside_float64_are_compared_exactly():
    base = torch.tensor([1.0, 1.0], dtype=torch.float32)
    above = torch.tensor([1 + 1e-12, 1 + 2e-12], dtype=torch.float64)
    mask = select({"a": base, "b": above}, 0.25)
    assert (mask["a"].tolist(), mask["b"].tolist()) == ([False, False], [False, True])


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 3))


def ones(model):
    return {name: torch.ones_like(p) for name, p in model.named_parameters()}


def test_of_a_model_frozen_parameters_are_covered_and_not_eligible():
    model = network()
    model[0].weight.requires_grad_(False)
    scores = ones(model)
    for known in (scores, {name: s for name, s in scores.items() if name != "0.weight"}):
        mask = select(known, 0.5, model=model)
        assert list(mask) == [name for name, _ in model.named_parameters()]
        assert not mask["0.weight"].any()
        n = sum(p.numel() for p in model.parameters() if p.requires_grad)
        assert (mask.n_selected, mask.n_eligible) == (n // 2, n)
        assert mask.density == mask.n_selected / sum(p.numel() for p in model.parameters())


def test_ties_follow_the_models_order_whatever_that_of_the_scores():
    model = network()
    scores = ones(model)
    backwards = dict(reversed(scores.items()))
    for granularity in ("weight", "channel", "layer"):
        expected = select(scores, 0.45, granularity, model=model)
        assert select(backwards, 0.45, granularity, model=model) == expected
    assert select(scores, 0.05, model=model)["0.weight"].flatten().tolist() == [True] * 4 + [False] * 32


def test_include_and_exclude_are_patterns_of_names():
    model = network()
    scores = ones(model)
    mask = select(scores, 1.0, include=["1.*", "3.*"], exclude="*.bias", model=model)
    assert {name for name, count in mask.counts.items() if count} == {"1.weight", "3.weight"}
    assert mask.n_eligible == 4 + 48
    assert mask.share == 1
    assert select(scores, 0.5, include="3.weight").counts["3.weight"] == 24
    nested = select(scores, 0.5, exclude=("0.*",), granularity="channel", model=model)
    assert nested.counts["0.weight"] == 0
    assert nested.n_selected <= nested.n_eligible // 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"budget": 0}, "budget must be a share .* above 0 and at most 1, got 0"),
        ({"budget": 1.5}, r"got 1\.5"),
        ({"budget": True}, "got True"),
        ({"budget": math.nan}, "got nan"),
        ({"budget": "half"}, "got 'half'"),
        ({"granularity": "filter"}, "granularity must be 'weight', 'channel' or 'layer', got 'filter'"),
        ({"top": "fanin"}, "top must be 'fan_in', 'code', 'all' or a share"),
        ({"top": 3}, "at most 1, got 3"),
        ({"include": "3"}, r"include: no parameter is named '3'.*come close: 3\.weight, 3\.bias"),
        ({"exclude": ["3.*", "0.weihgt"]}, r"exclude: no parameter is named '0\.weihgt'.*0\.weight"),
        ({"exclude": [3]}, "exclude must be patterns of parameter names, got 3"),
        ({"include": "3.*", "exclude": "*"}, "no weight is eligible"),
        ({"include": []}, "no weight is eligible"),
    ],
)
def test_bad_arguments_are_refused(arguments, words):
    model = network()
    with pytest.raises(DataError, match=words):
        select(ones(model), **{"budget": 0.5, "model": model, **arguments})


@pytest.mark.parametrize("granularity", ["weight", "channel", "layer"])
def test_where_nothing_fits_the_budget_that_would_is_named(granularity):
    draw = torch.Generator().manual_seed(0)
    scores = {"a.w": torch.rand(7, 9, generator=draw), "b.w": torch.rand(11, 13, generator=draw)}
    with pytest.raises(DataError, match=rf"the smallest {granularity} has (1|9|63): raise budget") as caught:
        select(scores, 0.001, granularity)
    enough = float(str(caught.value).split("raise budget to ")[1].split()[0])
    assert select(scores, enough, granularity).n_selected > 0


@given(st.integers(1, 400), st.integers(1, 400))
def test_that_budget_is_enough(one, other):
    scores = {"a.w": torch.ones(one), "b.w": torch.zeros(other)}
    try:
        select(scores, 1e-9, "layer")
    except DataError as error:
        enough = float(str(error).split("raise budget to ")[1].split()[0])
        assert select(scores, enough, "layer").n_selected == min(one, other)


@pytest.mark.parametrize("granularity", ["weight", "channel", "layer"])
def test_it_warns_where_no_score_ranks_anything(granularity):
    scores = {"a.w": torch.zeros(4, 3), "b.w": torch.zeros(2, 3)}
    with pytest.warns(
        IneffectiveWarning, match=r"all scores of the 18 weights are 0.*GradientSaliency\(loss="
    ):
        assert select(scores, 0.7, granularity).rows("a.w").all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        select(scores, 1.0, granularity)
        scores["b.w"][1, 2] = 1e-30
        select(scores, 0.7, granularity)


def test_scores_that_cannot_be_ranked_are_refused():
    model = network()
    for bad in (math.nan, -1.0):
        scores = ones(model)
        scores["3.bias"][1] = bad
        with pytest.raises(DataError, match=r"1 scores of 3\.bias are NaN or below zero"):
            select(scores, 0.5)
    with pytest.raises(DataError, match=r"not of this model: 3\.bias has shape \[4\] there and \[3\]"):
        select({**ones(model), "3.bias": torch.ones(4)}, 0.5, model=model)
    with pytest.raises(DataError, match=r"w has shape .* and no such parameter in the model"):
        select({"w": torch.ones(4)}, 0.5, model=model)
    some = {name: score for name, score in ones(model).items() if name != "3.bias"}
    with pytest.raises(DataError, match=r"no scores of 3\.bias: it was frozen.*exclude="):
        select(some, 0.5, model=model)
    assert select(some, 0.5, exclude="3.bias", model=model).counts["3.bias"] == 0
    with pytest.raises(DataError, match="no weight is eligible"):
        select(ones(model), 0.5, model=model.requires_grad_(False))


def test_a_tied_weight_is_selected_once_under_its_first_name():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.head = nn.Embedding(5, 3), nn.Linear(3, 5, bias=False)
            self.head.weight = self.embed.weight

    model = Tied()
    mask = select(ones(model), 0.4, model=model)
    assert list(mask) == ["embed.weight"]
    assert mask.n_selected == 6


@pytest.mark.cuda
@pytest.mark.parametrize("granularity", ["weight", "channel", "layer"])
def test_scores_on_a_gpu_give_the_same_mask(granularity):
    scores = drawn(0, infinite=granularity == "weight")
    there = {name: score.cuda() for name, score in scores.items()}
    assert select(there, 0.3, granularity) == select(scores, 0.3, granularity)
