# SPDX-License-Identifier: BSD-3-Clause
import pytest
import torch
from torch import nn

from unlearnkit.gradients.layout import Layout, candidates, consistent

N = 3
WAYS = {
    Layout(): lambda x: x[:, None],  # [N, T, E] -> [N, 1, T, E]
    Layout(1): lambda x: x.transpose(0, 1),
    Layout(0, flat=True): lambda x: x.flatten(0, 1),
    Layout(0, flat=True, minor=True): lambda x: x.transpose(0, 1).flatten(0, 1),
}


@pytest.mark.parametrize("length", [1, 2, N, 4])
@pytest.mark.parametrize("layout", WAYS, ids=str)
def test_rows_come_back_to_their_samples(layout, length):
    x = torch.arange(N * length * 2).view(N, length, 2)
    held = WAYS[layout](x)
    assert layout.fits(held.shape, N)
    assert torch.equal(layout.by_sample(held, N).reshape(N, -1), x.flatten(1))


def test_fits():
    assert Layout(1).fits(torch.Size([5, 3, 2]), 3)
    assert not Layout(0).fits(torch.Size([6, 2]), 3)
    assert Layout(0, flat=True).fits(torch.Size([6, 2]), 3)
    assert not Layout(0, flat=True).fits(torch.Size([7, 2]), 3)
    assert not Layout(2).fits(torch.Size([3, 2]), 3)


def test_a_flat_layout_with_one_row_a_sample_is_the_plain_one():
    shape = torch.Size([3, 2])
    for layout in (Layout(0, flat=True), Layout(0, flat=True, minor=True), Layout()):
        assert layout.as_held(shape, 3) == Layout()
    assert Layout(0, flat=True).as_held(torch.Size([6, 2]), 3) == Layout(0, flat=True)


def test_candidates_are_listed_likeliest_first():
    found = candidates(torch.Size([2, 4, 3, 2]), 2, [0, 1, 2])
    assert found == [Layout(0), Layout(1, flat=True), Layout(1, flat=True, minor=True)]
    assert candidates(torch.Size([5]), 2, [0]) == []


@pytest.mark.parametrize("layout", WAYS, ids=str)
def test_what_losses_touch_tells_the_layout(layout):
    x = torch.zeros(N, 4, 2, dtype=torch.bool)
    touched = {}
    for sample in range(N):
        mask = x.clone()
        mask[sample] = True
        touched[sample] = WAYS[layout](mask)
    dims = list(range(touched[0].dim() - 1))
    found = candidates(touched[0].shape, N, dims)
    assert consistent(found, touched, N) == [layout]
    assert consistent(found, {1: torch.ones_like(touched[1])}, N) == []  # it touches all rows
    assert consistent(found, {1: torch.zeros_like(touched[1])}, N) == found  # it says nothing


class Rows(nn.Module):
    """Layers that see rows; of each sample only some matter."""

    def __init__(self, minor, pick):
        super().__init__()
        self.minor, self.pick = minor, pick
        self.body = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh())
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        n, t, _ = x.shape
        rows = self.body((x.transpose(0, 1) if self.minor else x).flatten(0, 1))
        rows = rows.view(t, n, -1).transpose(0, 1) if self.minor else rows.view(n, t, -1)
        return self.head(rows[:, self.pick])


@pytest.mark.parametrize("length", [2, 4, 5, 6, 7])  # of 7, two samples leave it open
@pytest.mark.parametrize("minor", [False, True])
@pytest.mark.parametrize("pick", [0, -1])
def test_one_row_a_sample_does_not_tell_all(check, length, minor, pick):
    batches = [(torch.randn(n, length, 5), torch.randint(0, 3, (n,))) for n in (5, 4, 1)]
    check(Rows(minor, pick), *batches)


class Branches(nn.Module):
    """A head for each of two tasks: a task that no observed sample has leaves its layouts open."""

    def __init__(self, turn):
        super().__init__()
        self.turn = turn
        self.body, self.first, self.second = nn.Linear(5, 4), nn.Linear(4, 3), nn.Linear(4, 3)
        self.steps = nn.Embedding(6, 4)

    def forward(self, x, task):
        n, t, _ = x.shape
        h = self.body(x).tanh()
        other = h + self.steps(torch.arange(t))
        if self.turn == "second":
            h, other = h.transpose(0, 1), other.transpose(0, 1)
        elif self.turn == "minor":
            h, other = (part.transpose(0, 1).flatten(0, 1) for part in (h, other))
        both = [self.first(h), self.second(other)]
        if self.turn == "minor":
            both = [part.view(t, n, -1) for part in both]
        axis = 1 if self.turn == "first" else 0
        return torch.where((task == 0)[:, None], *(part.mean(axis) for part in both))


@pytest.mark.parametrize("turn", ["first", "second", "minor"])
@pytest.mark.parametrize("size", [3, 4, 6])
def test_a_branch_that_few_samples_take(check, turn, size):
    x, y = torch.randn(12, 6, 5), torch.randint(0, 3, (12,))
    task = torch.zeros(12, dtype=torch.long)
    task[[size - 2, size - 1, 7]] = 1
    batches = [tuple(t[s : s + size] for t in (x, task, y)) for s in range(0, 12, size)]
    with torch.no_grad():  # in the first batch its loss is the smallest: it is not looked at first
        net = Branches(turn)
        net.second.weight.mul_(1e-3)
        net.second.bias.copy_(4 * nn.functional.one_hot(y[size - 1], 3))
        y[7] = y[size - 2] = y[size - 1]
    check(net, *batches, slow=None)  # positions that only this branch has may look like rows


class Rare(nn.Module):
    """Positions that few samples need: as many as there are samples, they look like rows of them."""

    def __init__(self):
        super().__init__()
        self.body, self.head, self.steps = nn.Linear(5, 4), nn.Linear(4, 3), nn.Embedding(6, 4)

    def forward(self, x, task):
        h = self.body(x)
        other = h + self.steps(torch.arange(x.shape[1]))
        return self.head(torch.where((task == 0)[:, None, None], h, other).tanh().mean(1))


def test_positions_that_few_samples_need_are_not_rows(check):
    x, y, task = torch.randn(6, 6, 5), torch.randint(0, 3, (6,)), torch.tensor([0, 0, 0, 0, 1, 1])
    net = Rare()
    with torch.no_grad():
        y[4:] = net(x, task)[4:].argmax(1)  # small losses: not looked at first
        net.head.weight.mul_(4)
        y[:4] = net(x, task)[:4].argmin(1)
    check(net, (x, task, y), slow=["steps.weight"])
