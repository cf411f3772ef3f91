# SPDX-License-Identifier: BSD-3-Clause
"""Up the loss of the forget set, beside the same training written plainly."""

import copy
import itertools
import warnings

import pytest
import torch
from torch.nn import functional as F

from unlearnkit import DataError, GradientAscent, NegGradPlus
from unlearnkit.exceptions import IneffectiveWarning
from unlearnkit.testing._task import FORGET, RETAIN, Task

SETTINGS = {"epochs": 3, "lr": 0.05, "batch_size": 4, "weight_decay": 0.01, "random_state": 0}


@pytest.fixture
def task():
    return Task(dtype=torch.float64)


def mean_loss(model, data):
    with torch.no_grad():
        return float(F.cross_entropy(model(data[0]), data[1]))


def test_ascent_is_descent_on_minus_the_loss(task, plain):
    def losses(model, epoch, generator):
        for _, X, y in plain.split(task.arrays(FORGET), 4, generator):
            yield -F.cross_entropy(model(X), y)

    expected = plain.by_hand(task.model, losses, 3, decay=0.01)
    estimator = GradientAscent(**SETTINGS).fit(task.model, forget=task.arrays(FORGET))  # needs no more
    plain.assert_trained(estimator, task.model, expected)


def test_ascent_on_selected_weights(task, plain):
    estimator = task.fit(GradientAscent(importance="gradient", budget=0.2, **SETTINGS))

    def losses(model, epoch, generator):
        for _, X, y in plain.split(task.arrays(FORGET), 4, generator):
            yield -F.cross_entropy(model(X), y)

    expected = plain.by_hand(task.model, losses, 3, decay=0.01, mask=estimator.mask_)
    plain.assert_trained(estimator, task.model, expected)


def test_neg_grad_plus_weighs_both_sets(task, plain):
    def losses(model, epoch, generator):
        def endless():
            for _ in itertools.count():
                yield from plain.split(task.arrays(FORGET), 4, generator)

        forget = endless()
        for _, X, y in plain.split(task.arrays(RETAIN), 4, generator):
            kept = F.cross_entropy(model(X), y)
            _, X_f, y_f = next(forget)
            yield 0.8 * kept - 0.2 * F.cross_entropy(model(X_f), y_f)

    expected = plain.by_hand(task.model, losses, 3, decay=0.01)
    plain.assert_trained(task.fit(NegGradPlus(alpha=0.8, **SETTINGS)), task.model, expected)


def test_neg_grad_plus_keeps_what_ascent_alone_ruins(task):
    """Both raise the loss of the forget set; the counterweight holds that of the retain set down."""
    settings = {"epochs": 10, "lr": 0.02, "batch_size": 8, "random_state": 0}
    clean = {kind: task.fit(kind(**settings)).transform(task.model) for kind in (GradientAscent, NegGradPlus)}
    before = mean_loss(task.model, task.arrays(FORGET))
    assert all(mean_loss(model, task.arrays(FORGET)) > before for model in clean.values())
    kept = {kind: mean_loss(model, task.arrays(RETAIN)) for kind, model in clean.items()}
    assert kept[NegGradPlus] < kept[GradientAscent]


def test_alpha_of_one_leaves_the_forget_set_out(task):
    settings = {**SETTINGS, "alpha": 1.0}
    first = task.fit(NegGradPlus(**settings)).edit_
    assert first != task.fit(NegGradPlus(**{**settings, "alpha": 0.9})).edit_
    task.arrays(FORGET)[0].mul_(2)
    assert first == task.fit(NegGradPlus(**settings)).edit_


@pytest.mark.parametrize("alpha", [-0.1, 1.5, "0.9"])
def test_alpha_is_a_share(task, alpha):
    with pytest.raises(DataError, match=f"alpha must be a share from 0 to 1, got {alpha!r}"):
        task.fit(NegGradPlus(alpha=alpha))


def test_neg_grad_plus_needs_the_retain_set(task):
    with pytest.raises(DataError, match=r"NegGradPlus looks at the samples of the retain set.*got nothing"):
        NegGradPlus().fit(task.model, task.arrays(FORGET))


def test_it_warns_where_the_loss_has_no_gradient_to_begin_with(task):
    """The distance to what the model gave before is least at the model."""
    before = copy.deepcopy(task.model)

    def distance(model, batch):
        return (model(batch[0]) - before(batch[0]).detach()).square().sum(1)

    still = {**SETTINGS, "weight_decay": 0.0, "loss": distance}
    with pytest.warns(IneffectiveWarning, match="training changed no weight: the loss has no gradient"):
        task.fit(GradientAscent(**still))
    with warnings.catch_warnings():
        warnings.simplefilter("error", IneffectiveWarning)
        task.fit(GradientAscent(**SETTINGS))
