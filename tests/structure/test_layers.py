# SPDX-License-Identifier: BSD-3-Clause
import pytest
import torch
from torch import nn
from torch.nn.parallel import DataParallel
from torch.nn.utils import parametrizations

from unlearnkit.exceptions import DataError, UnsupportedModuleError
from unlearnkit.structure.layers import called_layers, head_of, last_conv, last_hidden, last_layer
from unlearnkit.testing._state import difference, model_state, random_state, surroundings
from unlearnkit.testing._task import Odd, Tied, convnet, mlp

BATCH = (torch.rand(4, 3, 4, 4, generator=torch.Generator().manual_seed(0)), torch.arange(4) % 3)


class Residual(nn.Module):
    """Two blocks, the second with a shortcut, and a norm that is used twice."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(8, 3)
        self.stem, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.one, self.two = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 8, 3, padding=1)
        self.shortcut = nn.Conv2d(4, 8, 1)
        self.unused = nn.Linear(1, 1)

    def forward(self, x):
        x = self.norm(self.stem(x)).relu()
        x = (x + self.norm(self.one(x))).relu()
        return self.head((self.shortcut(x) + self.two(x)).relu().mean((2, 3)))


class Encoder(nn.Module):
    """torch's own transformer layer, which has a shortcut that runs none of its modules."""

    def __init__(self):
        super().__init__()
        self.token = nn.Parameter(torch.rand(1, 1, 8))
        self.patches = nn.Conv2d(3, 8, 2, 2)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        return self.head(self.layer(torch.cat([self.token.expand(len(x), -1, -1), x], 1))[:, 0])


def names(model, batch=BATCH):
    return [name for name, _ in called_layers(model, batch)]


def test_layers_come_in_the_order_of_their_last_call():
    model = Residual()
    assert names(model) == ["stem", "one", "norm", "shortcut", "two", "head"]
    assert all(model.get_submodule(name) is module for name, module in called_layers(model, BATCH))


def test_a_module_that_runs_others_is_no_layer_whatever_parameters_it_has():
    found = names(Encoder())
    assert found[0] == "patches" and found[-1] == "head" and "" not in found
    inside = {"self_attn", "norm1", "linear1", "linear2", "norm2"}
    assert set(found[1:-1]) == {f"layer.{name}" for name in inside}
    assert names(Tied()) == ["first", "again", "head"]


def test_weights_that_are_computed_belong_to_their_layer():
    model = nn.Sequential(parametrizations.weight_norm(nn.Linear(48, 4, bias=False)), nn.Linear(4, 3))
    model.insert(0, nn.Flatten())
    assert names(model) == ["1", "2"]


def test_wrapped_models_have_the_same_layers():
    plain = names(convnet())
    assert plain == ["0", "1", "5"]
    assert names(DataParallel(convnet()).cpu()) == plain
    assert names(torch.compile(convnet(), backend="eager")) == plain


@pytest.mark.parametrize(
    ("build", "hidden", "conv", "head"),
    [
        (mlp, "1", None, "3"),
        (convnet, "0", "0", "5"),
        (Residual, "two", "two", "head"),
        (Encoder, "layer.linear2", "patches", "head"),
        (Odd, "net.1", None, "net.3"),
    ],
)
def test_which_layer_is_what(build, hidden, conv, head):
    model = build()
    assert last_hidden(model, BATCH) == hidden
    assert last_conv(model, BATCH) == conv
    assert last_layer(model, BATCH, "") is model.get_submodule(head)
    assert head_of(model, BATCH) == [f"{head}.weight", f"{head}.bias"]


def test_what_scales_logits_is_not_the_head_that_the_hidden_layer_feeds():
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 5), nn.ReLU(), nn.Linear(5, 3), nn.BatchNorm1d(3))
    assert last_hidden(model, BATCH) == "1"
    fully = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 1), nn.AdaptiveAvgPool2d(1))
    assert (last_hidden(fully, BATCH), last_conv(fully, BATCH)) == ("0", "0")


def test_a_head_of_another_kind_is_a_head():
    class Cosine(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.rand(3, 5))

        def forward(self, x):
            return nn.functional.linear(nn.functional.normalize(x), nn.functional.normalize(self.weight))

    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 7), nn.ReLU(), nn.Linear(7, 5), Cosine())
    assert last_hidden(model, BATCH) == "3"
    assert head_of(model, BATCH) == ["4.weight"]


def test_mappings_are_batches_too():
    class Keyed(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = mlp()

        def forward(self, pixels):
            return {"logits": self.net(pixels)}

    assert names(Keyed(), {"labels": BATCH[1], "pixels": BATCH[0]}) == ["net.1", "net.3"]


@pytest.mark.parametrize("build", [convnet, Encoder])
def test_the_model_is_left_as_it_was_even_by_an_error(build):
    model = build().train()
    model(BATCH[0]).sum().backward()
    before = model_state(model) | random_state() | surroundings()
    last_hidden(model, BATCH)
    with pytest.raises(RuntimeError):
        called_layers(model, (BATCH[0][:, :2], BATCH[1]))
    assert difference(before, model_state(model) | random_state() | surroundings()) is None


def test_a_model_without_such_a_layer_is_told():
    with pytest.raises(UnsupportedModuleError, match=r"no Linear and no convolution before its head.*layer="):
        last_hidden(nn.Sequential(nn.Flatten(), nn.Linear(48, 3)), BATCH)
    with pytest.raises(UnsupportedModuleError, match=r"no layer with parameters.*name it with head="):
        last_layer(nn.Flatten(), BATCH, "name it with head=")
    assert called_layers(nn.Flatten(), BATCH) == []
    assert last_conv(nn.Flatten(), BATCH) is None


def test_the_head_is_found_through_a_loss_where_the_model_takes_other_inputs():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.last, self.first = nn.Linear(3, 2), nn.Linear(3, 3)

        def forward(self, x, time):
            return self.last(self.first(x) + time)

    def loss(model, batch):
        return model(batch[0], 1.0).square().mean(1)

    batch = (torch.randn(4, 3), torch.zeros(4))
    assert head_of(Two(), batch, loss=loss) == ["last.weight", "last.bias"]
    with pytest.raises(DataError, match=r"time.*loss="):
        head_of(Two(), batch)
