# SPDX-License-Identifier: BSD-3-Clause
"""A compacted model beside the one with its dead units in place."""

import copy
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from unlearnkit import compact
from unlearnkit.exceptions import FallbackWarning, IneffectiveWarning, UnsupportedModuleError
from unlearnkit.parameters import unwrap
from unlearnkit.testing._state import difference, model_state, random_state, surroundings

NOISE = (nn.Dropout, nn.Dropout2d)


def kill(model, *dead):
    """Zero units, of each layer and the norm that follows it: ``("0", "1", 3)`` the first 3 of "0" and "1"."""
    with torch.no_grad():
        for *names, count in dead:
            for module in map(model.get_submodule, names):
                for parameter in module.parameters(recurse=False):
                    parameter[:count] = 0
    return model


def outputs(model, x, training=False):
    """Run a copy, without dropout."""
    model = copy.deepcopy(model).train(training)
    for module in model.modules():
        if isinstance(module, NOISE):
            module.eval()
    with torch.no_grad():
        return model(x)


def assert_same(small, model, x):
    """Outputs are equal in both modes, and after a step of training where units stay dead."""
    for training in (False, True):
        wanted, found = (outputs(one, x, training) for one in (model, small))
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-11)


def widths(model):
    return {
        name: module.weight.shape[:2] if module.weight.dim() > 1 else len(module.weight)
        for name, module in model.named_modules()
        if getattr(module, "weight", None) is not None
    }


def warm(model, x):
    """Give BatchNorm statistics that are those of no batch."""
    torch.manual_seed(3)
    model.train()
    for _ in range(2):
        model(torch.randn_like(x))
    return model


IMAGES = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def mlp():
    return nn.Sequential(
        nn.Linear(8, 7), nn.ReLU(), nn.Dropout(0.5), nn.Linear(7, 5), nn.Tanh(), nn.Linear(5, 4)
    )


def convnet():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 6, 3, bias=False),
        nn.BatchNorm2d(6),
        nn.SiLU(),
        nn.Dropout2d(0.2),
        nn.AvgPool2d(2, ceil_mode=True, padding=1),
        nn.Flatten(),
        nn.Linear(24, 9),
        nn.BatchNorm1d(9),
        nn.GELU(),
        nn.Linear(9, 4),
    )


class Functional(nn.Module):
    """All in functions and methods, and one tensor taken by two layers."""

    def __init__(self):
        super().__init__()
        self.conv1, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.InstanceNorm2d(8, affine=True)
        self.conv2, self.side = nn.Conv2d(8, 6, 3), nn.Conv2d(8, 6, 1)
        self.fc1, self.fc2, self.fc3 = nn.Linear(54, 9), nn.Linear(6, 9), nn.Linear(9, 4)

    def forward(self, x, scale=None):
        x = F.max_pool2d(F.relu(self.norm(self.conv1(x))), 2)
        y = F.adaptive_avg_pool2d(self.conv2(x).relu_(), 3)
        z = F.leaky_relu(self.side(x)).mean((2, 3), keepdim=False)
        y = self.fc1(y.view(y.size(0), -1)) + self.fc2(torch.flatten(z, 1).reshape(z.shape[0], -1))
        y = F.dropout(F.relu(y), 0.0, self.training)
        return self.fc3(y) if scale is None else self.fc3(y) * scale


class Block(nn.Module):
    """What is added stays whole; what lies between is compacted."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.conv1, self.norm1 = nn.Conv2d(6, 5, 3, padding=1, bias=False), nn.BatchNorm2d(5)
        self.conv2, self.norm2 = nn.Conv2d(5, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.head = nn.Linear(6, 4)

    def forward(self, x):
        x = self.norm(self.stem(x)).relu()
        y = self.norm2(self.conv2(self.norm1(self.conv1(x)).relu()))
        y += x
        return self.head(y.relu().mean((2, 3)))


class Tokens(nn.Module):
    """The two linear layers of a transformer's block."""

    def __init__(self):
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(8), nn.Linear(8, 16), nn.Linear(16, 8)
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        x = x.flatten(2)[:, :, :8]
        x = x + self.down(F.gelu(self.up(self.norm(x))))
        return self.head(x.mean(1))


