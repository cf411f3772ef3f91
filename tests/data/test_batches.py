# SPDX-License-Identifier: BSD-3-Clause
from collections import UserDict, namedtuple
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from unlearnkit.data import (
    batch_size,
    cross_entropy,
    cross_entropy_of,
    forward,
    labels,
    next_token_loss,
    take,
    tensors_of,
    to_device,
    tree_map,
)
from unlearnkit.exceptions import DataError

Pair = namedtuple("Pair", "image label")
X, Y = torch.randn(6, 3), torch.tensor([0, 1, 2, 0, 1, 2])


class Returns(nn.Module):
    """Returns what it is told to, whatever it is given."""

    def __init__(self, output):
        super().__init__()
        self.output = output

    def forward(self, *inputs, **named):
        self.inputs, self.named = inputs, named
        return self.output


def test_tree_map_reaches_every_tensor_and_keeps_the_form():
    batch = {"a": (X, [Y, "text", 3]), "b": Pair(X, None)}
    twice = tree_map(lambda t: t * 2, batch)
    assert torch.equal(twice["a"][0], X * 2)
    assert torch.equal(twice["a"][1][0], Y * 2)
    assert twice["a"][1][1:] == ["text", 3]
    assert isinstance(twice["b"], Pair) and torch.equal(twice["b"].image, X * 2)
    assert twice["b"].label is None


def test_tensors_of_lists_them_in_order():
    found = tensors_of({"a": (X, [Y]), "b": {"c": X}})
    assert [t is other for t, other in zip(found, (X, Y, X), strict=True)] == [True] * 3


@pytest.mark.parametrize(
    "batch",
    [
        (X, Y),
        [X, X, Y],
        Pair(X, Y),
        {"input": X, "labels": Y},
        {"labels": Y, "mask": torch.ones(1, 6)},  # transformers' collator puts labels first
        UserDict(labels=Y, mask=torch.ones(1, 6)),
        (torch.tensor(1.0), X),
        {"input": X},
    ],
    ids=lambda batch: type(batch).__name__,
)
def test_batch_size_is_that_of_the_labels(batch):
    assert batch_size(batch) == 6


@pytest.mark.parametrize("batch", [("a", "b"), {}, (torch.tensor(1.0),), 3])
def test_batch_size_needs_samples(batch):
    with pytest.raises(DataError, match=r"holds no tensor of samples, got .*batch is \(x, y\)"):
        batch_size(batch)


@pytest.mark.parametrize("index", [slice(1, 3), torch.tensor([4, 0]), Y == 1])
def test_take_picks_samples_and_passes_the_rest_through(index):
    scale, names = torch.tensor(2.0), torch.ones(3)
    part = take({"x": X, "scale": scale, "names": names, "labels": Y}, index)
    assert torch.equal(part["x"], X[index]) and torch.equal(part["labels"], Y[index])
    assert part["scale"] is scale and part["names"] is names


def test_to_device_detaches():
    leaf = X.clone().requires_grad_()
    moved = to_device((leaf * 2, Y), torch.device("cpu"))
    assert not moved[0].requires_grad


def test_labels_are_the_last_or_the_key():
    assert labels((X, X, Y)) is Y
    assert labels({"labels": Y, "x": X}) is Y


@pytest.mark.parametrize(
    ("batch", "got"),
    [
        (X, "Tensor"),
        ((X,), r"a tuple of \(Tensor\)"),
        ([X, "label"], r"a list of \(Tensor, str\)"),
        ({"input": X, 3: Y}, r"keys \['input', '3'\]"),
    ],
)
def test_missing_labels_are_said(batch, got):
    with pytest.raises(DataError, match=f"without labels, got .*{got}.*key 'labels'.*pass loss="):
        labels(batch)


def test_forward_passes_inputs_by_position_or_by_name():
    model = Returns(X)
    assert forward(model, (X, X, Y)) is X
    assert model.inputs[0] is X and len(model.inputs) == 2
    forward(model, {"input_ids": X, "labels": Y})
    assert model.inputs == () and list(model.named) == ["input_ids"]


@pytest.mark.parametrize(
    "output", [X, {"logits": X}, SimpleNamespace(logits=X)], ids=["tensor", "mapping", "object"]
)
def test_forward_finds_the_logits(output):
    assert forward(Returns(output), (X, Y)) is X


@pytest.mark.parametrize(
    ("output", "got"),
    [
        ({"loss": X}, r"keys \['loss'\]"),
        ((X, X), r"a tuple of \(Tensor, Tensor\)"),
        (SimpleNamespace(logits=None), "SimpleNamespace"),
    ],
)
def test_forward_refuses_what_has_no_logits(output, got):
    with pytest.raises(DataError, match=f"model returned .*{got}.*pass loss="):
        forward(Returns(output), (X, Y))


