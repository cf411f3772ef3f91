# SPDX-License-Identifier: BSD-3-Clause
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from unlearnkit.data import cross_entropy
from unlearnkit.exceptions import UnsupportedModuleError
from unlearnkit.gradients import SquareSums

pytestmark = pytest.mark.usefixtures("backend")

drawn = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


class Wrap(nn.Module):
    """A module and a function that makes logits of it."""

    def __init__(self, function, **modules):
        super().__init__()
        for name, module in modules.items():
            setattr(self, name, module)
        self.function = function

    def forward(self, *x):
        return self.function(self, *x)


def labels(n, k=4):
    return torch.randint(k, (n,))


def pooled(x):
    """Logits [N, 4] of any tensor [N, ...]: every entry counts, each otherwise.

    Weights without a pattern: under smooth ones the gradients of equal entries cancel, and then no
    arithmetic in float32 has five digits.
    """
    flat = x.flatten(1)
    weights = (torch.arange(flat.shape[1] * 4, dtype=torch.float64) * 12.9898).sin()
    weights = weights.to(x.dtype).reshape(-1, 4)
    return flat @ weights


# linear ------------------------------------------------------------------------------------------


@drawn
@given(
    n=st.integers(1, 5),
    positions=st.lists(st.integers(1, 3), max_size=2),
    sizes=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    bias=st.booleans(),
)
def test_linear(agrees, n, positions, sizes, bias):
    model = Wrap(lambda m, x: pooled(torch.tanh(m.l(x))), l=nn.Linear(*sizes, bias=bias))
    agrees(model, (torch.randn(n, *positions, sizes[0]), labels(n)))


@pytest.mark.parametrize("length", [1, 2, 3, 4])
@pytest.mark.parametrize("layout", ["first", "second", "major", "minor", "windows"])
def test_linear_wherever_the_samples_lie(agrees, layout, length):
    def run(m, x):
        n, t, _ = x.shape
        if layout == "second":
            return m.b(torch.tanh(m.a(x.transpose(0, 1)))).mean(0)
        if layout == "major":
            return m.b(torch.tanh(m.a(x.reshape(n * t, -1)))).view(n, t, -1).mean(1)
        if layout == "minor":
            rows = x.transpose(0, 1).reshape(n * t, -1)
            return m.b(torch.tanh(m.a(rows))).view(t, n, -1).mean(0)
        if layout == "windows":
            return m.b(torch.tanh(m.a(x.reshape(n * t, 1, -1)))).view(n, t, -1).mean(1)
        return m.b(torch.tanh(m.a(x))).mean(1)

    model = Wrap(run, a=nn.Linear(3, 5), b=nn.Linear(5, 4))
    agrees(model, (torch.randn(4, length, 3), labels(4)))  # length 4: as many as samples


def test_inputs_that_are_not_contiguous(agrees):
    model = Wrap(lambda m, x: pooled(m.l(x)), l=nn.Linear(3, 5))
    agrees(model, (torch.randn(4, 3, 6).transpose(1, 2), labels(4)))
    agrees(model, (torch.randn(4, 5, 6)[:, ::2, ::2], labels(4)))


# convolutions ------------------------------------------------------------------------------------

CONV = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}


@drawn
@given(data=st.data(), rank=st.integers(1, 3))
def test_convolution(agrees, data, rank):
    draw = data.draw
    groups = draw(st.integers(1, 3))
    channels = [groups * draw(st.integers(1, 2)) for _ in range(2)]
    kernel, dilation = ([draw(st.integers(1, k)) for _ in range(rank)] for k in (3, 2))
    padding = draw(st.sampled_from(["same", "valid", 0, 1, 2]))
    stride = 1 if padding == "same" else draw(st.integers(1, 2))
    mode = draw(st.sampled_from(["zeros", "reflect", "replicate", "circular"]))
    space = [draw(st.integers(5, 6)) for _ in range(rank)]
    layer = CONV[rank](*channels, kernel, stride, padding, dilation, groups, draw(st.booleans()), mode)
    n = draw(st.integers(1, 3))
    model = Wrap(lambda m, x: pooled(torch.tanh(m.c(x))), c=layer)
    agrees(model, (torch.randn(n, channels[0], *space), labels(n)))


