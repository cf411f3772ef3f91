# SPDX-License-Identifier: BSD-3-Clause
import copy
import math
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from unlearnkit import ASSD, LFSSD, SSD, FisherDiagonal, Importance, LogitNorm
from unlearnkit.exceptions import DataError, IneffectiveWarning
from unlearnkit.metrics import accuracy
from unlearnkit.parameters import named_buffers

KIND = FisherDiagonal().kind


class Weights(nn.Module):
    """Nothing but weights, so that importances can be set by hand."""

    def __init__(self, values):
        super().__init__()
        self.w = nn.Parameter(torch.tensor(values))


def stored(values, samples=1, kind=KIND):
    """An importance whose means are `values`."""
    return Importance({"w": samples * torch.tensor(values, dtype=torch.float64)}, samples, kind)


def weights_after(estimator, forget, full, samples=(1, 4)):
    """Ones dampened by given mean importances of the forget set and of the training set."""
    model = Weights([1.0] * len(forget))
    known = stored(full, samples[1])
    return estimator.fit(model, known, stored(forget, samples[0])).transform(model).w.tolist()


# against the published rule ---------------------------------------------------------------------


@pytest.mark.parametrize("lambda_", [1.0, 0.1, 4.0])
@pytest.mark.parametrize("against", ["full", "retain"])
def test_it_is_the_published_rule(digits, model, published, against, lambda_):
    retain, forget = published.batches(digits.retain), published.batches(digits.forget)
    F_f = published.importances(model, forget)
    F_D = published.importances(model, retain + forget if against == "full" else retain)
    expected = published.dampened(model, F_f, F_D, alpha=5, lambda_=lambda_)
    ssd = SSD(against=against, alpha=5, lambda_=lambda_).fit(model, retain, forget)
    published.assert_weights(ssd.transform(model), expected)
    changed = sum((expected[n] != p.detach().numpy()).sum() for n, p in model.named_parameters())
    assert ssd.edit_.n_changed == changed > 0
    assert (ssd.alpha_, ssd.n_forget_, ssd.n_total_) == (5, len(digits.forget[1]), 1000)


def test_it_forgets_a_class(digits, model):
    clean = SSD(against="retain", alpha=10).fit(model, digits.retain, digits.forget).transform(model)
    assert accuracy(model, digits.forget) > 0.9 and accuracy(clean, digits.forget) < 0.1
    assert accuracy(clean, digits.retain) > 0.9


def test_a_forget_set_smaller_than_a_batch_is_one_batch(digits, model, published):
    few = (digits.forget[0][:5], digits.forget[1][:5])
    retain = published.batches(digits.retain, 128)
    F_f = published.importances(model, [few])
    F_D = published.importances(model, [*retain, few])
    ssd = SSD(alpha=5).fit(model, digits.retain, few)
    published.assert_weights(ssd.transform(model), published.dampened(model, F_f, F_D, 5))


# the rule, weight by weight ---------------------------------------------------------------------


def test_selection_is_strict_and_what_is_not_selected_stays():
    found = weights_after(SSD(alpha=2), [2.0, 2.1, 1.0, 0.0], [1.0, 1.0, 1.0, 1.0])
    assert found == [1, pytest.approx(1 / 2.1), 1, 1]


def test_zero_importance_for_the_rest_zeroes_and_for_both_leaves_alone():
    assert weights_after(SSD(alpha=2), [1e-30, 0.0, 3.0], [0.0, 0.0, 1.0]) == [
        0,
        1,
        pytest.approx(1 / 3),
    ]


def test_no_weight_grows():
    with pytest.warns(IneffectiveWarning, match="alpha = 2 is below 5: 1 of the weights selected"):
        assert weights_after(SSD(alpha=2, lambda_=5), [3.0, 10.0], [1.0, 1.0]) == [1, 0.5]


def test_lambda_of_zero_prunes_what_is_selected():
    assert weights_after(SSD(alpha=2, lambda_=0), [3.0, 1.0], [1.0, 1.0]) == [0, 1]


