# SPDX-License-Identifier: BSD-3-Clause
"""A way round an error of torch: BatchNorm in eval mode, a batch of one, and a transposed gradient.

On the CPU its backward pass takes the gradient [1, C, ...] of an output that was transposed for channels_last
memory, and reads it in the wrong order (torch 2.13). A gradient in the usual order is read rightly.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.autograd import Function
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


class _Straight(Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        ctx.mark_dirty(tensor)  # no view: a ReLU may follow that works in place
        return tensor

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0].contiguous()


def straight(output: Tensor) -> Tensor:
    """Return the output of a BatchNorm, its gradient put in order where that matters."""
    return _Straight.apply(output) if len(output) == 1 and output.requires_grad else output  # type: ignore[no-untyped-call]


class StraightBatchNorm(TorchFunctionMode):
    """Let every BatchNorm called inside have its gradient in order."""

    def __torch_function__(
        self,
        func: Any,
        _types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """See one call of a torch function."""
        result = func(*args, **(kwargs or {}))
        return straight(result) if func is F.batch_norm else result
