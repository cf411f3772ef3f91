# SPDX-License-Identifier: BSD-3-Clause
import pytest
import torch
from torch import nn

from unlearnkit.exceptions import DataError
from unlearnkit.metrics import accuracy, avg_gap, confidence_mia, evaluate, tow


def data(n, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 5, generator=generator), torch.randint(3, (n,), generator=generator)


SETS = {"retain": data(40, 0), "forget": data(12, 1), "test": data(30, 2)}


def model(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3))


def test_each_figure_is_its_own_metric():
    net = model(0)
    results = evaluate(net, **SETS)
    assert list(results) == ["test", "retain", "forget", "mia", "lr_mia"]
    for name, pair in SETS.items():
        assert results[name] == accuracy(net, pair)
    assert results["mia"] == confidence_mia(net, SETS["retain"], SETS["test"], SETS["forget"])


def test_an_oracle_adds_the_distance_to_it():
    net, oracle = model(0), model(1)
    results, expected = evaluate(net, **SETS, oracle=oracle), evaluate(oracle, **SETS)
    assert results["tow"] == tow(results, expected)
    assert results["avg_gap"] == avg_gap(results, expected)
    assert results == evaluate(net, **SETS, oracle=expected)


def test_the_oracle_itself_is_at_no_distance():
    results = evaluate(model(0), **SETS, oracle=model(0))
    assert results["tow"] == 1 and results["avg_gap"] == 0


def test_the_model_is_left_alone():
    net = model(0).train()
    state = torch.random.get_rng_state()
    evaluate(net, **SETS)
    assert net.training and torch.equal(state, torch.random.get_rng_state())


def test_empty_forget_set_is_refused():
    empty = torch.zeros(0, 5), torch.zeros(0, dtype=torch.long)
    with pytest.raises(DataError):
        evaluate(model(0), **SETS | {"forget": empty})


def test_an_oracle_of_other_results_is_refused():
    with pytest.raises(DataError, match="lack 'forget'"):
        evaluate(model(0), **SETS, oracle={"test": 0.9})