CASES = {
    "mlp": (mlp, [("0", 3), ("3", 2)], {"0": (4, 8), "3": (3, 4), "5": (4, 3)}),
    "convnet": (
        convnet,
        [("0", "1", 3), ("4", "5", 2), ("10", "11", 4)],
        {"0": (5, 3), "1": 5, "4": (4, 5), "5": 4, "10": (5, 16), "11": 5, "13": (4, 5)},
    ),
    "functional": (
        Functional,
        [("conv1", "norm", 3), ("conv2", 2), ("side", 1)],
        {
            "conv1": (5, 3),
            "norm": 5,
            "conv2": (4, 5),
            "side": (5, 5),
            "fc1": (9, 36),
            "fc2": (9, 5),
            "fc3": (4, 9),
        },
    ),
    "block": (
        Block,
        [("conv1", "norm1", 3)],
        {"stem": (6, 3), "norm": 6, "conv1": (2, 6), "norm1": 2, "conv2": (6, 2), "norm2": 6, "head": (4, 6)},
    ),
    "tokens": (Tokens, [("up", 5)], {"norm": 8, "up": (11, 8), "down": (8, 11), "head": (4, 8)}),
}


@pytest.fixture(params=CASES)
def case(request):
    """A model with dead units, and the widths that it should have without."""
    build, dead, expected = CASES[request.param]
    x = IMAGES.flatten(1)[:, :8] if build is mlp else IMAGES
    torch.manual_seed(0)
    return kill(warm(build().double(), x), *dead), x, expected


@pytest.mark.filterwarnings("error")
def test_outputs_are_the_same_without_the_dead(case):
    model, x, expected = case
    before = model_state(model) | random_state() | surroundings()
    small = compact(model, x)
    assert difference(before, model_state(model) | random_state() | surroundings()) is None
    assert {
        name: tuple(w) if isinstance(w, torch.Size) else w for name, w in widths(small).items()
    } == expected
    assert_same(small, model, x)
    assert_same(compact(model.eval(), x[:1]), model, x)  # of one sample, as BatchNorm cannot train on


def test_a_compact_model_is_a_model_like_the_original(case):
    model, x, _ = case
    first = next(iter(model.parameters())).requires_grad_(False)
    next(iter(model.modules())).note = "kept"
    small = compact(model, x)
    assert type(small) is type(model) and small.note == "kept"
    assert [n for n, _ in small.named_parameters()] == [n for n, _ in model.named_parameters()]
    assert small.state_dict().keys() == model.state_dict().keys()
    for (_, old), (_, new) in zip(model.named_parameters(), small.named_parameters(), strict=True):
        assert (new.dtype, new.device, new.requires_grad) == (old.dtype, old.device, old.requires_grad)
        assert new.data_ptr() != old.data_ptr()
    assert not first.requires_grad
    assert [m.training for m in small.modules()] == [m.training for m in model.modules()]
    assert all(m.training for m in small.modules())
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name", ["convnet", "functional", "block"])
def test_training_goes_on_where_it_was(name):
    """Behind ReLU a dead unit gets no gradient, so both learn the same."""
    build, dead, _ = CASES[name]
    torch.manual_seed(0)
    model = build().double()
    if name == "convnet":
        model[6], model[12] = nn.ReLU(), nn.ReLU()
    if name == "functional":
        dead = dead[:2]  # the slope of a leaky ReLU at zero is not zero
    kill(warm(model, IMAGES), *dead)
    small, target = compact(model, IMAGES), torch.arange(6) % 4
    for one in (model, small):
        for module in one.modules():
            if isinstance(module, NOISE):
                module.eval()
        optimizer = torch.optim.SGD(one.parameters(), 0.1, momentum=0.9)
        for _ in range(2):
            optimizer.zero_grad()
            F.cross_entropy(one(IMAGES), target).backward()
            optimizer.step()
    assert_same(small, model, IMAGES)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_precision_and_memory_order_are_kept(dtype):
    torch.manual_seed(0)
    model = kill(warm(convnet(), IMAGES.float()), *CASES["convnet"][1]).to(dtype)
    model.to(memory_format=torch.channels_last)
    x = IMAGES.to(dtype).to(memory_format=torch.channels_last)
    small = compact(model, x)
    assert {p.dtype for p in small.parameters()} == {dtype}
    assert small[4].weight.is_contiguous(memory_format=torch.channels_last)
    tolerance = 1e-5 if dtype is torch.float32 else 0.05
    torch.testing.assert_close(outputs(small, x), outputs(model, x), rtol=tolerance, atol=tolerance)


