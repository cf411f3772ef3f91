# SPDX-License-Identifier: BSD-3-Clause
"""Every way in which a forward pass may use a weight."""

import functools

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize, prune

from unlearnkit.gradients.capture import Capture

N, T, E = 4, 3, 5

# Uses of parameters a [5], b [3, 5], c [1, 1, 5], d [5, 5], s [] by h [N, 3, 5].
USES = {
    "add": lambda m, h: h + m.a + m.b + m.c + m.s,
    "add in front": lambda m, h: m.a + (m.b + (m.c + (m.s + h))),
    "sub": lambda m, h: (h - m.a) * (m.b - h) - m.s,
    "mul": lambda m, h: h * m.a * m.b * m.s,
    "div": lambda m, h: h / (m.a + 9) / m.s + m.b / (h.square() + 1),
    "by name": lambda m, h: torch.multiply(torch.sub(h, m.a, alpha=2), m.b),
    "in place": lambda m, h: (h * 1).add_(m.a).mul_(m.b).sub_(m.c, alpha=0.5).div_(m.s),
    "augmented": lambda m, h: functools.reduce(lambda x, p: x.__imul__(p), [m.a, m.b], h * 1),
    "pow": lambda m, h: (h.abs() + 0.1) ** m.a,
    "maximum": lambda m, h: torch.maximum(h, m.a) + torch.minimum(h, m.b),
    "where": lambda m, h: torch.where(h > 0, m.a, h),
    "lerp": lambda m, h: torch.lerp(h, h.flip(1), m.s),
    "class token": lambda m, h: torch.cat([m.c.expand(len(h), -1, -1), h], 1),
    "repeated token": lambda m, h: torch.cat([m.c.repeat(len(h), 2, 1), h], 1),
    "stacked queries": lambda m, h: m.b.repeat(len(h), 1).view(len(h), T, E) * h,
    "layer scale": lambda m, h: h + m.a * h.tanh(),
    "prelu": lambda m, h: F.prelu(h, m.b[:, 0].contiguous()) + F.prelu(h, m.a[:1]),
    "part by part": lambda m, h: F.linear(h[..., :2], m.d[:, :2]) + h @ m.d[:, 2:3],
    "overlapping parts": lambda m, h: F.linear(h, m.d[:3]).sum(-1, True) + F.linear(h, m.d[1:]),
    "transposed": lambda m, h: h @ m.d.t() + F.linear(h, m.d.mT),
    "view and bias": lambda m, h: F.linear(h, m.d.view(5, 5), m.a.view(-1)),
    "twice": lambda m, h: (h @ m.d).tanh() @ m.d + m.a * (h + m.a),
    "slice of positions": lambda m, h: h + m.b[: h.shape[1]] + m.c[:, :1],
    # computed from weights alone
    "one plus": lambda m, h: h * (1 + m.a) * (2 - m.b),
    "scaled": lambda m, h: F.linear(h, m.d * 0.3, m.a / 2),
    "function of": lambda m, h: h * m.a.exp() + m.s.sigmoid() * h.tanh() + m.b.softmax(-1),
    "normalised": lambda m, h: F.linear(h, F.normalize(m.d, dim=1)) * m.a.norm(),
    "sum of": lambda m, h: h * m.d.sum() + h * m.d.diagonal(),
    "low rank": lambda m, h: F.linear(h, m.d + m.b.t() @ m.b),
    "joined": lambda m, h: F.linear(h, torch.cat([m.d, m.b]), torch.cat([m.a, m.b[:, 0]])),
    "cast": lambda m, h: h @ m.d.to(torch.float64).clone().contiguous(),
    "changed": lambda m, h: h + _first_is_zero(m.a * 2),
    "spread out": lambda m, h: h * m.s.expand(5) + h * m.c.expand_as(h),
    "toeplitz": lambda m, h: F.linear(h, m.d.flatten().unfold(0, 5, 2)),
    "masked": lambda m, h: F.linear(h, m.d * torch.ones(5, 5, dtype=h.dtype).tril()),
    "masked in place": lambda m, h: F.linear(h, _lower(m.d * 1)),
    "through a layer": lambda m, h: h + F.layer_norm(F.linear(m.b, m.d, m.a), (5,), m.a),
    "complex": lambda m, h: torch.view_as_real(h + 1j * h * torch.complex(m.a, m.a)).sum(-1),
}


def _first_is_zero(weight):
    weight[:1].zero_()
    weight.mul_(3)
    return weight


def _lower(weight):
    weight.mul_(torch.ones(5, 5, dtype=weight.dtype).tril())
    return weight


def _changed_after_use(m, h):
    weight = m.a * 2
    h = h + weight
    weight.mul_(3)
    return h * weight


