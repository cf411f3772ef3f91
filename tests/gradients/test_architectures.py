# SPDX-License-Identifier: BSD-3-Clause
"""Networks in the style of those in use, small: all of their weights must take the fast way, and be exact."""

import functools
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

N, K = 5, 4  # samples, classes


def images(size=8, channels=3):
    return [(torch.randn(n, channels, size, size), torch.randint(0, K, (n,))) for n in (N, 2)]


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


# images ---------------------------------------------------------------------------------------------


@zoo
def resnet_bottleneck():
    def forward(self, x):
        h = self.stem(x)
        h = F.relu(self.body(h) + self.short(h), inplace=True)
        return self.head(F.adaptive_avg_pool2d(h, 1).flatten(1))

    body = nn.Sequential(
        *(nn.Conv2d(4, 2, 1, bias=False), nn.BatchNorm2d(2), nn.ReLU(inplace=True)),
        *(nn.Conv2d(2, 2, 3, 2, 1, bias=False), nn.BatchNorm2d(2), nn.ReLU(inplace=True)),
        *(nn.Conv2d(2, 8, 1, bias=False), nn.BatchNorm2d(8)),
    )
    stem = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(True), nn.MaxPool2d(2))
    return Net(forward, stem=stem, body=body, short=nn.Conv2d(4, 8, 1, 2), head=nn.Linear(8, K)), images()


@zoo
def densenet_and_inception():
    def forward(self, x):
        for layer in self.dense:
            x = torch.cat([x, layer(x).relu()], 1)
        x = torch.cat([self.wide(x), self.narrow(F.avg_pool2d(x, 3, 1, 1))], 1)
        return self.head(x.amax((2, 3)))

    dense = nn.ModuleList(nn.Conv2d(3 + 2 * i, 2, 3, padding=1) for i in range(3))
    wide, narrow = nn.Conv2d(9, 2, (1, 5), padding=(0, 2)), nn.Conv2d(9, 3, 1)
    return Net(forward, dense=dense, wide=wide, narrow=narrow, head=nn.Linear(5, K)), images()


@zoo
def mobilenet_with_squeeze_and_excitation():
    def forward(self, x):
        h = F.hardswish(self.norm(self.depth(self.up(x))), inplace=True)
        gate = F.hardsigmoid(self.expand(F.relu(self.squeeze(F.adaptive_avg_pool2d(h, 1)))))
        return self.head((x + self.down(h * gate)).mean((2, 3)))

    parts = {
        "up": nn.Conv2d(3, 6, 1),
        "depth": nn.Conv2d(6, 6, 5, padding=2, groups=6, bias=False),
        "norm": nn.BatchNorm2d(6),
        "squeeze": nn.Conv2d(6, 2, 1),
        "expand": nn.Conv2d(2, 6, 1),
        "down": nn.Conv2d(6, 3, 1),
    }
    return Net(forward, head=nn.Linear(3, K), **parts), images()


@zoo
def convnext():
    def forward(self, x):
        h = self.norm(self.depth(x).permute(0, 2, 3, 1))
        h = self.down(F.gelu(self.up(h))) * self.scale
        return self.head((x + h.permute(0, 3, 1, 2)).mean((2, 3)))

    depth = nn.Conv2d(3, 3, 7, padding=3, groups=3)
    linear = {"up": nn.Linear(3, 12), "down": nn.Linear(12, 3), "head": nn.Linear(3, K)}
    return Net(forward, depth=depth, norm=nn.LayerNorm(3), scale=(3,), **linear), images()


@zoo
def unet():
    def forward(self, x):
        high = F.silu(self.enter(x))
        low = F.silu(self.norm(self.down(high)))
        return self.leave(torch.cat([high, self.up(low)], 1))

    parts = {
        "enter": nn.Conv2d(3, 4, 3, padding=1),
        "down": nn.Conv2d(4, 6, 3, 2, 1),
        "norm": nn.GroupNorm(2, 6),
        "up": nn.ConvTranspose2d(6, 4, 2, 2),
        "leave": nn.Conv2d(8, K, 1),
    }
    return Net(forward, **parts), [(torch.randn(n, 3, 8, 8), torch.randint(0, K, (n, 8, 8))) for n in (N, 2)]


