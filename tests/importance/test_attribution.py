# SPDX-License-Identifier: BSD-3-Clause
"""Attributions beside plain autograd on one sample at a time, in float64."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from unlearnkit import GradCAM, GradientActivation
from unlearnkit.importance.attribution import cam, summary

N, K = 11, 4


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)
        self.conv2, self.norm2 = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)

    def forward(self, x):
        hidden = F.relu(self.norm1(self.conv1(x)), inplace=True)
        out = self.norm2(self.conv2(hidden))
        out += x
        return F.relu(out, inplace=True)


class ResNet(nn.Module):
    """Functional ReLUs, and residual sums, in place."""

    def __init__(self):
        super().__init__()
        self.stem, self.blocks = nn.Conv2d(3, 6, 3), nn.Sequential(Block(6), Block(6))
        self.fc = nn.Linear(6, K)

    def forward(self, x):
        return self.fc(self.blocks(F.relu(self.stem(x))).mean((2, 3)))


class Attention(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x):
        q, k, v = (t.unflatten(-1, (2, -1)).transpose(1, 2) for t in self.qkv(x).chunk(3, -1))
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Layer(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(width), Attention(width)
        self.norm2 = nn.LayerNorm(width)
        self.fc1, self.fc2 = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


class ViT(nn.Module):
    """As timm has it: patches in a grid of 2 x 3, extra tokens before them, read by the first or their mean."""

    def __init__(self, extra=1, pool="token"):
        super().__init__()
        self.extra, self.pool = extra, pool
        self.tokens = nn.Parameter(torch.randn(1, extra, 8))
        self.position = nn.Parameter(torch.randn(1, 6 + extra, 8))
        self.patch_embed = nn.Conv2d(3, 8, 2, 2)
        self.blocks = nn.Sequential(Layer(8), Layer(8))
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, K)

    def forward(self, x):
        x = self.patch_embed(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.tokens.expand(len(x), -1, -1), x], 1) + self.position
        x = self.norm(self.blocks(x))
        return self.head(x[:, 0] if self.pool == "token" else x[:, self.extra :].mean(1))


class Twice(nn.Module):
    """A layer that is called twice."""

    def __init__(self):
        super().__init__()
        self.first, self.shared, self.last = nn.Linear(72, 5), nn.Linear(5, 5), nn.Linear(5, K)

    def forward(self, x):
        x = self.shared(self.first(x.flatten(1)).relu()).relu()
        return self.last(self.shared(x).relu())


def mlp(inplace=False):
    return nn.Sequential(
        nn.Flatten(), nn.Linear(72, 9), nn.ReLU(inplace), nn.Linear(9, 7), nn.ReLU(inplace), nn.Linear(7, K)
    )


def convnet(inplace=False):
    return nn.Sequential(
        nn.Conv2d(3, 5, 3, padding=1), nn.BatchNorm2d(5), nn.ReLU(inplace),
        nn.Conv2d(5, 6, 3, padding=1), nn.ReLU(inplace), nn.Dropout(),
        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 7), nn.ReLU(inplace), nn.Linear(7, K),
    )  # fmt: skip


def made(build, *arguments):
    """Return a network in float64 with statistics of its own, in training mode, and data [N, 3, 4, 6]."""
    torch.manual_seed(1)
    model = build(*arguments).double()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    draw = torch.Generator().manual_seed(2)
    X = torch.randn(N, 3, 4, 6, generator=draw, dtype=torch.float64)
    return model, (X, torch.randint(K, (N,), generator=draw))


def plain_score(logits, label, target):
    """Score one sample's logits [K]."""
    if target == "label":
        return logits[label]
    if target == "predicted":
        return logits[int(logits.argmax())]
    if target == "margin":
        return logits[label] - max(logits[k] for k in range(K) if k != label)
    return -F.cross_entropy(logits[None], label[None])  # "loss"


def by_loop(model, data, layer, target):
    """Return activation and gradient of each sample, one after the other."""
    model, pairs = copy.deepcopy(model).eval(), []
    for module in model.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    kept = []
    model.get_submodule(layer).register_forward_hook(lambda module, given, output: kept.append(output))
    for x, y in zip(*data, strict=True):
        logits = model(x[None])[0]
        scores = [plain_score(logits, y, target)] if target != "max" else list(logits)
        grads = [torch.autograd.grad(score, kept[-1], retain_graph=True)[0][0].numpy() for score in scores]
        pairs.append((kept[-1].detach()[0].numpy(), np.max(grads, axis=0)))
    return pairs


def positions(array, channels):
    """Return an array of one sample as [P, C]."""
    return np.moveaxis(np.atleast_1d(array), channels, -1).reshape(-1, array.shape[channels])


