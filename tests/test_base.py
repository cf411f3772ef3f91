# SPDX-License-Identifier: BSD-3-Clause
import copy
import random
import warnings

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, RandomizedSearchCV, cross_val_score
from sklearn.utils.validation import check_is_fitted
from torch import nn
from torch.utils.data import DataLoader, Subset, TensorDataset

from unlearnkit import SSD, FisherDiagonal, Importance, WeightEdit
from unlearnkit.base import Unlearner, identity
from unlearnkit.exceptions import CollapseWarning, DataError, IneffectiveWarning
from unlearnkit.metrics import evaluate

X = torch.eye(3).repeat(20, 1) + 0.1 * torch.randn(60, 3, generator=torch.Generator().manual_seed(0))
Y = torch.arange(60) % 3
RETAIN, FORGET, HELD_OUT = (X[:30], Y[:30]), (X[30:45], Y[30:45]), (X[45:], Y[45:])
STORED = Importance({"weight": torch.ones(3, 3), "bias": torch.ones(3)}, 45, "example")


class Scale(Unlearner):
    """Multiplies the first layer's weights by `lambda_`; fails where asked to."""

    needs_retain = "nothing"

    def __init__(self, lambda_=0.5, fails=False, loss=None):
        self.lambda_ = lambda_
        self.fails = fails
        self.loss = loss

    def _validate(self):
        if self.fails == "early":
            raise DataError("early")

    def _measure(self, model, roles):
        self.roles = roles
        return "measured"

    def _fit(self, model, roles, measured):
        assert roles is self.roles and measured == "measured"
        self.model, self.wrong_ = model, True
        random.random(), np.random.rand(), torch.rand(())
        if self.fails:
            raise DataError("late")
        name, weight = next(model.named_parameters())
        return WeightEdit.from_factors(model, {name: torch.full_like(weight, self.lambda_)})


class Trains(Scale):
    needs_retain = "data"


def network():
    model = nn.Linear(3, 3)
    with torch.no_grad():
        model.weight.copy_(torch.eye(3))
        model.bias.zero_()
    return model


def silently(estimator, *data, **named):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return estimator.fit(*data, **named)


# what fit does ----------------------------------------------------------------------------------


def test_fit_learns_an_edit_and_transform_applies_it_to_a_copy():
    model, scale = network(), Scale()
    before = copy.deepcopy(model.state_dict())
    assert silently(scale, model, RETAIN, FORGET) is scale
    assert isinstance(scale.edit_, WeightEdit) and scale.seconds_ > 0
    clean = scale.transform(model)
    assert torch.equal(clean.weight, model.weight / 2)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(Scale().fit_transform(model, RETAIN, FORGET).weight, clean.weight)


def test_the_three_forms_reach_the_method():
    scale, model = Scale(), network()
    scale.fit(model, FORGET)
    assert scale.roles.retain is None and scale.roles.validation is None
    scale.fit(model, RETAIN, FORGET, validation=HELD_OUT)
    sizes = [len(r.dataset) for r in (scale.roles.retain, scale.roles.forget, scale.roles.validation)]
    assert sizes == [30, 15, 15]
    scale.fit(model, forget=FORGET, retain=RETAIN)
    assert len(scale.roles.retain.dataset) == 30
    scale.fit(model, FORGET, retain=STORED)
    assert scale.roles.retain is STORED
    scale.fit(model, DataLoader(Subset(TensorDataset(X, Y), range(15))))
    assert len(scale.roles.retain.dataset) == 45
    with pytest.raises(TypeError, match=r"(?s)forget set is missing.*fit\(model, retain, forget\)"):
        scale.fit(model)
    with pytest.raises(TypeError, match=r"first argument of fit is the model.*got tuple"):
        scale.fit(FORGET, RETAIN)


def test_the_method_sees_the_unwrapped_model():
    model, scale = network(), Scale()
    scale.fit(nn.DataParallel(model), RETAIN, FORGET)
    assert scale.model is model


