# SPDX-License-Identifier: BSD-3-Clause
"""Every importance goes with every granularity and every algorithm, and what is frozen stays so."""

import inspect
from functools import cache

import pytest

import unlearnkit
from unlearnkit.data import ForgetRetain
from unlearnkit.importance import ImportanceEstimator, named
from unlearnkit.importance.names import NAMES
from unlearnkit.methods._localised import Localised
from unlearnkit.parameters import bits, named_parameters
from unlearnkit.testing._task import FORGET, RETAIN, Task, convnet, mlp

pytestmark = pytest.mark.filterwarnings("ignore::unlearnkit.UnlearnWarning")  # toys, soon ruined

ALGORITHMS = {
    name: kind
    for name, kind in vars(unlearnkit).items()
    if name in unlearnkit.__all__ and inspect.isclass(kind) and issubclass(kind, Localised)
}
GRANULARITIES = ("weight", "channel", "layer")
SETTINGS = {
    "budget": 0.6,
    "epochs": 2,
    "lr": 0.05,
    "batch_size": 88,
    "optimizer": "sgd",  # with momentum and, below, decay: both move a weight without a gradient
    "weight_decay": 0.1,
    "random_state": 0,
}


class Known(ImportanceEstimator):
    """An importance that has been measured already."""

    def __init__(self, name, build):
        self.name, self.build = name, build

    def measure(self, model, data, loss=None, progress=False):
        return measured(self.name, self.build)

    def locate(self, model, roles, loss=None, progress=False):
        return measured(self.name, self.build)

    def scores(self, model, found):
        return seeded(self.name).scores(model, found)


def seeded(name):
    given = named(name)
    return given.set_params(random_state=0) if "random_state" in given.get_params() else given


@cache
def measured(name, build):
    task = Task(build)
    roles = ForgetRetain.resolve((task.arrays(RETAIN), task.arrays(FORGET)))
    return seeded(name).locate(task.model, roles)


def fitted(kind, task, **given):
    parameters = kind().get_params(deep=False)
    chosen = {**SETTINGS, **given}
    estimator = kind(**{name: value for name, value in chosen.items() if name in parameters})
    return estimator.fit(task.model, task.arrays(RETAIN), task.arrays(FORGET))


def assert_frozen(estimator, model):
    """Weights outside of the mask keep their bits, and others do not."""
    changeable = estimator.mask_ | getattr(estimator, "trained_", estimator.mask_)
    clean, moved = named_parameters(estimator.transform(model)), 0
    for name, before in named_parameters(model).items():
        same = bits(before).view(-1) == bits(clean[name]).view(-1)
        chosen = changeable[name].view(-1)
        assert bool(same[~chosen].all()), name
        moved += int((~same).sum())
    assert moved > 0


@pytest.mark.parametrize("importance", NAMES)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_importance_goes_with_algorithm(algorithm, importance):
    for build, granularity in (*((convnet, g) for g in GRANULARITIES), (mlp, "channel")):
        task = Task(build)
        known = Known(importance, build)
        estimator = fitted(ALGORITHMS[algorithm], task, importance=known, granularity=granularity)
        assert 0 < estimator.mask_.n_selected < estimator.mask_.n_total
        assert_frozen(estimator, task.model)


@pytest.mark.parametrize("importance", NAMES)
def test_a_name_selects_what_its_measurement_does(importance):
    for granularity in GRANULARITIES:
        task = Task(convnet)
        by_name, known = (
            fitted(unlearnkit.FineTune, task, importance=given, granularity=granularity)
            for given in (importance, Known(importance, convnet))
        )
        assert by_name.mask_ == known.mask_ and by_name.edit_ == known.edit_


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_patterns_go_with_algorithm(algorithm):
    task = Task(convnet)
    estimator = fitted(
        ALGORITHMS[algorithm], task, importance="random", include=["0.*", "5.*"], exclude="5.bias"
    )
    units = {"0.weight", "0.bias", "1.weight", "1.bias"}  # whole ones go, and never outputs
    assert set(estimator.mask_.eligible) == (
        units if algorithm in ("Prune", "RLAP") else {"0.weight", "0.bias", "5.weight"}
    )
    assert_frozen(estimator, task.model)


def test_algorithms_and_importances_are_found():
    assert set(ALGORITHMS) >= {"SalUn", "DEL", "FineTune", "NegGradPlus"}
    assert set(NAMES) >= {"fisher", "gradient", "weighted", "random"}
