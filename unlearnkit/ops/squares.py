# SPDX-License-Identifier: BSD-3-Clause
"""The sum over samples of squared gradients of a convolution or of a Linear over tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn import grad as weight_gradient

from unlearnkit.exceptions import DataError
from unlearnkit.ops._native import DTYPES, Kernel, module
from unlearnkit.ops.workspace import Workspace

Each = int | Sequence[int]
"""A number for all dimensions, or one each."""

PRECISIONS = {"float32": 0, "tf32": 1, "bfloat16": 2, "float32 without tensor cores": 3}
"""The compiled module's numbers for what :func:`square_sum_` may compute with on a GPU."""


class _Geometry(NamedTuple):
    stride: Sequence[int]
    padding: Sequence[int]
    dilation: Sequence[int]
    groups: int


def square_sum_(
    total: Tensor,
    x: Tensor,
    g: Tensor,
    stride: Each = 1,
    padding: Each = 0,
    dilation: Each = 1,
    groups: int = 1,
    workspace: Workspace | None = None,
    precision: str = "float32",
) -> Tensor:
    """Add to `total` the sum over samples of the squared gradient of a convolution's weight.

    With the gradient of one sample's loss ``W_n[o, c, k] = sum_t g[n, o, t] x[n, c, stride t + dilation k
    - padding]``, x being zero outside, that is ``total += sum_n W_n ** 2``. The compiled kernel keeps W_n in
    registers, so no [N, O, C, K] is made, and no im2col.

    Parameters
    ----------
    total : Tensor [G * O, C, *kernel]
        Contiguous; float64, or of the inputs' dtype. Written in place.
    x : Tensor [N, G * C, *space]
        The convolution's input, float32 or float64, with any strides; 1 to 3 dimensions of space. Of a
        Linear that is its input [N, T, I] transposed, with a kernel of one tap.
    g : Tensor [N, G * O, *positions]
        The gradient of the summed loss with respect to the convolution's output, likewise.
    stride, padding, dilation : int or sequence of int
        The padding is that in front; behind, x is zero as far as the positions of g reach.
    groups : int
        G.
    workspace : Workspace, optional
        Memory to use again; on one CUDA stream.
    precision : str
        What a GPU computes with where x is float32. ``"float32"``: tensor cores, three TF32 products for one,
        about as exact as float32. ``"tf32"`` and ``"bfloat16"`` round x and g to those, for one product.
        ``"float32 without tensor cores"`` keeps an infinity that would become NaN. Elsewhere it is float32
        always.

    Returns
    -------
    Tensor
        `total`.

    Raises
    ------
    DataError
        If the shapes or dtypes do not belong together, or if there is no such precision.
    """
    rank = x.dim() - 2
    geometry = _Geometry(_each(stride, rank), _each(padding, rank), _each(dilation, rank), groups)
    _check(total, x, g, geometry)
    if precision not in PRECISIONS:
        raise DataError(f"precision={precision!r} is not known: use one of {list(PRECISIONS)}.")
    if x.numel() == 0 or g.numel() == 0 or total.numel() == 0:
        return total
    run = _square_sum.on(x.device)
    if run is None or not _run(run, total, x, g, geometry, workspace or Workspace(), precision=precision):
        _add_sample_by_sample(total, x, g, geometry)
    return total


def square_sum_is_fused(device: torch.device) -> bool:
    """Tell whether a compiled kernel computes :func:`square_sum_` on a device."""
    return _square_sum.on(device) is not None


def _add_sample_by_sample(total: Tensor, x: Tensor, g: Tensor, geometry: _Geometry) -> None:
    """The definition. The engine has faster ways in torch, which need more memory."""
    stride, padding, dilation, groups = geometry
    around = [
        pad
        for size, k, s, p, d, n in zip(
            x.shape[2:], total.shape[2:], stride, padding, dilation, g.shape[2:], strict=True
        )
        for pad in (p, (n - 1) * s + (k - 1) * d + 1 - size - p)
    ]
    x = functional.pad(x, [pad for dim in range(len(around) - 2, -1, -2) for pad in around[dim : dim + 2]])
    function = getattr(weight_gradient, f"conv{x.dim() - 2}d_weight")
    # torch lets convolutions on a GPU use TF32 unless told otherwise, which has three digits
    exact = torch.backends.cudnn.flags(enabled=True, allow_tf32=False) if x.is_cuda else nullcontext()
    with exact:
        for one, gradient in zip(x.split(1), g.split(1), strict=True):
            w = function(one, total.shape, gradient, tuple(stride), 0, tuple(dilation), groups)
            total.add_(w.square_())