def test_the_random_state_of_the_caller_is_kept():
    loader = DataLoader(TensorDataset(*FORGET), batch_size=4, shuffle=True)
    model = network()

    def seeded():
        torch.manual_seed(0), np.random.seed(0), random.seed(0)

    def draws():
        return torch.rand(()), np.random.rand(), random.random()

    seeded()
    expected = draws()
    seeded()
    Scale(0.9).fit(model, loader, loader)
    assert draws() == expected
    seeded()
    with pytest.raises(DataError, match="late"):
        Scale(fails="late").fit(model, loader, loader)
    assert draws() == expected


@pytest.mark.parametrize("fails", ["early", "late"])
def test_a_fit_that_fails_leaves_no_result_behind(fails):
    scale = Scale(lambda_=0.9).fit(network(), RETAIN, FORGET)
    scale.set_params(fails=fails)
    with pytest.raises(DataError, match=fails):
        scale.fit(network(), RETAIN, FORGET)
    assert not hasattr(scale, "edit_") and not hasattr(scale, "seconds_")
    assert scale.lambda_ == 0.9
    with pytest.raises(NotFittedError):
        scale.transform(network())


def test_scikit_learn_knows_whether_it_is_fitted():
    scale = Scale(lambda_=0.9)
    with pytest.raises(NotFittedError):
        check_is_fitted(scale)
    check_is_fitted(scale.fit(network(), RETAIN, FORGET))
    with pytest.raises(NotFittedError):
        check_is_fitted(clone(scale))


@pytest.mark.parametrize(
    ("data", "got"), [((FORGET,), "got nothing"), ((STORED, FORGET), "got an Importance")]
)
def test_a_method_that_trains_needs_samples(data, got):
    with pytest.raises(
        DataError, match=rf"Trains looks at the samples of the retain set.*{got}: pass fit\(model"
    ):
        Trains().fit(network(), *data)
    Trains(lambda_=0.9).fit(network(), RETAIN, FORGET)


def test_forget_samples_in_the_retain_set_are_told_of():
    train = TensorDataset(X, Y)
    forget = DataLoader(Subset(train, range(10)), 5)
    with pytest.warns(
        IneffectiveWarning, match="10 samples of the forget set are in the retain set too"
    ) as caught:
        Trains(lambda_=0.9).fit(network(), DataLoader(train, 5), forget)
    assert caught[0].filename == __file__
    silently(Trains(lambda_=0.9), network(), forget)
    silently(Scale(lambda_=0.9), network(), DataLoader(train, 5), forget)


# collapse ---------------------------------------------------------------------------------------


def test_an_edit_that_ruins_what_should_be_kept_is_told():
    with pytest.warns(CollapseWarning, match="damages what should be kept. Choose a milder") as caught:
        Scale(-1).fit(network(), RETAIN, FORGET)
    assert "accuracy on retain samples fell from 100.0% to 0.0%" in str(caught[0].message)
    assert caught[0].filename == __file__
    silently(Scale(0.9), network(), RETAIN, FORGET)


@pytest.mark.parametrize("data", [(FORGET,), (STORED, FORGET)])
def test_without_retain_samples_validation_is_looked_at(data):
    silently(Scale(-1), network(), *data)  # nothing to look at
    with pytest.warns(CollapseWarning, match="accuracy on validation samples fell"):
        Scale(-1).fit(network(), *data, validation=HELD_OUT)


def test_an_edit_of_nothing_is_not_looked_at():
    class Unread(TensorDataset):
        def __getitem__(self, index):
            raise AssertionError("read")

    silently(Scale(1), network(), DataLoader(Unread(*RETAIN)), FORGET)
    with pytest.raises(AssertionError, match="read"):
        Scale(0.5).fit(network(), DataLoader(Unread(*RETAIN)), FORGET)


