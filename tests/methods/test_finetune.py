# SPDX-License-Identifier: BSD-3-Clause
"""Fine-tuning, plain and towards few weights, beside the same training written plainly."""

import pytest
import torch
from torch.nn import functional as F

from unlearnkit import DataError, FineTune, Importance, L1Sparse, Trainer
from unlearnkit.parameters import named_parameters
from unlearnkit.testing._task import FORGET, RETAIN, Task

SETTINGS = {"epochs": 3, "lr": 0.05, "batch_size": 16, "weight_decay": 0.01, "random_state": 0}


@pytest.fixture
def task():
    return Task(dtype=torch.float64)


def test_finetune_trains_on_the_retain_set_alone(task, plain):
    def losses(model, epoch, generator):
        for _, X, y in plain.split(task.arrays(RETAIN), 16, generator):
            yield F.cross_entropy(model(X), y)

    expected = plain.by_hand(task.model, losses, 3, decay=0.01)
    plain.assert_trained(task.fit(FineTune(**SETTINGS)), task.model, expected)
    task.arrays(FORGET)[0].mul_(-3)  # whatever these are, they are not trained on
    plain.assert_trained(task.fit(FineTune(**SETTINGS)), task.model, expected)


@pytest.mark.parametrize("budget", [1.0, 0.4])
def test_l1_sparse_adds_a_penalty_that_falls(task, plain, budget):
    estimator = task.fit(L1Sparse(gamma=0.02, importance="random", budget=budget, **SETTINGS))

    def losses(model, epoch, generator):
        gamma = 0.02 * (3 - epoch) / 3
        for _, X, y in plain.split(task.arrays(RETAIN), 16, generator):
            size = sum((p * estimator.mask_[name]).abs().sum() for name, p in model.named_parameters())
            yield F.cross_entropy(model(X), y) + gamma * size

    expected = plain.by_hand(task.model, losses, 3, decay=0.01, mask=estimator.mask_)
    plain.assert_trained(estimator, task.model, expected)


def test_the_penalty_shows_in_the_loss_for_selected_weights_only(task):
    settings = {**SETTINGS, "lr": 0.0, "importance": "random", "budget": 0.3}
    bare, penalised = (task.fit(L1Sparse(gamma=gamma, **settings)) for gamma in (0.0, 0.1))
    weights = named_parameters(task.model)
    size = sum(float(weights[name].detach()[chosen].abs().sum()) for name, chosen in penalised.mask_.items())
    found = [b["loss"] - a["loss"] for a, b in zip(bare.history_, penalised.history_, strict=True)]
    assert found == pytest.approx([0.1 * size, 0.1 * size * 2 / 3, 0.1 * size / 3])


def test_l1_sparse_without_a_penalty_is_fine_tuning(task):
    assert task.fit(L1Sparse(gamma=0, **SETTINGS)).edit_ == task.fit(FineTune(**SETTINGS)).edit_


def test_l1_sparse_makes_weights_small(task):
    def size(estimator):
        clean = task.fit(estimator).transform(task.model)
        return sum(float(p.detach().abs().sum()) for p in clean.parameters())

    assert size(L1Sparse(gamma=0.05, **SETTINGS)) < 0.9 * size(FineTune(**SETTINGS))


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"gamma": -1}, "gamma must be a number from 0 on, got -1"),
        ({"epochs": 0}, "epochs must be a whole number, 1 or more, got 0"),
        ({"epochs": 2.5}, "epochs must be a whole number"),
        ({"lr": "fast"}, "lr must be a number from 0 on, got 'fast'"),
        ({"batch_size": 0}, "batch_size must be 'loader' or a whole number, 1 or more, got 0"),
        ({"optimizer": "lbfgs"}, "optimizer must be 'sgd', 'adam', 'adamw' or a function.*, got 'lbfgs'"),
        (
            {"schedule": "step"},
            "schedule must be 'constant', 'cosine', 'linear', 'warmup' or a func.*, got 'step'",
        ),
        ({"schedule": lambda progress: None}, "schedule must be a function that returns a number, got None"),
        (
            {"schedule": lambda progress: -1.0},
            "schedule must return a factor of lr, a number from 0 on, got -1",
        ),
        ({"trainer": Trainer(monitor=str)}, "monitor must be a function that returns a number"),
        ({"trainer": Trainer(clip=0)}, "clip must be above 0"),
        ({"trainer": {"momentum": 0}}, r"trainer must be a Trainer\(\.\.\.\)"),
        ({"budget": 0.5}, "importance=None does not say which"),
        ({"importance": "saliency"}, "importance must be one of 'fisher'.*got 'saliency'"),
        ({"importance": "random", "budget": 0}, "budget must be above 0"),
        ({"include": "layer9.*"}, "layer9"),
    ],
)
def test_parameters_are_checked_in_fit(task, parameters, words):
    with pytest.raises(DataError, match=words):
        task.fit(L1Sparse(**parameters))


def test_an_importance_is_no_data_to_train_on(task):
    retain = Importance({name: torch.ones(p.shape) for name, p in task.model.named_parameters()}, 1, "x")
    with pytest.raises(DataError, match=r"FineTune looks at the samples .*fit\(model, retain, forget\)"):
        FineTune().fit(task.model, retain, task.forget)
