# SPDX-License-Identifier: BSD-3-Clause
"""Random labels: which are drawn, what they are trained on with, and that a class is forgotten."""

import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from unlearnkit import CollapseWarning, DataError, RandomLabel, SalUn
from unlearnkit.methods._labels import RandomLabels, classes_of
from unlearnkit.methods._run import derived
from unlearnkit.parameters import bits, named_parameters
from unlearnkit.testing._task import FORGET, N_FORGET, RETAIN, Dense, Task

SETTINGS = {"epochs": 3, "lr": 0.05, "batch_size": 4, "weight_decay": 0.01, "random_state": 0}


@pytest.fixture
def task():
    return Task(dtype=torch.float64)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


# training ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("exclude", [True, False])
def test_a_forget_pass_then_a_retain_pass(task, plain, exclude):
    """One optimizer over both: its momentum goes from one pass into the other."""

    def losses(model, epoch, generator):
        for _, X, y in plain.split(task.arrays(FORGET), 4, generator):
            steps = torch.randint(int(exclude), 3, (len(y),), generator=generator)
            yield F.cross_entropy(model(X), (y + steps) % 3)
        for _, X, y in plain.split(task.arrays(RETAIN), 4, generator):
            yield 0.7 * F.cross_entropy(model(X), y)

    expected = plain.by_hand(task.model, losses, 3, decay=0.01)
    estimator = RandomLabel(alpha=0.7, exclude_true_label=exclude, **SETTINGS)
    plain.assert_trained(task.fit(estimator), task.model, expected)
    assert [row["epoch"] for row in estimator.history_] == [1, 2, 3]


def test_mixed_order_is_one_shuffled_pass_over_both(task, plain):
    data, n = [task.arrays(FORGET), task.arrays(RETAIN)], N_FORGET
    X_all, y_all = (torch.cat(parts) for parts in zip(*data, strict=True))

    def losses(model, epoch, generator):
        for rows, X, y in plain.split((X_all, y_all), 8, generator):
            steps = torch.randint(1, 3, (len(y),), generator=generator)
            given = torch.where(rows < n, (y + steps) % 3, y)
            each = F.cross_entropy(model(X), given, reduction="none")
            yield torch.where(rows < n, each, 0.6 * each).sum() / len(y)

    expected = plain.by_hand(task.model, losses, 3, decay=0.01)
    estimator = RandomLabel(order="mixed", alpha=0.6, **{**SETTINGS, "batch_size": 8})
    plain.assert_trained(task.fit(estimator), task.model, expected)