@zoo
def diffusion_with_a_time_embedding():
    def forward(self, x, time):
        angle = time[:, None] * torch.logspace(0, -2, 4, dtype=x.dtype)
        code = self.time(torch.cat([angle.sin(), angle.cos()], 1))
        return self.leave(F.silu(self.enter(x) + code[:, :, None, None]))

    def loss(model, batch):
        return (model(*batch[:2]) - batch[2]).square().mean((1, 2, 3))

    parts = {"enter": nn.Conv2d(3, 4, 3, padding=1), "leave": nn.Conv2d(4, 3, 3, padding=1)}
    time = nn.Sequential(nn.Linear(8, 6), nn.SiLU(), nn.Linear(6, 4))
    batches = [(torch.randn(n, 3, 6, 6), torch.rand(n), torch.randn(n, 3, 6, 6)) for n in (N, 2)]
    return Net(forward, time=time, **parts), batches, loss


@zoo
def super_resolution():
    net = nn.Sequential(
        *(nn.Conv2d(3, 16, 3, padding=1), nn.PixelShuffle(2), nn.PReLU(4)),
        *(nn.Upsample(scale_factor=0.5, mode="bilinear"), nn.Conv2d(4, K, 1)),
    )
    return net, [(torch.randn(N, 3, 6, 6), torch.randint(0, K, (N, 6, 6)))]


@zoo
def weight_standardised_and_spectrally_normalised():
    def forward(self, x):
        variance, mean = torch.var_mean(self.conv.weight, (1, 2, 3), keepdim=True)
        weight = (self.conv.weight - mean) / (variance + 1e-5).sqrt() * self.gain
        return self.head(self.second(F.conv2d(x, weight, self.conv.bias).relu()).mean((2, 3)))

    second = parametrizations.spectral_norm(nn.Conv2d(4, 4, 3))
    return Net(
        forward, conv=nn.Conv2d(3, 4, 3), gain=(4, 1, 1, 1), second=second, head=nn.Linear(4, K)
    ), images()


@zoo
def film():
    def forward(self, x, code):
        scale, shift = self.code(code)[:, :, None, None].chunk(2, 1)
        return self.head((self.conv(x) * scale + shift).relu().mean((2, 3)))

    batches = [(x, torch.randn(len(x), 3), y) for x, y in images()]
    return Net(forward, conv=nn.Conv2d(3, 4, 3), code=nn.Linear(3, 8), head=nn.Linear(4, K)), batches


@zoo
def generalised_mean_pooling():
    def forward(self, x):
        power = self.power.exp()
        pooled = F.avg_pool2d(self.conv(x).clamp(min=1e-3).pow(power), 6).pow(1 / power)
        return self.head(pooled.flatten(1)) * self.temperature.exp()

    return Net(forward, conv=nn.Conv2d(3, 4, 3), power=(1,), temperature=(), head=nn.Linear(4, K)), images()


@zoo
def crops_of_an_image():
    def forward(self, x):
        crops = torch.cat([x, x.flip(3), x.transpose(2, 3)])  # [3 N, ...]
        return self.head(self.conv(crops).relu().mean((2, 3))).view(3, len(x), -1).mean(0)

    return Net(forward, conv=nn.Conv2d(3, 4, 3), head=nn.Linear(4, K)), images()


@zoo
def frames_of_a_clip():
    def forward(self, x):  # [N, frames, C, H, W]
        frames = self.conv(x.flatten(0, 1)).relu().mean((2, 3)).view(*x.shape[:2], -1)
        for step in range(frames.shape[1]):
            state = torch.tanh(self.enter(frames[:, step]) + (self.turn(state) if step else self.start))
        return self.head(state)

    linear = {"enter": nn.Linear(4, 5), "turn": nn.Linear(5, 5), "head": nn.Linear(5, K)}
    batches = [(torch.randn(n, 3, 3, 5, 5), torch.randint(0, K, (n,))) for n in (N, 2)]
    return Net(forward, conv=nn.Conv2d(3, 4, 3), start=(5,), **linear), batches


# tokens ---------------------------------------------------------------------------------------------


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


# sets, graphs, tables --------------------------------------------------------------------------------


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


# other tasks ----------------------------------------------------------------------------------------


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