# a network, a layer, the axis of its channels (of one sample's output), the extra tokens before its patches
LAYERS = [
    (mlp, (), "1", 0, 0),
    (mlp, (), "4", 0, 0),
    (mlp, (True,), "3", 0, 0),
    (convnet, (), "0", 0, 0),
    (convnet, (True,), "3", 0, 0),
    (convnet, (True,), "2", 0, 0),
    (ResNet, (), "stem", 0, 0),
    (ResNet, (), "blocks.0.conv2", 0, 0),
    (ResNet, (), "blocks.1", 0, 0),
    (ViT, (), "patch_embed", 0, 0),
    (ViT, (), "blocks.1.norm1", -1, 1),
    (ViT, (), "blocks.1.attn.qkv", -1, 1),
    (ViT, (3,), "blocks.0", -1, 3),
    (ViT, (0, "mean"), "norm", -1, 0),
    (Twice, (), "shared", 0, 0),
]
by_layer = pytest.mark.parametrize(
    ("build", "arguments", "layer", "axis", "extra"),
    LAYERS,
    ids=[f"{b.__name__}-{n}" for b, _, n, *_ in LAYERS],
)


@pytest.mark.parametrize("target", ["predicted", "label", "margin", "max", "loss"])
@by_layer
def test_gradient_times_activation_is_the_loops(build, arguments, layer, axis, extra, target):
    model, data = made(build, *arguments)
    expected = np.stack([positions(a * g, axis).sum(0) for a, g in by_loop(model, data, layer, target)])
    found = GradientActivation(layer, target, signed=True).measure(model, data)
    assert found.dtype == torch.float32 and expected.any()
    np.testing.assert_allclose(found, expected, 1e-6, 1e-7 * np.abs(expected).max())
    assert torch.equal(GradientActivation(layer, target).measure(model, data), found.abs())


@pytest.mark.parametrize("target", ["label", "predicted", "margin", "loss"])
@by_layer
def test_grad_cam_is_the_loops(build, arguments, layer, axis, extra, target):
    model, data = made(build, *arguments)
    channels, maps = [], []
    for a, g in by_loop(model, data, layer, target):
        a, g = (positions(one, axis)[extra:] for one in (a, g))
        alpha = sum(g) / len(g)
        channels.append(alpha * a.mean(0))
        maps.append([max(0.0, float(sum(alpha * row))) for row in a])
    channels, maps = np.stack(channels), np.array(maps)
    assert channels.any() and (maps > 0).any()
    for features, expected in (("channels", channels), ("map", maps)):
        found = GradCAM(layer, target, features).measure(model, data)
        np.testing.assert_allclose(found, expected, 1e-6, 1e-7 * np.abs(expected).max())
    images = GradCAM(layer, target).maps(model, data)
    assert images.dim() == 3 and images.shape[1:] in {(1, 1), (2, 3), (2, 4), (4, 6)}
    assert torch.equal(images.flatten(1), found)
    shares = maps / np.where(maps.sum(1, keepdims=True) > 0, maps.sum(1, keepdims=True), np.nan)
    entropy = np.nansum(-shares * np.log(np.where(shares > 0, shares, 1)), 1)
    entropy[maps.sum(1) == 0] = np.log(maps.shape[1])
    losses = F.cross_entropy(copy.deepcopy(model).eval()(data[0]), data[1], reduction="none").detach()
    expected = np.stack([maps.mean(1), maps.max(1), entropy, losses], 1)
    np.testing.assert_allclose(GradCAM(layer, target, "summary").measure(model, data), expected, 1e-5, 1e-6)


@pytest.mark.parametrize(
    ("build", "arguments", "of_maps", "hidden"),
    [
        (mlp, (), "3", "3"),
        (convnet, (), "3", "8"),
        (ResNet, (), "blocks.1.conv2", "blocks.1.conv2"),
        (ViT, (), "blocks.1.norm1", "blocks.1.fc2"),  # behind it, no other token than the class's matters
        (ViT, (2, "mean"), "norm", "blocks.1.fc2"),
        (Twice, (), "shared", "shared"),
    ],
)
def test_the_layer_that_is_looked_at_where_none_is_named(build, arguments, of_maps, hidden):
    model, data = made(build, *arguments)
    assert torch.equal(GradCAM().measure(model, data), GradCAM(of_maps).measure(model, data))
    assert torch.equal(
        GradientActivation().measure(model, data), GradientActivation(hidden).measure(model, data)
    )


@settings(max_examples=40)
@given(st.integers(1, 9), st.integers(1, 6), st.integers(1, 12), st.booleans(), st.integers(0, 99))
def test_the_papers_attribution_is_a_product_of_the_features_with_a_constant(units, classes, n, bias, seed):
    torch.manual_seed(seed)
    head = nn.Linear(units, classes, bias)
    model = nn.Sequential(nn.Linear(5, units), nn.ReLU(inplace=True), head).double()
    X = torch.randn(n, 5, dtype=torch.float64)
    with torch.no_grad():
        expected = model[0](X).relu() * head.weight.max(0).values.abs()
    found = GradientActivation("0", "max").measure(model, (X, torch.zeros(n).long()))
    torch.testing.assert_close(found, expected.float())


