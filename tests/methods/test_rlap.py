# SPDX-License-Identifier: BSD-3-Clause
import pickle

import numpy as np
import pytest
import torch
from sklearn.linear_model import LinearRegression, Ridge
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, default_collate

from unlearnkit import (
    RLAP,
    CollapseWarning,
    DataError,
    FineTune,
    IneffectiveWarning,
    MixtureFinder,
    Partition,
    Trainer,
    WarmUpFinder,
    find_forget_set,
)
from unlearnkit.finding import Finder
from unlearnkit.parameters import named_parameters
from unlearnkit.testing._task import FORGET, RETAIN, Task, Tied, convnet, mlp

pytestmark = pytest.mark.filterwarnings("ignore::unlearnkit.UnlearnWarning")
QUICK = {"epochs": 2, "random_state": 0}


class Known(Finder):
    """Finds what it was told."""

    def __init__(self, noise, is_separated=True):
        self.noise = noise
        self.is_separated = is_separated

    def find(self, model, data, loss=None, progress=False):
        self.saw = model
        return Partition.of(data, self.noise, is_separated=self.is_separated)


def deep():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(48, 16),
        nn.ReLU(),
        nn.Linear(16, 32),
        nn.BatchNorm1d(32),
        nn.ReLU(),
        nn.Linear(32, 3),
    )


def fitted(build=mlp, model=None, **settings):
    task = Task(build)
    model = task.model if model is None else model
    rlap = RLAP(**{**QUICK, **settings}).fit(model, task.arrays(RETAIN), task.arrays(FORGET))
    return rlap, model, rlap.transform(model)


def test_what_is_pruned_is_zero_and_stays_zero():
    rlap, model, clean = fitted(model=deep(), weight_decay=0.1, trainer=Trainer(momentum=0.9), epochs=3)
    rows = rlap.mask_.rows("3.weight")
    assert int(rows.sum()) == 5  # 5/32 of 32 units
    for name in ("3.weight", "3.bias", "4.weight", "4.bias"):
        chosen = rlap.mask_[name]
        assert torch.equal(chosen.flatten(1).any(1) if chosen.dim() > 1 else chosen, rows)
        assert not clean.get_parameter(name)[rows].any()
        assert clean.get_parameter(name)[~rows].ne(model.get_parameter(name)[~rows]).any()
    assert not any(rlap.mask_[name].any() for name in ("1.weight", "1.bias", "6.weight", "6.bias"))
    x = torch.randn(4, 3, 4, 4)
    assert not clean.eval()[:6](x)[:, rows].any()


def test_regrown_units_lose_their_incoming_weights_alone_and_may_come_back():
    rlap, _, clean = fitted(model=deep(), regrow=True)
    assert rlap.mask_["3.weight"].any() and not rlap.mask_["3.bias"].any()
    rows = rlap.mask_.rows("3.weight")
    assert clean.get_parameter("3.weight")[rows].any()


def test_the_regression_says_which_units_go():
    """An independent one, on activations computed here."""
    task, model = Task(), deep()
    rlap = RLAP(**QUICK).fit(model, task.arrays(RETAIN), task.arrays(FORGET))
    X = torch.cat([task.arrays(RETAIN)[0], task.arrays(FORGET)[0]])
    with torch.no_grad():
        hidden = model.eval()[:6](X).double().numpy()
    y = np.r_[np.zeros(RETAIN.stop - RETAIN.start), np.ones(FORGET.stop)]
    alive = hidden.std(0) > 0
    scaled = (hidden[:, alive] - hidden[:, alive].mean(0)) / hidden[:, alive].std(0)
    weights = np.zeros(32)
    weights[alive] = Ridge(alpha=1e-2 * len(y)).fit(scaled, y).coef_
    wanted = set(np.argsort(-weights, kind="stable")[:5].tolist())
    assert set(rlap.mask_.rows("3.weight").nonzero()[:, 0].tolist()) == wanted
    assert LinearRegression().fit(scaled, y).score(scaled, y) > 0.5  # there is something to regress


