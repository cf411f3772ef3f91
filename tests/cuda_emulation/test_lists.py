# SPDX-License-Identifier: BSD-3-Clause
"""The CUDA kernels over lists of tensors, run on the emulator and compared with NumPy."""

import ctypes
import math
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unlearnkit import ops
from unlearnkit.ops import _cuda
from unlearnkit.ops._native import DTYPES, Kernel

HERE = Path(__file__).parent
CPU = torch.device("cpu")
FLOATS = [torch.float32, torch.float64]

by_float = pytest.mark.parametrize("dtype", FLOATS, ids=str)
few = settings(max_examples=60)


@pytest.fixture(scope="module")
def kernels(emulate):
    sources = [
        HERE.parents[1] / "csrc" / "cuda" / f"{name}.cu" for name in ("channels", "dampen", "kth_value")
    ]
    library = emulate("lists", *sources, HERE / "lists.cpp")
    library.error.restype = ctypes.c_char_p
    signatures = {"channel_scores": "aiiia", "dampen": "aiiiiddaia", "kth_value": "aiiibidaiia"}
    kinds = {"a": ctypes.c_size_t, "i": ctypes.c_int64, "d": ctypes.c_double, "b": ctypes.c_bool}

    def wrapped(name):
        function = getattr(library, name)
        function.restype = ctypes.c_bool
        # `int device` and `int processors` are read from the lower half of the register
        function.argtypes = [kinds[kind] for kind in signatures[name]]

        def run(*arguments):
            if not function(*arguments):
                raise RuntimeError(library.error().decode())

        return run

    run = {name: wrapped(name) for name in signatures}
    run["seed"] = library.seed
    return run


@pytest.fixture(autouse=True)
def _no_device(monkeypatch):
    @contextmanager
    def on(device):
        yield 0, 0

    monkeypatch.setattr(_cuda, "_on", on)
    monkeypatch.setattr(_cuda, "_processors", lambda device: 1)


def addresses(tensors):
    return [tensor.data_ptr() for tensor in tensors]


def placed(values, offset=0):
    """Copy values to memory that begins `offset` elements past a multiple of 64 bytes, with guards around."""
    memory = torch.full((values.numel() + 160,), 7.5, dtype=values.dtype)
    skip = -memory.data_ptr() % 64 // memory.element_size() + 64 // memory.element_size()
    inside = memory[skip + offset : skip + offset + values.numel()]
    inside.copy_(values.flatten())
    return inside.view(values.shape), memory


def assert_guards(found, memory):
    """Nothing but the tensor was written."""
    found.fill_(7.5)
    assert (memory == 7.5).all()


# ---- dampening


def dampened(weight, forget, reference, alpha, lambda_):
    """Return weights and their number by the definition, in torch."""
    factor = (lambda_ * reference / forget).clamp(max=1.0)
    touched = (forget > alpha * reference) & (factor < 1)
    return torch.where(touched, (weight * factor).to(weight.dtype), weight), int(touched.sum())


def check_dampening(kernels, weights, forgets, references, alpha=2.0, lambda_=1.0, offsets=(0,)):
    expected = [dampened(*lists, alpha, lambda_) for lists in zip(weights, forgets, references, strict=True)]
    offsets = [offsets[i % len(offsets)] for i in range(len(weights))]
    copies = list(map(placed, weights, offsets))
    ours, memories = [copy for copy, _ in copies], [memory for _, memory in copies]
    others = [[placed(t, o)[0] for t, o in zip(part, offsets, strict=True)] for part in (forgets, references)]
    touched = _cuda.dampen(
        kernels["dampen"],
        *map(addresses, (ours, *others)),
        [weight.numel() for weight in weights],
        [DTYPES[weight.dtype] for weight in weights],
        [DTYPES[forget.dtype] for forget in forgets],
        alpha,
        lambda_,
        CPU,
    )
    assert touched == [count for _, count in expected]
    for found, (wanted, _), memory in zip(ours, expected, memories, strict=True):
        # bits, so that -0 is not 0; NaN has many
        same = found.view(torch.uint8) == wanted.view(torch.uint8)
        assert (same.view(-1, found.element_size()).all(1) | (found.isnan() & wanted.isnan())).all()
        assert_guards(found, memory)


def importances(size, dtype):
    """Draw two importances with zeros, NaN, infinities, denormals and values of all sizes."""
    special = torch.tensor([0.0, torch.nan, torch.inf, 1e-42, 1.0, 2.0], dtype=dtype)
    drawn = []
    for _ in range(2):
        values = torch.randn(size, dtype=dtype).mul(3).exp()
        chosen = torch.rand(size) < 0.3
        drawn.append(torch.where(chosen, special[torch.randint(len(special), (size,))], values))
    return drawn


