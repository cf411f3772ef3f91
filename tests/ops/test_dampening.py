# SPDX-License-Identifier: BSD-3-Clause
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unlearnkit import ops
from unlearnkit.edit.sources import scaled
from unlearnkit.exceptions import DataError
from unlearnkit.parameters import bits

IMPORTANCE = st.one_of(st.just(0.0), st.floats(1e-12, 1e12))
PAIRS = st.lists(st.tuples(IMPORTANCE, IMPORTANCE), min_size=1, max_size=20)
ALPHA = st.floats(0, 1e6)


def tensors(pairs):
    forget, reference = torch.tensor(pairs, dtype=torch.float64).T
    return forget, reference


def test_importance_ratio():
    ratio = ops.importance_ratio(torch.tensor([6.0, 0, 1, 0]), torch.tensor([3.0, 2, 0, 0]))
    assert ratio[:3].tolist() == [2, 0, math.inf] and math.isnan(ratio[3])


def test_dampening_factor_case_by_case():
    cases = {  # F_f, F_D: factor, with alpha = 2
        (3.0, 1.0): 1 / 3,
        (2.0, 1.0): 1.0,  # not strictly larger
        (np.nextafter(2, 3), 1.0): 1 / np.nextafter(2, 3),
        (1.0, 1.0): 1.0,
        (1.0, 0.0): 0.0,
        (0.0, 0.0): 1.0,
        (0.0, 1.0): 1.0,
        (math.nan, 1.0): 1.0,
        (1.0, math.nan): 1.0,
    }
    found = ops.dampening_factor(*tensors(list(cases)), alpha=2)
    assert found.tolist() == list(cases.values())


def test_dampening_factor_never_enlarges_a_weight():
    forget, reference = tensors([(3.0, 1.0), (30.0, 1.0)])
    assert ops.dampening_factor(forget, reference, 2, lambda_=6).tolist() == [1.0, 0.2]
    assert ops.dampening_factor(forget, reference, 2, lambda_=0).tolist() == [0.0, 0.0]


def test_an_infinite_alpha_selects_nothing():
    assert ops.dampening_factor(*tensors([(3.0, 1.0), (3.0, 0.0)]), math.inf).tolist() == [1, 1]


@given(pairs=PAIRS, alpha=ALPHA, lambda_=st.floats(0, 1))
def test_dampening_factor_is_a_factor_of_what_is_selected(pairs, alpha, lambda_):
    forget, reference = tensors(pairs)
    factor = ops.dampening_factor(forget, reference, alpha, lambda_)
    selected = forget > alpha * reference
    assert bool(((factor >= 0) & (factor <= 1)).all())
    assert bool((factor[~selected] == 1).all())
    strong = selected & (forget > lambda_ * reference)
    torch.testing.assert_close(factor[strong], (lambda_ * reference / forget)[strong])
    assert bool((factor[(reference == 0) & (forget > 0)] == 0).all())


@given(pairs=PAIRS, alphas=st.tuples(ALPHA, ALPHA))
def test_a_larger_alpha_selects_a_subset(pairs, alphas):
    forget, reference = tensors(pairs)
    low, high = (ops.dampening_factor(forget, reference, a, 0) == 0 for a in sorted(alphas))
    assert bool((low | ~high).all())


@given(pairs=PAIRS, alpha=ALPHA, power=st.integers(-20, 20))
def test_a_common_scale_changes_nothing(pairs, alpha, power):
    forget, reference = tensors(pairs)
    scaled = ops.dampening_factor(forget * 2.0**power, reference * 2.0**power, alpha)
    assert torch.equal(scaled, ops.dampening_factor(forget, reference, alpha))


DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
SPECIAL = [0.0, 1.0, 2.0, 3.0, 1e-30, 1e30, 3e38, math.inf, math.nan]


def expected_of(weights, forget, reference, alpha, lambda_):
    """Go by the factors and by what an edit makes of them."""
    new, counts = [], []
    for w, f, d in zip(weights, forget, reference, strict=True):
        factor = ops.dampening_factor(f, d, alpha, lambda_)
        factor = torch.where(factor < 1, factor, 1.0)
        new.append(scaled("w", w, factor))
        counts.append(int((factor < 1).sum()))
    return new, counts


def check(weights, forget, reference, alpha, lambda_=1.0):
    new, counts = expected_of(weights, forget, reference, alpha, lambda_)
    assert ops.dampen_(weights, forget, reference, alpha, lambda_) == counts
    for found, expected in zip(weights, new, strict=True):
        # every bit, but for which NaN it is
        assert torch.equal(found.isnan(), expected.isnan())
        assert torch.equal(bits(found.nan_to_num()), bits(expected.nan_to_num()))