def test_salun_is_random_label_on_the_most_salient_half(task, plain):
    estimator = task.fit(SalUn(**SETTINGS))
    X, y = task.arrays(FORGET)
    task.model.eval()
    gradients = torch.autograd.grad(F.cross_entropy(task.model(X), y), list(task.model.parameters()))
    flat = torch.cat([g.abs().flatten() for g in gradients])
    chosen = torch.zeros(len(flat), dtype=torch.bool)
    chosen[flat.argsort(descending=True, stable=True)[: len(flat) // 2]] = True
    found = torch.cat([mask.flatten() for mask in estimator.mask_.values()])
    assert torch.equal(found, chosen)

    def losses(model, epoch, generator):
        for _, X, y in plain.split(task.arrays(FORGET), 4, generator):
            yield F.cross_entropy(model(X), (y + torch.randint(1, 3, y.shape, generator=generator)) % 3)
        for _, X, y in plain.split(task.arrays(RETAIN), 4, generator):
            yield F.cross_entropy(model(X), y)

    expected = plain.by_hand(task.model, losses, 3, decay=0.01, mask=estimator.mask_)
    plain.assert_trained(estimator, task.model, expected)


def test_paired_order_has_a_batch_of_either_in_each_step(task, plain):
    """As many steps as the forget set has batches; each epoch reads another part of the retain set."""

    def losses(model, epoch, generator):
        def kept():
            while True:
                yield from plain.split(task.arrays(RETAIN), 4, generator)

        retain = kept()
        for _, X, y in plain.split(task.arrays(FORGET), 4, generator):
            wrong = F.cross_entropy(model(X), (y + torch.randint(1, 3, y.shape, generator=generator)) % 3)
            _, X, y = next(retain)
            yield wrong + 0.7 * F.cross_entropy(model(X), y)

    expected = plain.by_hand(task.model, losses, 3, decay=0.01)
    estimator = RandomLabel(order="paired", alpha=0.7, **SETTINGS)
    plain.assert_trained(task.fit(estimator), task.model, expected)


class Squares:
    """A loss for another task than classification, which knows what is wrong there."""

    def __init__(self):
        self.asked = []

    def __call__(self, model, batch):
        X, y = batch
        return (model(X) - F.one_hot(y, 3)).square().mean(1)

    def misaligned(self, model, batch, original, generator):
        X, y = batch
        before = original()
        self.asked.append((len(y), before.training, torch.equal(before(X), model(X))))
        steps = torch.randint(1, 3, y.shape, generator=generator)
        return (model(X) - F.one_hot((y + steps) % 3, 3)).square().mean(1)


@pytest.mark.parametrize("order", ["sequential", "paired", "mixed"])
def test_a_loss_may_say_itself_what_a_wrong_label_is(task, plain, order):
    data, n = [task.arrays(FORGET), task.arrays(RETAIN)], N_FORGET
    loss = Squares()

    def wrong(model, X, y, generator):
        steps = torch.randint(1, 3, y.shape, generator=generator)
        return (model(X) - F.one_hot((y + steps) % 3, 3)).square().mean(1)

    def losses(model, epoch, generator):
        if order == "mixed":
            X_all, y_all = (torch.cat(parts) for parts in zip(*data, strict=True))
            for rows, X, y in plain.split((X_all, y_all), 8, generator):
                mine, parts = rows < n, []
                if mine.any():
                    parts.append(wrong(model, X[mine], y[mine], generator))
                if not mine.all():
                    parts.append(0.6 * loss(model, (X[~mine], y[~mine])))
                yield torch.cat(parts).mean()
            return
        retain = plain.split(data[1], 8, generator)
        for _, X, y in plain.split(data[0], 8, generator):
            term = wrong(model, X, y, generator).mean()
            if order == "paired":
                _, X, y = next(retain)
                term = term + 0.6 * loss(model, (X, y)).mean()
            yield term
        if order == "sequential":
            for _, X, y in retain:
                yield 0.6 * loss(model, (X, y)).mean()

    expected = plain.by_hand(task.model, losses, 3, decay=0.01)
    settings = {**SETTINGS, "batch_size": 8}
    estimator = task.fit(RandomLabel(loss=loss, order=order, alpha=0.6, **settings))
    plain.assert_trained(estimator, task.model, expected)
    assert loss.asked[0][2] and not loss.asked[-1][2]  # the original stays as it was
    assert not any(training for _, training, _ in loss.asked)
    assert sum(count for count, _, _ in loss.asked) == 3 * n


@pytest.mark.parametrize("given", [{"draw": "once"}, {"exclude_true_label": False}])
def test_settings_of_class_labels_are_refused_with_such_a_loss(task, given):
    with pytest.raises(DataError, match=f"{next(iter(given))}=.*Squares"):
        task.fit(RandomLabel(loss=Squares(), **given, **SETTINGS))


# labels -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("exclude", [True, False])
@pytest.mark.parametrize("draw", ["visit", "once"])
def test_labels_are_uniform(exclude, draw):
    """Chi-squared over 6 classes, for each true label; its 1e-6 quantile at 5 degrees is 35.9."""
    n, K = 12_000, 6
    y = torch.arange(n) % K
    labels = RandomLabels(K, exclude)
    batch = (torch.zeros(n, 1), y)
    new = labels.visit(batch, seeded())[1] if draw == "visit" else labels.once(batch, torch.arange(n), 5)[1]
    assert int(new.min()) >= 0 and int(new.max()) < K
    for true in range(K):
        counts = torch.bincount(new[y == true], minlength=K).double()
        if exclude:
            assert counts[true] == 0
            counts = torch.cat([counts[:true], counts[true + 1 :]])
        expected = counts.sum() / len(counts)
        assert float(((counts - expected) ** 2 / expected).sum()) < 35.9


def seen_labels(task, **given):
    """Return the labels that each forget sample was trained on, epoch after epoch: [E, N]."""
    seen = []

    def loss(model, batch):
        X, y = batch
        if model.training:
            seen.extend(zip(X[:, 0, 0, 0].tolist(), y.tolist(), strict=True))
        return F.cross_entropy(model(X), y, reduction="none")

    task.fit(RandomLabel(loss=loss, **{**SETTINGS, **given}))
    of = task.arrays(FORGET)[0][:, 0, 0, 0].tolist()
    rows = {value: [label for key, label in seen if key == value] for value in of}
    return torch.tensor([rows[value] for value in of]).T


@pytest.mark.parametrize("order", ["sequential", "mixed"])
def test_a_label_is_drawn_once_or_at_every_visit(task, order):
    once = seen_labels(task, draw="once", order=order, epochs=6)
    assert bool((once == once[0]).all()) and len(set(once[0].tolist())) > 1
    visit = seen_labels(task, draw="visit", order=order, epochs=6)
    assert once.shape == visit.shape == (6, N_FORGET)
    assert not bool((visit == visit[0]).all())
    assert not bool((once == 0).any()) and not bool((visit == 0).any())  # all are of class 0


def test_labels_drawn_once_do_not_depend_on_batches():
    labels, y = RandomLabels(10, True), torch.arange(40) % 10
    batch, numbers = (torch.zeros(40, 1), y), torch.arange(40)
    whole = labels.once(batch, numbers, derived(3, 0, 0))[1]
    order = torch.randperm(40, generator=seeded())
    parts = [labels.once((batch[0][at], y[at]), numbers[at], derived(3, 0, 0))[1] for at in order.split(7)]
    assert torch.equal(torch.cat(parts), whole[order])


@pytest.mark.parametrize("draw", ["visit", "once"])
def test_what_does_not_count_keeps_its_label(draw):
    y = torch.tensor([[0, -100, 2], [-100, -100, 1]])
    labels = RandomLabels(3, True)
    for seed in range(20):
        batch = (torch.zeros(2, 1), y)
        new = (
            labels.visit(batch, seeded(seed))
            if draw == "visit"
            else labels.once(batch, torch.arange(2), seed)
        )[1]
        assert torch.equal(new == -100, y == -100)
        assert bool((new != y)[y != -100].all()) and bool((new[y != -100] >= 0).all())


def test_mappings_keep_their_form():
    batch = {"input": torch.zeros(4, 2), "labels": torch.tensor([0, 1, 2, 0])}
    new = RandomLabels(3, True).visit(batch, seeded())
    assert new["input"] is batch["input"] and bool((new["labels"] != batch["labels"]).all())
    assert torch.equal(batch["labels"], torch.tensor([0, 1, 2, 0]))


@pytest.mark.parametrize("order", ["sequential", "mixed"])
@pytest.mark.parametrize("draw", ["visit", "once"])
def test_a_label_a_pixel(order, draw):
    task = Task(Dense)

    def pixels(part):
        X, y = task.arrays(part)
        y = y[:, None, None].repeat(1, 4, 4)
        y[:, 0] = -100
        return X, y

    settings = {**SETTINGS, "batch_size": 8}
    estimator = RandomLabel(order=order, draw=draw, **settings)
    clean = estimator.fit(task.model, pixels(RETAIN), pixels(FORGET)).transform(task.model)
    assert len(estimator.edit_) and all(bool(p.isfinite().all()) for p in clean.parameters())


def test_classes_are_those_of_the_output():
    X, y = torch.zeros(4, 6), torch.zeros(4, dtype=torch.long)
    assert classes_of(nn.Linear(6, 5), (X, y)) == 5
    for model, batch in (
        (nn.Linear(6, 1), (X, y)),  # one output is no choice
        (nn.Linear(6, 5), (X, y.float())),
        (nn.Linear(6, 5), (X, y[:, None])),
        (nn.Flatten(0), (X, y)),
    ):
        with pytest.raises(DataError, match=r"class indices \[N\] and logits \[N, K\].*GradientAscent"):
            classes_of(model, batch)


# forgetting -------------------------------------------------------------------------------------


@pytest.mark.parametrize("importance", ["gradient", "random"])
def test_frozen_weights_keep_their_bits(importance):
    task = Task()
    estimator = task.fit(SalUn(**{**SETTINGS, "importance": importance}))
    clean = named_parameters(estimator.transform(task.model))
    for name, before in named_parameters(task.model).items():
        kept = ~estimator.mask_[name].view(-1)
        assert torch.equal(bits(before).view(-1)[kept], bits(clean[name]).view(-1)[kept])


def test_salun_forgets_a_class_of_digits(digits, model, plain):
    salun = SalUn(batch_size=64, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error", CollapseWarning)
        clean = salun.fit(model, digits.retain, digits.forget).transform(model)
    (class_before, rest_before), (class_after, rest_after) = (
        plain.accuracies(m, digits) for m in (model, clean)
    )
    assert class_before > 0.9 and class_after < 0.1
    assert rest_after > rest_before - 0.02
    assert salun.mask_.density == pytest.approx(0.5, abs=1e-4)


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"draw": "twice"}, "draw must be 'visit' or 'once', got 'twice'"),
        ({"order": "random"}, "order must be 'sequential', 'mixed' or 'paired', got 'random'"),
        ({"alpha": -1}, "alpha must be a number from 0 on, got -1"),
        ({"budget": 1.5}, "budget must be a share of the weights from 0 to 1, got 1.5"),
        ({"granularity": "row"}, "granularity must be 'weight', 'channel' or 'layer', got 'row'"),
    ],
)
def test_parameters_are_checked_in_fit(task, parameters, words):
    with pytest.raises(DataError, match=words):
        task.fit(SalUn(**parameters))


def test_a_label_outside_the_classes_is_named(task):
    task.arrays(FORGET)[1][-1] = 7
    with pytest.raises(DataError, match=r"outside the model's 3 classes.*to 7.*class indices"):
        task.fit(RandomLabel(**SETTINGS))
