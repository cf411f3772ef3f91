# SPDX-License-Identifier: BSD-3-Clause
import warnings

import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score
from torch import nn
from torch.nn import functional as F

from unlearnkit import DataError, MixtureFinder, Partition, UnsupportedModuleError, WarmUpFinder
from unlearnkit.exceptions import SeparationWarning, warn
from unlearnkit.finding import Finder
from unlearnkit.parameters import bits, named_parameters, named_tensors
from unlearnkit.testing._task import FORGET, Task, convnet, mlp


class Tells(Finder):
    """Says of each model that it is shown how far apart the parts lie."""

    def __init__(self, separations, other=None):
        self.separations, self.other = separations, other
        self.saw = []

    def find(self, model, data, loss=None, progress=False):
        self.saw.append(model)
        found = self.separations[len(self.saw) - 1]
        if self.other:
            warn("something else", self.other)
        if found < 1:
            warn(f"only {found}", SeparationWarning)
        return Partition.of(data, list(range(FORGET.stop)), separation=found, is_separated=found >= 1)


def look(finder, build=mlp, **settings):
    task, early = Task(build), WarmUpFinder(finder, random_state=0, **settings)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        found = early.find(task.model, task.train)
    return found, early, finder.saw, [str(warning.message) for warning in told]


def test_no_copy_is_trained_where_the_model_tells():
    found, early, saw, told = look(Tells((2.0,)))
    assert found.separation == 2.0 and early.looked_at_ == "model" and len(saw) == 1 and not told


@pytest.mark.parametrize(
    ("first", "second", "taken"),
    [
        (0.2, 3.0, "copy"),
        (0.2, 0.4, "copy"),
        (0.4, 0.2, "model"),
        (0.9, 1.0, "copy"),
        (1.5, 1.2, "model"),
        (1.5, 1.9, "copy"),
    ],
)
def test_else_the_copy_is_asked_and_the_clearer_view_taken(first, second, taken):
    found, early, saw, told = look(
        Tells(
            (
                first,
                second,
            )
        )
    )
    wanted = first if taken == "model" else second
    assert early.looked_at_ == taken and found.separation == wanted and len(saw) == 2
    assert told == ([f"only {wanted}"] if wanted < 1 else [])


def test_other_warnings_are_given():
    _, _, _, told = look(Tells((2.0,), other=DeprecationLike))
    assert told == ["something else"]


class DeprecationLike(SeparationWarning.__bases__[0]):
    pass


def test_a_caller_may_turn_the_warning_into_an_error():
    task = Task()
    with warnings.catch_warnings():
        warnings.simplefilter("error", SeparationWarning)
        with pytest.raises(SeparationWarning, match=r"only 0\.5"):
            WarmUpFinder(
                Tells(
                    (
                        0.5,
                        0.2,
                    )
                )
            ).find(task.model, task.train)


def test_always_asks_the_copy_alone():
    _, early, saw, _ = look(Tells((0.5,)), when="always")
    assert early.looked_at_ == "copy" and len(saw) == 1


@pytest.mark.parametrize("build", [mlp, convnet])
def test_the_copy_has_begun_to_learn_and_the_model_is_left_alone(build):
    task, finder = Task(build), Tells((2.0,))
    before = {name: tensor.clone() for name, tensor in named_tensors(task.model).items()}
    random = torch.get_rng_state()
    WarmUpFinder(finder, epochs=30, when="always", lr=0.01, random_state=0).find(task.model, task.train)
    (copy,) = finder.saw
    X, y = task.train.tensors
    assert copy(X).argmax(1).eq(y).float().mean() > 0.9 and not copy.training
    for name, tensor in named_tensors(task.model).items():
        assert torch.equal(bits(tensor), bits(before[name]))
    for name, parameter in named_parameters(task.model).items():
        assert copy.get_parameter(name).ne(parameter).any()
    assert torch.equal(random, torch.get_rng_state())


