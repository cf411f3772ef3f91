# SPDX-License-Identifier: BSD-3-Clause
import numpy as np
import pytest
import torch
from torch import nn

from unlearnkit import ASSD, DataError, MixtureFinder, Partition, WarmUpFinder, find_forget_set
from unlearnkit.finding import Finder
from unlearnkit.testing._task import Task

DATA = torch.zeros(4, 5), torch.zeros(4).long()


class Says(Finder):
    def find(self, model, data, loss=None, progress=False):
        self.given = model, loss, progress
        return Partition.of(data, [0])


class Table:
    """What cleanlab's find_label_issues returns is a pandas DataFrame; that much of one."""

    columns = ("is_label_issue", "label_quality")

    def __getitem__(self, name):
        return self

    def to_numpy(self):
        return np.array([False, True, False, True])


def test_a_finder_is_asked():
    finder, model = Says(), nn.Linear(5, 3)
    found = find_forget_set(model, DATA, finder, loss=torch.add, progress=True)
    assert found.indices.tolist() == [0] and finder.given == (model, torch.add, True)


def test_a_warm_up_finder_looks_where_none_is_named(monkeypatch):
    monkeypatch.setattr(WarmUpFinder, "find", lambda *given: given)
    (finder, *rest) = find_forget_set("model", "data")
    assert finder.get_params() == WarmUpFinder().get_params()
    assert rest == ["model", "data", None, False]


@pytest.mark.parametrize(
    "known",
    [[1, 3], [False, True, False, True], np.array([0.1, 0.7, 0.2, 0.9]), torch.tensor([3, 1]), Table()],
)
def test_what_is_found_already_comes_by_the_same_door(known):
    found = find_forget_set(nn.Linear(5, 3), DATA, known)
    assert found.indices.tolist() == [1, 3]


def test_what_does_not_fit_is_refused():
    with pytest.raises(DataError, match="3 values, and the data 4 samples"):
        find_forget_set(nn.Linear(5, 3), DATA, [True, False, True])


def test_a_seed_is_for_finders_without_one(monkeypatch):
    monkeypatch.setattr(MixtureFinder, "find", lambda finder, *given: finder.random_state)
    assert find_forget_set(None, None, MixtureFinder(), random_state=3) == 3
    assert find_forget_set(None, None, MixtureFinder(random_state=4), random_state=3) == 4


@pytest.mark.filterwarnings("ignore::unlearnkit.UnlearnWarning")
def test_what_is_found_goes_to_any_estimator():
    task = Task()
    X, y = task.train.tensors[0], task.train.tensors[1].clone()
    wrong = torch.arange(len(y)) % 8 == 0
    y[wrong] = (y[wrong] + 1) % 3
    found = find_forget_set(task.model, (X, y), MixtureFinder("loss", random_state=0))
    assert torch.equal(found.is_noisy, wrong)
    wanted = ASSD().fit(task.model, (X[~wrong], y[~wrong]), (X[wrong], y[wrong])).edit_
    assert ASSD().fit(task.model, found).edit_ == wanted


def test_a_class_is_no_finder():
    with pytest.raises(DataError, match=r"pass MixtureFinder\(\)"):
        find_forget_set(nn.Linear(5, 3), DATA, MixtureFinder)


@pytest.mark.filterwarnings("ignore::unlearnkit.UnlearnWarning")
def test_what_is_found_in_inference_mode_can_be_worked_with_outside():
    model = nn.Linear(5, 3)
    with torch.inference_mode():
        found = find_forget_set(model, DATA, MixtureFinder("loss"))
    assert not found.noise.is_inference() and not found.losses.is_inference()
