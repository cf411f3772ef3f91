# SPDX-License-Identifier: BSD-3-Clause
"""Networks of sets, graphs, tables, and other losses: all weights must take the fast way, and be exact."""

import functools

import pytest
import torch
from torch import nn
from torch.nn import functional as F

N, K = 5, 4  # samples, classes


def sequences(length=6, width=8):
    return [(torch.randn(n, length, width), torch.randint(0, K, (n,))) for n in (N, 2)]


def words(length=6, size=11):
    shapes = [(N, length), (2, length + 1), (1, length)]
    return [(torch.randint(0, size, s), torch.randint(0, K, (s[0],))) for s in shapes]


class Net(nn.Module):
    """Parts and weights, and a function that uses them."""

    def __init__(self, forward, **parts):
        super().__init__()
        for name, part in parts.items():
            if isinstance(part, tuple):
                part = nn.Parameter(torch.randn(part) * 0.5)
            setattr(self, name, part)
        self._forward = forward

    def forward(self, *inputs):
        return self._forward(self, *inputs)


ZOO = {}


def zoo(build):
    """Enter a function that returns a model and its batches, and perhaps a loss."""
    ZOO[build.__name__] = build
    return build


@zoo
def sets_of_points():
    def forward(self, x):
        h = self.norm(self.conv(x.transpose(1, 2))).relu().max(2)[0]  # PointNet
        return self.head(torch.cat([h, self.sum(x).relu().sum(1)], 1))  # DeepSets

    parts = {"conv": nn.Conv1d(8, 6, 1), "norm": nn.BatchNorm1d(6), "sum": nn.Linear(8, 4)}
    return Net(forward, head=nn.Linear(10, K), **parts), sequences()


@zoo
def graph():
    source, target = torch.tensor([0, 1, 2, 3, 5]), torch.tensor([1, 2, 0, 4, 4])
    fixed = torch.rand(6, 6, dtype=torch.float64)

    def forward(self, x):  # [N, nodes, E]
        h = (fixed @ self.first(x)).relu()
        messages = self.message(torch.cat([h[:, source], h[:, target]], -1))
        h = torch.zeros_like(h).index_add(1, target, messages).relu()
        h = self.adjacency.softmax(-1) @ h
        return self.head(h.mean(1))

    linear = {"first": nn.Linear(8, 5), "message": nn.Linear(10, 5), "head": nn.Linear(5, K)}
    return Net(forward, adjacency=(6, 6), **linear), sequences()


@zoo
def tab_transformer():
    def forward(self, categories, numbers):
        columns = [table(categories[:, i]) for i, table in enumerate(self.tables)]
        h = self.layer(torch.stack(columns, 1)).flatten(1)
        return self.head(torch.cat([h, self.norm(numbers)], 1))

    tables = nn.ModuleList(nn.Embedding(5, 8) for _ in range(3))
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    batches = [(torch.randint(0, 5, (n, 3)), torch.randn(n, 5), torch.randint(0, K, (n,))) for n in (N, 2)]
    return Net(forward, tables=tables, layer=layer, norm=nn.LayerNorm(5), head=nn.Linear(29, K)), batches


@zoo
def factorisation_and_cross_layers():
    def forward(self, x):  # [N, 8]
        pairs = ((x @ self.factors) ** 2 - x**2 @ self.factors**2).sum(1, keepdim=True) / 2
        h = x
        for weight, bias in ((self.w, self.b), (self.v, self.c)):
            h = x * (h @ weight)[:, None] + bias + h
        return self.head(h) + pairs

    weights = {"factors": (8, 3), "w": (8,), "b": (8,), "v": (8,), "c": (8,)}
    return Net(forward, head=nn.Linear(8, K), **weights), [(x[:, 0], y) for x, y in sequences()]


@zoo
def matrix_factorisation():
    def forward(self, users, items):
        return (self.users(users) * self.items(items)).sum(1) + self.bias(users)[:, 0] + self.mean

    def loss(model, batch):
        return (model(*batch[:2]) - batch[2]) ** 2

    tables = {"users": nn.Embedding(7, 4), "items": nn.Embedding(7, 4), "bias": nn.Embedding(7, 1)}
    batches = [(torch.randint(0, 7, (n,)), torch.randint(0, 7, (n,)), torch.rand(n)) for n in (N, 2)]
    return Net(forward, mean=(), **tables), batches, loss


