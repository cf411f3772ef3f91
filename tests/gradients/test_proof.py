# SPDX-License-Identifier: BSD-3-Clause
"""What the engine checks before it trusts itself, and what it refuses."""

import re
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from unlearnkit.data import cross_entropy, evaluating
from unlearnkit.exceptions import FallbackWarning, UnsupportedModuleError
from unlearnkit.gradients import SquareSums, engine
from unlearnkit.gradients._proof import announce, disagreeing, squares, unproved
from unlearnkit.gradients._routes import routes
from unlearnkit.gradients.reference import looped


class Net(nn.Module):
    def __init__(self, between):
        super().__init__()
        self.embed, self.a, self.b = nn.Embedding(9, 6), nn.Linear(6, 6), nn.Linear(6, 4)
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("mean", torch.zeros(6))
        self.small = nn.Parameter(torch.full((6,), 1e-6))
        self.off = nn.Parameter(torch.zeros(6))  # the loss is the same at every call, its gradient is not
        self.between = between

    def forward(self, x):
        x = self.embed(x) if not x.is_floating_point() else x
        return self.b(self.between(self, self.a(x).tanh()))


def loss(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1], reduction="none")


def run(between, batch=None, loss=loss, dtype=torch.float32):
    torch.manual_seed(1)
    batch = batch or (torch.randn(6, 6, dtype=dtype), torch.randint(0, 4, (6,)))
    net = Net(between).to(dtype)
    with evaluating(net):
        engine = SquareSums(net, loss)
        engine.add(batch, engine.zeros())
    return engine


def moving_mean(self, h):
    self.mean.mul_(0.9).add_(0.1 * h.detach().mean(0))
    return h - self.mean


MIXES = {
    "a mean": lambda self, h: h - 0.01 * h.mean(0),
    "statistics without a gradient": lambda self, h: h / (1 + h.detach().std(0, correction=0)),
    "a softmax": lambda self, h: h.softmax(0),
    "neighbours": lambda self, h: h + 0.1 * h.roll(3, 0),
    "attention over the batch": lambda self, h: (h @ h.t()).softmax(-1) @ h,
    "a condition on the batch": lambda self, h: h if int(100 * h.sum()) % 2 else h.sin(),
    "the largest of the batch": lambda self, h: h * (h[:, :1] >= h[:, 0].topk(min(2, len(h)))[0][-1]),
    "batch norm": lambda self, h: F.batch_norm(h, None, None, training=True) if len(h) > 1 else h,
}


@pytest.mark.parametrize("name", MIXES)
def test_mixing_samples_is_refused(name):
    with pytest.raises(UnsupportedModuleError, match="mixes the samples"):
        run(MIXES[name])


@pytest.mark.parametrize(
    "name", sorted(set(MIXES) - {"a condition on the batch", "statistics without a gradient"})
)
def test_mixing_samples_of_words_is_refused(name):
    ids = torch.randint(0, 9, (6,)), torch.randint(0, 4, (6,))
    with pytest.raises(UnsupportedModuleError, match="mixes the samples"):
        run(MIXES[name], ids, dtype=torch.float64)


def test_mixing_that_only_a_later_batch_shows_is_refused():
    def between(self, h):
        return h.sin() if len(h) > 1 and float(h.abs().max()) > 0.999 else h

    net = Net(between).eval()
    engine = SquareSums(net, loss)
    totals = engine.zeros()
    x, y = 0.1 * torch.randn(6, 6), torch.randint(0, 4, (6,))
    engine.add((x, y), totals)
    with pytest.raises(UnsupportedModuleError, match="mixes the samples"):
        engine.add((x * 1000, y), totals)


def test_a_contrastive_loss_is_refused():
    def contrast(model, batch):
        logits = model(batch[0]) @ model(batch[0].flip(1)).t()
        return F.cross_entropy(logits, torch.arange(len(logits)), reduction="none")

    with pytest.raises(UnsupportedModuleError, match="mixes the samples"):
        run(lambda self, h: h, loss=contrast)