@drawn
@given(data=st.data(), rank=st.integers(1, 3))
def test_transposed_convolution(agrees, data, rank):
    draw = data.draw
    groups = draw(st.integers(1, 2))
    channels = [groups * draw(st.integers(1, 2)) for _ in range(2)]
    kernel, stride, dilation = (draw(st.integers(1, k)) for k in (3, 3, 2))
    room = draw(st.integers(0, max(stride, dilation) - 1))
    padding = draw(st.integers(0, 1))
    layer = TRANSPOSED[rank](*channels, kernel, stride, padding, room, groups, draw(st.booleans()), dilation)
    x = torch.randn(draw(st.integers(1, 3)), channels[0], *([4] * rank))
    try:
        layer(x)
    except RuntimeError:
        assume(False)  # the output would have no size
    model = Wrap(lambda m, x: pooled(torch.tanh(m.c(x))), c=layer)
    agrees(model, (x, labels(len(x))))


@pytest.mark.parametrize("kernel", [1, 2, 4, (2, 3)])
def test_padding_same_of_even_kernels_and_depthwise(agrees, kernel):
    layer = nn.Conv2d(4, 8, kernel, padding="same", groups=4, dilation=2)
    model = Wrap(lambda m, x: pooled(m.c(x)), c=layer)
    agrees(model, (torch.randn(3, 4, 5, 6), labels(3)))


def test_large_convolutions_are_squared_by_tiles(agrees):
    model = Wrap(lambda m, x: m.c(x).flatten(1).view(len(x), 4, -1).mean(2), c=nn.Conv2d(64, 128, 3))
    agrees(model, (torch.randn(3, 64, 5, 5), labels(3)))


def test_channels_last(agrees):
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.ReLU(inplace=True), nn.Conv2d(6, 4, 3), nn.Flatten(), nn.Linear(4, 4)
    ).to(memory_format=torch.channels_last)
    x = torch.randn(4, 3, 5, 5).to(memory_format=torch.channels_last)
    agrees(model, (x, labels(4)))


def test_several_images_a_sample(agrees):
    def run(m, x):
        n, frames = x.shape[:2]
        return m.h(torch.tanh(m.c(x.flatten(0, 1))).flatten(1)).view(n, frames, -1).mean(1)

    model = Wrap(run, c=nn.Conv2d(2, 3, 3), h=nn.Linear(27, 4))
    agrees(model, (torch.randn(3, 2, 2, 5, 5), labels(3)))


# tables ------------------------------------------------------------------------------------------


@drawn
@given(
    n=st.integers(1, 5),
    length=st.integers(1, 6),
    size=st.integers(2, 6),
    padding=st.sampled_from([None, 0, 1, -1]),
)
def test_embedding(agrees, n, length, size, padding):
    table = nn.Embedding(size, 3, padding_idx=padding)
    model = Wrap(lambda m, x: pooled(torch.tanh(m.e(x))), e=table)
    agrees(model, (torch.randint(size, (n, length)), labels(n)))  # indices repeat


def test_embedding_scaled_by_frequency_is_refused():
    model = Wrap(lambda m, x: pooled(m.e(x)), e=nn.Embedding(5, 3, scale_grad_by_freq=True))
    engine = SquareSums(model.eval(), cross_entropy)
    with pytest.raises(UnsupportedModuleError, match="scale_grad_by_freq = False"):
        engine.add((torch.randint(5, (3, 2)), labels(3)), engine.zeros())


@pytest.mark.parametrize("tied", [True, False])
def test_embedding_and_head(agrees, tied):
    model = Wrap(lambda m, x: m.h(torch.tanh(m.e(x))).mean(1), e=nn.Embedding(7, 5), h=nn.Linear(5, 7))
    if tied:
        model.h.weight = model.e.weight
    agrees(model, (torch.randint(7, (5, 4)), labels(5, 7)))


# products and bare parameters ----------------------------------------------------------------------


class Bare(nn.Module):
    """A parameter, used as the test says."""

    def __init__(self, function, shape):
        super().__init__()
        self.p = nn.Parameter(torch.randn(shape))
        self.first, self.last = nn.Linear(3, 5), nn.Linear(5, 4)
        self.function = function

    def forward(self, x):
        h = self.function(self, torch.tanh(self.first(x)))  # [N, T, 5]
        return self.last(torch.tanh(h)).mean(1)


