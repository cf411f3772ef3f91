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
def test_percentile_is_that_of_the_finite_values_together(route, arrays, q):
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


def test_percentile_of_half_precision(route):
    values = torch.tensor([1.0, 2.0, 4.0], dtype=torch.bfloat16)
    assert ops.percentile([values], 75) == 3.0


def test_percentile_of_more_values_than_torch_takes(route):
    values = torch.rand(17_000_000)
    with pytest.raises(RuntimeError, match="too large"):
        torch.quantile(values, 0.9)
    expected = float(np.percentile(values.numpy(), 97.6))
    assert ops.percentile([values[:5_000_000].view(1000, -1), values[5_000_000:]], 97.6) == expected


# More than the kernel gathers at once, so that it counts digits. Names: what makes each hard.
N = 200_001
RAMP = torch.arange(N, dtype=torch.float64)
DRAW = torch.Generator().manual_seed(0)
LISTS = {
    "spread": lambda: torch.randn(N, dtype=torch.float64, generator=DRAW),
    "all equal": lambda: torch.full((N,), 0.1, dtype=torch.float64),
    "two values": lambda: (RAMP % 2) * 3 - 1.5,
    "zeros of both signs": lambda: torch.where(RAMP % 2 == 0, 0.0, -0.0),
    "one exponent": lambda: 1 + RAMP * 2.0**-40,
    "last bits": lambda: torch.tensor(1.0, dtype=torch.float64) + (RAMP % 3) * 2.0**-52,
    "ascending": lambda: RAMP - 1000,
    "descending": lambda: -RAMP,
    "all exponents": lambda: torch.exp((RAMP / N - 0.5) * 1400) * (1 - 2 * (RAMP % 2)),
    "subnormal": lambda: (RAMP - 99) * 5e-324,
    "few are finite": lambda: torch.where(RAMP % 50_000 == 7, RAMP, math.inf) * (1 - 2 * (RAMP % 3)),
    "NaN of both signs": lambda: torch.where(
        RAMP % 2 == 0, RAMP, torch.where(RAMP % 3 == 0, math.nan, -math.nan)
    ),
}


@pytest.mark.filterwarnings("ignore:overflow")
@pytest.mark.parametrize("dtypes", ["single", "double", "both"])
@pytest.mark.parametrize("name", LISTS)
def test_selection_is_exact_whatever_the_values(route, on_threads, name, dtypes):
    values = LISTS[name]()
    if dtypes == "single":
        parts = [values.float()[:70_003], values.float()[70_003:].view(-1, 2)]
    elif dtypes == "double":
        parts = [values[1:70_003], values[70_003:], values[:1]]
    else:
        parts = [values[:100_000].float(), values[100_000:]]
    together = np.concatenate([part.numpy().ravel() for part in parts])
    ordered = np.sort(together[np.isfinite(together)])
    n = len(ordered)
    for k in (1, 2, n // 3, n - 1, n):
        assert on_threads(lambda k=k: ops.kth_value(parts, k)) == [float(ordered[k - 1])] * 2
    for q in (0, 1e-3, 37.5, 97.6, 99.9999, 100):
        expected = float(np.percentile(ordered, q))
        assert on_threads(lambda q=q: ops.percentile(parts, q)) == [expected] * 2


def test_a_rank_of_no_value_is_refused(route):
    values = [torch.tensor([1.0, math.nan]), torch.tensor([2.0])]
    for k in (0, -1, 3):
        with pytest.raises(DataError, match=rf"k must be from 1 to .*got {k}"):
            ops.kth_value(values, k)
    with pytest.raises(DataError, match="k must be"):
        ops.kth_value([], 1)
    assert ops.kth_value(values, 2) == 2


def test_other_questions_are_refused():
    with pytest.raises(DataError, match="from 0 to 100, got 101"):
        ops.percentile([torch.ones(3)], 101)
    with pytest.raises(DataError, match=r"cannot rank torch\.int64"):
        ops.percentile([torch.arange(3)], 50)
    with pytest.raises(DataError, match="cpu and meta: move"):
        ops.kth_value([torch.ones(3), torch.ones(3, device="meta")], 1)


def test_strides_and_odd_offsets_are_no_matter(route):
    whole = torch.randn(7, 100, 301)
    for view in (whole[:, 1:, 2::3], whole.transpose(0, 2), whole.flatten()[3:], whole[0, 0, 5]):
        expected = float(np.percentile(view.numpy(), 42.0))
        assert ops.percentile([view], 42.0) == expected
        assert ops.percentile([view.requires_grad_()], 42.0) == expected