def test_a_model_that_cannot_take_one_sample_is_told_so():
    with pytest.raises(UnsupportedModuleError, match=r"not on one sample of it alone.*squeeze\(\)"):
        run(lambda self, h: h.squeeze())


RANDOM = {
    "dropout": lambda self, h: F.dropout(h, 0.2),
    "noise": lambda self, h: h + 1e-3 * torch.randn_like(h),
    "a branch almost switched off": lambda self, h: h + self.small * F.dropout(h),
    "a branch switched off": lambda self, h: h + self.off * F.dropout(h),
    "a moving mean": moving_mean,
}


@pytest.mark.parametrize("name", RANDOM)
def test_a_random_model_is_refused(name):
    with pytest.raises(UnsupportedModuleError, match=r"random in eval mode.*dropout.*buffer"):
        run(RANDOM[name])


def test_drawing_numbers_for_nothing_is_allowed():
    assert not run(lambda self, h: h + 0 * torch.rand_like(h)).fallback


def test_counting_calls_is_allowed():
    def count(self, h):
        self.calls += 1
        self.mean.copy_(h.detach().mean(0))
        return h

    assert not run(count).fallback


@pytest.mark.parametrize(
    ("dtype", "kept"),
    [(torch.float64, torch.float64), (torch.float32, torch.float32), (torch.float16, torch.float32)],
)
def test_squares_of_rows(dtype, kept):
    rows = [{"a": torch.tensor(row, dtype=dtype)} for row in ([1.0, 2.0], [3.0, -4.0])]
    found = squares(iter(rows))
    assert found["a"].dtype == kept
    assert found["a"].tolist() == [10, 20]


@pytest.mark.parametrize(("alone", "found"), [(1.01, []), (1.1, ["weight", "bias"])])
def test_autograd_on_the_same_batch_decides_where_samples_alone_are_missed_by_little(alone, found):
    """As they are where the rounding of a batch turns ReLUs on that are off for a sample alone."""
    model, batch = nn.Linear(3, 4), (torch.randn(2, 3), torch.tensor([0, 1]))
    parameters = dict(model.named_parameters())
    exact = squares(looped(model, cross_entropy, batch, parameters))
    truth = {name: alone * value for name, value in exact.items()}
    assert disagreeing(exact, truth, parameters) == ["weight", "bias"]
    assert unproved(model, cross_entropy, batch, exact, truth, parameters) == found
    # what autograd on the batch does not confirm is not believed, however near
    near = {name: 1.005 * value for name, value in exact.items()}
    assert unproved(model, cross_entropy, batch, near, exact, parameters) == ["weight", "bias"]


@pytest.mark.parametrize(("dtype", "share"), [(torch.float32, 1e-8), (torch.float64, 1e-15)])
def test_a_parameter_with_small_gradients_is_not_overlooked(dtype, share):
    truth = {"large": torch.ones(3).double(), "small": torch.full((3,), share).double()}
    parameters = {name: nn.Parameter(torch.zeros(3, dtype=dtype)) for name in truth}
    assert disagreeing(truth, truth, parameters) == []
    assert disagreeing({"small": truth["small"] * 1.5}, truth, parameters) == ["small"]
    nothing = {"small": truth["small"] * 0}
    truth["small"] *= 1e-7  # rounding, squared: a bias before a norm layer
    assert disagreeing(nothing, truth, parameters) == []


def test_what_is_announced():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        announce({})
    reasons = dict.fromkeys(["a", "b", "c", "d", "e"], "there is no rule for lstm") | {"f": "other"}
    with pytest.warns(
        FallbackWarning, match=re.escape("a, b, c and 2 more: there is no rule for lstm; f: other")
    ):
        announce(reasons)


