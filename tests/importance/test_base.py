# SPDX-License-Identifier: BSD-3-Clause
from functools import reduce
from operator import add

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.base import clone
from torch import nn

from unlearnkit import SSD, Importance, WeightEdit
from unlearnkit.exceptions import DataError
from unlearnkit.importance.base import NoSamplesError, refuse_bad_weights, walk
from unlearnkit.parameters import bits

SHAPES = {"layer.weight": (2, 3), "layer.bias": (2,), "scale": ()}


def drawn(seed, count, kind="fisher/per_sample/true", samples=None):
    """Return an importance of squares that differ by many orders of magnitude."""
    draw = torch.Generator().manual_seed(seed)
    sums = {
        name: torch.randn(shape, generator=draw, dtype=torch.float64).mul(5).exp()
        for name, shape in SHAPES.items()
    }
    return Importance(sums, count, kind, samples)


def close(found, expected, floor=None):
    """Compare to the rounding of sums; `floor` is what was added and subtracted on the way."""
    assert (found.count, found.samples, found.kind) == (
        expected.count,
        expected.samples,
        expected.kind,
    )
    assert list(found.sums) == list(expected.sums)
    for name, value in expected.sums.items():
        size = value if floor is None else floor.sums[name]
        assert bool(((found.sums[name] - value).abs() <= 1e-14 * size).all())


IMPORTANCES = st.builds(drawn, st.integers(0, 2**31), st.integers(1, 1000))


def test_mean_is_sums_over_count():
    sums = {"w": torch.tensor([3.0, 5.0])}
    assert Importance(sums, 4).mean()["w"].tolist() == [0.75, 1.25]
    assert Importance({"w": torch.zeros(2)}, 0).mean()["w"].tolist() == [0, 0]


def test_samples_are_counted_beside_batches():
    found = drawn(0, 3, samples=70) + drawn(1, 2, samples=40)
    assert (found.count, found.samples) == (5, 110)
    assert (Importance({}, 7).count, Importance({}, 7).samples) == (7, 7)


@given(a=IMPORTANCES, b=IMPORTANCES)
def test_subtracting_undoes_adding(a, b):
    both = a + b
    close(both - b, a, floor=both)
    close(both - a, b, floor=both)
    assert all(bool((value >= 0).all()) for value in (both - b).sums.values())


@given(parts=st.lists(IMPORTANCES, min_size=1, max_size=6), order=st.randoms())
def test_parts_add_up_to_the_whole_in_any_order(parts, order):
    names = list(SHAPES)
    sums = {name: torch.stack([part.sums[name] for part in parts]).sum(0) for name in names}
    whole = Importance(sums, sum(part.count for part in parts), parts[0].kind)
    shuffled = order.sample(parts, len(parts))
    close(reduce(add, shuffled), whole)


def test_operands_are_not_changed():
    a, b = drawn(0, 1), drawn(1, 1)
    before = [value.clone() for value in (*a.sums.values(), *b.sums.values())]
    _ = a + b, (a + b) - b, a.mean(), a.to("cpu")
    after = [*a.sums.values(), *b.sums.values()]
    assert all(torch.equal(*pair) for pair in zip(before, after, strict=True))


def test_rounding_below_zero_becomes_zero():
    whole = Importance({"w": torch.tensor([1.0, 4.0])}, 2)
    part = Importance({"w": torch.tensor([1.0 + 1e-6, 1.0])}, 1)
    assert (whole - part).sums["w"].tolist() == [0.0, 3.0]


@pytest.mark.parametrize(
    ("second", "words"),
    [
        (drawn(1, 2, "fisher/batch/true"), "different kinds.*per_sample.*batch.*same settings"),
        (
            Importance({"layer.weight": torch.ones(2, 4)}, 1, drawn(0, 1).kind),
            r"different models.*layer.weight has shape \[2, 3\] in the first and shape \[2, 4\]",
        ),
        (
            Importance({**drawn(0, 1).sums, "more": torch.ones(1)}, 1, drawn(0, 1).kind),
            "more has no such parameter in the first.*frozen",
        ),
    ],
)
def test_what_does_not_belong_together_does_not_add_up(second, words):
    for operate in (Importance.__add__, Importance.__sub__):
        with pytest.raises(DataError, match=words):
            operate(drawn(0, 4), second)