def test_against_retain_subtracts_what_is_to_be_forgotten():
    # full mean 1 over 4 samples, forget mean 3 over 1: retain mean (4 - 3) / 3
    found = weights_after(SSD(against="retain", alpha=2), [3.0, 1.0], [1.0, 1.0])
    assert found == [pytest.approx(1 / 9), 1]


def test_of_per_sample_gradients_no_ratio_exceeds_the_bound(digits, model):
    X, y = digits.train
    fisher = FisherDiagonal()
    forget, full = (fisher.measure(model, data).mean() for data in (digits.forget, (X, y)))
    bound = len(y) / len(digits.forget[1])
    for name in forget:
        assert bool((forget[name] <= bound * (1 + 1e-5) * full[name]).all())
    ssd = SSD(importance="per_sample", alpha=bound * 1.001)
    for data in ((digits.retain,), (fisher.measure(model, digits.train),)):
        with pytest.warns(IneffectiveWarning, match=r"changes no weight.*at most \|D\|") as caught:
            ssd.fit(model, *data, digits.forget)
        assert f"= {bound:.4g}" in str(caught[0].message) and "ASSD" in str(caught[0].message)
        assert caught[0].filename == __file__
    assert ssd.edit_.n_changed == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error", IneffectiveWarning)
        assert SSD(importance="per_sample", alpha=bound / 2).fit(model, digits.retain, digits.forget)


def test_nothing_selected_is_told_whatever_the_importance(digits, model):
    with pytest.warns(IneffectiveWarning, match=r"no weight: no weight is 1e\+09 times"):
        SSD(against="retain", alpha=1e9).fit(model, digits.retain, digits.forget)
    # of batches too, if the forget set's are among those of the training set
    bound = (-(-len(digits.retain[1]) // 128) + 1) / 1
    with pytest.warns(IneffectiveWarning, match=f"at most .* = {bound:g}"):
        SSD(alpha=bound).fit(model, digits.retain, digits.forget)
    mixed = FisherDiagonal("batch").measure(model, digits.train)
    with pytest.warns(IneffectiveWarning, match=r"no weight: no weight is 1e\+09 times"):
        SSD(alpha=1e9, reference=mixed).fit(model, digits.forget)


def test_an_alpha_below_one_is_told(digits, model, published):
    retain, forget = published.batches(digits.retain), published.batches(digits.forget)
    with pytest.warns(IneffectiveWarning, match=r"alpha = 0\.5 is below 1") as caught:
        low = SSD(alpha=0.5).fit(model, retain, forget).edit_
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error", IneffectiveWarning)
        one = SSD(alpha=1).fit(model, retain, forget).edit_
        SSD(alpha=0.5, lambda_=0.5).fit(model, retain, forget)
    changed = {name: low[name].n_changed for name in low}
    assert changed == {name: one[name].n_changed for name in one}  # what it selects more is kept


# which tensors ----------------------------------------------------------------------------------


def test_norm_layers_are_dampened_and_their_statistics_never(digits, model):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        ssd = SSD(alpha=0, lambda_=0.5).fit(model, digits.retain, digits.forget)  # every tensor
    assert {"1.weight", "1.bias", "7.bias"} <= set(ssd.edit_.names)
    clean = ssd.transform(model)
    for name, buffer in named_buffers(model).items():
        assert torch.equal(named_buffers(clean)[name], buffer)


def test_a_tied_weight_is_dampened_once():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.again = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
            self.again.weight = self.first.weight

        def forward(self, x):
            return self.again(self.first(x).relu())

    torch.manual_seed(0)
    model, X, y = Tied(), torch.randn(40, 4), torch.arange(40) % 4
    retain, forget = (X[y > 0], y[y > 0]), (X[y == 0], y[y == 0])
    fisher = FisherDiagonal("batch")
    F_f, F_D = fisher.measure(model, forget), fisher.measure(model, retain)
    f, d = (i.mean()["first.weight"] for i in (F_f, F_D))
    factor = torch.where(f > 1.5 * d, (d / f).clamp(max=1), 1)
    clean = SSD(against="retain", alpha=1.5).fit(model, retain, forget).transform(model)
    assert clean.again.weight is clean.first.weight
    torch.testing.assert_close(clean.first.weight.double(), model.first.weight * factor)
    assert bool((factor < 1).any())


def test_frozen_weights_stay(digits, model):
    model[5].requires_grad_(False)
    ssd = SSD(alpha=3).fit(model, digits.retain, digits.forget)
    assert not {"5.weight", "5.bias"} & set(ssd.edit_.names) and len(ssd.edit_) > 0


# parameters -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"alpha": -1}, "alpha must be a number from 0 on, got -1"),
        ({"alpha": "10"}, "alpha must be a number from 0 on, got '10'"),
        ({"alpha": True}, "alpha must be a number"),
        ({"alpha": math.nan}, "alpha must be a number"),
        ({"lambda_": math.inf}, "lambda_ must be a number from 0 on, got inf"),
        ({"against": "forget"}, "against must be 'full' or 'retain', got 'forget'"),
        ({"importance": "fisher"}, r"importance must be 'per_sample', 'batch' or .*got 'fisher'"),
        ({"importance": FisherDiagonal("all")}, "gradient must be 'per_sample' or 'batch'"),
    ],
)
def test_parameters_are_checked_in_fit(digits, model, parameters, words):
    ssd = SSD(**parameters)
    with pytest.raises(DataError, match=words):
        ssd.fit(model, digits.retain, digits.forget)


