# SPDX-License-Identifier: BSD-3-Clause
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from unlearnkit.data import evaluating
from unlearnkit.structure import Units, activations_of, closure, units_of
from unlearnkit.testing._state import difference, model_state, random_state, surroundings

UNITS = {
    "Sequential": [
        Units("1", "1.weight", "1.bias", ("2.weight", "2.bias"), 7),
        Units("4", "4.weight", "4.bias", (), 5),
        Units("6", "6.weight", "6.bias", (), 4, is_output=True),
    ],
    "Residual": [
        Units("stem", "stem.weight", "stem.bias", ("norm.weight", "norm.bias"), 6),
        Units("conv1", "conv1.weight", None, ("norm1.weight", "norm1.bias"), 5),
        Units("conv2", "conv2.weight", None, ("norm2.weight", "norm2.bias"), 6),
        Units("head", "head.weight", "head.bias", (), 4, is_output=True),
    ],
    "Tokens": [
        Units("patches", "patches.weight", "patches.bias", (), 8),
        Units("encoder.linear1", "encoder.linear1.weight", "encoder.linear1.bias", (), 12),
        Units("encoder.linear2", "encoder.linear2.weight", "encoder.linear2.bias", (), 8),
        Units("head", "head.weight", "head.bias", (), 4, is_output=True),
    ],
    "Mixed": [
        Units("depthwise", "depthwise.weight", "depthwise.bias", ("group.weight", "group.bias"), 6),
        Units("twice", "twice.weight", "twice.bias", (), 7),
        Units("again", "again.weight", None, (), 7),
        Units("first", "first.weight", "first.bias", (), 9),
        Units("head", "head.weight", "head.bias", (), 4, is_output=True),
    ],
}
LEFT_OUT = {
    "encoder.self_attn.out_proj": "not called",
    "up": "transposed",
    "normed": "computed from other parameters",
    "embed": "shared with a",
    "unused": "not called",
    "flat": "6 samples in its first",
}


def test_units_are_those_of_the_layers(network, batch):
    found = units_of(network, batch)
    assert list(found.values()) == UNITS[type(network).__name__]
    assert list(found) == [units.layer for units in found.values()]
    for layer, why in found.left_out.items():
        assert LEFT_OUT[layer] in why
    layers = {
        n for n, m in network.named_modules() if isinstance(m, nn.Linear | nn.Conv2d | nn.ConvTranspose2d)
    }
    assert layers - {"tied", "second"} <= {*found, *found.left_out} <= {*layers, "embed"}
    shapes = {name: parameter.shape for name, parameter in network.named_parameters()}
    assert all(shapes[name][0] == units.count for units in found.values() for name in units.parameters)


def test_a_unit_that_is_zero_puts_out_zero(network, batch):
    found = units_of(network, batch)
    parameters = dict(network.named_parameters())
    with torch.no_grad():
        for units in found.values():
            for name in units.parameters:
                parameters[name][1] = 0
    with evaluating(network):
        values = activations_of(network, batch, found)
    for layer, value in values.items():
        if (type(network).__name__, layer) in (("Mixed", "twice"), ("Mixed", "again")):
            continue  # their norm is not theirs alone
        assert not value[:, 1].any(), layer
        assert value.any(), layer


def test_nothing_is_touched(network, batch):
    before = model_state(network) | random_state() | surroundings()
    with torch.inference_mode():
        units_of(network, batch)
    assert difference(before, model_state(network) | random_state() | surroundings()) is None
    fastpath = torch.backends.mha.get_fastpath_enabled()
    with pytest.raises(RuntimeError):
        units_of(network, (torch.ones(6, 2, 2), batch[1]))
    assert difference(before, model_state(network) | random_state() | surroundings()) is None
    assert torch.backends.mha.get_fastpath_enabled() is fastpath


class Then(nn.Module):
    """A layer, then whatever is done with its output."""

    def __init__(self, layer, norm, forward):
        super().__init__()
        self.layer, self.norm, self.head = layer, norm, nn.Linear(1, 2)
        self.done = forward

    def forward(self, x):
        return self.head(self.done(self, x).flatten(1).mean(1, keepdim=True))


def linear():
    return nn.Linear(4, 4)


def conv():
    return nn.Conv1d(4, 4, 1)


