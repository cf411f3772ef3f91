# SPDX-License-Identifier: BSD-3-Clause
import math

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from unlearnkit import ops

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