def test_the_last_layers_alone_are_trained():
    rlap, model, clean = fitted(model=deep(), tune="last")
    moved = {name for name, p in named_parameters(model).items() if p.ne(clean.get_parameter(name)).any()}
    assert moved == {"3.weight", "3.bias", "4.weight", "4.bias", "6.weight", "6.bias"}
    assert set(rlap.trained_.eligible) == moved


def test_a_convolution_loses_filters_and_the_norm_that_follows():
    rlap, _, _ = fitted(convnet)
    rows = rlap.mask_.rows("0.weight")
    assert int(rows.sum()) == 1  # of 6; a share of .156 would be none
    assert torch.equal(rlap.mask_["1.weight"], rows) and torch.equal(rlap.mask_["1.bias"], rows)


def test_any_layer_may_be_pruned_but_the_last():
    rlap, _, _ = fitted(model=deep(), include="*", budget=0.3)
    assert rlap.mask_["1.weight"].any() or rlap.mask_["3.weight"].any()
    assert not rlap.mask_["6.weight"].any()
    rlap, _, _ = fitted(model=deep(), include="1.*")
    assert int(rlap.mask_.rows("1.weight").sum()) == 2 and not rlap.mask_["3.weight"].any()
    with pytest.raises(DataError, match=r"include='6\.\*'.*1.weight, 3.weight"):
        fitted(model=deep(), include="6.*")


def test_random_pruning_at_an_equal_ratio():
    first, _, _ = fitted(model=deep(), importance="random")
    second, _, _ = fitted(model=deep(), importance="random", random_state=1)
    assert int(first.mask_.rows("3.weight").sum()) == int(second.mask_.rows("3.weight").sum()) == 5
    assert first.mask_ != second.mask_


def test_without_a_unit_to_prune_the_clean_part_is_trained_on_alone():
    task = Task()
    task.model.get_parameter("1.weight").requires_grad_(False)
    wanted = FineTune(optimizer="adam", lr=0.001, batch_size=64, weight_decay=0.0, **QUICK)
    with pytest.warns(IneffectiveWarning, match="no unit can be pruned"):
        rlap = RLAP(**QUICK).fit(task.model, task.arrays(RETAIN), task.arrays(FORGET))
    assert not rlap.mask_.n_selected
    assert rlap.edit_ == wanted.fit(task.model, task.arrays(RETAIN), task.arrays(FORGET)).edit_


def test_units_of_a_weight_that_layers_share_are_pruned_in_both():
    rlap, _, clean = fitted(Tied)
    rows = rlap.mask_.rows("first.weight")
    assert int(rows.sum()) == 7 and clean.again.weight is clean.first.weight
    assert not clean.first.weight[rows].any()


def test_what_a_finder_finds_is_what_is_forgotten():
    task = Task()
    finder = Known(list(range(FORGET.stop)))
    rlap = RLAP(finder=finder, **QUICK).fit(task.model, task.train)
    assert rlap.partition_.indices.tolist() == list(range(FORGET.stop))
    assert rlap.edit_ == RLAP(**QUICK).fit(task.model, task.arrays(RETAIN), task.arrays(FORGET)).edit_


def test_without_finding_there_is_no_partition():
    assert fitted()[0].partition_ is None


def test_its_seed_is_the_finders():
    task = Task()
    found = [RLAP(**QUICK).fit(task.model, task.train).partition_.noise for _ in range(2)]
    assert torch.equal(*found)
    for finder in (None, WarmUpFinder(random_state=0)):
        assert torch.equal(found[0], find_forget_set(task.model, task.train, finder, random_state=0).noise)