USES = {
    "add": (lambda m, h: h + m.p, (5,)),
    "add before": (lambda m, h: m.p + h, (1, 2, 5)),
    "sub": (lambda m, h: h - m.p, (2, 5)),
    "sub from": (lambda m, h: m.p - h, (5,)),
    "mul": (lambda m, h: m.p * h, (5,)),
    "div": (lambda m, h: h / m.p, (2, 1)),
    "scalar": (lambda m, h: h * m.p, ()),
    "in place": (lambda m, h: (h * 2).mul_(m.p), (5,)),
    "augmented": (lambda m, h: (h * 2).add_(m.p), (1, 1, 5)),
    "class token": (lambda m, h: torch.cat([m.p.expand(len(h), -1, -1), h], 1), (1, 1, 5)),
    "repeated": (lambda m, h: torch.cat([m.p.repeat(len(h), 1, 1), h], 1), (1, 2, 5)),
    "matmul": (lambda m, h: h @ m.p, (5, 5)),
    "matmul from the left": (lambda m, h: (m.p @ h.mT).mT, (5, 5)),
    "matmul of a transposed": (lambda m, h: h @ m.p.t(), (5, 5)),
    "addmm": (lambda m, h: torch.addmm(m.first.bias, h.flatten(0, 1), m.p).view_as(h), (5, 5)),
    "linear of a transposed": (lambda m, h: F.linear(h, m.p.t()), (5, 5)),
    "rows and columns": (lambda m, h: F.linear(h[..., :2], m.p[:, :2]) + h @ m.p[:, 2:3], (5, 5)),
    "overlapping parts": (lambda m, h: F.linear(h, m.p[:5]) + F.linear(h, m.p[1:]), (6, 5)),
    "prelu": (lambda m, h: F.prelu(h, m.p), (2,)),
    "used twice": (lambda m, h: (h + m.p) * m.p, (5,)),
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("n", [1, 2, 3])
def test_a_bare_parameter(agrees, use, n):
    function, shape = USES[use]
    agrees(Bare(function, shape), (torch.randn(n, 2, 3), labels(n)))


@pytest.mark.parametrize("times", [2, 3])
def test_a_module_called_several_times(agrees, times):
    def run(m, x):
        for _ in range(times):
            x = torch.tanh(m.a(x))
        return m.b(x)

    agrees(Wrap(run, a=nn.Linear(4, 4), b=nn.Linear(4, 4)), (torch.randn(3, 4), labels(3)))


def test_a_convolution_called_twice(agrees):
    model = Wrap(lambda m, x: pooled(m.c(torch.tanh(m.c(x)))), c=nn.Conv2d(2, 2, 3, padding=1, groups=2))
    agrees(model, (torch.randn(3, 2, 4, 4), labels(3)))


# attention ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("more", [{}, {"add_bias_kv": True, "add_zero_attn": True}, {"bias": False}])
@pytest.mark.parametrize("cross", [False, True])
def test_multihead_attention(agrees, batch_first, more, cross):
    def run(m, q, k):
        if not batch_first:
            q, k = q.transpose(0, 1), k.transpose(0, 1)
        out = m.a(q, k, k)[0] if cross else m.a(q, q, q)[0]
        return m.h(out).mean(1 if batch_first else 0)

    attention = nn.MultiheadAttention(8, 2, batch_first=batch_first, **more)
    model = Wrap(run, a=attention, h=nn.Linear(8, 4))
    agrees(model, (torch.randn(3, 4, 8), torch.randn(3, 5, 8), labels(3)))


def test_attention_with_sizes_of_its_own(agrees):
    attention = nn.MultiheadAttention(8, 2, kdim=6, vdim=3, batch_first=True)
    model = Wrap(lambda m, q, k, v: m.h(m.a(q, k, v)[0]).mean(1), a=attention, h=nn.Linear(8, 4))
    agrees(model, (torch.randn(3, 2, 8), torch.randn(3, 5, 6), torch.randn(3, 5, 3), labels(3)))


@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize("masked", [True, False])
def test_transformer_encoder(agrees, batch_first, norm_first, masked):
    def run(m, x):
        mask = torch.zeros(x.shape[:2], dtype=torch.bool)
        mask[:, -1] = masked
        h = m.e(x if batch_first else x.transpose(0, 1), src_key_padding_mask=mask)
        return m.h(h[:, 0] if batch_first else h[0])

    layer = nn.TransformerEncoderLayer(8, 2, 12, batch_first=batch_first, norm_first=norm_first)
    model = Wrap(run, e=nn.TransformerEncoder(layer, 2), h=nn.Linear(8, 4))
    agrees(model, (torch.randn(3, 3, 8), labels(3)))


@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
def test_a_whole_transformer(agrees):
    model = Wrap(
        lambda m, x: m.h(m.t(x, x.flip(1))).mean(1),
        t=nn.Transformer(8, 2, 1, 1, 12, batch_first=True),
        h=nn.Linear(8, 4),
    )
    agrees(model, (torch.randn(3, 4, 8), labels(3)))