@pytest.mark.parametrize("number", [5, np.float32(5), np.int64(5)])
def test_any_kind_of_number_will_do(number):
    assert weights_after(SSD(alpha=number), [6.0], [1.0]) == [pytest.approx(1 / 6)]


def test_any_importance_estimator_will_do(digits, model):
    data = digits.retain, digits.forget
    for alpha, one, other in (
        (3, SSD(importance=FisherDiagonal("batch")), SSD(importance="batch")),
        (3, SSD(importance=FisherDiagonal()), SSD(importance="per_sample")),
        (4, SSD(importance=LogitNorm()), LFSSD()),
    ):
        edits = [ssd.set_params(alpha=alpha).fit(model, *data).edit_ for ssd in (one, other)]
        assert edits[0] == edits[1] and len(edits[0]) > 0


def test_the_edit_says_how_it_was_made(digits, model):
    ssd = SSD(alpha=7, loss=None, progress=True, lambda_=0.5)
    info = ssd.fit(model, digits.retain, digits.forget).edit_.info
    assert info == {"method": "SSD(against='full', alpha=7, importance='batch', lambda_=0.5)"}


# LFSSD ------------------------------------------------------------------------------------------


def test_lfssd_is_the_rule_on_absolute_gradients_of_the_logits_norm(digits, model, published):
    retain, forget = published.batches(digits.retain), published.batches(digits.forget)

    def measured(data):
        plain, total = copy.deepcopy(model).eval(), {}
        for X, _ in data:
            plain.zero_grad()
            (plain(X) ** 2).sum(1).mean().backward()
            for name, parameter in plain.named_parameters():
                part = np.abs(parameter.grad.numpy().astype(np.float64)) / len(data)
                total[name] = total.get(name, 0) + part
        return total

    expected = published.dampened(model, measured(forget), measured(retain + forget), alpha=3)
    lfssd = LFSSD(alpha=3).fit(model, retain, forget)
    published.assert_weights(lfssd.transform(model), expected)
    assert lfssd.edit_.n_changed > 0
    assert lfssd.get_params().keys() == {"against", "alpha", "lambda_", "reference", "progress"}


def test_lfssd_does_not_look_at_labels(digits, model):
    edit = LFSSD(alpha=3).fit(model, digits.retain, digits.forget).edit_
    other = LFSSD(alpha=3).fit(model, digits.retain, (digits.forget[0], digits.forget[1] * 0)).edit_
    assert edit == other


def test_alfssd_is_assd_over_the_same_importance(digits, model):
    assd = ASSD(importance=LogitNorm(), percentile="paper").fit(model, digits.retain, digits.forget)
    assert 0 < assd.edit_.density < 0.03
