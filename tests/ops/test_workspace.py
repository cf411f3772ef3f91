# SPDX-License-Identifier: BSD-3-Clause
import torch

from unlearnkit.ops.workspace import Workspace


def test_memory_is_used_again_where_it_suffices():
    workspace = Workspace()
    first = workspace.take("a", (4, 5), torch.zeros(1))
    assert first.shape == (4, 5)
    assert workspace.take("a", (3, 6), torch.zeros(1)).data_ptr() == first.data_ptr()
    assert workspace.take("a", (3, 7), torch.zeros(1)).shape == (3, 7)


def test_slots_and_dtypes_have_memory_of_their_own():
    workspace = Workspace()
    taken = [
        workspace.take(slot, (2,), torch.zeros(1, dtype=dtype))
        for slot in "ab"
        for dtype in (torch.float32, torch.float64)
    ]
    assert len({tensor.data_ptr() for tensor in taken}) == 4
    assert [tensor.dtype for tensor in taken[:2]] == [torch.float32, torch.float64]