@zoo
def splines_and_radial_functions():
    def forward(self, x):  # [N, 8], Kolmogorov-Arnold
        powers = torch.stack([x, x**2, x.sin()], -1)
        h = torch.einsum("nik,oik->no", powers, self.splines)
        distance = (h[:, None] - self.centres).square().sum(-1)
        return self.head(torch.exp(-distance * self.width.exp()))

    weights = {"splines": (5, 8, 3), "centres": (6, 5), "width": (6,)}
    return Net(forward, head=nn.Linear(6, K), **weights), [(x[:, 0] / 2, y) for x, y in sequences()]


@zoo
def soft_decision_tree():
    def forward(self, x):
        right = self.split(x).sigmoid()  # three inner nodes
        root, left, other = right.unbind(1)
        leaves = torch.stack(
            [(1 - root) * (1 - left), (1 - root) * left, root * (1 - other), root * other], 1
        )
        return leaves @ self.leaves.log_softmax(-1)

    return Net(forward, split=nn.Linear(8, 3), leaves=(4, K)), [(x[:, 0], y) for x, y in sequences()]


@zoo
def cosine_classifier():
    def forward(self, x):
        return self.scale.exp() * F.linear(F.normalize(self.body(x)), F.normalize(self.classes))

    return Net(forward, body=nn.Linear(8, 5), classes=(K, 5), scale=()), [
        (x[:, 0], y) for x, y in sequences()
    ]


@zoo
def siamese():
    def loss(model, batch):
        apart = (model(batch[0]) - model(batch[1])).square().sum(1)
        return torch.where(batch[2] > 0, apart, (2 - (apart + 1e-3).sqrt()).relu() ** 2)

    batches = [(torch.randn(n, 8), torch.randn(n, 8), torch.randint(0, 2, (n,))) for n in (N, 2)]
    return nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 3)), batches, loss


@zoo
def autoencoder_with_a_variance():
    def forward(self, x):
        mean, log_variance = self.encode(x).chunk(2, -1)
        return self.decode(mean), mean, log_variance

    def loss(model, batch):
        found, mean, log_variance = model(batch[0])
        prior = (mean**2 + log_variance.exp() - log_variance).sum(1) / 2
        return (found - batch[0]).square().sum(1) + prior

    return (
        Net(forward, encode=nn.Linear(8, 6), decode=nn.Linear(3, 8)),
        [(torch.randn(n, 8),) for n in (N, 2)],
        loss,
    )


@zoo
def several_heads():
    def forward(self, x):
        h = self.body(x).relu()
        return self.classes(h), self.value(h)

    def loss(model, batch):
        logits, value = model(batch[0])
        return F.cross_entropy(logits, batch[1], reduction="none") + (value[:, 0] - batch[2]) ** 2

    linear = {"body": nn.Linear(8, 6), "classes": nn.Linear(6, K), "value": nn.Linear(6, 1)}
    batches = [(torch.randn(n, 8), torch.randint(0, K, (n,)), torch.randn(n)) for n in (N, 2)]
    return Net(forward, **linear), batches, loss


@zoo
def tokens_of_which_some_count():
    def loss(model, batch):
        losses = F.cross_entropy(
            model(batch[0]).transpose(1, 2), batch[1], reduction="none", ignore_index=-100
        )
        return losses.sum(1) / (batch[1] != -100).sum(1).clamp(min=1)

    net = nn.Sequential(nn.Embedding(11, 6), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, K))
    batches = []
    for ids, _ in words():
        target = torch.randint(0, K, ids.shape).masked_fill(torch.rand(ids.shape) < 0.4, -100)
        target[0] = -100  # nothing counts: its gradients are zero
        batches.append((ids, target))
    return net, batches, loss


@zoo
def crf():
    def forward(self, x):
        scores = self.emit(x)
        return functools.reduce(
            lambda a, t: torch.logsumexp(a[:, :, None] + self.move + scores[:, t, None], 1),
            range(1, x.shape[1]),
            scores[:, 0] + self.start,
        )

    return Net(forward, emit=nn.Linear(8, K), move=(K, K), start=(K,)), sequences()


@pytest.mark.parametrize("name", ZOO)
def test_all_weights_take_the_fast_way(check, name):
    net, batches, *loss = ZOO[name]()
    for parameter in net.parameters():
        if parameter.dim() < 2:  # norms begin as ones, biases as zeros
            nn.init.uniform_(parameter, 0.2, 0.8)
    check(net, *batches, **({"loss": loss[0]} if loss else {}))
