# SPDX-License-Identifier: BSD-3-Clause
"""IAM beside a loop with SciPy's Gumbel distribution, and what its numbers say."""

import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import gumbel_r
from torch import nn

from unlearnkit.exceptions import DataError, SmallSampleWarning
from unlearnkit.metrics.iam import iam, iam_of_models, iam_signal


def signal(p, eps1=1e-2, eps2=1e-5):
    return -math.log(eps1 - math.log(p + eps2))


def by_loops(unlearned, shadows, original, steps, spread):
    """Sum the definition up, sample by sample."""
    probability = lambda phi: 1 / (1 + math.exp(-phi))  # noqa: E731
    g_u = [signal(probability(phi)) for phi in unlearned]
    g_s = [[signal(probability(phi)) for phi in row] for row in shadows]
    fitted = [1.0] * len(unlearned) if original is None else [probability(phi) for phi in original]
    g_o = [signal(p) for p in fitted]
    alphas = [k / (steps - 1) for k in range(steps)]
    scores = []
    for i in range(len(unlearned)):
        member = 0.0
        for k in range(steps - 1):
            between = [[s + alphas[k] * (o - s) for s, o in zip(row, g_o, strict=True)] for row in g_s]
            mean = sum(row[i] for row in between) / len(between)
            all_values = [value for row in between for value in row]
            values = [row[i] for row in between] if spread == "shadows" else all_values
            middle = sum(values) / len(values)
            std = math.sqrt(sum((value - middle) ** 2 for value in values) / len(values))
            beta = std * math.sqrt(6) / math.pi
            member += alphas[k + 1] * gumbel_r.cdf(g_u[i], mean - 0.5772 * beta, beta)
        scores.append(1 - member / sum(alphas[1:]))
    return scores


def draw(seed, n=30, k=3, gap=4.0):
    """Margins: unseen around 0, fitted `gap` above them."""
    rng = np.random.default_rng(seed)
    base = rng.normal(0, 1.5, n)
    unseen = base + rng.normal(0, 0.5, (k + 1, n))
    return unseen[0], unseen[1:], base + gap + rng.normal(0, 0.5, n)


@pytest.mark.filterwarnings("ignore::unlearnkit.exceptions.SmallSampleWarning")
@settings(max_examples=20)
@given(
    st.integers(2, 25), st.integers(2, 4), st.integers(2, 12), st.sampled_from(["data", "shadows"]),
    st.booleans(), st.integers(0, 1000),
)  # fmt: skip
def test_is_the_sum_of_its_definition(n, k, steps, spread, with_original, seed):
    unlearned, shadows, original = draw(seed, n, k)
    original = original if with_original else None
    found = iam(unlearned, shadows, original, steps=steps, spread=spread, n_bootstrap=0)
    expected = by_loops(unlearned, shadows, original, steps, spread)
    np.testing.assert_allclose(found.per_sample, expected, rtol=1e-9, atol=1e-12)
    assert found.value == pytest.approx(np.mean(expected)) and found.low is None
    assert ((found.per_sample >= 0) & (found.per_sample <= 1)).all()


def test_two_steps_by_hand():
    # K = 2 leaves a = 0 alone, with weight 1: 1 - F(g_u) around the shadow's mean. The shadow's
    # signals are g(1/2) and g(1/2) -+ 1, whose deviation is sqrt(2/3).
    middle = signal(0.5)
    p = [math.exp(1e-2 - math.exp(-(middle + d))) - 1e-5 for d in (-1, 0, 1)]
    shadow = [math.log(q / (1 - q)) for q in p]
    assert iam_signal(shadow) == pytest.approx([middle - 1, middle, middle + 1])
    with pytest.warns(SmallSampleWarning):
        found = iam([shadow[0], shadow[1], shadow[1]], [shadow], steps=2, n_bootstrap=0)
    scale = math.sqrt(2 / 3) * math.sqrt(6) / math.pi
    at = [1 - math.exp(-math.exp(-(difference / scale + 0.5772))) for difference in (0, 0, -1)]
    assert found.per_sample == pytest.approx(at)
    assert found.per_sample[0] == pytest.approx(0.4296, abs=1e-4)  # any model that equals the shadow's mean


def test_signal_is_that_of_the_paper():
    assert iam_signal(np.inf) == pytest.approx(-math.log(1e-2 - math.log(1 + 1e-5)))
    assert iam_signal(-np.inf) == pytest.approx(-math.log(1e-2 - math.log(1e-5)))
    assert iam_signal(-1e4) == pytest.approx(iam_signal(-np.inf))
    assert iam_signal(torch.zeros(2), eps1=0.1).tolist() == pytest.approx([signal(0.5, 0.1)] * 2)
    rising = iam_signal(np.linspace(-9, 9, 50))
    assert (np.diff(rising) > 0).all()