class Bare(nn.Module):
    def __init__(self, use):
        super().__init__()
        shapes = {"a": (E,), "b": (T, E), "c": (1, 1, E), "d": (E, E), "s": ()}
        for name, shape in shapes.items():
            self.register_parameter(name, nn.Parameter(torch.randn(shape) + 0.1))
        self.use, self.first = use, nn.Linear(E, E)

    def forward(self, x):
        return self.use(self, self.first(x).tanh())


@pytest.mark.parametrize("use", USES)
def test_a_bare_parameter(check, curved, use):
    dtypes = [torch.float64] if use == "cast" else [torch.float64, torch.float32]
    for dtype in dtypes:
        net = Bare(USES[use])
        batches = [(torch.randn(n, T, E),) for n in (N, T, 1)]  # as many samples as positions, too
        check(net, *batches, loss=curved, dtype=dtype, tolerance=None if dtype.itemsize == 8 else 3e-5)


SLOW = {
    "set in part": (lambda m, h: _with_rows(h, m.a), ["a"]),
    "an activation": (lambda m, h: F.linear(torch.cat([h, h * 0 + m.d[:T]], 1), m.d), []),
    "the input of a layer": (lambda m, h: m.first(m.c.clone().expand(len(h), -1, -1) * 1) + h, []),
    "changed after its use": (_changed_after_use, ["a"]),
    "distances": (lambda m, h: torch.cdist(h, m.b), ["b"]),
    "a cell": (lambda m, h: m.cell(h[:, 0], h[:, 1]), None),
    "joined with activations": (
        lambda m, h: torch.cat([h, m.d[:1].view(1, 1, 5).expand(len(h), 1, 5)], 1),
        [],
    ),
}


def _with_rows(h, a):
    h = h * 1
    h[:, 0] = a
    return h


@pytest.mark.parametrize("use", SLOW)
def test_what_has_no_rule_is_exact(check, curved, use):
    function, slow = SLOW[use]
    net = Bare(function)
    if slow is None:
        net.cell = nn.GRUCell(E, E)
        slow = [f"cell.{name}" for name, _ in net.cell.named_parameters()]
    check(net, (torch.randn(N, T, E),), (torch.randn(2, T, E),), loss=curved, slow=slow)


def test_a_module_called_several_times(check):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(2, 2, 3, padding=1), nn.GroupNorm(1, 2)
            self.body, self.head = nn.Linear(8, 8), nn.Linear(8, 3)

        def forward(self, x, times):
            for _ in range(len(times[0])):
                x = self.norm(self.conv(x)).relu()
            x = x.flatten(1)
            for _ in range(3):
                x = self.body(x).tanh()
            return self.head(x)

    for times in (1, 3):
        check(Net(), (torch.randn(4, 2, 2, 2), torch.zeros(4, times), torch.tensor([0, 1, 2, 0])))


@pytest.mark.parametrize("scale", [None, 0.5])
def test_an_embedding_tied_to_the_head(check, model, scale):
    def forward(self, x):
        weight = self.head.weight if scale is None else self.head.weight * scale
        return F.linear(self.body(self.embed(x)).tanh(), weight).transpose(1, 2)

    net = model(forward, embed=nn.Embedding(7, E), body=nn.Linear(E, E), head=nn.Linear(E, 7))
    net.head.bias = None
    net.head.weight = net.embed.weight
    ids = torch.randint(0, 7, (N, T))
    check(net, (ids, ids), (ids[:2, :2], ids[:2, :2]))


def test_activations_in_place(check):
    net = nn.Sequential(
        *(nn.Linear(5, 6), nn.ReLU(inplace=True), nn.BatchNorm1d(6), nn.ELU(inplace=True)),
        *(nn.Linear(6, 6), nn.Hardswish(inplace=True), nn.Linear(6, 6), nn.LeakyReLU(inplace=True)),
        *(nn.Dropout(0.5, inplace=True), nn.Linear(6, 3)),
    )
    check(net, (torch.randn(4, 5), torch.tensor([0, 1, 2, 0])))


def test_an_input_overwritten_too_late_is_autograds_error(model, curved, settle):
    from unlearnkit.exceptions import UnsupportedModuleError
    from unlearnkit.gradients import SquareSums

    def forward(self, x):
        h = self.a(x)
        y = self.b(h)
        h.zero_()
        return y

    net = model(forward, a=nn.Linear(3, 3), b=nn.Linear(3, 3)).eval()
    with pytest.raises((UnsupportedModuleError, RuntimeError), match=r"in ?place"):
        settle(SquareSums(net, curved), [(torch.randn(4, 3),)])


