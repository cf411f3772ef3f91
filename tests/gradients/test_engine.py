# SPDX-License-Identifier: BSD-3-Clause
import copy
import gc
import warnings
import weakref

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from unlearnkit import FisherDiagonal
from unlearnkit.data import cross_entropy
from unlearnkit.exceptions import DataError, UnsupportedModuleError
from unlearnkit.gradients import SquareSums


class Net(nn.Module):
    """Two linear layers with something between them."""

    def __init__(self, between=torch.tanh, **modules):
        super().__init__()
        self.a, self.b = nn.Linear(5, 5), nn.Linear(5, 4)
        for name, module in modules.items():
            setattr(self, name, module)
        self.between = between

    def forward(self, x):
        return self.b(self.between(self.a(x)))


class Square(torch.autograd.Function):
    """x W^T by hand, where torch's functions cannot be watched."""

    @staticmethod
    def forward(ctx, x, w):
        ctx.save_for_backward(x, w)
        return x @ w.t()

    @staticmethod
    def backward(ctx, g):
        x, w = ctx.saved_tensors
        return g @ w, g.t() @ x


class Custom(Net):
    def forward(self, x):
        return self.b(Square.apply(torch.tanh(x), self.a.weight))


class Recurrent(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.r, self.h = kind(5, 5, batch_first=True), nn.Linear(5, 4)

    def forward(self, x):
        return self.h(self.r(x)[0][:, -1])


class Experts(nn.Module):
    """A mixture of experts: which rows an expert sees depends on the data."""

    def __init__(self):
        super().__init__()
        self.gate, self.head = nn.Linear(5, 2), nn.Linear(5, 4)
        self.experts = nn.ModuleList([nn.Linear(5, 5) for _ in range(2)])

    def forward(self, x):
        rows = x.flatten(0, 1)
        chance = self.gate(rows).softmax(-1)
        best, out = chance.argmax(-1), torch.zeros_like(rows)
        for index, expert in enumerate(self.experts):
            own = best == index
            out[own] = expert(rows[own]) * chance[own][:, index : index + 1]
        return self.head(out.view_as(x).mean(1))


def batch(n=6, shape=(5,), k=4):
    return torch.randn(n, *shape), torch.randint(k, (n,))


def double(model, *data):
    return model.double().eval(), tuple(
        tuple(t.double() if t.is_floating_point() else t for t in part) for part in data
    )


def loop(model, data):
    sums = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for x, y in data:
        for i in range(len(y)):
            loss = F.cross_entropy(model(x[i : i + 1]), y[i : i + 1])
            found = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
            for name, g in zip(sums, found, strict=True):
                sums[name] += 0 if g is None else g.square()
    return sums


def same(totals, expected, bar=1e-10):
    for name, value in expected.items():
        scale = value.abs().max().clamp(min=1e-12)
        assert float((totals[name] - value).abs().max() / scale) <= bar, name


# what has no rule: exact all the same ---------------------------------------------------------------

UNRULED = {
    "lstm": (lambda: Recurrent(nn.LSTM), (3, 5)),
    "gru": (lambda: Recurrent(nn.GRU), (3, 5)),
    "rnn": (lambda: Recurrent(nn.RNN), (3, 5)),
    "custom function": (Custom, (5,)),
    "spectral norm": (
        lambda: (
            Net(between=lambda h: h, extra=None)
            if False
            else nn.Sequential(
                nn.utils.parametrizations.spectral_norm(nn.Linear(5, 6)), nn.Tanh(), nn.Linear(6, 4)
            )
        ),
        (5,),
    ),
    "weight norm": (
        lambda: nn.Sequential(
            nn.utils.parametrizations.weight_norm(nn.Linear(5, 6)), nn.Tanh(), nn.Linear(6, 4)
        ),
        (5,),
    ),
    "bilinear": (
        lambda: Net(between=lambda h: h).__class__(between=torch.tanh),
        (5,),
    ),
    "checkpoint": (
        lambda: Net(between=lambda h: checkpoint(torch.tanh, h, use_reentrant=False)),
        (5,),
    ),
    "script": (
        lambda: torch.jit.script(nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 4))),
        (5,),
    ),
    "experts": (Experts, (4, 5)),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", UNRULED)
