# SPDX-License-Identifier: BSD-3-Clause
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import entropy
from torch.nn import functional as F

from unlearnkit.exceptions import DataError
from unlearnkit.metrics import (
    entropy_from_logits,
    loss_from_logits,
    modified_entropy_from_logits,
)

# Probabilities that are easily worked with by hand.
P = torch.tensor([[0.5, 0.25, 0.25], [0.8, 0.1, 0.1]], dtype=torch.float64)
LABELS = torch.tensor([0, 1])
FUNCTIONS = [entropy_from_logits, loss_from_logits, modified_entropy_from_logits]


def by_definition(p, labels):
    """Song and Mittal's modified entropy, term by term."""
    found = []
    for row, label in zip(p, labels, strict=True):
        rest = [row[k] * np.log(1 - row[k]) for k in range(len(row)) if k != label]
        found.append(-(1 - row[label]) * np.log(row[label]) - sum(rest))
    return np.array(found)


def as_published(p, labels):
    """What Unlearn-Saliency computes: the columns of all labels swapped, log p for log(1 - p)."""
    weight = p.copy()
    weight[:, np.unique(labels)] = 1 - p[:, np.unique(labels)]
    return -(weight * np.log(p)).sum(axis=1)


def test_by_hand():
    np.testing.assert_allclose(loss_from_logits(P.log(), LABELS), [np.log(2), np.log(10)])
    np.testing.assert_allclose(entropy_from_logits(P.log(), LABELS)[0], 1.5 * np.log(2))
    expected = [
        0.5 * np.log(2) + 2 * 0.25 * np.log(4 / 3),
        0.9 * np.log(10) + 0.8 * np.log(5) + 0.1 * np.log(10 / 9),
    ]
    np.testing.assert_allclose(modified_entropy_from_logits(P.log(), LABELS), expected)


@settings(max_examples=50)
@given(st.integers(1, 30), st.integers(2, 8), st.integers(0, 1000))
def test_against_other_implementations(n, classes, seed):
    rng = np.random.default_rng(seed)
    logits, labels = (
        torch.from_numpy(rng.normal(size=(n, classes)) * 3),
        torch.from_numpy(rng.integers(classes, size=n)),
    )
    p = logits.softmax(1).numpy()
    torch.testing.assert_close(
        loss_from_logits(logits, labels), F.cross_entropy(logits, labels, reduction="none")
    )
    np.testing.assert_allclose(entropy_from_logits(logits, labels), entropy(p, axis=1), rtol=1e-9, atol=1e-12)
    found = modified_entropy_from_logits(logits, labels).numpy()
    np.testing.assert_allclose(found, by_definition(p, labels.numpy()), rtol=1e-7, atol=1e-9)
    assert (found >= 0).all()


def test_the_published_modified_entropy_is_another():
    rng = np.random.default_rng(0)
    logits, labels = torch.from_numpy(rng.normal(size=(20, 4))), torch.from_numpy(rng.integers(4, size=20))
    p = logits.softmax(1).numpy()
    ours, theirs = modified_entropy_from_logits(logits, labels).numpy(), as_published(p, labels.numpy())
    np.testing.assert_allclose(ours, by_definition(p, labels.numpy()))
    assert np.abs(ours - theirs).min() > 0.1
    # Theirs of a sample depends on the labels of the others; ours is its own.
    alone = modified_entropy_from_logits(logits[:1], labels[:1]).item()
    assert alone == ours[0] and as_published(p[:1], labels[:1].numpy())[0] != pytest.approx(theirs[0])


def test_a_confident_error_is_told_from_a_confident_hit():
    logits = torch.tensor([[10.0, 0.0], [10.0, 0.0]])
    labels = torch.tensor([0, 1])
    right, wrong = modified_entropy_from_logits(logits, labels)
    q = 1 / (1 + np.exp(10.0))  # of the other class
    assert right == pytest.approx(-2 * q * np.log1p(-q), rel=1e-9)
    assert wrong == pytest.approx(-2 * (1 - q) * np.log(q), rel=1e-9)
    same = entropy_from_logits(logits, labels)
    assert same[0] == same[1]


def test_extreme_logits_stay_finite():
    logits = torch.tensor([[800.0, 0.0, -800.0], [0.0, -torch.inf, 1.0]])
    labels = torch.tensor([2, 0])
    assert loss_from_logits(logits, labels)[0] == 1600
    assert modified_entropy_from_logits(logits, labels)[0] == pytest.approx(1600 + 800)
    for function in FUNCTIONS:
        assert function(logits, labels).isfinite().all()
    assert loss_from_logits(logits[1:], torch.tensor([1])) == torch.inf


def test_a_single_class_is_certain():
    for function in FUNCTIONS:
        assert function(torch.tensor([[3.0]]), torch.tensor([0])).item() == 0


def test_uniform_predictions_are_the_most_uncertain():
    found = entropy_from_logits(torch.zeros(1, 7), torch.tensor([0]))
    assert found.dtype == torch.float64 and found.item() == pytest.approx(np.log(7))


@pytest.mark.parametrize("function", FUNCTIONS)
def test_what_cannot_be_measured_is_refused(function):
    with pytest.raises(DataError, match="0 to 1 for 2 logits a sample; got 0 to 2"):
        function(torch.zeros(2, 2), torch.tensor([0, 2]))
    with pytest.raises(DataError, match="NaN"):
        function(torch.tensor([[0.0, torch.nan]]), torch.tensor([0]))