def test_weights_and_inputs_that_are_not_contiguous(check, curved):
    net = nn.Linear(5, 4).double()
    net.weight = nn.Parameter(torch.randn(5, 4, dtype=torch.float64).t())
    check(net, (torch.randn(6, 3, 4).transpose(1, 2)[:, :, [0, 1, 2, 0, 1]],), loss=curved)
    check(net, (torch.randn(4, 10)[:, ::2],), loss=curved)
    assert not net.weight.is_contiguous()


def test_a_weight_with_gaps_in_its_memory(check, curved):
    net = nn.Linear(5, 4).double()
    net.weight = nn.Parameter(torch.randn(4, 10, dtype=torch.float64)[:, ::2])
    engine = check(net, (torch.randn(6, 5),), loss=curved, slow=["weight"])
    assert engine.fallback == {"weight": "its memory has gaps"}


def test_constants_are_no_weights(check, model):
    def forward(self, x):
        with torch.no_grad():
            frozen, view = self.target(x), self.body.weight.t()
        constant = F.linear(x, self.body.weight.detach()) + x @ view
        return self.head(self.body(x).tanh() + constant + frozen)

    parts = {name: nn.Linear(5, 5) for name in ("target", "body")}
    net = model(forward, head=nn.Linear(5, 3), **parts)
    engine = check(net, (torch.randn(4, 5), torch.tensor([0, 1, 2, 0])))
    totals = engine.zeros()
    engine.add((torch.randn(4, 5, dtype=torch.float64), torch.tensor([0, 1, 2, 0])), totals)
    assert not totals["target.weight"].any()


@pytest.mark.parametrize(
    "layer",
    [
        lambda: parametrizations.weight_norm(nn.Conv1d(3, 4, 2)),
        lambda: parametrizations.spectral_norm(nn.Conv1d(3, 4, 2)),
        lambda: prune.random_unstructured(nn.Conv1d(3, 4, 2), "weight", amount=0.4),
        lambda: _symmetric(nn.Conv1d(3, 3, 1)),
    ],
    ids=["weight norm", "spectral norm", "pruned", "own"],
)
def test_parametrised_layers(check, curved, layer):
    net = nn.Sequential(nn.Conv1d(3, 3, 1), layer(), nn.Tanh())
    check(net, (torch.randn(4, 3, 5),), (torch.randn(2, 3, 4),), loss=curved)


def _symmetric(layer):
    class Symmetric(nn.Module):
        def forward(self, w):
            return w + w.transpose(0, 1)

    parametrize.register_parametrization(layer, "weight", Symmetric())
    return layer


def test_positions_from_a_table(check, model):
    def forward(self, x):
        steps = torch.arange(x.shape[1])
        learned = self.table(steps) + self.other(steps[None]) + self.third.weight[: len(steps)]
        return self.head((self.embed(x) + learned).tanh()).mean(1)

    tables = {name: nn.Embedding(8, E) for name in ("embed", "table", "other", "third")}
    net = model(forward, head=nn.Linear(E, 3), **tables)
    batches = [(torch.randint(0, 8, (n, t)), torch.randint(0, 3, (n,))) for n, t in ((4, 4), (2, 6))]
    check(net, *batches)


def test_a_hypernetwork_of_a_learned_code(check, model):
    def forward(self, x):
        weight = self.hyper(self.code).view(3, 5)
        bias = self.positions(torch.linspace(0, 1, 3, dtype=x.dtype)[:, None])[:, 0]
        return F.linear(x, weight, bias)

    parts = {"hyper": nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 15))}
    net = model(forward, code=nn.Parameter(torch.randn(2)), positions=nn.Linear(1, 1), **parts)
    check(net, (torch.randn(4, 5), torch.tensor([0, 1, 2, 0])))


def test_the_model_may_call_autograd_itself(check, model):
    def forward(self, x):  # a field and its slope
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            field = self.field(x).tanh().sum()
            (slope,) = torch.autograd.grad(field, x, create_graph=True)
        return self.head(slope)

    net = model(forward, field=nn.Linear(5, 4), head=nn.Linear(5, 3))
    batch = (torch.randn(4, 5), torch.tensor([0, 1, 2, 0]))
    check(net, batch, slow=["field.weight"])  # it is in the slope, too


def test_nothing_is_watched_without_gradients():
    net = nn.Linear(3, 2)
    capture = Capture(dict(net.named_parameters()), set(), set(), 4, torch.zeros((), requires_grad=True))
    with capture, torch.no_grad():
        net(torch.randn(4, 3))
    assert not capture.seen.taps
    with capture:
        net(torch.randn(4, 3))
    (tap,) = capture.seen.taps
    assert tap.parameters == ["weight", "bias"]
    assert tap.shape == (4, 2)
    assert tap.intact()
