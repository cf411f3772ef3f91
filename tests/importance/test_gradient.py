# SPDX-License-Identifier: BSD-3-Clause
"""The published rules of SalUn and DEL, written a second time in NumPy from plain gradients."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from unlearnkit import GradientSaliency, Importance, WeightedSaliency, select
from unlearnkit.exceptions import DataError, NondeterminismWarning, UnsupportedModuleError
from unlearnkit.importance.base import NoSamplesError


def localise(estimator, model, data, budget, granularity="weight", **how):
    measured = estimator.locate(model, data.roles)
    return select(estimator.scores(model, measured), budget, granularity, model=model, **how)


def flat(arrays):
    return np.concatenate([np.asarray(array).reshape(-1) for array in arrays.values()])


@pytest.mark.parametrize("budget", [0.1, 0.3, 0.5, 0.9, 1.0])
def test_saluns_mask_is_that_of_the_published_rule(model, data, summed_gradients, budget):
    saliency = {name: np.abs(g) for name, g in summed_gradients(model, data.forget).items()}
    ranks = np.empty(flat(saliency).size, int)
    ranks[np.argsort(-flat(saliency), kind="stable")] = np.arange(ranks.size)
    mask = localise(GradientSaliency(), model, data, budget)
    assert np.array_equal(flat(mask), ranks < int(ranks.size * budget))
    assert mask.n_selected == int(ranks.size * budget)


def del_selection(scores, budget, mode):
    """Rank channels by the mean of their h largest scores and vectors element by element; take whole ones."""
    units, n = [], sum(score.size for score in scores.values())
    for name, score in scores.items():
        for index in range(len(score) if score.ndim else 1):
            row = score[index].reshape(-1) if score.ndim > 1 else score.reshape(-1)[[index]]
            if row.size == 0:
                continue
            tenth = int(0.1 * len(score)) if mode == "code" and score.ndim else -(-row.size // 10)
            h = row.size if mode == "all" or score.ndim < 2 else min(max(tenth, 1), row.size)
            units.append((np.sort(row)[-h:].mean(), name, index, row.size))
    chosen = {name: np.zeros(score.shape, bool) for name, score in scores.items()}
    left = int(budget * n)
    for _, name, index, size in sorted(units, key=lambda unit: -unit[0]):
        if size <= left:
            left -= size
            chosen[name][index if chosen[name].ndim else ...] = True
    return chosen


@pytest.mark.parametrize("mode", ["fan_in", "code", "all"])
@pytest.mark.parametrize("budget", [0.05, 0.1, 0.3, 0.7])
def test_dels_selection_is_that_of_the_published_rule(model, data, summed_gradients, budget, mode):
    gradients = summed_gradients(model, data.forget)
    weights = {name: p.detach().numpy().astype(np.float64) for name, p in model.named_parameters()}
    expected = del_selection({n: np.abs(weights[n] * g) for n, g in gradients.items()}, budget, mode)
    mask = localise(WeightedSaliency(), model, data, budget, "channel", top=mode)
    for name, chosen in expected.items():
        assert np.array_equal(mask[name].numpy(), chosen), name
        if chosen.ndim > 1:
            assert mask.rows(name) is not None
    assert 0 < mask.n_selected <= int(budget * mask.n_total)


def test_sums_are_signed_and_scores_absolute(model, data, summed_gradients):
    found = GradientSaliency().measure(model, data.forget)
    assert (found.kind, found.count, found.samples, found.is_signed) == ("gradient/batch", 3, 19, True)
    for name, expected in summed_gradients(model, data.forget).items():
        np.testing.assert_array_equal(found.sums[name].numpy(), expected)
    assert any(bool((value < 0).any()) for value in found.sums.values())
    scores = GradientSaliency().scores(model, found)
    assert all(torch.equal(scores[name], value.abs()) for name, value in found.sums.items())
    assert not any(bool(found.sums[f"unused.{name}"].any()) for name in ("weight", "bias"))


def test_one_measurement_serves_both(model, data):
    measured = GradientSaliency().locate(model, data.roles)
    assert WeightedSaliency().kind == measured.kind
    weighted = WeightedSaliency().scores(model, measured)
    again = WeightedSaliency().scores(model, WeightedSaliency().locate(model, data.roles))
    for name, parameter in model.named_parameters():
        assert torch.equal(weighted[name], (parameter.detach().double() * measured.sums[name]).abs())
        assert torch.equal(weighted[name], again[name])


def test_signed_sums_add_up_and_subtract(model, data):
    saliency = GradientSaliency()
    forget, retain = saliency.measure(model, data.forget), saliency.measure(model, data.retain)
    everything = saliency.measure(model, [*data.forget, *data.retain])
    for found, expected in ((forget + retain, everything), (everything - forget, retain)):
        assert (found.count, found.samples) == (expected.count, expected.samples)
        for name, value in expected.sums.items():
            torch.testing.assert_close(found.sums[name], value, rtol=1e-12, atol=1e-12)
    with pytest.raises(DataError, match="cannot subtract an importance over 29 samples from one over 19"):
        forget - retain


def test_a_loss_of_ones_own(model, data):
    def squares(model, batch):
        return model(batch[0]).square().sum(1)

    found = GradientSaliency().measure(model, data.forget[:1], loss=squares)
    model.eval()
    squares(model, data.forget[0]).mean().backward()
    torch.testing.assert_close(found.sums["head.weight"], model.head.weight.grad.double())


def test_frozen_parameters_are_not_measured(model, data):
    model.conv.requires_grad_(False)
    found = GradientSaliency().measure(model, data.forget)
    assert "conv.weight" not in found.sums
    mask = select(GradientSaliency().scores(model, found), 0.5, model=model)
    assert mask.counts["conv.weight"] == mask.counts["conv.bias"] == 0


def test_random_samples_are_told_and_mere_shuffling_is_not(model, data, recwarn):
    data_set = TensorDataset(*data.forget[0])
    GradientSaliency().measure(model, DataLoader(data_set, 4, shuffle=True))
    assert not [one for one in recwarn if issubclass(one.category, NondeterminismWarning)]
    with pytest.warns(NondeterminismWarning, match="drop_last"):
        GradientSaliency().measure(model, DataLoader(data_set, 3, drop_last=True))


def test_what_cannot_be_measured_is_refused(model, data):
    x, y = data.forget[0]
    with pytest.raises(NoSamplesError):
        GradientSaliency().measure(model, [(x[:0], y[:0])])
    with pytest.raises(DataError, match="loss of sample 0 of a batch is nan"):
        GradientSaliency().measure(model, (x * torch.nan, y))
    with pytest.raises(UnsupportedModuleError, match="requires a gradient"):
        GradientSaliency().measure(model.requires_grad_(False), data.forget)
    with torch.no_grad():
        model.conv.weight[0] = torch.nan
    with pytest.raises(DataError, match=r"conv\.weight holds 9 values that are NaN"):
        GradientSaliency().measure(model, data.forget)


def test_halves_are_scored_in_full_precision():
    model = nn.Linear(2, 1, bias=False).to(torch.bfloat16)
    measured = Importance(
        {"weight": torch.tensor([[1 + 1e-9, -1.0]], dtype=torch.float64)}, 1, "gradient/batch"
    )
    scores = WeightedSaliency().scores(model, measured)["weight"]
    assert scores.dtype is torch.float64
    expected = model.weight.detach().double() * measured.sums["weight"]
    assert torch.equal(scores, expected.abs())


@pytest.mark.parametrize("share", [0.5, 2.0])
def test_a_batchs_gradient_is_clipped_as_torch_clips(model, data, share):
    """By its norm over all weights, batch by batch, before it is added."""
    batches = list(data.forget)
    model.eval()
    parameters = dict(model.named_parameters())
    found = []
    for X, y in batches:
        model.zero_grad()
        nn.functional.cross_entropy(model(X), y).backward()
        found.append({name: p.grad.double() for name, p in parameters.items() if p.grad is not None})
    model.zero_grad()
    norms = [sum(float(g.square().sum()) for g in one.values()) ** 0.5 for one in found]
    clip = share * max(norms)
    measured = GradientSaliency(clip=clip).measure(model, batches)
    assert measured.kind == f"gradient/batch/clip {clip:g}"
    for name in found[0]:
        wanted = sum(min(1.0, clip / norm) * one[name] for norm, one in zip(norms, found, strict=True))
        torch.testing.assert_close(measured.sums[name], wanted.detach(), rtol=1e-5, atol=1e-9)


def test_a_loss_of_its_own_goes_before_the_methods(model, data):
    def halved(model, batch):
        return 0.5 * nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="none")

    own = GradientSaliency(loss=halved).measure(
        model, data.forget, loss=lambda *_: pytest.fail("the other loss")
    )
    plain = GradientSaliency().measure(model, data.forget)
    for name, value in plain.sums.items():
        torch.testing.assert_close(own.sums[name], 0.5 * value)


@pytest.mark.parametrize("clip", [0, -1.0, "1"])
def test_a_clip_that_is_none_is_refused(model, data, clip):
    with pytest.raises(DataError, match=f"clip must be a number above 0 or None, got {clip!r}"):
        GradientSaliency(clip=clip).measure(model, data.forget)
