# SPDX-License-Identifier: BSD-3-Clause
"""nn.MultiheadAttention and the Transformer layers, which use their weights without calling a layer."""

import warnings

import pytest
import torch
from torch import nn

E, HEADS, N = 8, 2, 4
QUERIES, KEYS = 3, 5


def tokens(n, length, width=E):
    return torch.randn(n, length, width)


class Attention(nn.Module):
    """Attention of two sequences [N, T, E], whatever its own layout."""

    def __init__(self, **options):
        super().__init__()
        self.attention = nn.MultiheadAttention(E, HEADS, **options)
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.5)

    def forward(self, query, key, value, **masks):
        if self.attention.batch_first:
            return self.attention(query, key, value, **masks)[0]
        parts = (part.transpose(0, 1) for part in (query, key, value))
        return self.attention(*parts, **masks)[0].transpose(0, 1)


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"bias": False},
        {"kdim": 6, "vdim": 5},
        {"add_bias_kv": True},
        {"add_zero_attn": True},
        {"kdim": 6, "vdim": 5, "add_bias_kv": True, "add_zero_attn": True, "bias": False},
    ],
    ids=str,
)
def test_cross_attention(check, curved, options, batch_first):
    net = Attention(batch_first=batch_first, **options)
    key, value = options.get("kdim", E), options.get("vdim", E)
    batches = [(tokens(n, QUERIES), tokens(n, KEYS, key), tokens(n, KEYS, value)) for n in (N, 2)]
    check(net, *batches, loss=curved)
    check(net, batches[0], loss=curved, dtype=torch.float32, tolerance=3e-5)


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("length", [2, N, 2 * N])
def test_as_many_tokens_as_samples(check, model, curved, length, batch_first):
    net = model(lambda self, x: self.inner(x, x, x), inner=Attention(batch_first=batch_first))
    check(net, (tokens(N, length),), (tokens(3, length),), (tokens(1, length),), loss=curved)


@pytest.mark.parametrize("kind", [bool, float])
def test_masks(check, model, curved, kind):
    causal = torch.triu(torch.ones(KEYS, KEYS, dtype=torch.bool), 1)
    causal = causal if kind is bool else torch.zeros(KEYS, KEYS).masked_fill(causal, -1e9).double()

    def forward(self, x, padding):
        return self.inner(x, x, x, attn_mask=causal, key_padding_mask=padding)

    net = model(forward, inner=Attention(batch_first=True))
    padding = torch.zeros(N, KEYS, dtype=torch.bool)
    padding[1, 3:] = padding[2, 4:] = True
    padding = padding if kind is bool else torch.zeros(N, KEYS).masked_fill(padding, -1e9)
    check(net, (tokens(N, KEYS), padding), loss=lambda net, batch: curved(net, batch))


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_encoder_layer(check, model, curved, batch_first, norm_first, activation):
    layer = nn.TransformerEncoderLayer(
        E, HEADS, 12, batch_first=batch_first, norm_first=norm_first, activation=activation
    )
    turn = (lambda x: x) if batch_first else (lambda x: x.transpose(0, 1))
    net = model(lambda self, x: turn(self.inner(turn(x))), inner=layer)
    check(net, (tokens(N, KEYS),), (tokens(3, 4),), loss=curved)


@pytest.mark.parametrize("batch_first", [True, False])
def test_encoder_and_decoder(check, model, curved, batch_first):
    turn = (lambda x: x) if batch_first else (lambda x: x.transpose(0, 1))

    def forward(self, source, target):
        mask = nn.Transformer.generate_square_subsequent_mask(target.shape[1], dtype=source.dtype)
        return turn(self.inner(turn(source), turn(target), tgt_mask=mask))

    net = model(forward, inner=nn.Transformer(E, HEADS, 1, 1, 12, batch_first=batch_first))
    check(net, (tokens(N, KEYS), tokens(N, QUERIES)), (tokens(2, 4), tokens(2, 4)), loss=curved)


def test_padding_with_nested_tensors_enabled(check, model):
    # without gradients the encoder would drop the padding, and its output there is another one
    layer = nn.TransformerEncoderLayer(E, HEADS, 12, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=True)
    net = model(
        lambda self, x, padding: self.head(self.encoder(x, src_key_padding_mask=padding).mean(1)),
        encoder=encoder,
        head=nn.Linear(E, 3),
    )
    padding = torch.zeros(N, KEYS, dtype=torch.bool)
    padding[0, 3:] = padding[1:, 4:] = True
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check(net, (tokens(N, KEYS), padding, torch.tensor([0, 1, 2, 0])))


def test_the_fast_path_is_given_back(check, model, curved):
    net = model(lambda self, x: self.inner(x, x, x), inner=Attention())
    for enabled in (True, False):
        torch.backends.mha.set_fastpath_enabled(enabled)
        check(net, (tokens(2, KEYS),), loss=curved)
        assert torch.backends.mha.get_fastpath_enabled() == enabled
    torch.backends.mha.set_fastpath_enabled(True)


def test_a_relative_position_bias(check, model, curved):
    """Of Swin (a table by fixed indices), of T5 (an embedding), and given to the fused attention."""
    steps = torch.arange(4)
    offsets = steps[:, None] - steps + 3

    def forward(self, x):
        q, k, v = self.qkv(x).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        bias = self.table[offsets.flatten()].view(4, 4, -1).permute(2, 0, 1)
        other = self.buckets(offsets).permute(2, 0, 1)[None]
        scores = (q @ k.transpose(-1, -2) + bias.unsqueeze(0) + other).softmax(-1) @ v
        fused = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        return (scores * fused).transpose(1, 2).flatten(2)

    net = model(
        forward,
        qkv=nn.Linear(E, 3 * E),
        table=nn.Parameter(torch.randn(7, HEADS)),
        buckets=nn.Embedding(7, HEADS),
    )
    check(net, (tokens(N, 4),), (tokens(2, 4),), loss=curved)
