# SPDX-License-Identifier: BSD-3-Clause
import numpy as np
import pytest
import torch

from unlearnkit import ASSD, DataError, MixtureFinder, Partition, find_forget_set
from unlearnkit.finding import Finder


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


def test_a_finder_is_asked(clouds, model_of):
    finder, model = Says(), model_of()
    found = find_forget_set(model, clouds(20)[:2], finder, loss=torch.add, progress=True)
    assert found.indices.tolist() == [0] and finder.given == (model, torch.add, True)


def test_a_mixture_is_the_finder_where_none_is_named(clouds, model_of, monkeypatch):
    monkeypatch.setattr(MixtureFinder, "find", lambda *given: given)
    (finder, *rest) = find_forget_set("model", "data")
    assert finder.get_params() == MixtureFinder().get_params()
    assert rest == ["model", "data", None, False]


@pytest.mark.parametrize(
    "known",
    [[1, 3], [False, True, False, True], np.array([0.1, 0.7, 0.2, 0.9]), torch.tensor([3, 1]), Table()],
)
def test_what_is_found_already_comes_by_the_same_door(known, model_of):
    found = find_forget_set(model_of(), (torch.zeros(4, 5), torch.zeros(4).long()), known)
    assert found.indices.tolist() == [1, 3]


def test_what_does_not_fit_is_refused(model_of):
    with pytest.raises(DataError, match="3 values, and the data 4 samples"):
        find_forget_set(model_of(), (torch.zeros(4, 5), torch.zeros(4).long()), [True, False, True])


@pytest.mark.filterwarnings("ignore::unlearnkit.UnlearnWarning")
def test_what_is_found_goes_to_any_estimator(clouds, model_of):
    X, y, second = clouds()
    model = model_of()
    found = find_forget_set(model, (X, y), MixtureFinder("loss", random_state=0))
    assert torch.equal(found.is_noisy, second)
    wanted = ASSD().fit(model, (X[~second], y[~second]), (X[second], y[second])).edit_
    assert ASSD().fit(model, found).edit_ == wanted