def test_cross_entropy_is_per_sample():
    logits = torch.randn(6, 4)
    expected = F.cross_entropy(logits, Y, reduction="none")
    assert torch.equal(cross_entropy(Returns(logits), (X, Y)), expected)
    assert torch.equal(cross_entropy_of(logits, Y.int()), expected)


def test_cross_entropy_of_soft_labels():
    logits, soft = torch.randn(6, 4), torch.rand(6, 4).softmax(1)
    expected = -(soft * logits.log_softmax(1)).sum(1)
    torch.testing.assert_close(cross_entropy_of(logits, soft), expected)


def test_cross_entropy_of_many_targets_is_the_mean_over_those_that_count():
    logits = torch.randn(2, 4, 3)  # [N, K, T]
    target = torch.tensor([[0, 3, -100], [-100, -100, -100]])
    expected = F.cross_entropy(logits[0].T[:2], target[0, :2])
    torch.testing.assert_close(cross_entropy_of(logits, target), torch.tensor([expected, 0.0]))


def test_mappings_have_their_classes_last():
    logits, target = torch.randn(2, 3, 4), torch.randint(4, (2, 3))  # [N, T, K]
    expected = F.cross_entropy(logits.transpose(1, 2), target, reduction="none").mean(1)
    found = cross_entropy(Returns(logits), {"x": X, "labels": target})
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("logits", "target"),
    [
        (torch.randn(6), Y),
        (torch.randn(5, 4), Y),
        (torch.randn(6, 4), Y.float()),
        (torch.randn(6, 1), torch.randn(6)),
    ],
)
def test_labels_that_do_not_fit_are_refused(logits, target):
    with pytest.raises(DataError, match=r"labels \[6\].* do not fit logits .*regression.*loss="):
        cross_entropy_of(logits, target)


@pytest.mark.parametrize("label", [4, -1])
def test_labels_out_of_range_are_refused(label):
    target = torch.tensor([0, label])
    with pytest.raises(DataError, match=rf"4 classes \(0 to 3\).*{label}.*class indices"):
        cross_entropy_of(torch.randn(2, 4), target)


# causal language models ---------------------------------------------------------------------------


class Bigrams(nn.Module):
    """Predicts a token from the one that it is given."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(7, 7)

    def forward(self, input_ids):
        return self.table(input_ids)


def texts():
    ids = torch.tensor([[1, 2, 3, 4], [5, 6, 0, 0]])
    return {"input_ids": ids, "labels": torch.tensor([[1, 2, 3, 4], [-100, 6, 0, -100]])}


def test_next_token_loss_by_hand():
    torch.manual_seed(0)
    model, batch = Bigrams(), texts()
    table = model.table.weight.log_softmax(1)
    first = -(table[1, 2] + table[2, 3] + table[3, 4]) / 3
    second = -(table[5, 6] + table[6, 0]) / 2
    torch.testing.assert_close(next_token_loss(model, batch), torch.stack([first, second]))
    shifted = {"input_ids": batch["input_ids"][:, :-1], "labels": batch["labels"][:, 1:]}
    torch.testing.assert_close(cross_entropy(model, shifted), next_token_loss(model, batch))


def test_next_token_loss_is_that_of_transformers():
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(n_layer=1, n_embd=8, n_head=1, vocab_size=7, n_positions=8)
    model, batch = transformers.GPT2LMHeadModel(config).eval(), texts()
    found = next_token_loss(model, batch)
    for at in range(2):
        one = {name: value[at : at + 1] for name, value in batch.items()}
        torch.testing.assert_close(found[at], model(**one).loss)


def test_labels_that_repeat_the_input_are_no_loss_to_train_on():
    with pytest.raises(DataError, match=r"labels equal input_ids.*loss=unlearnkit\.next_token_loss"):
        cross_entropy(Bigrams(), texts())
    masked = texts()
    masked["labels"] = torch.where(masked["input_ids"] == 3, 5, -100)  # one word is asked for
    assert cross_entropy(Bigrams(), masked).shape == (2,)


@pytest.mark.parametrize(
    ("batch", "words"),
    [
        ((torch.zeros(2, 3).long(), torch.zeros(2, 3).long()), "takes dicts with labels"),
        ({"input_ids": torch.zeros(2, 1).long(), "labels": torch.zeros(2, 1).long()}, "at least 2"),
        (
            {"input_ids": torch.zeros(2, 4).long(), "labels": torch.zeros(2, 3).long()},
            "a row of logits for every token",
        ),
    ],
)
def test_next_token_loss_says_what_it_takes(batch, words):
    with pytest.raises(DataError, match=words):
        next_token_loss(Bigrams(), batch)
