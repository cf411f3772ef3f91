# SPDX-License-Identifier: BSD-3-Clause
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from unlearnkit.exceptions import DataError
from unlearnkit.metrics import (
    accuracy,
    accuracy_from_logits,
    confidence_from_logits,
    predict_logits,
)

LOGITS = torch.tensor([[2.0, 1.0, 0.0], [0.0, 3.0, 1.0], [0.0, 0.0, 5.0], [1.0, 0.0, 0.0]])
LABELS = torch.tensor([0, 1, 2, 2])  # the last row is wrong


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(), nn.Linear(8, 4))


def samples(n=10):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(n, 3, generator=generator), torch.arange(n) % 4


def test_accuracy_of_known_logits():
    assert accuracy_from_logits(LOGITS, LABELS) == 0.75


def test_confidence_of_known_logits():
    expected = [np.e**2 / (np.e**2 + np.e + 1), np.e**3 / (1 + np.e**3 + np.e)]
    confidence = confidence_from_logits(LOGITS, LABELS)
    assert confidence.dtype == torch.float64
    np.testing.assert_allclose(confidence[:2].numpy(), expected, rtol=1e-12)


def test_confidence_keeps_what_float32_would_round_to_one():
    confidence = confidence_from_logits(torch.tensor([[20.0, 0.0]]), torch.tensor([0]))
    assert 1 - confidence.item() == pytest.approx(np.exp(-20.0), rel=1e-6)


def test_a_masked_class_is_allowed():
    logits = torch.tensor([[0.0, -torch.inf]])
    assert accuracy_from_logits(logits, torch.tensor([0])) == 1
    assert confidence_from_logits(logits, torch.tensor([1])).item() == 0


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 40), st.integers(1, 6), st.integers(0, 1000))
def test_against_numpy(n, classes, seed):
    rng = np.random.default_rng(seed)
    logits, labels = rng.normal(size=(n, classes)) * 5, rng.integers(classes, size=n)
    exp = np.exp(logits)
    torch_pair = torch.from_numpy(logits), torch.from_numpy(labels)
    assert accuracy_from_logits(*torch_pair) == pytest.approx(np.mean(np.argmax(logits, axis=1) == labels))
    np.testing.assert_allclose(
        confidence_from_logits(*torch_pair).numpy(),
        exp[np.arange(n), labels] / exp.sum(axis=1),
        rtol=1e-10,
    )


def test_predict_logits_runs_in_eval_mode_and_leaves_the_model_alone():
    model, (x, y) = net().train(), samples()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    logits, labels = predict_logits(model, (x, y))
    assert model.training and not logits.requires_grad
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    with torch.no_grad():
        torch.testing.assert_close(logits, model.eval()(x))
    assert torch.equal(labels, y)


def test_a_short_last_batch_weighs_by_its_samples():
    x, y = samples(10)
    model = nn.Linear(3, 4)
    with torch.no_grad():
        expected = (model(x).argmax(1) == y).double().mean().item()
    for size in (1, 3, 9, 10):
        loader = DataLoader(TensorDataset(x, y), batch_size=size)
        assert accuracy(model, loader) == pytest.approx(expected)


def test_dict_batches():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, 4)

        def forward(self, inputs):
            return self.linear(inputs)

    x, y = samples()
    model = Named()
    rows = [{"inputs": a, "labels": b} for a, b in zip(x, y, strict=True)]
    assert accuracy(model, DataLoader(rows, batch_size=4)) == accuracy(model.linear, (x, y))


@pytest.mark.parametrize("function", [accuracy_from_logits, confidence_from_logits])
@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (torch.zeros(0, 3), torch.zeros(0, dtype=torch.long), "at least one sample"),
        (torch.zeros(4), torch.zeros(4, dtype=torch.long), r"shape \[N, K\]"),
        (torch.zeros(4, 2, 3), torch.zeros(4, dtype=torch.long), r"\[4, 2, 3\]"),
        (torch.zeros(4, 3), torch.zeros(3, dtype=torch.long), r"\[4, 3\] and \[3\]"),
        (torch.zeros(4, 3), torch.zeros(4, 3), r"\[4, 3\] and \[4, 3\]"),
        (torch.zeros(2, 3), torch.zeros(2), "labels.long()"),
        (torch.zeros(2, 3), torch.tensor([0, 3]), "0 to 2 for 3 logits a sample; got 0 to 3"),
        (torch.zeros(2, 3), torch.tensor([-1, 1]), "got -1 to 1"),
        (torch.tensor([[0.0, torch.nan], [0.0, 1.0]]), torch.tensor([0, 1]), "1 of 2 samples"),
        (torch.tensor([[0.0, torch.inf], [0.0, 1.0]]), torch.tensor([0, 1]), "diverged"),
    ],
)
def test_what_cannot_be_measured_is_refused(function, logits, labels, message):
    with pytest.raises(DataError, match=message):
        function(logits, labels)


def test_empty_data_is_refused():
    with pytest.raises(DataError):
        accuracy(nn.Linear(3, 4), (torch.zeros(0, 3), torch.zeros(0, dtype=torch.long)))


def test_a_diverged_model_is_refused():
    model = nn.Linear(3, 4)
    with torch.no_grad():
        model.weight.fill_(torch.nan)
    with pytest.raises(DataError, match="diverged"):
        accuracy(model, samples())
