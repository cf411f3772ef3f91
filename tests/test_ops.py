# SPDX-License-Identifier: BSD-3-Clause
"""What holds for every operator, called by way of torch's dispatcher."""

import pytest
import torch
from torch.utils._pytree import tree_leaves, tree_map_only

from unlearnkit.ops import _native

native = pytest.mark.skipif(_native.module() is None, reason="no compiled module")


def square_sum_inputs():
    x, g = torch.randn(2, 6, 5, 5), torch.randn(2, 4, 5, 5)
    geometry = [1, 1], [1, 1], [1, 1]
    yield torch.zeros(4, 6, 3, 3), x, g, *geometry
    yield torch.ones(4, 3, 3, 3).double(), x.double(), g.double(), *geometry, 2
    strided = torch.randn(5, 12, 2, 5)[:, ::2, 0].mT  # [5, 5, 6]: every second number, transposed
    yield torch.zeros(4, 5, 1), strided, g[:1, :, 0, :1].expand(5, 4, 6), [1], [0], [1]
    yield torch.zeros(4, 6, 3), torch.zeros(0, 6, 5), torch.zeros(0, 4, 5), [1], [1], [1]


def plane_sums_inputs():
    x, g = torch.randn(3, 4, 5, 2), torch.randn(3, 4, 5, 4)[..., ::2]
    yield x, g, torch.randn(4), torch.randn(4)
    yield x.double().mT, g.double().mT, *torch.randn(3, 4, 2).double().unbind(2)
    yield torch.zeros(0, 4, 5), torch.zeros(0, 4, 5), torch.ones(4), torch.ones(4)


def row_sums_inputs():
    x, g = torch.randn(3, 4, 6), torch.randn(3, 4, 12)[..., ::2]
    yield x, g, 6, 1e-5
    yield x.double().transpose(0, 1), g.double().transpose(0, 1), 6, 1e-3, False
    yield torch.zeros(0, 4, 6), torch.zeros(0, 4, 6), 6, 1e-5


def lists():
    """Two lists of weights, and two of the same shapes that are positive."""
    yield [torch.randn(4, 3, 2), torch.randn(5)], [torch.rand(4, 3, 2), torch.rand(5)]
    weights = [torch.randn(4, 6).double()[:, ::2], torch.randn(3, 5).mT.bfloat16()]
    yield weights, [torch.rand(3, 4).double().mT, torch.rand(5, 6)[:, ::2].double()]
    yield [torch.zeros(0, 3), torch.ones(2)], [torch.zeros(0, 3), torch.ones(2)]


def channel_scores_inputs():
    for h, (weights, others) in zip((None, 2, 1), lists(), strict=True):
        yield (weights, others) if h is None else (weights, others, h)


def dampen_inputs():
    for weights, forget in lists():
        yield weights, forget, [one.flip(0) for one in forget], 0.5
        yield weights, forget, [one.flip(0) for one in forget], 0.5, 2.0


def kth_value_inputs():
    for first, second in lists():
        yield first + second, 2


def percentile_inputs():
    for first, second in lists():
        yield first + second, 97.5


OPERATORS = {
    "channel_scores": channel_scores_inputs,
    "dampen_": dampen_inputs,
    "kth_value": kth_value_inputs,
    "percentile": percentile_inputs,
    "plane_sums": plane_sums_inputs,
    "row_sums": row_sums_inputs,
    "square_sum_": square_sum_inputs,
}
"""Inputs of every operator: contiguous and strided, and nothing."""


def calls():
    torch.manual_seed(0)
    return [
        pytest.param(getattr(torch.ops.unlearnkit, name).default, arguments, id=f"{name}-{number}")
        for name, inputs in OPERATORS.items()
        for number, arguments in enumerate(inputs())
    ]


def copied(arguments):
    """Copy all tensors with the memory around them, so that strides stay as they are."""
    return tree_map_only(torch.Tensor, copied_view, list(arguments))


def copied_view(tensor):
    memory = memory_of(tensor).clone()
    return memory.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())


def tensors(value):
    return [one for one in tree_leaves(value) if isinstance(one, torch.Tensor)]


def memory_of(tensor):
    """Return all that a tensor's storage holds."""
    size = tensor.untyped_storage().nbytes() // tensor.element_size()
    return tensor.as_strided((size,), (1,), 0)


def test_every_operator_is_known_to_torch_and_tested_here():
    names = {name.partition("::")[2] for name in torch._C._dispatch_get_all_op_names()
             if name.startswith("unlearnkit::")}  # fmt: skip
    assert names == set(OPERATORS)
    assert set(_native.Kernel.registry) <= {name.rstrip("_") for name in names}


@pytest.mark.parametrize(("operator", "arguments"), calls())
def test_torch_finds_no_fault(operator, arguments):
    torch.library.opcheck(operator, tuple(copied(arguments)))


@pytest.mark.cuda
@pytest.mark.parametrize(("operator", "arguments"), calls())
def test_torch_finds_no_fault_on_a_gpu(operator, arguments):
    torch.library.opcheck(operator, tuple(tree_map_only(torch.Tensor, torch.Tensor.cuda, arguments)))


@native
@pytest.mark.parametrize(("operator", "arguments"), calls())
def test_it_writes_what_it_says_and_nothing_else(operator, arguments):
    # What is said to be written holds what torch writes. All else keeps its bits, also the numbers between
    # those of a strided view, which a kernel that took it for contiguous would change.
    mine, theirs = copied(arguments), copied(arguments)
    with _native.using("native"):
        found = operator(*mine)
    with _native.using("torch"):
        wanted = operator(*theirs)
    torch.testing.assert_close(found, wanted)
    for argument, *values in zip(operator._schema.arguments, arguments, mine, theirs, strict=False):
        before, after, expected = ([memory_of(one) for one in tensors(value)] for value in values)
        exact = {} if is_written(argument) else {"rtol": 0, "atol": 0}
        torch.testing.assert_close(after, expected if is_written(argument) else before, **exact)


def is_written(argument):
    return argument.alias_info is not None and argument.alias_info.is_write


@pytest.mark.parametrize(("operator", "arguments"), calls())
def test_compiles_into_one_graph(operator, arguments):
    def function(*arguments):
        found = operator(*arguments)
        return found, tree_map_only(torch.Tensor, lambda one: one + 1, list(arguments))

    torch._dynamo.reset()
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    mine, theirs = copied(arguments), copied(arguments)
    torch.testing.assert_close(compiled(*mine), function(*theirs), rtol=0, atol=0)
    torch.testing.assert_close(mine, theirs, rtol=0, atol=0)