@given(
    sizes=st.lists(st.integers(0, 5) | st.sampled_from([63, 64, 65, 200]), max_size=4),
    dtype=st.sampled_from(DTYPES),
    kind=st.sampled_from(DTYPES),
    alpha=st.sampled_from([0.0, 0.5, 1.0, 2.0, 1e39, 1e300, math.inf]) | st.floats(0, 10),
    lambda_=st.sampled_from([0.0, 0.3, 1.0, 4.0]),
    seed=st.integers(0, 99),
)
def test_dampen_gives_every_bit_that_factors_give(route, sizes, dtype, kind, alpha, lambda_, seed):
    draw = torch.Generator().manual_seed(seed)

    def importance(n):
        value = torch.rand(n, generator=draw, dtype=torch.float64) ** 4
        special = torch.tensor(SPECIAL, dtype=torch.float64)[
            torch.randint(len(SPECIAL), (n,), generator=draw)
        ]
        return torch.where(torch.rand(n, generator=draw) < 0.2, special, value).to(kind)

    weights = [torch.randn(n, generator=draw).to(dtype) for n in sizes]
    for weight in weights:
        weight[1::7] = -0.0
        weight[3::11] = math.inf
        weight[4::13] = math.nan
    check(weights, *([importance(n) for n in sizes] for _ in range(2)), alpha, lambda_)


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_products_of_every_half_are_rounded_as_torch_rounds(route, dtype, kind):
    weights = torch.arange(-(2**15), 2**15).to(torch.int16).view(dtype)  # all that there are
    for lambda_ in (1.0, 0.7371, 2.0**-9, 0.0):
        reference = torch.rand(len(weights), dtype=kind)
        check([weights.clone()], [torch.ones_like(reference) * 1.5], [reference], 0.25, lambda_)


def test_dampen_on_one_and_two_threads(route, on_threads):
    weights = [torch.randn(n) for n in (300_000, 1, 65_536, 0)]
    forget, reference = ([torch.rand_like(weight) for weight in weights] for _ in range(2))
    new, counts = expected_of(weights, forget, reference, 3, 1.0)
    assert 0 < counts[0] < 100_000

    def run():
        copies = [weight.clone() for weight in weights]
        assert ops.dampen_(copies, forget, reference, 3) == counts
        return copies

    for copies in on_threads(run):
        assert all(map(torch.equal, copies, new))


def test_dampen_writes_views_in_place_and_nothing_beside_them(route):
    for view in (
        lambda t: t[:, 1:, 1::2],
        lambda t: t.transpose(0, 2),
        lambda t: t.flatten()[3:-3],
        lambda t: t[1, 2, 3],
    ):
        whole = torch.randn(6, 40, 9)
        before = whole.clone()
        weight = view(whole)
        forget, reference = torch.rand(weight.shape), torch.rand(weight.shape)
        (new,), (count,) = expected_of([weight], [forget], [reference], 1.5, 1.0)
        assert ops.dampen_([weight], [forget], [reference], 1.5) == [count]
        assert torch.equal(view(whole), new)
        view(before).copy_(new)
        assert torch.equal(whole, before)


def test_importances_may_have_other_strides(route):
    weight = torch.randn(4, 5, 3, 3).to(memory_format=torch.channels_last)
    check([weight], [torch.rand(4, 5, 3, 3)], [torch.rand(3, 3, 5, 4).permute(3, 2, 0, 1)], 1.5)


def test_dtypes_may_differ_within_a_list(route):
    kinds = [torch.float32, torch.float64, torch.float16, torch.float32]
    forget, reference = ([torch.rand(100).to(kind) for kind in kinds] for _ in range(2))
    reference[3] = reference[3].double()
    check([torch.randn(100).to(dtype) for dtype in DTYPES], forget, reference, 2)


def test_autograd_sees_that_a_weight_was_written(route):
    weight = torch.nn.Parameter(torch.randn(3))
    loss = (weight * weight).sum()
    assert ops.dampen_([weight], [torch.ones(3)], [torch.full((3,), 0.1)], 2) == [3]
    assert weight.requires_grad and weight.grad_fn is None
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_nothing_to_dampen(route):
    assert ops.dampen_([], [], [], 2) == []


def test_what_does_not_match_is_refused_before_a_write():
    weights, ones = [torch.ones(3), torch.ones(3)], [torch.ones(3)] * 2
    with pytest.raises(DataError, match=r"reference\[1\] has shape \[4\] and weights\[1\] \[3\]"):
        ops.dampen_(weights, ones, [torch.zeros(3), torch.zeros(4)], 1)
    with pytest.raises(DataError, match="weights holds 2 tensors and forget 1"):
        ops.dampen_(weights, ones[:1], ones, 1)
    with pytest.raises(DataError, match=r"forget\[1\] is on meta and weights\[0\] on cpu"):
        ops.dampen_(weights, [ones[0], ones[0].to("meta")], ones, 1)
    assert all(bool((weight == 1).all()) for weight in weights)
