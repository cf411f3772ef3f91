# SPDX-License-Identifier: BSD-3-Clause
"""Values as they are typed, and estimators with them."""

import pytest
from sklearn.base import clone

from unlearnkit import ASSD, SSD, FisherDiagonal, SalUn, Trainer, WeightedSaliency
from unlearnkit.cli._errors import WrongUse
from unlearnkit.cli._methods import MAKERS, METHODS, measure, method, spelled
from unlearnkit.cli._values import split, value_of, values_of
from unlearnkit.methods import RLAP


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("10", 10), ("1e-3", 1e-3), ("-2.5", -2.5), ("paper", "paper"), ("'10'", "10"), ("None", None), ("true", True),
        ("FALSE", False), ("(1, 2)", (1, 2)), ("['a', 'b']", ["a", "b"]), ("a b", "a b"), ("per-sample", "per-sample"),
        ("a.b", "a.b"), ("", ""),
    ],
)  # fmt: skip
def test_literals_and_words(text, value):
    found = value_of(text, "--set", {})
    assert (found, type(found)) == (value, type(value))


def test_a_call_makes_an_estimator():
    found = value_of("WeightedSaliency(on='all')", "--set", MAKERS)
    assert repr(found) == repr(WeightedSaliency(on="all"))
    assert value_of("Trainer(clip=1.0)", "--set", MAKERS).clip == 1.0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("FisherRato()", "did you mean 'FisherRatio'"),
        ("os.system('ls')", "'os.system' is not known"),
        ("FisherRatio(of=3)", "unexpected keyword argument 'of'"),
        ("FisherRatio(on=x)", "malformed node"),
        ("nothing.py:here", "there is no file 'nothing.py'"),
    ],
)
def test_bad_values_are_explained(text, message):
    with pytest.raises(WrongUse, match=message):
        value_of(text, "--set", MAKERS)


def test_lists_are_split_outside_of_brackets_and_quotes():
    assert split("1, (2, 3),'a,b',f(x, y)") == ["1", "(2, 3)", "'a,b'", "f(x, y)"]
    assert values_of("paper,99,WeightedSaliency(on='all')", "--grid", MAKERS)[:2] == ["paper", 99]
    with pytest.raises(WrongUse, match="a value is missing beside a comma"):
        values_of("1,,2", "--grid", MAKERS)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_can_be_named(name):
    assert type(method(name.lower())) is METHODS[name]
    assert repr(clone(method(name))) == repr(METHODS[name]())


def test_parameters_are_set():
    settings = ["percentile=99", "target=None", "importance=batch"]
    assert repr(method("ASSD", settings)) == repr(ASSD(percentile=99, importance="batch"))
    assert method("SalUn", ["trainer=Trainer(momentum=0.5)"]).trainer.momentum == 0.5
    assert isinstance(method("RLAP", ["finder=MixtureFinder()"]), RLAP)
    assert repr(measure("fisher", ["gradient=batch"])) == repr(FisherDiagonal(gradient="batch"))
    assert measure("deepest").get_params() != measure("shallowest").get_params()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: method("ASSD", ["alpha=1"]), "ASSD has no parameter 'alpha'.*It has against, importance"),
        (lambda: method("SSD", ["alpha=1", "alpha=2"]), "alpha is set twice"),
        (lambda: method("SSD", ["alpha"]), "expected NAME=VALUE"),
        (lambda: method("SSD", ["=2"]), "expected NAME=VALUE"),
        (lambda: method("SSD", ["reference=a"]), "--reference FILE"),
        (lambda: method("SSD", ["loss=a"]), "--loss"),
        (lambda: method("Unlearner"), "there is no method of that name"),
        (lambda: measure("ImportanceEstimator"), "there is no importance of that name"),
    ],
)
def test_unknown_names_are_explained(make, message):
    with pytest.raises(WrongUse, match=message):
        make()


def test_an_estimator_is_spelled_in_one_line_the_same_in_every_process():
    long = SalUn(
        epochs=3, lr=0.125, batch_size=64, optimizer="adamw", weight_decay=0.25, loss=split, random_state=3
    )
    assert "\n" in repr(long)
    assert " at 0x" in repr(long)
    assert spelled(long) == (
        "SalUn(batch_size=64, epochs=3, loss=<function split>, lr=0.125, optimizer='adamw', random_state=3, "
        "weight_decay=0.25)"
    )


def test_what_is_made_is_of_the_library():
    assert {type(SSD()), type(SalUn())} <= set(METHODS.values())
    assert MAKERS["Trainer"] is Trainer
