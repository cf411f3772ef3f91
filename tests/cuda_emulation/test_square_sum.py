# SPDX-License-Identifier: BSD-3-Clause
"""The CUDA kernels of square_sum_, run on the emulator and compared with NumPy in float64."""

import ctypes
import mmap
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

HERE = Path(__file__).parent
FLOAT32, TF32, BFLOAT16, SIMT = range(4)  # square_sum.cuh's Precision
GUARD = 64  # numbers behind total and workspace that must stay as they are


@dataclass(frozen=True)
class Case:
    """A convolution: sizes of one group, three dimensions of space."""

    samples: int
    channels: int
    outputs: int
    space: tuple[int, int, int]
    kernel: tuple[int, int, int] = (1, 1, 1)
    stride: tuple[int, int, int] = (1, 1, 1)
    padding: tuple[int, int, int] = (0, 0, 0)
    dilation: tuple[int, int, int] = (1, 1, 1)
    groups: int = 1

    @property
    def positions(self):
        """The output's space, as torch computes it."""
        each = zip(self.space, self.kernel, self.stride, self.padding, self.dilation, strict=True)
        return tuple((size + 2 * p - d * (k - 1) - 1) // step + 1 for size, k, step, p, d in each)

    @property
    def shapes(self):
        """Those of x and g."""
        both = (self.channels, self.space), (self.outputs, self.positions)
        return [(self.samples, self.groups * rows, *space) for rows, space in both]

    def tensors(self, dtype, order="channels first"):
        """Draw x and g; with channels last they are views of memory that has the channels innermost."""
        random = np.random.default_rng(0)
        tensors = []
        for name, shape in zip("xg", self.shapes, strict=True):
            last = order in ("channels last", f"{name} channels last")
            array = random.standard_normal((shape[0], *shape[2:], shape[1]) if last else shape).astype(dtype)
            tensors.append(np.moveaxis(array, -1, 1) if last else array)
        return tensors

    def oracle(self, x, g):
        """Square the explicit per-sample gradients, in float64."""
        x, g = x.astype(np.float64), g.astype(np.float64)
        padded = np.pad(x, [(0, 0), (0, 0), *((pad, pad) for pad in self.padding)])
        columns = []
        for tap in product(*map(range, self.kernel)):
            each = zip(tap, self.dilation, self.positions, self.stride, strict=True)
            window = [slice(k * d, k * d + (count - 1) * step + 1, step) for k, d, count, step in each]
            part = padded[(slice(None), slice(None), *window)]
            columns.append(part.reshape(self.samples, self.groups, self.channels, -1))
        columns = np.stack(columns, 3)  # [N, G, C, taps, T]
        g = g.reshape(self.samples, self.groups, self.outputs, -1)  # [N, G, O, T]
        w = np.einsum("ngot,ngckt->ngock", g, columns)
        return (w**2).sum(0).reshape(self.groups * self.outputs, self.channels, *self.kernel)


@pytest.fixture(scope="module")
def library(emulate):
    loaded = emulate("square_sum", HERE / "square_sum.cpp")
    loaded.workspace_bytes.restype = ctypes.c_int64
    loaded.last_error.restype = ctypes.c_char_p
    loaded.square_sum.restype = ctypes.c_bool
    return loaded


def problem(case, x, g):
    """List the numbers of kernels.h's Convolution."""
    strides = [[step // array.itemsize for step in array.strides] for array in (x, g)]
    numbers = [*x.shape, *strides[0], *g.shape, *strides[1]]
    numbers += [*case.kernel, *case.stride, *case.padding, *case.dilation, case.groups]
    return (ctypes.c_int64 * len(numbers))(*numbers)


def run(library, case, x, g, precision=SIMT, total_dtype=None, processors=2, start=0.0, seed=0, slices=None):
    """Run the emulated kernel; return the total, which it adds to ``start``."""
    convolution = problem(case, x, g)
    total_dtype = np.dtype(total_dtype or x.dtype)
    dtypes = [[np.float32, np.float64].index(dtype.type) for dtype in (x.dtype, total_dtype)]
    shape = (case.groups * case.outputs, case.channels, *case.kernel)
    count = int(np.prod(shape))
    bytes_ = library.workspace_bytes(convolution, dtypes[0], processors)
    if slices is not None:
        bytes_ = slices * count * x.itemsize
    workspace = np.full(bytes_ // x.itemsize + GUARD, np.nan, x.dtype)
    total = np.full(count + GUARD, start, total_dtype)
    done = library.square_sum(
        convolution, *(ctypes.c_void_p(array.ctypes.data) for array in (x, g, total)), *dtypes,
        ctypes.c_void_p(workspace.ctypes.data), ctypes.c_int64(bytes_), precision, seed,
    )  # fmt: skip
    assert done, library.last_error().decode()
    assert (total[count:] == start).all() and np.isnan(workspace[-GUARD:]).all()
    return total[:count].reshape(shape)


CASES = {
    "tokens": Case(3, 24, 40, (1, 1, 19)),
    "tokens, odd": Case(2, 67, 131, (1, 1, 5)),
    "one token": Case(4, 70, 20, (1, 1, 1)),
    "one sample": Case(1, 65, 66, (1, 1, 33)),
    "conv1d": Case(2, 5, 30, (1, 1, 23), (1, 1, 5), (1, 1, 2), (0, 0, 2), (1, 1, 2)),
    "conv2d": Case(3, 8, 20, (1, 7, 6), (1, 3, 3), padding=(0, 1, 1)),
    "conv2d, stride": Case(2, 3, 64, (1, 11, 12), (1, 3, 3), (1, 2, 2), (0, 1, 1)),
    "conv2d, dilation": Case(2, 6, 33, (1, 9, 10), (1, 3, 2), (1, 1, 2), (0, 2, 0), (1, 2, 3)),
    "conv2d, 1 x 1, stride": Case(3, 36, 72, (1, 6, 6), stride=(1, 2, 2)),
    "conv2d, 7 x 7": Case(2, 3, 16, (1, 14, 14), (1, 7, 7), (1, 2, 2), (0, 3, 3)),
    "conv3d": Case(2, 4, 18, (4, 5, 6), (3, 2, 3), (1, 2, 1), (1, 0, 1), (1, 1, 2)),
    "groups": Case(2, 8, 17, (1, 6, 5), (1, 3, 3), padding=(0, 1, 1), groups=3),
    "many groups": Case(2, 4, 4, (1, 6, 5), (1, 3, 3), padding=(0, 1, 1), groups=8),
    "depthwise": Case(9, 1, 1, (1, 9, 8), (1, 3, 3), (1, 2, 1), (0, 1, 1), groups=5),
    "depthwise, multiplier": Case(3, 1, 2, (1, 6, 8), (1, 5, 5), padding=(0, 2, 2), groups=3),
    "one tap": Case(3, 20, 70, (1, 4, 6)),
    "padding beyond x": Case(2, 8, 16, (1, 2, 2), (1, 3, 3), padding=(0, 4, 4)),
    "outputs for the large tile": Case(2, 16, 128, (1, 4, 4), (1, 3, 3), padding=(0, 1, 1)),
}
by_case = pytest.mark.parametrize("name", CASES)
ORDERS = ("channels first", "channels last", "x channels last", "g channels last")
by_order = pytest.mark.parametrize("order", ORDERS[:2])


def assert_near(found, wanted, bound=1e-5):
    """A sum of products is as exact as its large terms: small entries may be less so."""
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, rtol=bound, atol=bound * wanted.max())


@by_order
@by_case
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_plain_cores(library, name, order, dtype):
    case = CASES[name]
    x, g = case.tensors(dtype, order)
    assert_near(run(library, case, x, g), case.oracle(x, g), 1e-5 if dtype == np.float32 else 1e-13)


@pytest.mark.parametrize("order", ORDERS[2:])
@pytest.mark.parametrize("precision", [FLOAT32, SIMT])
@pytest.mark.parametrize("name", ["tokens", "conv2d", "groups", "one tap", "outputs for the large tile"])
def test_one_operand_with_its_channels_last(library, name, precision, order):
    case = CASES[name]
    x, g = case.tensors(np.float32, order)
    assert_near(run(library, case, x, g, precision), case.oracle(x, g))


def mean_error(found, wanted):
    """Return the mean error, as a part of the root mean square entry."""
    return np.abs(found - wanted).mean() / np.sqrt((wanted**2).mean())


ULP = 2.0**-23  # of float32


@by_order
@by_case
def test_three_tf32_products_are_as_exact_as_float32(library, name, order):
    case = CASES[name]
    x, g = case.tensors(np.float32, order)
    wanted = case.oracle(x, g)
    plain, tensor = (run(library, case, x, g, precision) for precision in (SIMT, FLOAT32))
    assert_near(tensor, wanted)
    assert mean_error(tensor, wanted) <= max(2 * mean_error(plain, wanted), ULP)


def test_tensor_cores_that_cut_off_do_not_bias_long_sums(library):
    case = Case(2, 20, 40, (1, 1, 3000))
    x, g = map(np.abs, case.tensors(np.float32, "channels last"))
    wanted = case.oracle(x, g)
    plain, tensor = (run(library, case, x, g, precision) for precision in (SIMT, FLOAT32))
    assert mean_error(tensor, wanted) <= max(2 * mean_error(plain, wanted), ULP)


def rounded(array, bits):
    """Round to so many bits of mantissa, the leading one included."""
    mantissa, exponent = np.frexp(array.astype(np.float64))
    return np.ldexp(np.rint(mantissa * 2**bits), exponent - bits).astype(array.dtype)


@by_order
@pytest.mark.parametrize(("precision", "bits"), [(TF32, 11), (BFLOAT16, 8)])
@pytest.mark.parametrize("name", ["tokens", "tokens, odd", "conv2d", "outputs for the large tile"])
def test_less_precision_rounds_the_inputs_alone(library, name, precision, bits, order):
    case = CASES[name]
    x, g = case.tensors(np.float32, order)
    found = run(library, case, x, g, precision)
    assert_near(found, case.oracle(rounded(x, bits), rounded(g, bits)))
    assert mean_error(found, case.oracle(x, g)) > 100 * ULP  # so the rounding is seen at all


@pytest.mark.parametrize("name", ["tokens, odd", "conv2d", "depthwise"])
@pytest.mark.parametrize("precision", [FLOAT32, SIMT])
def test_adds_the_same_bits_to_either_total_in_any_order_of_threads(library, name, precision):
    case = CASES[name]
    x, g = case.tensors(np.float32)
    wanted = case.oracle(x, g)
    for total_dtype in (np.float32, np.float64):
        first, second = (
            run(library, case, x, g, precision, total_dtype=total_dtype, start=3.0, seed=seed)
            for seed in (1, 2)
        )
        assert_near(first, wanted + 3)
        assert (first == second).all()


@pytest.mark.parametrize("slices", [0, 1, 2, 3, 8])
@pytest.mark.parametrize("name", ["conv2d", "depthwise", "many groups", "tokens"])
def test_any_workspace_will_do(library, name, slices):
    case = CASES[name]
    x, g = case.tensors(np.float64)
    assert_near(run(library, case, x, g, slices=slices), case.oracle(x, g), 1e-13)


@pytest.mark.parametrize("precision", [FLOAT32, SIMT])
def test_strides(library, precision):
    case = Case(3, 8, 12, (1, 6, 5), (1, 3, 3))
    memory = np.random.default_rng(0).standard_normal((2, 3, 3, 40, 11, 16)).astype(np.float32)
    views = {
        "sliced": (
            memory[0, :, 1, 3:35:4, ::2, 1:6][:, :, None],
            memory[1, :, 2, 5:29:2, 3:7, 2:5][:, :, None],
        ),
        "batch inside": (
            memory[0, 0, 0, :8, :6, :15].reshape(8, 6, 5, 3).transpose(3, 0, 1, 2)[:, :, None],
            memory[1, 0, 0, :12, :4, :9].reshape(12, 4, 3, 3).transpose(3, 0, 1, 2)[:, :, None],
        ),
        "expanded": (
            np.broadcast_to(memory[0, :, 1, :8, :1, :1, None], (3, 8, 1, 6, 5)),
            np.broadcast_to(memory[1, :, 1, :12, :1, :1, None], (3, 12, 1, 4, 3)),
        ),
        "channels last, 4 bytes off": (
            memory.reshape(-1)[1:721].reshape(3, 1, 6, 5, 8).transpose(0, 4, 1, 2, 3),
            memory.reshape(-1)[1001:1433].reshape(3, 1, 4, 3, 12).transpose(0, 4, 1, 2, 3),
        ),
        "channels last, odd rows": (
            memory.reshape(-1)[: 3 * 30 * 9].reshape(3, 1, 6, 5, 9)[..., :8].transpose(0, 4, 1, 2, 3),
            memory.reshape(-1)[4000 : 4000 + 36 * 13]
            .reshape(3, 1, 4, 3, 13)[..., :12]
            .transpose(0, 4, 1, 2, 3),
        ),
    }
    for x, g in views.values():
        assert_near(run(library, case, x, g, precision), case.oracle(x, g))


def test_more_than_2_31_numbers(library):
    case = Case(2, 3, 5, (1, 4, 4), (1, 3, 3), padding=(0, 1, 1))
    x, g = case.tensors(np.float64)
    wanted = case.oracle(x, g)
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0x4000)  # Python 3.13
    far = []
    for array, step in ((x, 2**30 + 4), (g, 2**29 + 4)):
        strides = [8 * stride for stride in (step * array.shape[1], step, 16, 4, 1)]
        size = 8 + sum((length - 1) * stride for length, stride in zip(array.shape, strides, strict=True))
        try:
            memory = mmap.mmap(-1, size, flags=flags)
        except OSError:
            pytest.skip(f"this machine does not lend {size >> 30} GiB of addresses")
        view = np.ndarray(array.shape, np.float64, memory, strides=strides)
        view[...] = array  # touches a few pages
        far.append(view)
    assert_near(run(library, case, *far), wanted, 1e-13)


def test_nothing_to_add(library):
    for case in (Case(0, 3, 4, (1, 5, 5), (1, 3, 3)), Case(2, 0, 4, (1, 5, 5), (1, 3, 3))):
        x, g = case.tensors(np.float32)
        assert (run(library, case, x, g, start=7.0) == 7).all()


@pytest.mark.parametrize("processors", [1, 108, 132])
def test_workspace_is_small(library, processors):
    for samples in (1, 8, 32, 128, 1000):
        for case in (
            Case(samples, 64, 64, (1, 32, 32), (1, 3, 3), padding=(0, 1, 1)),
            Case(samples, 512, 512, (1, 4, 4), (1, 3, 3), padding=(0, 1, 1)),
            Case(samples, 768, 3072, (1, 1, 197)),
            Case(samples, 1, 1, (1, 56, 56), (1, 3, 3), padding=(0, 1, 1), groups=144),
        ):
            x, g = (np.broadcast_to(np.float32(0), shape) for shape in case.shapes)
            found = library.workspace_bytes(problem(case, x, g), 0, processors)
            weight = 4 * case.groups * case.outputs * case.channels * int(np.prod(case.kernel))
            assert found % weight == 0 and found // weight <= samples
            assert found <= max(2 * weight, 40 << 20)


def test_division_by_a_product_and_a_shift(library):
    random = np.random.default_rng(0)
    divisors = [1, 2, 3, 7, 2**15 - 1, 2**16 + 1, 2**30 - 1, 2**30, 2**30 + 1, 2**31 - 1]
    for divisor in map(int, [*divisors, *(2 ** random.uniform(0, 31, 300)).astype(int)]):
        around = [
            divisor - 1,
            divisor,
            2 * divisor - 1,
            2**31 - 2,
            2**31 - 1,
            (2**31 - 1) // divisor * divisor,
        ]
        for number in map(int, [*around, *random.integers(0, 2**31, 20)]):
            if number < 2**31:
                assert library.remainder_of(number, ctypes.c_int64(divisor)) == number % divisor


def test_what_is_too_large_is_left_to_others(library):
    case = Case(1, 1, 1, (1, 1, 2**30))
    x = np.broadcast_to(np.float32(0), (1, 1, 1, 1, 2**30))
    assert library.workspace_bytes(problem(case, x, x), 0, 1) == -1


@given(data=st.data())
@settings(max_examples=40)
def test_drawn_shapes(library, data):
    three = lambda low, high: st.tuples(*[st.integers(low, high)] * 3)  # noqa: E731
    kernel, dilation = data.draw(three(1, 3)), data.draw(three(1, 2))
    padding, more = data.draw(three(0, 2)), data.draw(three(0, 5))
    space = tuple(
        max(1, (k - 1) * d + 1 - 2 * p + extra)
        for k, d, p, extra in zip(kernel, dilation, padding, more, strict=True)
    )
    draw = lambda low, high: data.draw(st.integers(low, high))  # noqa: E731
    case = Case(
        draw(1, 5),
        draw(1, 40),
        draw(1, 140),
        space,
        kernel,
        data.draw(three(1, 3)),
        padding,
        dilation,
        draw(1, 3),
    )
    x, g = case.tensors(np.float32, data.draw(st.sampled_from(ORDERS)))
    precision = data.draw(st.sampled_from([FLOAT32, SIMT]))
    assert_near(
        run(library, case, x, g, precision, processors=draw(1, 60), seed=draw(0, 99)), case.oracle(x, g)
    )
