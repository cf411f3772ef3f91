# SPDX-License-Identifier: BSD-3-Clause
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from unlearnkit import ops
from unlearnkit.exceptions import DataError


@given(
    arrays=st.lists(
        hnp.arrays(
            st.sampled_from([np.float32, np.float64]),
            hnp.array_shapes(min_dims=0, max_dims=3, min_side=0),
            elements=st.floats(-1e6, 1e6, width=32) | st.sampled_from([math.nan, math.inf]),
        ),
        max_size=5,
    ),
    q=st.floats(0, 100),
)
def test_percentile_is_that_of_the_finite_values_together(arrays, q):
    parts = [torch.from_numpy(array.copy()) for array in arrays]
    together = np.concatenate([array.ravel() for array in arrays]) if arrays else np.empty(0)
    together = together[np.isfinite(together)]
    if together.size == 0:
        with pytest.raises(DataError, match="no value is finite"):
            ops.percentile(parts, q)
        return
    assert ops.percentile(parts, q) == float(np.percentile(together, q))
    for array, part in zip(arrays, parts, strict=True):
        np.testing.assert_array_equal(array, part.numpy())  # none was sorted in place


def test_percentile_of_half_precision():
    values = torch.tensor([1.0, 2.0, 4.0], dtype=torch.bfloat16)
    assert ops.percentile([values], 75) == 3.0


def test_percentile_of_more_values_than_torch_takes():
    values = torch.rand(17_000_000)
    with pytest.raises(RuntimeError, match="too large"):
        torch.quantile(values, 0.9)
    expected = float(np.percentile(values.numpy(), 97.6))
    assert ops.percentile([values[:5_000_000].view(1000, -1), values[5_000_000:]], 97.6) == expected