def test_one_shadow_takes_the_spread_over_samples():
    unlearned, shadows, original = draw(0)
    one = iam(unlearned, shadows[:1], original, spread="shadows")
    np.testing.assert_array_equal(one.per_sample, iam(unlearned, shadows[:1], original).per_sample)
    assert one.n_shadows == 1


def test_forgetting_is_ordered():
    unlearned, shadows, original = draw(1, n=400)
    path = [iam(original + t * (unlearned - original), shadows, original).value for t in (0, 0.5, 1)]
    under, half, done = path
    over = iam(unlearned - 4, shadows, original)
    assert under < half < done < over.value
    assert iam(original, shadows, original).untouched == pytest.approx(under)
    assert over.low > over.level  # over-unlearning


def test_a_retrained_model_is_near_the_level():
    for seed in range(5):
        unlearned, shadows, original = draw(seed, n=400)
        found = iam(unlearned, shadows, original)
        assert found.low < found.value < found.high
        assert abs(found.value - found.level) < found.high - found.low
        assert found.untouched < found.level - 0.2


def test_the_level_leaves_each_shadow_out_of_its_own_reference():
    _, shadows, original = draw(2, k=3)
    found = iam(shadows[0], shadows, original)
    parts = [
        iam(shadows[k], np.delete(shadows, k, axis=0), original, n_bootstrap=0).per_sample for k in range(3)
    ]
    np.testing.assert_allclose(found.level_per_sample, np.mean(parts, axis=0))
    assert found.level == pytest.approx(np.mean(parts))


def test_samples_that_an_unseen_model_knows_say_nothing():
    # Fitted and unseen alike: whatever the model, about 1 - F(mean) = 0.43.
    rng = np.random.default_rng(3)
    shadows = rng.normal(3, 1, (4, 500))
    found = iam(rng.normal(3, 1, 500), shadows, rng.normal(3, 1, 500))
    assert found.value == pytest.approx(found.untouched, abs=0.05)
    assert found.level == pytest.approx(found.value, abs=0.05)


def test_equal_shadows_do_not_divide_by_zero():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = iam(
            np.r_[np.full(15, -1.0), np.full(15, 1.0)], np.zeros((2, 30)), np.full(30, 3.0), spread="shadows"
        )
    assert found.per_sample[0] == 1 and 0 < found.per_sample[-1] < 1


def test_interval_and_repr():
    unlearned, shadows, original = draw(4)
    found = iam(unlearned, shadows, original, random_state=3)
    assert found == found and "per_sample" not in repr(found) and "level=" in repr(found)
    again = iam(unlearned, shadows, original, random_state=3)
    assert (again.low, again.high) == (found.low, found.high)


def test_few_samples_are_warned_of():
    unlearned, shadows, original = draw(5, n=19)
    with pytest.warns(SmallSampleWarning, match="19 samples"):
        iam(unlearned, shadows, original)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shadows": np.zeros((2, 29))}, "29 samples where"),
        ({"shadows": np.zeros(30)}, r"\[M, N\]"),
        ({"shadows": np.zeros((0, 30))}, r"\[M, N\]"),
        ({"unlearned": np.full(30, np.nan)}, "30 NaN"),
        ({"unlearned": np.zeros((2, 30))}, "of one model"),
        ({"original": np.zeros(31)}, "31 samples where"),
        ({"steps": 1}, "steps"),
        ({"spread": "both"}, "spread"),
        ({"eps1": 1e-6}, "eps1"),
    ],
)
def test_bad_input_is_refused(change, message):
    with pytest.raises(DataError, match=message):
        iam(**{"unlearned": np.zeros(30), "shadows": np.zeros((2, 30)), **change})


def test_one_sample_under_one_shadow_is_refused():
    with pytest.raises(DataError, match="no spread"):
        iam([0.0], [[1.0]])


def test_of_models():
    models = [nn.Linear(4, 3) for _ in range(4)]
    data = torch.randn(25, 4), torch.randint(3, (25,))
    found = iam_of_models(models[0], models[1:3], data, original=models[3], n_bootstrap=50)
    z = [model(data[0]).detach().double() for model in models]
    p = [x.softmax(1)[range(25), data[1]].numpy() for x in z]
    phi = [np.log(q / (1 - q)) for q in p]
    expected = iam(phi[0], np.stack(phi[1:3]), phi[3], n_bootstrap=50)
    np.testing.assert_allclose(found.per_sample, expected.per_sample, rtol=1e-5)
    assert iam_of_models(models[0], models[1], data).n_shadows == 1