def test_any_model_is_exact(measured, name):
    build, shape = UNRULED[name]
    model, data = double(build(), batch(6, shape), batch(4, shape))
    totals, _ = measured(model, *data)
    same(totals, loop(model, data))


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointed_weights_go_the_slow_way(measured, reentrant):
    model = Net()
    model.between = lambda h: checkpoint(lambda t: torch.tanh(model.a(t)), h, use_reentrant=reentrant)
    model, data = double(model, batch())
    expected = {}
    totals, slow = measured(model, *data)
    assert slow
    model.between = lambda h: torch.tanh(model.a(h))
    expected = loop(model, data)
    same(totals, expected)


def test_the_experts_are_never_mistaken(measured):
    for seed in range(6):
        torch.manual_seed(seed)
        model, data = double(Experts(), batch(6, (4, 5)), batch(3, (4, 5)))
        totals, slow = measured(model, *data)
        assert {"experts.0.weight", "experts.1.weight"} <= slow
        same(totals, loop(model, data))


def test_compiled_modules_are_looked_into(measured):
    model = nn.Sequential(torch.compile(nn.Linear(5, 6)), nn.Tanh(), nn.Linear(6, 4))
    model[2].compile()
    model, data = double(model, batch())
    totals, slow = measured(model, *data)
    assert not slow
    plain = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 4)).double()
    plain.load_state_dict({k.replace("_orig_mod.", ""): v for k, v in model.state_dict().items()})
    same(totals, loop(plain, data))


# batches --------------------------------------------------------------------------------------------


def test_batches_of_every_size_add_up(measured):
    model, data = double(Net(), batch(5), batch(1), batch(3), batch(0))
    totals, slow = measured(model, *data)
    assert not slow
    same(totals, loop(model, data[:3]))


def test_lengths_may_differ_from_batch_to_batch(measured):
    model = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 4))
    model = nn.Sequential(model, Mean())
    model, data = double(model, batch(3, (2, 5)), batch(3, (3, 5)), batch(4, (7, 5)), batch(1, (2, 5)))
    totals, slow = measured(model, *data)
    assert not slow
    same(totals, loop(model, data))


class Mean(nn.Module):
    def forward(self, x):
        return x.mean(1)


class Later(Net):
    """Behaves otherwise once a batch has large values: a layer more, and one unseen use."""

    def __init__(self):
        super().__init__()
        self.c = nn.Linear(5, 5)

    def forward(self, x):
        h = torch.tanh(self.a(x))
        if float(x.abs().max()) > 100:
            h = Square.apply(torch.tanh(self.c(h)), self.c.weight)
        return self.b(h)


def test_a_way_that_only_a_later_batch_takes_starts_the_sums_again():
    model = Later().double().eval()
    first, second = (tuple(t.double() if i == 0 else t for i, t in enumerate(batch())) for _ in "12")
    second = (second[0] + 1000, second[1])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        importance = FisherDiagonal().measure(model, [first, second])
    same(importance.sums, loop(model, (first, second)))


def test_samples_without_a_gradient_are_counted_as_zero(measured):
    model = Net(between=F.relu)
    model.a.bias.data[:] = -100  # nothing passes
    model, data = double(model, batch())
    totals, slow = measured(model, *data)
    assert not slow
    same(totals, loop(model, data))
    assert totals["a.weight"].abs().max() == 0 < totals["b.bias"].max()


# dtypes ---------------------------------------------------------------------------------------------


def test_bfloat16_accumulates_in_float32(measured):
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(36, 4))
    model = model.bfloat16().eval()
    data = torch.randn(16, 2, 5, 5).bfloat16(), torch.randint(4, (16,))
    totals, slow = measured(model, data)
    assert not slow
    exact = loop(copy.deepcopy(model).double(), [(data[0].double(), data[1])])
    for name, value in exact.items():
        # the gradients themselves carry eight bits; their squares, summed in bfloat16, would stall
        assert abs(float(totals[name].sum() / value.sum()) - 1) < 0.03, name
        assert totals[name].dtype == torch.float64


def test_a_million_samples_stay_accurate(measured):
    model = nn.Linear(2, 2).eval()
    x, y = torch.randn(1000, 2), torch.randint(2, (1000,))
    once, _ = measured(model, (x, y))
    engine = SquareSums(model, cross_entropy)
    totals = engine.zeros()
    for _ in range(1000):
        engine.add((x, y), totals)
    for name, value in once.items():
        assert torch.allclose(totals[name], 1000 * value, rtol=1e-7, atol=0)