ACTIVATIONS = [nn.ReLU, nn.Sigmoid, nn.GELU, nn.Softplus, nn.Tanh, nn.Hardsigmoid, nn.ELU, nn.LogSigmoid]


@st.composite
def stacks(draw):
    """Return layers in a row with units dead in all ways, and an input."""
    torch.manual_seed(draw(st.integers(0, 10**6)))
    layers, width, size = [], 3, 8
    for _ in range(draw(st.integers(1, 2))):
        new, bias = draw(st.integers(2, 5)), draw(st.booleans())
        mode = draw(st.sampled_from(["zeros", "reflect"]))
        conv = nn.Conv2d(width, new, 3, padding=draw(st.integers(0, 1)), bias=bias, padding_mode=mode)
        layers.append(conv)
        if draw(st.booleans()):
            layers.append(
                draw(st.sampled_from([nn.BatchNorm2d, nn.InstanceNorm2d]))(new, affine=draw(st.booleans()))
            )
        layers.append(draw(st.sampled_from(ACTIVATIONS))())
        layers.append(draw(st.sampled_from([
            nn.Identity(), nn.MaxPool2d(2, padding=1), nn.AvgPool2d(2, padding=1), nn.AvgPool2d(2), nn.Dropout2d(0.3),
            nn.Upsample(scale_factor=2),
        ])))  # fmt: skip
        width = new
    layers.append(draw(st.sampled_from([nn.Flatten(), nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())])))
    x = torch.randn(4, 3, size, size)
    width = nn.Sequential(*layers)(x).shape[1]
    for new in (draw(st.integers(2, 6)), 3):
        layers += [nn.Linear(width, new, bias=draw(st.booleans()))]
        if new != 3 and draw(st.booleans()):
            layers.append(nn.BatchNorm1d(new))
        layers += [draw(st.sampled_from(ACTIVATIONS))(), nn.Dropout(0.4)]
        width = new
    model = nn.Sequential(*layers[:-2]).double()
    warm(model, x := x.double())
    with torch.no_grad():
        for module in model.modules():
            weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
            if weight is None:
                continue
            for unit in range(len(weight)):
                if draw(st.booleans()):
                    weight[unit] = 0
                    if bias is not None and draw(st.booleans()):
                        bias[unit] = 0
    return model, x


@pytest.mark.filterwarnings("ignore::unlearnkit.UnlearnWarning")
@settings(max_examples=60)
@given(stacks())
def test_whatever_is_dead_and_however(stack):
    model, x = stack
    small = compact(model, x)
    assert_same(small, model, x)
    assert all(len(p) for p in small.parameters())


def test_a_constant_goes_into_the_bias_of_the_next_layer_where_that_is_exact():
    torch.manual_seed(0)
    model = kill(convnet().double(), ("0", "1", 3), ("4", "5", 2), ("10", "11", 4))
    with torch.no_grad():
        model[1].bias[:2] = 1.0  # into a convolution without bias
        model[5].bias[0] = 1.0  # before dropout
        model[11].bias[:2] = torch.tensor([1.0, -1.0])  # into a linear layer with bias
    with pytest.warns(
        FallbackWarning, match=r"2 of 0, for what they.*; 1 of 4, for what they put out is not zero"
    ):
        small = compact(model, IMAGES)
    assert (small[0].out_channels, small[4].out_channels, small[10].out_features) == (7, 5, 5)
    assert_same(small, model, IMAGES)
    assert not torch.equal(small[13].bias, model[13].bias)
    for padding, mode, bias, left in ((1, "zeros", True, 6), (1, "zeros", False, 6), (0, "zeros", True, 4),
                                      (1, "circular", True, 4), (0, "zeros", False, 6)):  # fmt: skip
        model = nn.Sequential(
            nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3, padding=padding, padding_mode=mode, bias=bias)
        ).double()
        with torch.no_grad():
            model[0].weight[:2], model[0].bias[:2] = 0, 0.5
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            small = compact(model, IMAGES)
        assert small[0].out_channels == left
        assert bool(caught) == (left == 6)
        assert_same(small, model, IMAGES)