@pytest.mark.parametrize("reduced", [False, True])
def test_experts_never_get_the_rows_of_others(check, model, reduced):
    """A mixture of experts, whose rows are picked in the ways of the libraries."""

    def forward(self, x):
        rows = x.flatten(0, 1)
        chance = self.gate(rows).softmax(-1)
        best, out = chance.argmax(-1), torch.zeros_like(rows)
        for index, expert in enumerate(self.experts):
            at = torch.where(best == index)[0] if reduced else (best == index).nonzero()[:, 0]
            own = expert(rows[None, at].flatten(0, 1)) * chance[at, index, None]
            out.index_add_(0, at, own)
        return self.head(out.view_as(x).mean(1))

    for seed in range(5):
        torch.manual_seed(seed)
        net = model(
            forward,
            gate=nn.Linear(5, 2),
            head=nn.Linear(5, 4),
            experts=nn.ModuleList(nn.Linear(5, 5) for _ in range(2)),
        )
        batches = [(torch.randn(n, 4, 5), torch.randint(0, 4, (n,))) for n in (6, 2)]
        engine = check(net, *batches, slow=None)
        assert {"experts.0.weight", "experts.1.bias"} <= set(engine.fallback)


def test_rows_sorted_within_the_model(check, model):
    def forward(self, x):  # rows of all samples by their first entry, as some dispatchers do
        rows = x.flatten(0, 1)
        order = rows[:, 0].argsort()
        out = self.expert(rows.gather(0, order[:, None].expand_as(rows))).tanh()
        return self.head(out[order.argsort()].view_as(x).mean(1))

    net = model(forward, expert=nn.Linear(5, 5), head=nn.Linear(5, 4))
    x = torch.randn(4, 3, 5)
    x[..., 0] = torch.arange(12.0).view(4, 3)  # the first two samples are in order already
    x[2:, :, 0] = x[2:, :, 0].flip(0, 1)
    y = torch.tensor([0, 1, 2, 3])
    slow = [f"{part}.{name}" for part in ("expert", "head") for name in ("weight", "bias")]
    check(net, (x[:2], y[:2]), (x, y), slow=slow)


def test_what_picks_rows():
    rows, index = torch.randn(6, 2, requires_grad=True) * 1, torch.tensor([2, 0, 1])
    get = torch.Tensor.__getitem__
    picks = [
        (get, (rows, index), {}),
        (get, (rows, (None, index)), {}),
        (get, (rows, rows[:, 0] > 0), {}),
        (get, (rows, (rows[:, 0] > 0, 0)), {}),
        (torch.index_select, (rows, 0, index), {}),
        (torch.gather, (rows,), {"dim": -2, "index": index[:, None]}),
        (torch.argsort, (rows[:, 0],), {}),
        (torch.sort, (rows, 0), {}),
        (torch.where, (rows[:, 0] > 0,), {}),
        (torch.nonzero, (rows,), {}),
        (torch.masked_select, (rows, rows > 0), {}),
        (torch.repeat_interleave, (rows, index, 0), {}),
    ]
    leaves = [
        (get, (rows, 0), {}),
        (get, (rows, (slice(None), index[:1])), {}),
        (get, (rows.detach(), index), {}),  # a table
        (get, (rows[:3], torch.arange(3)), {}),  # one row a sample, in order
        (get, (rows.detach(), torch.zeros(2, 2, dtype=torch.long)), {}),
        (torch.gather, (rows, 1, index[:, None]), {}),
        (torch.sort, (rows, 1), {}),
        (torch.where, (rows > 0, rows, rows), {}),
        (torch.repeat_interleave, (rows, 2, 1), {}),
        (torch.add, (rows, rows), {}),
        (torch.nonzero, (torch.tensor(1),), {}),
    ]
    for func, args, kwargs in picks:
        assert routes(func, args, kwargs, 3), (func, args)
    for func, args, kwargs in leaves:
        assert not routes(func, args, kwargs, 3), (func, args)


def test_a_sample_is_run_alone_in_the_first_batches_and_now_and_then(monkeypatch):
    looked = []
    monkeypatch.setattr(engine, "refuse_company", lambda *_: looked.append(sums._batches))
    model, batch = nn.Linear(3, 2), (torch.randn(4, 3), torch.tensor([0, 1, 1, 0]))
    sums = SquareSums(model, cross_entropy)
    totals = sums.zeros()
    for _ in range(25):
        sums.add(batch, totals)
    assert looked == [*range(8), 8, 16, 24]