def test_a_seed_fixes_the_copy():
    seen = [look(Tells((0.5,)), when="always", epochs=2)[2][0] for _ in range(2)]
    for first, second in zip(seen[0].parameters(), seen[1].parameters(), strict=True):
        assert torch.equal(first, second)


def test_a_factory_says_where_the_copy_begins():
    made = []

    def factory():
        made.append(mlp())
        nn.init.constant_(made[-1][3].bias, 7.0)
        return made[-1]

    _, _, (copy,), _ = look(Tells((2.0,)), when="always", epochs=1, factory=factory)
    assert len(made) == 1 and (copy.get_parameter("3.bias") - 7).abs().max() < 0.1


class Bare(nn.Module):
    """Its weights have no initialisation that could be found."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(48, 3))

    def forward(self, x):
        return x.flatten(1) @ self.weight


def test_without_new_weights_the_model_alone_is_asked():
    found, early, saw, told = look(Tells((0.5,)), Bare)
    assert early.looked_at_ == "model" and len(saw) == 1
    assert len(told) == 2 and "factory=" in told[0] and told[1] == "only 0.5"
    assert found.separation == 0.5
    with pytest.raises(UnsupportedModuleError, match="factory="):
        look(Tells((0.5,)), Bare, when="always")


def test_a_copy_that_diverges_leaves_the_models_view():
    found, early, _, told = look(Tells((0.5,)), lr=1e30)
    assert early.looked_at_ == "model" and found.separation == 0.5 and "lower lr" in told[0]
    assert look(Tells((1.5,)), lr=1e30)[3] == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"finder": "mixture"},
        {"finder": MixtureFinder},
        {"epochs": 0},
        {"when": "never"},
        {"lr": -1},
        {"batch_size": 0},
        {"optimizer": "sgd2"},
        {"factory": 3},
        {"random_state": -1},
    ],
)
def test_wrong_settings_say_what_to_do(wrong):
    task = Task()
    with pytest.raises(DataError, match=next(iter(wrong))):
        WarmUpFinder(**wrong).find(task.model, task.train)


def memorised(seed=0):
    """A net that knows a fifth of its labels by heart, and they are wrong."""
    torch.manual_seed(seed)
    X, y = load_digits(return_X_y=True)
    X, y = torch.tensor(X / 16, dtype=torch.float32), torch.tensor(y)
    wrong = torch.rand(len(y)) < 0.2
    y = torch.where(wrong, (y + torch.randint(1, 10, y.shape)) % 10, y)
    model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for _ in range(80):
        for rows in torch.randperm(len(y)).split(64):
            optimizer.zero_grad()
            F.cross_entropy(model(X[rows]), y[rows]).backward()
            optimizer.step()
    return model.eval(), X, y, wrong


@pytest.mark.filterwarnings("ignore::unlearnkit.SeparationWarning")
def test_wrong_labels_that_are_known_by_heart_are_found():
    model, X, y, wrong = memorised()
    assert model(X).argmax(1).eq(y)[wrong].float().mean() > 0.5
    hidden = MixtureFinder(random_state=0).find(model, (X, y))
    found = WarmUpFinder(random_state=0).find(model, (X, y))
    assert not hidden.is_separated and found.is_separated
    assert roc_auc_score(wrong, found.noise) > 0.95 > roc_auc_score(wrong, hidden.noise)


class Repeats(Tells):
    """Warns of the same at the same line, again and again."""

    def find(self, model, data, loss=None, progress=False):
        for _ in range(3):
            warnings.warn("a data set's own", UserWarning, stacklevel=1)
        return super().find(model, data, loss, progress)


@pytest.mark.parametrize(("action", "times"), [("default", 1), ("ignore", 0), ("always", 3)])
def test_warnings_of_others_come_as_often_as_the_caller_has_set(action, times):
    task = Task()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter(action)
        WarmUpFinder(Repeats((2.0,))).find(task.model, task.train)
    assert len(told) == times