class Odd(nn.Module):
    """Two layers, and whatever lies between them."""

    def __init__(self, between, **modules):
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 4, 1)
        self.fc = nn.Linear(6 * 36, 4)
        self.between = between
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, x):
        return self.between(self, self.first(x), x)


def tied():
    model = Odd(lambda m, x, _: m.last(x))
    model.other = nn.Conv2d(3, 6, 3)
    model.other.weight = model.first.weight
    return model


def hooked():
    model = Odd(lambda m, x, _: m.last(x))
    model.first.register_forward_hook(lambda module, given, output: output + 1)
    return model


def odd(between, **modules):
    return lambda: Odd(between, **modules)


LEFT = {
    "a sum": (odd(lambda m, x, _: m.last(x + x.relu())), r"add\(\) combines them with other values"),
    "a sum with itself": (odd(lambda m, x, _: m.last(x + x)), r"add\(\) combines them with other values"),
    "a scale": (odd(lambda m, x, _: m.last(x * 2)), r"mul\(\) is not known to keep them apart"),
    "a concatenation": (odd(lambda m, x, _: m.last(torch.cat([x, x], 1)[:, :6])), r"cat\(\) combines"),
    "a slice": (odd(lambda m, x, _: m.last(x.flip(1))), r"flip\(\) is not known"),
    "a number": (odd(lambda m, x, _: m.fc(x.relu().view(-1, 216))), r"view\(\) is not known"),
    "a shape": (odd(lambda m, x, _: m.last(x.reshape(x.size(0), x.size(1), 6, 6))), "asks for their number"),
    "a mean of channels": (
        odd(lambda m, x, _: m.last(x) + x.mean(1, keepdim=True)),
        "takes the mean of them",
    ),
    "a mean of all": (odd(lambda m, x, _: m.last(x) + x.mean()), "takes the mean of them"),
    "columns": (odd(lambda m, x, _: m.row(x).mean(1), row=nn.Linear(6, 2)), "row takes them one by one"),
    "other channels": (
        odd(lambda m, x, _: m.fc(m.norm(x.flatten(1))), norm=nn.BatchNorm1d(216)),
        "other channels",
    ),
    "a group norm": (
        odd(lambda m, x, _: m.last(m.norm(x)), norm=nn.GroupNorm(2, 6)),
        r"norm \(GroupNorm\) is not",
    ),
    "an output": (odd(lambda m, x, _: (x, m.last(x))), "they are outputs of the model"),
    "a loose end": (odd(lambda m, x, y: m.alone(y), alone=nn.Conv2d(3, 2, 1)), "no layer takes them"),
    "two calls": (odd(lambda m, x, y: m.last(m.first(y))), "first is not called once"),
    "two calls of the next": (odd(lambda m, x, _: m.last(x) + m.last(x.relu())), "last is not called once"),
    "groups": (odd(lambda m, x, _: m.grouped(x), grouped=nn.Conv2d(6, 6, 1, groups=2)), "grouped has groups"),
    "written over": (odd(lambda m, x, _: (x.relu_(), m.last(x))[1]), "writes over a value that is used"),
    "a tied weight": (tied, "a parameter of first is used elsewhere"),
    "a weight read": (
        odd(lambda m, x, y: m.last(x) + m.first.weight.sum()),
        "a parameter of first is used elsewhere",
    ),
    "a hook": (hooked, "first has a hook"),
    "training": (odd(lambda m, x, y: m.last(x.relu() if m.training else x.tanh())), None),
    "training elsewhere": (
        odd(lambda m, x, y: m.last(x) + (m.other(x) if m.training else 0), other=nn.Conv2d(6, 4, 1)),
        "they go elsewhere in training",
    ),
}