def test_with_a_loss_of_ones_own_the_loss_is_looked_at():
    def error(model, batch):
        return (model(batch[0]) - batch[0]).square().mean(1)

    data = X[:30], X[:30]
    silently(Scale(0.9, loss=error), network(), data, data)
    with pytest.warns(CollapseWarning, match="mean loss on retain samples rose from 0 to 1.43"):
        Scale(-1, loss=error).fit(network(), data, data)


def test_where_samples_have_no_one_class_the_loss_is_looked_at():
    soft = nn.functional.one_hot(Y, 3).float() * 0.8 + 0.2 / 3
    for target in (soft, Y[:, None]):
        model = network() if target is soft else nn.Sequential(network(), nn.Unflatten(1, (3, 1)))
        with pytest.warns(CollapseWarning, match="mean loss on retain samples rose from"):
            Scale(-9).fit(model, (X, target), (X, target))


def test_labels_that_no_method_needed_are_not_looked_at():
    """A method without labels serves a regression model too, with no loss to compare by."""
    numbers = X, torch.randn(len(X))
    silently(Scale(-9), network(), numbers, numbers)


def test_a_loss_that_becomes_nan_is_a_collapse():
    def broken(model, batch):
        return model(batch[0])[:, 0].sqrt()

    ones = torch.ones(8, 3), torch.zeros(8)
    with pytest.warns(CollapseWarning, match="rose from 1 to nan"):
        Scale(-1, loss=broken).fit(network(), ones, ones)


# scikit-learn's searches, and ours ---------------------------------------------------------------


@pytest.mark.parametrize(
    "search",
    [
        lambda: GridSearchCV(Scale(), {"lambda_": [0.5, 1.0]}).fit(network(), FORGET),
        lambda: GridSearchCV(Scale(), {"lambda_": [0.5, 1.0]}).fit(X.numpy(), Y.numpy()),
        lambda: RandomizedSearchCV(Scale(), {"lambda_": [0.5, 1.0]}, n_iter=2).fit(X.numpy(), Y.numpy()),
        lambda: cross_val_score(Scale(), X.numpy(), Y.numpy()),
        lambda: GridSearchCV(Scale(), {"lambda_": [1.0]}, scoring="accuracy", error_score="raise").fit(X, Y),
    ],
)
def test_a_search_of_scikit_learn_is_refused_and_ours_is_named(search):
    with pytest.raises(TypeError, match="UnlearnSearch"):
        search()


def test_a_search_of_scikit_learn_with_a_score_of_its_own_names_ours_too():
    search = GridSearchCV(Scale(), {"lambda_": [0.5, 1.0]}, scoring="accuracy")
    with pytest.raises(ValueError, match=r"(?s)fits failed.*UnlearnSearch"):
        search.fit(X.numpy(), Y.numpy())


def test_score_is_closeness_to_the_oracle():
    model, scale = network(), Scale(lambda_=0.9).fit(network(), RETAIN, FORGET)
    sets = {"retain": RETAIN, "forget": FORGET, "test": HELD_OUT}
    assert scale.score(model, **sets, oracle=scale.transform(model)) == 1
    declared = {"retain": 1.0, "forget": 0.5, "test": 1.0}
    assert scale.score(model, **sets, oracle=declared) == evaluate(model, **sets, oracle=declared)["tow"] < 1
    with pytest.raises(NotFittedError):
        Scale().score(model, **sets, oracle=declared)
    assert hasattr(Scale, "score") and "tug of war" in Scale.score.__doc__


def test_identity_tells_settings_apart_by_value():
    def loss(model, batch):
        return model(batch[0]).sum(1)

    one, same = SSD(importance=FisherDiagonal(), loss=loss), SSD(importance=FisherDiagonal(), loss=loss)
    assert identity(one) == identity(same) == identity(clone(one)) and identity(one) != identity(SSD())
    assert identity([1]) != identity([1]) and identity(1) != identity(1.0) and identity(1) != identity(True)
    assert identity(STORED) == identity(clone(STORED))
