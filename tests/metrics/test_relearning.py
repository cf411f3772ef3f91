# SPDX-License-Identifier: BSD-3-Clause
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from unlearnkit.exceptions import DataError
from unlearnkit.metrics import accuracy, relearn, relearning_time
from unlearnkit.parameters import digest, named_tensors

ONES = torch.ones(4, 1), torch.ones(4, dtype=torch.long)


def sgd(lr):
    return lambda parameters: torch.optim.SGD(parameters, lr=lr)


def by_hand(weight, lr, level):
    """Steps of gradient descent on -log sigmoid(w) until it is at the level."""
    w, steps = torch.tensor(weight, dtype=torch.float64), 0
    while torch.nn.functional.softplus(-w) > level:
        w, steps = w + lr * torch.sigmoid(-w), steps + 1
    return steps


def digests(model):
    return {name: digest(tensor) for name, tensor in named_tensors(model).items()}


class Plain(nn.Module):
    def __init__(self, weight):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(float(weight)))

    def forward(self, x):
        return torch.cat([torch.zeros_like(x), self.weight * x], dim=1)


@pytest.mark.parametrize("weight", [-3.0, -1.0, 0.5])
def test_steps_are_those_of_gradient_descent(weight):
    found = relearn(Plain(weight), ONES, level=0.2, measure="loss", optimizer=sgd(0.5))
    assert found.steps == by_hand(weight, 0.5, 0.2) > 0
    assert len(found.values) == found.steps + 1 and found.values[-1] <= 0.2 < found.values[-2]
    assert found.values[0] == pytest.approx(torch.nn.functional.softplus(torch.tensor(-weight)).item())
    assert found.seconds > 0


def test_ratio_beside_the_oracle():
    found = relearning_time(
        Plain(-1), Plain(-3), Plain(2), ONES, measure="loss", margin=0.1, optimizer=sgd(0.5), max_steps=1000
    )
    level = 1.1 * torch.nn.functional.softplus(torch.tensor(-2.0)).item()
    assert found.level == pytest.approx(level)
    expected = by_hand(-1.0, 0.5, level), by_hand(-3.0, 0.5, level)
    assert (found.unlearned.steps, found.oracle.steps) == expected
    assert found.ratio == expected[0] / expected[1] < 1


def test_what_is_merely_hidden_comes_back_sooner():
    torch.manual_seed(0)
    x, y = torch.randn(60, 10), torch.randint(3, (60,))

    def trained(data, steps, seed):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(10, 64), nn.ReLU(), nn.Linear(64, 3))
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        for _ in range(steps):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(data[0]), data[1]).backward()
            optimizer.step()
        return model

    forget = x[:20], y[:20]
    original, oracle = trained((x, y), 200, 0), trained((x[20:], y[20:]), 200, 1)
    hidden = trained((x, y), 200, 0)
    with torch.no_grad():
        hidden[2].bias += torch.tensor([0.0, 9.0, 0.0])
    assert accuracy(original, forget) == 1 and accuracy(hidden, forget) < 0.7
    found = relearning_time(hidden, oracle, original, forget, lr=0.01)
    assert found.ratio is not None and found.ratio < 1
    same = relearning_time(oracle, oracle, original, forget, lr=0.01)
    assert same.ratio == 1


def test_a_cap_is_no_number():
    found = relearn(Plain(-3), ONES, level=1e-9, measure="loss", lr=1e-3, max_steps=7, every=3)
    assert found.steps is None and found.max_steps == 7 and str(found) == "more than 7 steps"
    assert len(found.values) == 1 + 3  # before, after 3, 6 and, at the cap, 7
    both = relearning_time(Plain(-3), Plain(-2), Plain(9), ONES, measure="loss", max_steps=3)
    assert both.ratio is None


def test_there_at_once():
    found = relearn(Plain(5), ONES, level=1.0)
    assert found.steps == 0 and found.seconds == 0 and str(found) == "0 steps"
    both = relearning_time(Plain(-1), Plain(5), Plain(4), ONES, optimizer=sgd(5.0))
    assert both.oracle.steps == 0 and both.unlearned.steps > 0 and both.ratio is None


def test_looks_are_as_seldom_as_asked():
    often = relearn(Plain(-3), ONES, level=0.2, measure="loss", optimizer=sgd(0.5))
    seldom = relearn(Plain(-3), ONES, level=0.2, measure="loss", optimizer=sgd(0.5), every=4)
    assert often.steps <= seldom.steps < often.steps + 4 and seldom.steps % 4 == 0


def test_models_and_random_state_are_left_alone_and_it_repeats():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.Linear(8, 2)).eval()
    model[0].weight.requires_grad_(False)
    loader = DataLoader(
        TensorDataset(torch.randn(33, 3), torch.randint(2, (33,))), batch_size=8, shuffle=True
    )
    before, state = digests(model), torch.get_rng_state()
    runs = [
        relearn(model, loader, level=0.0, measure="loss", size=8, max_steps=9, random_state=s)
        for s in (1, 1, 2)
    ]
    assert runs[0].values == runs[1].values != runs[2].values
    assert digests(model) == before and torch.equal(torch.get_rng_state(), state)
    assert not model.training and all(p.grad is None for p in model.parameters())
    with torch.no_grad():
        again = relearn(model, loader, level=0.0, measure="loss", size=8, max_steps=9, random_state=1)
    assert again.values == runs[0].values


def test_another_task_by_its_loss():
    model = nn.Linear(1, 1, bias=False)
    x = torch.ones(3, 1)
    found = relearn(
        model,
        (x, 2 * x),
        level=0.01,
        measure="loss",
        loss=lambda m, b: (m(b[0]) - b[1]).square().mean(1),
        lr=0.1,
    )
    assert found.steps and found.values[-1] <= 0.01


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: relearn(Plain(1), ONES, level=1.0, measure="auc"), "'accuracy' or 'loss'; got 'auc'"),
        (lambda: relearn(Plain(1), ONES, level=1.0, max_steps=0), "max_steps"),
        (lambda: relearn(Plain(1), ONES, level=1.0, lr=-1.0), "positive lr"),
        (lambda: relearn(Plain(1), ONES, level=float("nan")), "finite level"),
        (lambda: relearn(Plain(1).requires_grad_(False), ONES, level=1.0), "unfreeze"),
        (lambda: relearn(Plain(1), tuple(t[:0] for t in ONES), level=1.0), "empty"),
        (lambda: relearn(Plain(float("inf")), ONES, level=0.1, measure="loss"), "diverged"),
        (lambda: relearning_time(Plain(1), Plain(1), Plain(1), ONES, margin=-0.1), "margin"),
        (lambda: relearning_time(Plain(1), Plain(1), Plain(1), ONES, measure="f1"), "got 'f1'"),
    ],
)
def test_what_cannot_be_relearned_is_refused(call, message):
    with pytest.raises(DataError, match=message):
        call()