@pytest.mark.parametrize("name", LEFT)
def test_what_is_not_known_is_left_whole_and_told(name):
    build, why = LEFT[name]
    model = build().double()
    with torch.no_grad():
        model.first.weight[:2], model.first.bias[:2] = 0, 0
    if why is None:  # both modes agree on zeros, and not on ones
        assert compact(model, IMAGES).first.out_channels == 4
        with torch.no_grad():
            model.first.bias[:2] = 1.0
        why = "what they put out is not zero"
    with pytest.warns(FallbackWarning, match=f"2 of first, for .*({why})"):
        small = compact(model, IMAGES)
    for training in (False, True):
        expected, found = (copy.deepcopy(one).train(training)(IMAGES) for one in (model, small))
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    assert widths(small) == widths(model)


def test_layers_inside_of_fused_modules_are_told():
    model = nn.Sequential(nn.TransformerEncoderLayer(8, 2, 12, batch_first=True), nn.Linear(8, 2))
    kill(model, ("0.linear1", 3))
    with pytest.warns(
        FallbackWarning, match=r"3 of 0\.linear1, for 0\.linear1 is not called once, and by itself"
    ):
        compact(model, torch.randn(2, 5, 8))


def test_a_computed_weight_is_left():
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)), nn.ReLU(), nn.Linear(4, 2))
    kill(model, ("2", 1))
    with pytest.warns(FallbackWarning, match="1 of 2, for they are outputs of the model"):
        compact(model, torch.randn(3, 4))


def test_one_unit_stays_where_all_are_dead():
    model = kill(mlp().double(), ("0", 7), ("3", 5))
    x = IMAGES.flatten(1)[:, :8]
    small = compact(model, x)
    assert widths(small) == {"0": (1, 8), "3": (1, 1), "5": (4, 1)}
    assert_same(small, model, x)


def test_nothing_dead_is_nothing_to_do():
    model, x = mlp(), torch.randn(3, 8)
    with pytest.warns(IneffectiveWarning, match="no unit of the model is dead"):
        small = compact(model, x)
    assert difference(model_values(model), model_values(small)) is None


def model_values(model):
    return {name: tensor.tolist() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("wrap", [nn.DataParallel, lambda m: torch.compile(m, backend="eager")])
def test_wrappers_are_kept(wrap):
    model = kill(mlp(), ("0", 3))
    small = compact(wrap(model).cpu(), torch.randn(3, 8))
    assert type(small) is type(wrap(model))
    assert unwrap(small)[0].out_features == 4


def test_examples_come_as_the_model_takes_them():
    torch.manual_seed(0)
    model = kill(Functional().double(), *CASES["functional"][1])
    scale = torch.full((4,), 2.0, dtype=torch.float64)
    for example in (IMAGES, (IMAGES,), {"x": IMAGES}, (IMAGES, scale), {"scale": scale, "x": IMAGES}):
        small = compact(model, example)
        assert small.conv1.out_channels == 5
        assert_same(small, model, IMAGES)
    double = small.eval()(IMAGES, scale)
    torch.testing.assert_close(double, 2 * small(IMAGES))


def test_what_cannot_be_followed_is_refused():
    class Branching(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = mlp()

        def forward(self, x):
            return self.net(x) if bool(x.sum() > 0) else self.net(-x)

    with pytest.raises(UnsupportedModuleError, match="cannot follow the forward pass of this Branching"):
        compact(Branching(), torch.ones(2, 8))


def test_a_model_that_puts_out_something_else_is_refused():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.calls = kill(mlp(), ("0", 3)), 0

        def forward(self, x):
            self.calls += 1
            return self.net(x) * self.calls

    with pytest.raises(
        UnsupportedModuleError, match="without its dead units the model puts out something else"
    ):
        compact(Counting(), torch.ones(2, 8))

    class Written(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = kill(mlp(), ("0", 3))

        def forward(self, x):
            if self.net[0].out_features != 7:
                raise RuntimeError("seven are expected")
            return self.net(x)

    with pytest.raises(UnsupportedModuleError, match="the model does not run: seven are expected"):
        compact(Written(), torch.ones(2, 8))