def test_nothing_found_is_said():
    with pytest.raises(DataError, match="nothing to forget"):
        RLAP(finder=Known([]), **QUICK).fit(Task().model, Task().train)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"tune": "first"}, "tune"),
        ({"importance": None}, "FineTune"),
        ({"finder": "mixture"}, "MixtureFinder"),
        ({"finder": MixtureFinder}, "MixtureFinder"),
        ({"budget": 0}, "budget"),
    ],
)
def test_wrong_settings_say_what_to_do(settings, said):
    with pytest.raises(DataError, match=said):
        RLAP(**settings).fit(Task().model, Task().train)


@pytest.mark.parametrize("data", [3, "train", None])
def test_what_is_no_data_is_refused(data):
    with pytest.raises((DataError, TypeError), match=r"DataLoader|forget"):
        RLAP(**QUICK).fit(Task().model, data)


def test_an_importance_is_no_data_to_look_through():
    from unlearnkit import FisherDiagonal

    task = Task()
    with pytest.raises(DataError, match="data itself"):
        RLAP(**QUICK).fit(task.model, FisherDiagonal().measure(task.model, task.train))


def test_pruning_all_of_a_layer_is_reported():
    with pytest.warns(CollapseWarning, match="budget"):
        fitted(budget=1.0, lr=0.0, epochs=1)


def test_a_shuffling_loader_is_read_in_order():
    task = Task()
    loader = DataLoader(TensorDataset(*task.train.tensors), batch_size=128, shuffle=True)
    found = RLAP(**QUICK).fit(task.model, loader).partition_
    assert torch.equal(found.noise, RLAP(**QUICK).fit(task.model, task.train).partition_.noise)


def test_everything_found_says_what_to_do():
    with pytest.raises(DataError, match="threshold"):
        RLAP(finder=Known(torch.ones(96)), **QUICK).fit(Task().model, Task().train)


@pytest.mark.parametrize("seed", [None, 0])
def test_fit_leaves_its_finder_as_it_was(seed):
    task, finder = Task(), MixtureFinder("loss")
    before = dict(vars(finder))
    rlap = RLAP(finder=finder, epochs=1, random_state=seed).fit(task.model, task.train)
    assert vars(finder) == before and rlap.finder_.features_ == "loss"


def test_the_default_finder_tells_where_it_looked():
    task = Task()
    assert RLAP(**QUICK).fit(task.model, task.train).finder_.looked_at_ in ("model", "copy")


def test_a_pickle_holds_no_sample():
    task = Task(mlp)
    loader = DataLoader(task.train, batch_size=8, collate_fn=lambda rows: default_collate(rows))
    rlap = RLAP(**QUICK).fit(task.model, loader)
    stored = pickle.dumps(rlap)
    assert task.train.tensors[0][0].numpy().tobytes() not in stored
    partition = pickle.loads(stored).partition_
    assert torch.equal(partition.noise, rlap.partition_.noise)
    with pytest.raises(DataError, match=r"Partition\.of\(data, partition\.indices\)"):
        FineTune().fit(task.model, partition)


class Augmented(TensorDataset):
    def __getitem__(self, index):
        x, y = super().__getitem__(index)
        return x + 0.1 * torch.randn_like(x), y


def test_its_seed_is_that_of_augmentation():
    task, found = Task(), []
    data = Augmented(*task.train.tensors)
    for seed in range(2):
        torch.manual_seed(seed)
        found.append(RLAP(**QUICK).fit(task.model, data))
    assert found[0].edit_ == found[1].edit_
    assert torch.equal(found[0].partition_.noise, found[1].partition_.noise)


def test_where_nothing_stands_out_the_model_is_left_as_it_is():
    task = Task()
    rlap = RLAP(finder=Known([0, 1, 2], is_separated=False), **QUICK)
    with pytest.warns(IneffectiveWarning, match="fit\\(model, partition\\)"):
        rlap.fit(task.model, task.train)
    assert not rlap.edit_ and not rlap.mask_.n_selected and rlap.history_ == []
    assert rlap.partition_.indices.tolist() == [0, 1, 2]
    assert RLAP(**QUICK).fit(task.model, rlap.partition_).edit_  # to insist is to pass it