def _run(
    run: Callable[..., None],
    total: Tensor,
    x: Tensor,
    g: Tensor,
    geometry: _Geometry,
    workspace: Workspace,
    threads: int | None = None,
    precision: str = "float32",
) -> bool:
    """Run the compiled kernel; False where the problem is too large for it."""
    stride, padding, dilation, groups = geometry
    missing = 5 - x.dim()  # leading dimensions of space, of one position each
    sizes = [
        part
        for tensor in (x, g)
        for part in (
            [*tensor.shape[:2], *[1] * missing, *tensor.shape[2:]],
            [*tensor.stride()[:2], *[0] * missing, *tensor.stride()[2:]],
        )
    ]
    three = [[*[fill] * missing, *values] for fill, values in
             ((1, total.shape[2:]), (1, stride), (0, padding), (1, dilation))]  # fmt: skip
    compiled: Any = module()
    problem = compiled.Convolution(*sizes, *three, groups)
    addresses = x.data_ptr(), g.data_ptr(), total.data_ptr()
    dtypes = DTYPES[x.dtype], DTYPES[total.dtype]
    if x.is_cuda:
        processors = torch.cuda.get_device_properties(x.device).multi_processor_count
        size = compiled.square_sum_cuda_workspace(problem, dtypes[0], processors)
    else:
        size = compiled.square_sum_cpu_workspace(problem, dtypes[0])
    if size < 0:
        return False
    scratch = workspace.take("square_sum", (size // x.element_size(),), x).data_ptr()
    if not x.is_cuda:
        run(problem, *addresses, *dtypes, scratch, threads or torch.get_num_threads())
        return True
    with torch.cuda.device(x.device):
        stream = torch.cuda.current_stream(x.device).cuda_stream
        run(problem, *addresses, *dtypes, scratch, size, PRECISIONS[precision], x.get_device(), stream)
    return True


def _each(value: Each, rank: int) -> list[int]:
    values = [value] * rank if isinstance(value, int) else list(value)
    if len(values) != rank:
        raise DataError(f"{values} has {len(values)} numbers for {rank} dimensions: give one each, or one.")
    return values


def _check(total: Tensor, x: Tensor, g: Tensor, geometry: _Geometry) -> None:
    stride, padding, dilation, groups = geometry
    rank = x.dim() - 2
    if not 1 <= rank <= 3 or g.dim() != x.dim() or total.dim() != x.dim():
        raise DataError(
            "x [N, G * C, *space], g [N, G * O, *positions] and total [G * O, C, *kernel] need one number of "
            f"dimensions, 3 to 5; they have {x.dim()}, {g.dim()} and {total.dim()}."
        )
    if x.dtype not in (torch.float32, torch.float64) or g.dtype != x.dtype:
        raise DataError(
            f"x and g need one dtype, float32 or float64; they have {x.dtype} and {g.dtype}. "
            "Cast half precision to float32: squares of small gradients underflow in it."
        )
    if total.dtype not in (x.dtype, torch.float64):
        raise DataError(f"total needs dtype float64 or {x.dtype}; it has {total.dtype}.")
    if not x.device == g.device == total.device:
        raise DataError(f"x, g and total are on {x.device}, {g.device} and {total.device}: use one device.")
    if not total.is_contiguous():
        raise DataError("total must be contiguous: add to total.contiguous(), and copy it back.")
    if min(*stride, *dilation, groups) < 1 or min(padding) < 0:
        raise DataError(
            f"stride {stride}, dilation {dilation} and groups {groups} must be at least 1, padding {padding} "
            "at least 0."
        )
    outputs, channels = total.shape[:2]
    wanted = [len(x), outputs], [len(x), channels * groups]
    if [list(g.shape[:2]), list(x.shape[:2])] != [*wanted] or outputs % groups:
        raise DataError(
            f"total {list(total.shape)} with groups={groups} goes with x [N, {channels * groups}, ...] and "
            f"g [N, {outputs}, ...], whose outputs the groups divide; got x {list(x.shape)} and "
            f"g {list(g.shape)}."
        )


def _agrees(run: Callable[..., None], device: torch.device) -> bool:
    """Compare the kernel with im2col on a small convolution, a depthwise one and a few tokens."""
    waves = torch.arange(1.0, 97.0, device=device).mul_(0.37).sin_()  # nothing here draws random numbers
    for dtype in (torch.float32, torch.float64):
        values = waves.to(dtype)
        image, tokens = values.view(2, 3, 4, 4), values.view(2, 6, 8).mT
        same = _Geometry([1, 1], [1, 1], [1, 1], 3)
        cases = (
            (image, values[:40].view(2, 5, 2, 2), (5, 3, 3, 3), _Geometry([2, 2], [1, 1], [1, 1], 1)),
            (image, image.flip(0), (3, 1, 3, 3), same),
            (tokens, values[:84].view(2, 6, 7).mT, (7, 8, 1), _Geometry([1], [0], [1], 1)),
        )
        for x, g, shape, geometry in cases:
            found = x.new_zeros(shape)
            fits = _run(run, found, x, g, geometry, Workspace(), threads=1)
            wanted = _by_im2col(x.double(), g.double(), shape, geometry)  # float32 may mean TF32 on a GPU
            if not fits or not torch.allclose(found.double(), wanted, rtol=1e-4, atol=1e-5):
                return False
    return True


def _by_im2col(x: Tensor, g: Tensor, shape: Sequence[int], geometry: _Geometry) -> Tensor:
    """The definition again, cheap where all is small: torch's own weight gradient takes milliseconds to start.

    For one group, or for groups of one output.
    """
    taps = shape[2:]
    rank = len(taps)
    a = functional.pad(x, [pad for p in reversed(geometry.padding) for pad in (p, p)])
    for dim, (k, s) in enumerate(zip(taps, geometry.stride, strict=True)):
        a = a.unfold(2 + dim, k, s)
    a = a.unsqueeze(1 if geometry.groups == 1 else 2)
    g = g.view(*g.shape[:2], 1, *g.shape[2:], *[1] * rank)
    return (a * g).sum(list(range(3, 3 + rank))).square_().sum(0)


_square_sum = Kernel("square_sum", _agrees)