def test_what_was_not_part_does_not_subtract():
    part = drawn(1, 2)
    with pytest.raises(DataError, match=r"cannot subtract.* over 9 samples from one over 4"):
        drawn(0, 4) - drawn(1, 9)
    with pytest.raises(DataError, match=r"over 9 samples from one over 4"):
        drawn(0, 4, samples=4) - drawn(1, 3, samples=9)
    with pytest.raises(DataError, match=r"cannot subtract: at layer.weight .*first \+ second"):
        drawn(0, 4) - part
    with pytest.raises(DataError, match="measure it again"):
        (drawn(0, 4) + part) - Importance({n: 3 * v for n, v in part.sums.items()}, 2, part.kind)


def test_other_things_do_not_add_up():
    for operate in (lambda a: a + 1, lambda a: a - 1, lambda a: sum([a, a])):
        with pytest.raises(TypeError, match="unsupported operand"):
            operate(drawn(0, 1))


def test_check_model_names_what_differs():
    model = nn.Sequential()
    model.layer = nn.Linear(3, 2)
    sums = {name: parameter.detach() for name, parameter in model.named_parameters()}
    Importance(sums, 1).check_model(model)
    Importance({}, 1).check_model(model)
    wrong = Importance({"layer.weight": torch.ones(2, 4)}, 1)
    with pytest.raises(DataError, match=r"shape \[2, 4\] there and shape \[2, 3\] in the model"):
        wrong.check_model(model)
    with pytest.raises(DataError, match=r"scale has shape \[\] there and no such parameter in"):
        drawn(0, 1).check_model(model)


@given(importance=IMPORTANCES)
def test_a_file_holds_it_bit_by_bit(importance, tmp_path_factory):
    path = tmp_path_factory.mktemp("importance") / "file"
    importance.save(path)
    found = Importance.load(path)
    assert (found.count, found.kind, found.samples) == (
        importance.count,
        importance.kind,
        importance.samples,
    )
    assert found.sums.keys() == importance.sums.keys()
    for name, value in importance.sums.items():
        assert found.sums[name].dtype == torch.float64
        assert torch.equal(bits(found.sums[name]), bits(value))


def test_save_takes_any_memory_format(tmp_path):
    images = torch.rand(2, 3, 4, 5, dtype=torch.float64)
    last = images.contiguous(memory_format=torch.channels_last)
    Importance({"w": last}, 1).save(tmp_path / "file")
    assert torch.equal(Importance.load(tmp_path / "file").sums["w"], images)


def test_load_refuses_another_file(tmp_path):
    path = tmp_path / "edit.safetensors"
    WeightEdit.between(nn.Linear(1, 1), nn.Linear(1, 1)).save(path)
    with pytest.raises(DataError, match=r"WeightEdit.*Importance"):
        Importance.load(path)
    with pytest.raises(DataError, match="no such file"):
        Importance.load(tmp_path / "nothing")


def test_clones_of_an_estimator_share_it():
    stored = drawn(0, 3)
    assert clone(SSD(reference=stored)).reference is stored


def test_repr():
    assert repr(drawn(0, 3, samples=1234)) == (
        "Importance: fisher/per_sample/true of 9 weights over 1,234 samples"
    )


def test_walk_counts_and_passes_over_empty_batches(capsys):
    batches = [(torch.zeros(n, 1), torch.zeros(n)) for n in (3, 0, 2)]
    found = []
    assert walk(batches, found.append, progress=False) == (5, 2)
    assert [len(batch[0]) for batch in found] == [3, 2]
    assert capsys.readouterr().err == ""
    walk(batches, found.append, progress=True)
    assert "importance" in capsys.readouterr().err


@pytest.mark.parametrize("batches", [[], [(torch.zeros(0, 1), torch.zeros(0))]])
def test_walk_needs_a_sample(batches):
    with pytest.raises(NoSamplesError, match=r"data is empty.*Check the indices"):
        walk(batches, lambda batch: None, progress=False)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_bad_weights_are_refused_by_name(bad):
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    refuse_bad_weights(model)
    model[1].weight.data[0] = bad
    with pytest.raises(DataError, match=r"1\.weight holds 2 values that are NaN.*checkpoint"):
        refuse_bad_weights(model)
