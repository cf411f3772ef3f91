# SPDX-License-Identifier: BSD-3-Clause
"""Token networks in the style of those in use: all weights must take the fast way, and be exact."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

N, K = 5, 4  # samples, classes


def images():
    return [(torch.randn(n, 3, 8, 8), torch.randint(0, K, (n,))) for n in (N, 2)]


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


def attend(q, k, v, bias=0):
    return (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]) + bias).softmax(-1) @ v


def split(x, heads=2):
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def join(x):
    return x.transpose(1, 2).flatten(2)


@zoo
def vit():
    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.position
        x = x + self.scale * join(attend(*map(split, self.qkv(self.first(x)).chunk(3, -1))))
        x = x + self.down(F.gelu(self.up(self.second(x))))
        return self.head(x[:, 0])

    linear = {"qkv": nn.Linear(8, 24), "up": nn.Linear(8, 16), "down": nn.Linear(16, 8)}
    norms = {"first": nn.LayerNorm(8), "second": nn.LayerNorm(8), "head": nn.Linear(8, K)}
    weights = {"token": (1, 1, 8), "position": (1, 5, 8), "scale": (8,)}
    return Net(forward, patch=nn.Conv2d(3, 8, 4, 4), **linear, **norms, **weights), images()


@zoo
def swin():
    index = torch.arange(16).view(4, 4) % 7

    def forward(self, x):
        n, size = len(x), 4
        x = torch.roll(x.view(n, 4, 4, 8), (-1, -1), (1, 2))
        windows = x.unflatten(1, (2, 2)).unflatten(3, (2, 2)).transpose(2, 3).reshape(-1, size, 8)
        bias = self.table[index.flatten()].view(size, size, -1).permute(2, 0, 1)
        out = join(attend(*map(split, self.qkv(windows).chunk(3, -1)), bias))
        return self.head(self.out(out).view(n, -1, 8)).mean(1)

    linear = {"qkv": nn.Linear(8, 24), "out": nn.Linear(8, 8), "head": nn.Linear(8, K)}
    return Net(forward, table=(7, 2), **linear), sequences(16)


@zoo
def mixer():
    def forward(self, x):
        x = x + self.tokens(self.first(x).transpose(1, 2)).transpose(1, 2)
        return self.head((x + self.channels(self.second(x))).mean(1))

    linear = {"tokens": nn.Linear(6, 6), "channels": nn.Linear(8, 8), "head": nn.Linear(8, K)}
    return Net(forward, first=nn.LayerNorm(8), second=nn.LayerNorm(8), **linear), sequences()


@zoo
def gpt2():
    """Products by addmm, learned positions, a tied head, and a causal loss of its own."""

    def conv1d(x, weight, bias):
        return torch.addmm(bias, x.view(-1, x.shape[-1]), weight).view(*x.shape[:-1], -1)

    def forward(self, ids):
        t = ids.shape[1]
        x = self.words(ids) + self.positions(torch.arange(t))
        mask = torch.full((t, t), -torch.inf, dtype=x.dtype).triu(1)
        q, k, v = map(split, conv1d(self.norm(x), self.w, self.b).chunk(3, -1))
        x = x + conv1d(join(attend(q, k, v, mask)), self.v, self.c)
        return F.linear(self.last(x), self.words.weight)

    def loss(model, batch):
        logits = model(batch[0])[:, :-1].transpose(1, 2)
        return F.cross_entropy(logits, batch[0][:, 1:], reduction="none").mean(1)

    tables = {"words": nn.Embedding(11, 8), "positions": nn.Embedding(9, 8)}
    norms = {"norm": nn.LayerNorm(8), "last": nn.LayerNorm(8)}
    weights = {"w": (8, 24), "b": (24,), "v": (8, 8), "c": (8,)}
    return Net(forward, **tables, **norms, **weights), words(), loss


@zoo
def llama():
    """Norms by hand (one of them 1 + w), rotary positions, grouped queries, gated units."""

    def norm(x, weight):
        return weight * (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6))

    def rotate(x):
        angle = torch.arange(x.shape[-2])[:, None] * torch.tensor([1.0, 0.1], dtype=x.dtype)
        a, b = x.chunk(2, -1)
        return torch.cat([a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()], -1)

    def forward(self, ids):
        x = self.words(ids)
        h = norm(x, self.first)
        q, k, v = split(self.q(h)), split(self.k(h), 1), split(self.v(h), 1)
        k, v = k.repeat_interleave(2, 1), v.repeat_interleave(2, 1)
        x = x + self.o(join(F.scaled_dot_product_attention(rotate(q), rotate(k), v, is_causal=True)))
        h = norm(x, 1 + self.second)
        x = x + self.down(F.silu(self.gate(h)) * self.up(h))
        return self.head(norm(x, self.last)[:, -1])

    names = {
        "q": (8, 8),
        "k": (8, 4),
        "v": (8, 4),
        "o": (8, 8),
        "gate": (8, 12),
        "up": (8, 12),
        "down": (12, 8),
    }
    linear = {name: nn.Linear(*sizes, bias=False) for name, sizes in names.items()}
    norms = {"first": (8,), "second": (8,), "last": (8,)}
    return Net(forward, words=nn.Embedding(11, 8), head=nn.Linear(8, K), **linear, **norms), words()


@zoo
def bert():
    def forward(self, ids, types, keep):
        steps = torch.arange(ids.shape[1])[None]
        x = self.norm(self.words(ids) + self.positions(steps) + self.types(types))
        x = self.layer(x, src_key_padding_mask=~keep)
        return self.head(self.pool(x[:, 0]).tanh())

    tables = {
        "words": nn.Embedding(11, 8, padding_idx=0),
        "positions": nn.Embedding(9, 8),
        "types": nn.Embedding(2, 8),
    }
    layer = nn.TransformerEncoderLayer(8, 2, 16, activation="gelu", batch_first=True)
    rest = {"norm": nn.LayerNorm(8), "pool": nn.Linear(8, 8), "head": nn.Linear(8, K)}
    batches = []
    for ids, y in words():
        keep = torch.arange(ids.shape[1]) < torch.randint(2, ids.shape[1], (len(ids), 1))
        batches.append((ids * keep, torch.randint(0, 2, ids.shape), keep, y))
    return Net(forward, layer=layer, **tables, **rest), batches


@zoo
def t5():
    def forward(self, ids):
        t = ids.shape[1]
        offset = (torch.arange(t)[:, None] - torch.arange(t)).clamp(-3, 3) + 3
        bias = self.buckets(offset).permute(2, 0, 1).unsqueeze(0)
        x = self.words(ids)
        for _ in range(2):  # the bias is that of all layers
            x = x + join(attend(*map(split, self.qkv(x).chunk(3, -1)), bias))
        return self.head(x).mean(1)

    tables = {"words": nn.Embedding(11, 8), "buckets": nn.Embedding(7, 2)}
    return Net(forward, qkv=nn.Linear(8, 24, bias=False), head=nn.Linear(8, K), **tables), words()


@zoo
def relative_keys_by_einsum():
    def forward(self, x):
        t = x.shape[1]
        q, k, v = map(split, self.qkv(x).chunk(3, -1))
        keys = self.keys[(torch.arange(t)[:, None] - torch.arange(t)).clamp(-2, 2) + 2]  # [T, S, D]
        return self.head(join(attend(q, k, v, torch.einsum("nhtd,tsd->nhts", q, keys)))).mean(1)

    return Net(forward, qkv=nn.Linear(8, 24), keys=(5, 4), head=nn.Linear(8, K)), sequences()


@zoo
def wav2vec():
    def forward(self, x):
        h = F.gelu(self.norm(self.wave(x[:, None])))
        h = h + F.gelu(self.position(h)[..., :-1])
        return self.head(h.transpose(1, 2)).mean(1)

    position = parametrizations.weight_norm(nn.Conv1d(6, 6, 4, padding=2, groups=2), dim=2)
    parts = {"wave": nn.Conv1d(1, 6, 5, 2), "norm": nn.GroupNorm(6, 6), "head": nn.Linear(6, K)}
    return Net(forward, position=position, **parts), [
        (torch.randn(n, 30), torch.randint(0, K, (n,))) for n in (N, 2)
    ]


@zoo
def lora_beside_and_merged():
    def forward(self, x):
        h = self.frozen(x) + (x @ self.a.t()) @ self.b.t() * 0.5
        weight = self.frozen.weight + self.d @ self.c
        direction = weight / weight.norm(dim=1, keepdim=True)
        return self.head(F.linear(h.tanh(), self.magnitude * direction)).mean(1)

    ranks = {"a": (2, 8), "b": (8, 2), "c": (2, 8), "d": (8, 2), "magnitude": (8, 1)}
    return Net(
        forward, frozen=nn.Linear(8, 8).requires_grad_(False), head=nn.Linear(8, K), **ranks
    ), sequences()


@zoo
def learned_queries_and_pooling():
    def forward(self, x):
        n = len(x)
        queries = self.queries.weight.unsqueeze(1).repeat(1, n, 1)  # [Q, N, E], as DETR has it
        h = self.attention(queries, x.transpose(0, 1), x.transpose(0, 1))[0].transpose(0, 1)
        h = torch.cat([h, self.prefix.expand(n, -1, -1), self.mlp(self.prefix).expand(n, -1, -1)], 1)
        weights = (h @ self.pool).softmax(1)
        return self.head(torch.einsum("nt,nte->ne", weights, h))

    parts = {"queries": nn.Embedding(3, 8), "attention": nn.MultiheadAttention(8, 2), "mlp": nn.Linear(8, 8)}
    return Net(forward, prefix=(2, 8), pool=(8,), head=nn.Linear(8, K), **parts), sequences()


@zoo
def state_space():
    """Mamba's scan: a decay that is the exponential of a parameter's exponential."""

    def forward(self, x):
        decay = -torch.exp(self.decay.float().to(x.dtype))  # [E, S]
        step = F.softplus(self.step(x))  # [N, T, E]
        enter, leave = self.gates(x).chunk(2, -1)  # [N, T, S]
        state = x.new_zeros(len(x), *decay.shape)
        out = []
        for t in range(x.shape[1]):
            rate = torch.exp(step[:, t, :, None] * decay)
            state = rate * state + step[:, t, :, None] * enter[:, t, None] * x[:, t, :, None]
            out.append((state * leave[:, t, None]).sum(-1) + self.skip * x[:, t])
        return self.head(torch.stack(out, 1)).mean(1)

    linear = {"step": nn.Linear(8, 8), "gates": nn.Linear(8, 6), "head": nn.Linear(8, K)}
    net = Net(forward, decay=(8, 3), skip=(8,), **linear)
    return net, sequences()


@zoo
def dense_mixture_of_experts():
    def forward(self, x):
        out = torch.stack([expert(x) for expert in self.experts], -1)
        return self.head((out * self.gate(x).softmax(-1)[..., None, :]).sum(-1).mean(1))

    experts = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))
    return Net(forward, experts=experts, gate=nn.Linear(8, 3), head=nn.Linear(8, K)), sequences()


@pytest.mark.parametrize("name", ZOO)
def test_all_weights_take_the_fast_way(check, name):
    net, batches, *loss = ZOO[name]()
    for parameter in net.parameters():
        if parameter.dim() < 2:  # norms begin as ones, biases as zeros
            nn.init.uniform_(parameter, 0.2, 0.8)
    check(net, *batches, **({"loss": loss[0]} if loss else {}))
