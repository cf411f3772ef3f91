# SPDX-License-Identifier: BSD-3-Clause
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from unlearnkit.gradients.contractions import contraction

N = 4


@st.composite
def equations(draw):
    """Draw an einsum of x, that holds the samples ``n``, and a weight: every kind of index, in any order."""
    kinds = {kind: draw(st.integers(0, 2)) for kind in ("positions", "groups", "inputs", "outputs")}
    letters = iter("abcdefgh")
    named = {kind: [next(letters) for _ in range(count)] for kind, count in kinds.items()}
    x = draw(st.permutations(["n", *named["positions"], *named["groups"], *named["inputs"]]))
    w = draw(st.permutations([*named["groups"], *named["inputs"], *named["outputs"]]))
    out = draw(st.permutations(["n", *named["positions"], *named["groups"], *named["outputs"]]))
    sizes = {letter: draw(st.integers(1, 3)) for letter in "abcdefgh"}
    return "".join(x), "".join(w), "".join(out), sizes | {"n": N}


@settings(max_examples=150)
@given(
    drawn=equations(),
    weight_first=st.booleans(),
    dtype=st.sampled_from([torch.float64, torch.float32]),
)
def test_any_einsum_of_two(check, curved, model, drawn, weight_first, dtype):
    x, w, out, sizes = drawn
    at = x.index("n")
    turned = x[at] + x[:at] + x[at + 1 :]  # the batch holds its samples in front

    def forward(self, batch):
        operands = [(x, batch.movedim(0, at)), (w, self.w)]
        (first, a), (second, b) = operands[:: -1 if weight_first else 1]
        return torch.einsum(f"{first},{second}->{out}", a, b).movedim(out.index("n"), 0)[..., None]

    net = model(forward, w=nn.Parameter(torch.randn([sizes[i] for i in w])))
    check(net, (torch.randn([sizes[i] for i in turned]),), loss=curved, dtype=dtype)


@pytest.mark.parametrize(
    ("equation", "shape", "weight"),
    [
        ("...i,io->...o", (4, 5), (5, 2)),
        ("b...i, o i -> b...o", (4, 2, 5), (2, 5)),
        ("...hi,hio->...ho", (4, 2, 5), (2, 5, 3)),
    ],
)
def test_an_ellipsis(check, curved, model, equation, shape, weight):
    net = model(lambda self, x: torch.einsum(equation, x, self.w), w=nn.Parameter(torch.randn(weight)))
    check(net, (torch.randn(3, *shape),), (torch.randn(2, *shape),), loss=curved)


def test_what_is_no_product_of_matrices_is_left_to_others(check, curved, model):
    x, w = torch.randn(3, 4), torch.randn(4, 4)
    assert contraction(x, w, "ni", "ii", "ni") is None  # a diagonal
    assert contraction(x, w, "ni", "io", "n") is None  # a sum over the weight alone
    assert contraction(x, w, "ni", "io", "io") is None  # no position
    assert contraction(torch.randn(3, 1), w, "ni", "io", "no") is None  # broadcast
    for equation in ("ni,ii->ni", "ni,jj->ni"):
        net = model(lambda self, x, e=equation: torch.einsum(e, x, self.w), w=nn.Parameter(w))
        engine = check(net, (torch.randn(3, 4),), loss=curved, slow=["w"])
        assert engine.fallback == {"w": "there is no rule for einsum"}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_products_in_batches_and_with_vectors(check, curved, model, dtype):
    def forward(self, x):  # [N, 3, 4]
        groups = x.transpose(0, 1)  # [3, N, 4]
        found = [
            torch.bmm(groups, self.w).transpose(0, 1),
            torch.baddbmm(self.b, groups, self.w, beta=0.5, alpha=2).transpose(0, 1),
            (x[:, :, None] @ self.w)[:, :, 0],
            (self.w.transpose(1, 2) @ x[..., None])[..., 0],
            torch.tensordot(x, self.m, 1),
            torch.tensordot(x, self.m.t(), dims=([-1], [1])),
            torch.inner(x, self.m.t()),
            torch.matmul(x, self.v)[..., None],
            torch.mv(x[:, 0], self.v)[:, None, None],
            (self.v @ x.transpose(1, 2))[..., None],
            torch.addcmul(self.s, x, x.detach(), value=0.5),
        ]
        return torch.cat([part.expand(-1, 3, -1) for part in found], 2)

    shapes = {"w": (3, 4, 2), "b": (3, 1, 2), "m": (4, 2), "v": (4,), "s": (4,)}
    net = model(forward, **{name: nn.Parameter(torch.randn(shape)) for name, shape in shapes.items()})
    check(net, (torch.randn(5, 3, 4),), (torch.randn(3, 3, 4),), loss=curved, dtype=dtype)


def test_a_weight_times_a_batch_that_lies_on_its_side(check, curved, model):
    net = model(lambda self, x: (self.w @ x.t()).t(), w=nn.Parameter(torch.randn(2, 4)))
    check(net, (torch.randn(5, 4),), (torch.randn(2, 4),), loss=curved)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("positions", [(), (3,)])
def test_bilinear(check, curved, bias, positions):
    net = nn.Bilinear(3, 4, 2, bias=bias)
    check(
        net,
        *((torch.randn(n, *positions, 3), torch.randn(n, *positions, 4)) for n in (4, 2)),
        loss=curved,
    )


def test_a_weight_spread_over_the_samples_by_other_names(check, curved, model):
    def forward(self, x):  # [N, 2, 4]
        n = len(x)
        spread = [
            self.w.expand_as(x[:, :1]),
            torch.broadcast_to(self.w, (n, 1, 4)),
            self.w.broadcast_to((n, 1, 4)),
            self.w.tile(n, 1, 1),
            self.w.tile((n, 1, 1)),
            self.pair.repeat(n, 1)[:, None].unflatten(0, (n, 2)).flatten(1, 2),
        ]
        return torch.cat([*spread, x], 1)

    net = model(forward, w=nn.Parameter(torch.randn(1, 1, 4)), pair=nn.Parameter(torch.randn(2, 4)))
    check(net, (torch.randn(5, 2, 4),), (torch.randn(2, 2, 4),), loss=curved)


def test_experts_in_a_stack(check, model):
    def forward(self, x):  # every token through every expert, weighted
        hidden = torch.einsum("nti,eih->nteh", x, self.up).relu()
        out = torch.einsum("nteh,eho->nteo", hidden, self.down)
        return (out * self.gate(x).softmax(-1)[..., None]).sum(2).mean(1)

    net = model(
        forward,
        up=nn.Parameter(torch.randn(3, 4, 5)),
        down=nn.Parameter(torch.randn(3, 5, 2)),
        gate=nn.Linear(4, 3),
    )
    check(net, (torch.randn(3, 4, 4), torch.tensor([0, 1, 1])))