@settings(max_examples=40)
@given(st.lists(st.integers(1, 7), min_size=1, max_size=3), st.integers(0, 99))
def test_what_the_units_add_makes_up_the_logit_of_a_network_without_biases(widths, seed):
    torch.manual_seed(seed)
    layers = [nn.Linear(6, widths[0])]
    for before, after in zip(widths, [*widths[1:], K], strict=True):
        layers += [nn.ReLU(), nn.Linear(before, after, bias=False)]
    model = nn.Sequential(*layers).double()
    X, y = torch.randn(5, 6, dtype=torch.float64), torch.arange(5) % K
    for layer in range(len(layers) - 1):
        found = GradientActivation(str(layer), "label", signed=True).measure(model, (X, y)).sum(1)
        torch.testing.assert_close(found, model(X)[torch.arange(5), y].float(), rtol=1e-5, atol=1e-6)


def test_the_layer_does_not_depend_on_how_well_samples_are_fitted():
    model, (X, _) = made(ViT)
    with torch.no_grad():
        model.head.weight *= 1e4  # cross-entropy of the predicted class: exactly 0, without a gradient
    y = copy.deepcopy(model).eval()(X).argmax(1)
    wrong = (y + 1) % K
    fitted = torch.arange(N) < 9
    found = GradCAM(target="loss").measure(model, (X, torch.where(fitted, y, wrong)))
    assert not found[fitted].any() and found[~fitted].any()
    named = GradCAM("blocks.1.norm1", "loss").measure(model, (X, wrong))
    assert torch.equal(found[~fitted], named[~fitted])


@settings(max_examples=40)
@given(st.lists(st.integers(0, 5), min_size=1), st.sampled_from(["channels", "map", "summary", "units"]))
def test_rows_do_not_depend_on_the_batches(sizes, features):
    model, data = made(ResNet)
    estimator = GradientActivation(target="max") if features == "units" else GradCAM(features=features)
    cut = [sum(sizes[: at + 1]) for at in range(len(sizes)) if sum(sizes[: at + 1]) < N]
    batches = [*zip(*(part.tensor_split(cut) for part in data), strict=True)]
    found = torch.cat(list(estimator.stream(model, batches)))
    torch.testing.assert_close(found, estimator.measure(model, data), rtol=1e-6, atol=1e-9)


def test_the_sequences_of_other_libraries_are_read_too():
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16,
        image_size=8, patch_size=4, num_labels=K,
    )  # fmt: skip
    model = transformers.ViTForImageClassification(config).double()
    batch = {"pixel_values": torch.randn(3, 3, 8, 8).double(), "labels": torch.arange(3)}
    norm = next(name for name, _ in model.named_modules() if name.endswith("1.layernorm_before"))
    assert GradCAM().maps(model, batch).shape == (3, 2, 2)
    kept = []
    model.eval().get_submodule(norm).register_forward_hook(lambda module, given, output: kept.append(output))
    logits = model(pixel_values=batch["pixel_values"]).logits
    gradient = torch.autograd.grad(logits[torch.arange(3), batch["labels"]].sum(), kept[0])[0]
    a, g = kept[0].detach()[:, 1:], gradient[:, 1:]
    model.get_submodule(norm)._forward_hooks.clear()
    expected = (a * g.mean(1, keepdim=True)).sum(-1).relu()
    found = GradCAM(features="map").measure(model, [batch])
    torch.testing.assert_close(found, expected.float(), rtol=1e-5, atol=1e-9)
    whole = norm.removesuffix(".layernorm_before")  # a module that may return a tuple
    assert GradientActivation(whole).measure(model, [batch]).shape == (3, 8)


def test_channels_last_and_sequences_of_channels():
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 5, 3, padding=1), nn.LayerNorm(5)
            self.row, self.act, self.head = nn.Conv1d(5, 7, 3), nn.ReLU(), nn.Linear(7, K)

        def forward(self, x):
            x = self.norm(self.conv(x).permute(0, 2, 3, 1))  # [N, H, W, 5]
            return self.head(self.act(self.row(x.mean(1).transpose(1, 2))).mean(2))

    model, data = made(Mixed)
    for layer, channels in (("conv", 5), ("norm", 5), ("row", 7), ("act", 7)):
        assert GradientActivation(layer).measure(model, data).shape == (N, channels)
    assert GradCAM("norm").maps(model, data).shape == (N, 4, 6)
    assert GradCAM("act").maps(model, data).shape == (N, 1, 4)