@pytest.mark.parametrize("kind", FLOATS, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_dampening_has_the_bits_of_torch(kernels, dtype, kind):
    sizes = [1000, 0, 1, 3, _cuda.CHUNK, 2 * _cuda.CHUNK + 7, 64]
    weights = [(torch.randn(size) * 10.0 ** torch.randint(-8, 5, (size,))).to(dtype) for size in sizes]
    weights[0][:3] = torch.tensor([torch.nan, torch.inf, -0.0], dtype=dtype)
    forgets, references = zip(*(importances(size, kind) for size in sizes), strict=True)
    for offsets in ((0,), (1, 2, 3, 0)):
        check_dampening(kernels, weights, forgets, references, 1.5, 0.7, offsets)


def test_dampening_of_all_dtypes_in_one_launch(kernels):
    weights = [torch.randn(70).to(dtype) for dtype in DTYPES for _ in FLOATS]
    pairs = [importances(70, kind) for _ in DTYPES for kind in FLOATS]
    check_dampening(kernels, weights, *zip(*pairs, strict=True))


@pytest.mark.parametrize(("alpha", "lambda_"), [(0.0, 1.0), (math.inf, 1.0), (1.0, 0.0), (2.0, 5.0)])
def test_dampening_at_the_ends_of_its_parameters(kernels, alpha, lambda_):
    forget, reference = importances(500, torch.float32)
    check_dampening(kernels, [torch.randn(500)], [forget], [reference], alpha, lambda_)


@few
@given(
    sizes=st.lists(st.integers(0, 90), max_size=12),
    offset=st.integers(0, 3),
    dtype=st.sampled_from(list(DTYPES)),
    kind=st.sampled_from(FLOATS),
    alpha=st.sampled_from([0.5, 1.0, 3.0]),
)
def test_dampening_of_any_list(kernels, sizes, offset, dtype, kind, alpha):
    weights = [torch.randn(size).to(dtype) for size in sizes]
    pairs = [importances(size, kind) for size in sizes]
    check_dampening(
        kernels, weights, [f for f, _ in pairs], [d for _, d in pairs], alpha, offsets=(offset, 0)
    )


# ---- channel scores


def top_mean(weight, gradient, h):
    """Sort each row of |w g|, of the values' own dtype; sum in float64."""
    values = np.sort(np.abs(weight.numpy() * gradient.numpy()), axis=1)[:, ::-1]
    values = values[:, : min(h, values.shape[1])].astype(np.float64)
    with np.errstate(invalid="ignore"):
        return values.sum(1) / values.shape[1] if values.shape[1] else np.full(len(values), np.nan)


def check_scores(kernels, weights, gradients, tops, offsets=(0,)):
    offsets = [offsets[i % len(offsets)] for i in range(len(weights))]
    ours, theirs = (
        [placed(t, o)[0] for t, o in zip(part, offsets, strict=True)] for part in (weights, gradients)
    )
    copies = [placed(torch.full((len(w),), -1.0, dtype=w.dtype)) for w in weights]
    scores, memories = [copy for copy, _ in copies], [memory for _, memory in copies]
    _cuda.channel_scores(
        kernels["channel_scores"],
        *map(addresses, (ours, theirs, scores)),
        [len(w) for w in weights],
        [w.shape[1] for w in weights],
        tops,
        [DTYPES[w.dtype] for w in weights],
        CPU,
    )
    for w, g, h, found, memory in zip(weights, gradients, tops, scores, memories, strict=True):
        limits = torch.finfo(w.dtype)
        bound = limits.eps if w.dtype == torch.float32 else 1e-14
        np.testing.assert_allclose(
            found.numpy(), top_mean(w, g, h), rtol=bound, atol=limits.smallest_normal * bound
        )
        assert_guards(found, memory)


def rows(count, length, dtype, kind):
    """Draw rows [count, length]."""
    values = torch.randn(count, length, dtype=dtype)
    if kind == "ties":
        return values.mul(2).round()
    if kind == "equal":
        return torch.full_like(values, -0.3)
    if kind == "one exponent":
        return values.sign() * (1 + torch.rand_like(values))
    if kind == "denormal":
        return values * torch.finfo(dtype).smallest_normal ** 0.5 * 0.01
    if kind == "spread":
        return values * 10.0 ** torch.randint(-18, 18, values.shape)
    return values


@by_float
@pytest.mark.parametrize("kind", ["normal", "ties", "equal", "one exponent", "denormal", "spread"])
@pytest.mark.parametrize("length", [1, 27, 31, 256, 257, 1024, 1025, 2500])
def test_scores_of_rows_of_each_length_and_kind(kernels, length, kind, dtype):
    count = 11 if length <= 257 else 3
    w, g = rows(count, length, dtype, kind), rows(count, length, dtype, kind)
    tops = sorted({1, 2, max(length // 10, 1), max(length - 1, 1), length, length + 5})
    check_scores(kernels, [w] * len(tops), [g] * len(tops), tops, (0, 1))


@by_float
def test_scores_of_rows_that_registers_do_not_hold(kernels, dtype, monkeypatch):
    w, g = rows(1, 8195, dtype, "ties"), rows(1, 8195, dtype, "normal")
    check_scores(kernels, [w, w], [g, g], [7, 5000])
    monkeypatch.setattr(_cuda, "REGISTERS", 1 << 30)  # a warp does what is a block's work
    w, g = rows(3, 1500, dtype, "spread"), rows(3, 1500, dtype, "ties")
    check_scores(kernels, [w], [g], [40])


def test_scores_are_nan_where_the_top_is(kernels):
    w = torch.ones(5, 40)
    w[1, 7], w[2, 3], w[3, :30], w[4, :2] = (
        torch.nan,
        torch.inf,
        -torch.inf,
        torch.tensor([torch.inf, torch.nan]),
    )
    check_scores(kernels, [w] * 3, [torch.ones(5, 40)] * 3, [1, 4, 40])


def test_scores_of_many_tensors_in_one_launch(kernels):
    shapes = [(0, 5), (4, 0), (1, 1), (9, 3), (8, 8), (17, 40), (2, 1300), (0, 0), (3, 100)] * 4
    weights = [rows(*shape, FLOATS[i % 2], "ties") for i, shape in enumerate(shapes)]
    gradients = [rows(*shape, FLOATS[i % 2], "normal") for i, shape in enumerate(shapes)]
    tops = [1 + i % 7 for i in range(len(shapes))]
    check_scores(kernels, weights, gradients, tops, (0, 1, 2, 3))


@few
@given(
    shapes=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 70)), min_size=1, max_size=5),
    h=st.integers(1, 80),
    kind=st.sampled_from(["ties", "equal", "normal", "spread"]),
    dtype=st.sampled_from(FLOATS),
)
def test_scores_of_any_list(kernels, shapes, h, kind, dtype):
    weights, gradients = ([rows(*shape, dtype, kind) for shape in shapes] for _ in range(2))
    check_scores(kernels, weights, gradients, [h] * len(shapes))


# ---- k-th value


def check_rank(kernels, tensors, k=0, quantile=0.0, offsets=(0,)):
    """Compare with a sort. The dtype of all is float64 where one is."""
    is_double = any(tensor.dtype == torch.float64 for tensor in tensors)
    ours = [placed(tensor, offsets[i % len(offsets)])[0] for i, tensor in enumerate(tensors)]
    found = _cuda.kth_value(
        kernels["kth_value"],
        addresses(ours),
        [tensor.numel() for tensor in tensors],
        [DTYPES[tensor.dtype] for tensor in tensors],
        is_double,
        k,
        quantile,
        CPU,
    )
    kind = np.float64 if is_double else np.float32
    values = np.concatenate([np.zeros(0, kind), *(tensor.numpy().astype(kind).ravel() for tensor in tensors)])
    values = np.sort(values[np.isfinite(values)])
    rank = k - 1 if k else math.floor((len(values) - 1) * quantile)
    if not 0 <= rank < len(values):
        assert found[0] == len(values) and math.isnan(found[1]) and math.isnan(found[2])
        return
    assert found == (len(values), values[rank], values[min(rank + 1, len(values) - 1)])
    assert all(math.copysign(1, value) == 1 for value in found[1:] if value == 0)


def every_rank(n):
    return sorted({1, 2, n // 3, n // 2, n - 1, n, n + 1} - {0, -1})


def numbers(size, dtype, kind):
    """Draw values to rank, with some that are not finite."""
    values = rows(1, size, dtype, kind)[0]
    if kind == "signed zeros":
        values = torch.tensor([0.0, -0.0, 1.0, -1.0], dtype=dtype)[torch.randint(4, (size,))]
    if kind == "squares":
        values = rows(1, size, dtype, "spread")[0].clamp(-1e17, 1e17) ** 2
    if kind == "neighbours":  # keys that differ in their last digit alone
        values = torch.nextafter(torch.ones(size, dtype=dtype), values)
    if size > 20:
        values[torch.randint(size, (6,))] = torch.tensor([torch.nan, -torch.nan, torch.inf, -torch.inf] * 2)[
            :6
        ].to(dtype)
    return values


KINDS = [
    "normal",
    "ties",
    "equal",
    "one exponent",
    "denormal",
    "spread",
    "signed zeros",
    "squares",
    "neighbours",
]


@by_float
@pytest.mark.parametrize("kind", KINDS)
def test_rank_among_values_of_each_kind(kernels, kind, dtype):
    tensors = [numbers(size, dtype, kind) for size in (1500, 0, 1, 700)]
    n = int(sum(tensor.isfinite().sum() for tensor in tensors))
    for k in every_rank(n):
        check_rank(kernels, tensors, k, offsets=(0, 1, 2))
    for quantile in (0.0, 0.5, 0.873, 1.0):
        check_rank(kernels, tensors, quantile=quantile)


@by_float
def test_rank_among_few_values(kernels, dtype):
    values = torch.tensor([3.0, -1.0, torch.nan, -torch.inf, 1e300, -0.0], dtype=torch.float64).to(dtype)
    for size in range(len(values) + 1):
        for k in range(size + 2):
            check_rank(kernels, [values[:size]], k, 0.5)
    check_rank(kernels, [], 1)
    check_rank(kernels, [], 0, 0.5)


def test_rank_among_both_dtypes(kernels):
    tensors = [numbers(300, torch.float32, "spread"), numbers(200, torch.float64, "normal"), torch.zeros(3)]
    for k in every_rank(500):
        check_rank(kernels, tensors, k)


def test_rank_among_many_chunks_and_blocks(kernels, monkeypatch):
    tensors = [numbers(size, torch.float32, "normal") for size in (2 * _cuda.CHUNK + 3, 10, _cuda.CHUNK)]
    check_rank(kernels, tensors, 20_000)
    monkeypatch.setattr(_cuda, "CHUNK", 8)
    check_rank(kernels, [tensor[:301] for tensor in tensors] * 3, 444)  # more chunks than blocks


@few
@given(
    sizes=st.lists(st.integers(0, 60), max_size=6),
    kind=st.sampled_from(KINDS),
    dtypes=st.lists(st.sampled_from(FLOATS), min_size=6, max_size=6),
    quantile=st.floats(0, 1),
    offset=st.integers(0, 3),
)
def test_rank_in_any_list(kernels, sizes, kind, dtypes, quantile, offset):
    tensors = [numbers(size, dtype, kind) for size, dtype in zip(sizes, dtypes, strict=False)]
    check_rank(kernels, tensors, quantile=quantile, offsets=(offset, 0))
    check_rank(kernels, tensors, 1 + sum(sizes) // 2)


# ---- all


def test_the_order_of_threads_and_blocks_changes_no_bit(kernels):
    w, g = rows(20, 1300, torch.float32, "spread"), rows(20, 1300, torch.float32, "normal")
    found = []
    for seed in (1, 2, 3):
        kernels["seed"](seed)
        scores = torch.empty(20)
        _cuda.channel_scores(
            kernels["channel_scores"], *map(addresses, ([w], [g], [scores])), [20], [1300], [100], [0], CPU
        )
        found.append(scores)
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


@pytest.fixture
def on_emulator(kernels, monkeypatch):
    """Let the operators use the emulated kernels for tensors of the CPU."""

    def adapted(name):
        return lambda *arguments: getattr(_cuda, name)(kernels[name], *arguments[:-1], CPU)

    runs = {name: adapted(name) for name in ("dampen", "channel_scores", "kth_value")}
    for name, run in runs.items():
        monkeypatch.setitem(Kernel.registry[name]._found, "cpu", (run, ""))
    return runs


@pytest.mark.parametrize("name", ["dampen", "channel_scores", "kth_value"])
def test_kernels_pass_the_check_before_their_first_use(on_emulator, name):
    assert Kernel.registry[name]._check(on_emulator[name], CPU)


def test_operators_are_the_same_on_cuda(on_emulator, monkeypatch):
    weights = [torch.randn(6, 5, 3), torch.randn(40, 7).half().t(), torch.randn(9), torch.randn(4, 0)]
    gradients = [torch.randn_like(weight).double() for weight in weights]
    forget = [gradient.square() for gradient in gradients]
    reference = [torch.rand_like(gradient) for gradient in gradients]

    def results():
        ours = [weight.clone() for weight in weights]
        counts = ops.dampen_(ours, forget, reference, 0.7)
        ranks = [ops.percentile(weights, q) for q in (0, 33.3, 100)] + [ops.kth_value(gradients, 100)]
        return ours, counts, ranks, ops.channel_scores(weights, gradients, [3, None, 1, 2])

    found = results()
    for name in on_emulator:
        monkeypatch.setitem(Kernel.registry[name]._found, "cpu", (None, "torch is asked for"))
    expected = results()
    assert found[1:3] == expected[1:3]
    for ours, theirs in zip(found[0] + found[3], expected[0] + expected[3], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-14, atol=0, equal_nan=True)


def test_cuda_says_what_it_refuses(kernels):
    table = torch.zeros(1, 4, dtype=torch.int64)
    with pytest.raises(RuntimeError, match="CUDA: invalid configuration argument"):
        kernels["channel_scores"](table.data_ptr(), 1, 1 << 31, 0, 0)
