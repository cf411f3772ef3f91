# SPDX-License-Identifier: BSD-3-Clause
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from unlearnkit import DataError, WeightEdit
from unlearnkit.log.evidence import Look, distance, length, look, pair
from unlearnkit.metrics import accuracy


def test_look_at_classes(task, base):
    found = look(base, [task.held_out])
    X, y = task.held_out
    assert found.accuracy == accuracy(base, task.held_out)
    assert found.loss == pytest.approx(float(F.cross_entropy(base(X), y).detach()))


def test_look_at_other_tasks(task, base):
    X, y = task.held_out
    own = look(base, [(X, y)], lambda model, batch: model(batch[0]).sum(1))
    assert own == Look(None, pytest.approx(float(base(X).sum(1).double().mean().detach())))
    soft = look(base, [(X, F.one_hot(y, 3).float())])
    assert soft.accuracy is None and soft.loss == pytest.approx(float(F.cross_entropy(base(X), y).detach()))
    assert look(base, [(X, y.float())]) == look(base, None) == look(base, []) == Look(None, None)

    def broken(model, batch):
        raise DataError("no")

    with pytest.raises(DataError, match="no"):
        look(base, [(X, y)], broken)


def test_pair():
    assert pair(0.5, 0.25) == (0.5, 0.25) and pair(None, 0.5) is None


def test_distance_is_that_of_the_weights(base):
    after = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    after[1].running_mean += 5
    first, second = (nn.utils.parameters_to_vector(m.parameters()).detach() for m in (base, after))
    edit = WeightEdit.between(base, after)
    undo = edit.apply_(base)
    assert distance(edit, undo) == pytest.approx(float((first - second).norm()), rel=1e-6)
    assert length(base) == pytest.approx(float(second.norm()), rel=1e-6)


def test_complex_weights():
    model = nn.Module()
    model.w = nn.Parameter(torch.tensor([3 + 4j, 0j]))
    edit = WeightEdit.from_values(model, {"w": (torch.tensor([0]), torch.tensor([0j]))})
    assert length(model) == 5.0 and distance(edit, edit.apply_(model)) == 5.0