def test_an_output_of_a_number_a_sample_is_one_unit():
    class Gate(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.one, self.head = nn.Linear(72, 1), nn.Flatten(0), nn.Linear(3, K)

        def forward(self, x):
            return self.head(x[:, :, 0, 0]) * self.one(self.first(x.flatten(1)))[:, None]

    model, (X, y) = made(Gate)
    logits = model(X)[torch.arange(N), y].detach().float()
    found = GradientActivation("one", "label", signed=True).measure(model, (X, y))
    torch.testing.assert_close(found, logits[:, None])  # the logit is proportional to it
    torch.testing.assert_close(GradCAM("one").maps(model, (X, y)), logits.relu()[:, None, None])


def test_a_mean_over_the_positions_that_have_a_label():
    model, (X, _) = made(lambda: nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.ReLU(), nn.Conv2d(5, K, 1)))
    y = torch.randint(K, (N, 4, 6))
    y[:, 2:] = -100
    y[0] = -100
    found = GradientActivation("1", "label", signed=True).measure(model, (X, y))
    hidden = model[1](model[0](X)).detach()
    weight = model[2].weight[:, :, 0, 0]
    expected = (weight[y[:, :2].clamp(min=0)] * hidden[:, :, :2].movedim(1, -1)).mean((1, 2))
    expected[0] = 0
    torch.testing.assert_close(found, expected.detach().float())


def test_soft_labels_count_as_the_likeliest():
    model, (X, y) = made(mlp)
    soft = F.one_hot(y, K).double() * 0.6 + 0.1
    for target in ("label", "margin"):
        estimator = GradientActivation(target=target)
        assert torch.equal(estimator.measure(model, (X, soft)), estimator.measure(model, (X, y)))


def test_a_loss_of_ones_own_takes_the_place_of_classes():
    model = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 1)).double()
    X = torch.randn(N, 3, dtype=torch.float64)
    y = X.sum(1)

    def loss(model, batch):
        return (model(batch[0])[:, 0] - batch[1]).square()

    found = GradientActivation("1", "loss", signed=True).measure(model, (X, y), loss)
    hidden = model[:2](X)
    error = model[2](hidden)[:, 0] - y
    torch.testing.assert_close(found, (-2 * error[:, None] * model[2].weight * hidden).detach().float())
    rows = GradCAM("1", "loss", "summary").measure(model, (X, y), loss)
    torch.testing.assert_close(rows[:, 3], error.square().detach().float())
    # with classes, the loss is what a summary holds of it
    model, data = made(mlp)
    rows = GradCAM(features="summary").measure(model, data, lambda model, batch: batch[1] + 0.5)
    assert torch.equal(rows[:, 3], data[1] + 0.5)


def test_half_precision_and_single():
    model, (X, y) = made(convnet)
    whole = GradCAM().measure(model, (X, y))
    torch.testing.assert_close(GradCAM().measure(model.float(), (X.float(), y)), whole, rtol=1e-4, atol=1e-6)
    small = nn.Sequential(nn.Flatten(), nn.Linear(72, 9, False), nn.ReLU(), nn.Linear(9, K, False))
    for weight in small.parameters():  # integers of eight bits: nothing is rounded
        weight.data = torch.randint_like(weight, -1, 2)
    X = X.sign()
    for estimator in (GradCAM("1"), GradientActivation("1", "max")):
        found = estimator.measure(small.bfloat16(), (X.bfloat16(), y))
        assert found.any() and torch.equal(found, estimator.measure(small.double(), (X, y)))


def test_gradients_of_units_that_write_over_each_other_are_kept_apart():
    """A module that returns what it was given, which is then written to under another name."""

    class Passing(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.same, self.last = nn.Linear(72, 5), nn.Identity(), nn.Linear(5, K)

        def forward(self, x):
            before = self.first(x.flatten(1))
            after = self.same(before)
            before.mul_(0)
            return self.last(after + before)

    model, (X, y) = made(Passing)
    found = GradientActivation("same", "label", signed=True).measure(model, (X, y))
    expected = model.first(X.flatten(1)) * model.last.weight[y]
    torch.testing.assert_close(found, expected.detach().float())


def test_plain_functions_at_the_edges():
    a, g = torch.zeros(0, 6, 3), torch.zeros(0, 6, 3)
    model, (X, y) = made(convnet)
    assert GradCAM().maps(model, (X[:0], y[:0])).shape == (0, 4, 6)
    assert cam(a, g).shape == (0, 6) and summary(cam(a, g), torch.zeros(0)).shape == (0, 4)
    rows = summary(torch.tensor([[0.0, 0, 0, 0], [0, 2, 0, 0], [1, 1, 1, 1]]), torch.tensor([1.0, 2, 3]))
    even = float(np.log(4))
    expected = torch.tensor([[0, 0, even, 1], [0.5, 2, 0, 2], [1, 1, even, 3]])
    torch.testing.assert_close(rows, expected)