# traces ---------------------------------------------------------------------------------------------


def test_frozen_and_unused_parameters(measured):
    model = Net(extra=nn.Linear(2, 2))
    model.a.weight.requires_grad_(False)
    model, data = double(model, batch())
    totals, slow = measured(model, *data)
    assert "a.weight" not in totals and not slow
    assert float(totals["extra.weight"].abs().sum()) == 0 < float(totals["a.bias"].sum())


def test_nothing_is_left_behind(measured):
    model = Net()
    model.a.weight.grad = mark = torch.ones(5, 5)
    state = copy.deepcopy(model.state_dict())
    measured(model, batch())
    assert model.a.weight.grad is mark and bool((mark == 1).all())
    assert model.b.weight.grad is None and not model._forward_hooks
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(p.requires_grad for p in model.parameters())


def test_the_graph_of_a_batch_is_freed():
    seen = []

    def watch(h):
        seen.append(weakref.ref(h))
        return torch.tanh(h)

    model = Net(between=watch).eval()
    engine = SquareSums(model, cross_entropy)
    totals = engine.zeros()
    gc.disable()
    try:
        engine.add(batch(), totals)
        del seen[:]
        engine.add(batch(), totals)
        alive = [ref for ref in seen if ref() is not None]
    finally:
        gc.enable()
    gc.collect()
    assert seen and not [ref for ref in seen if ref() is not None]
    assert len(alive) <= 1


# what is refused ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "between",
    [
        lambda h: h - h.mean(0),
        lambda h: h - 0.01 * h.mean(0),
        lambda h: h / h.norm(dim=0),
        lambda h: h + h.flip(0).detach(),
        lambda h: F.batch_norm(h, None, None, training=True) if len(h) > 1 else h,
    ],
)
def test_a_model_that_mixes_samples_is_refused(between):
    engine = SquareSums(Net(between).eval(), cross_entropy)
    with pytest.raises(UnsupportedModuleError, match="mixes"):
        engine.add(batch(), engine.zeros())


@pytest.mark.parametrize("between", [F.dropout, lambda h: h + torch.randn_like(h)])
def test_a_model_that_is_random_is_refused(between):
    engine = SquareSums(Net(between).eval(), cross_entropy)
    with pytest.raises(UnsupportedModuleError, match="random in eval mode"):
        engine.add(batch(), engine.zeros())


def test_a_loss_must_be_one_finite_value_a_sample():
    model = Net().eval()
    engine = SquareSums(model, lambda m, b: cross_entropy(m, b).mean())
    with pytest.raises(DataError, match=r"shape \[6\], got shape \[\].*reduction='none'"):
        engine.add(batch(), engine.zeros())
    x, y = batch()
    x[3] = float("nan")
    engine = SquareSums(model, cross_entropy)
    with pytest.raises(DataError, match="sample 3 of a batch is nan"):
        engine.add((x, y), engine.zeros())


def test_a_model_without_trainable_weights_is_refused():
    with pytest.raises(UnsupportedModuleError, match="requires_grad_"):
        SquareSums(Net().requires_grad_(False), cross_entropy)


# other tasks ----------------------------------------------------------------------------------------


def test_regression_and_dense_prediction(agrees):
    def squared(model, data):
        return (model(data[0]) - data[1]).square().flatten(1).mean(1)

    agrees(Net(), (torch.randn(4, 5), torch.randn(4, 4)), loss=squared)
    dense = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.Tanh(), nn.Conv2d(4, 3, 1))
    agrees(dense, (torch.randn(4, 2, 4, 4), torch.randint(3, (4, 4, 4))), loss=cross_entropy)


class Keyword(nn.Module):
    def __init__(self):
        super().__init__()
        self.e, self.h = nn.Embedding(9, 5), nn.Linear(5, 4)

    def forward(self, input_ids, mask):
        h = torch.tanh(self.e(input_ids)) * mask[..., None]
        return {"logits": self.h(h.sum(1))}


def test_a_dict_of_inputs(agrees):
    data = {
        "input_ids": torch.randint(9, (4, 3)),
        "mask": torch.rand(4, 3),
        "labels": torch.randint(4, (4,)),
    }
    agrees(Keyword(), data, loss=cross_entropy)