@pytest.mark.parametrize(
    ("layer", "norm", "forward", "follows"),
    [
        (linear, nn.LayerNorm(4), lambda m, x: m.norm(m.layer(x)), True),
        (linear, nn.RMSNorm(4), lambda m, x: m.norm(m.layer(x)), True),
        (linear, nn.LayerNorm([4, 4]), lambda m, x: m.norm(m.layer(x)), False),
        (linear, nn.BatchNorm1d(4), lambda m, x: m.norm(m.layer(x)), False),  # its channels are the tokens
        (linear, nn.BatchNorm1d(4), lambda m, x: m.norm(m.layer(x[:, 0])), True),
        (linear, nn.BatchNorm1d(4), lambda m, x: m.norm(F.relu(m.layer(x[:, 0]))), False),
        (linear, nn.BatchNorm1d(4), lambda m, x: m.norm(m.layer(x[:, 0]).add_(1)), False),
        (linear, nn.BatchNorm1d(4), lambda m, x: m.norm(F.dropout(m.layer(x[:, 0]), 0.5, m.training)), True),
        (linear, nn.BatchNorm1d(4), lambda m, x: m.norm(m.norm(m.layer(x[:, 0]))), False),
        (linear, nn.BatchNorm1d(4), lambda m, x: m.norm(m.layer(m.layer(x[:, 0]))), False),
        (linear, nn.BatchNorm1d(4, affine=False), lambda m, x: m.norm(m.layer(x[:, 0])), False),
        (conv, nn.LayerNorm(4), lambda m, x: m.norm(m.layer(x)), False),
        (conv, nn.BatchNorm1d(4), lambda m, x: m.norm(m.layer(x)), True),
        (conv, nn.InstanceNorm1d(4, affine=True), lambda m, x: m.norm(m.layer(x)), True),
    ],
)
def test_a_norm_follows_where_its_channels_are_the_units(layer, norm, forward, follows):
    model = Then(layer(), norm, forward)
    found = units_of(model, (torch.randn(3, 4, 4), torch.zeros(3)))["layer"]
    assert found.affine == (tuple(f"norm.{name}" for name, _ in norm.named_parameters()) if follows else ())


def test_a_norm_whose_affine_is_anothers_too_is_not_the_units():
    model = Then(nn.Linear(4, 4), nn.LayerNorm(4), lambda m, x: m.norm(m.layer(x)))
    model.other = nn.LayerNorm(4)
    model.other.weight = model.norm.weight
    assert units_of(model, (torch.randn(3, 4), torch.zeros(3)))["layer"].affine == ()


def test_outputs_are_told_by_the_tensor_and_by_the_order():
    class Early(nn.Module):
        """Its output is not what its last layer makes."""

        def __init__(self):
            super().__init__()
            self.hidden, self.out, self.norm, self.late = linear(), linear(), nn.LayerNorm(4), linear()

        def forward(self, x):
            x = self.hidden(x).relu()
            found = self.norm(self.out(x))
            self.late(x)
            return found

    found = units_of(Early(), (torch.randn(3, 4), torch.zeros(3)))
    assert [layer for layer, units in found.items() if units.is_output] == ["out", "late"]


def test_biases_that_part_a_shared_weight_are_left_out():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2))
    model[1].weight = model[0].weight
    found = units_of(model, (torch.randn(3, 4), torch.zeros(3)))
    assert list(found) == ["2"]
    assert "shared with different modules" in found.left_out["0"]
    model[1].bias = model[0].bias
    assert units_of(model, (torch.randn(3, 4), torch.zeros(3)))["0"].bias == "0.bias"


@pytest.mark.parametrize("wrap", [nn.DataParallel, lambda m: torch.compile(m, backend="eager")])
def test_names_do_not_depend_on_wrappers(wrap, network, batch):
    expected = units_of(network, batch)
    wrapped = wrap(network).cpu()
    assert dict(units_of(wrapped, batch)) == dict(expected)
    found = units_of(nn.Sequential(wrapped), batch)
    assert [units.weight for units in found.values()] == [f"0.{u.weight}" for u in expected.values()]


def test_the_closure_holds_whole_units_of_whole_rows(network, batch):
    units = units_of(network, batch)
    parameters = dict(network.named_parameters())
    mask = {name: torch.zeros(p.shape, dtype=torch.bool) for name, p in parameters.items()}
    for own in units.values():
        mask[own.weight][1] = True
        mask[own.weight][2].view(-1)[1:] = True  # in part
        if own.bias:
            mask[own.bias][0] = True  # without its row
    frozen = next(iter(units.values())).parameters[1]
    parameters[frozen].requires_grad_(False)
    found = closure(network, batch, mask)
    assert {name: value.shape for name, value in found.items()} == {n: p.shape for n, p in parameters.items()}
    owned = {name for own in units.values() if not own.is_output for name in own.parameters} - {frozen}
    assert owned
    for name, value in found.items():
        expected = torch.zeros_like(value)
        if name in owned:
            expected[1] = True
        assert torch.equal(value, expected), name
    last = [*units.values()][-1].weight
    assert not any(value.any() for value in closure(network, batch, {last: mask[last]}).values())
