# SPDX-License-Identifier: BSD-3-Clause
import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from unlearnkit import ASSD, FisherDiagonal, Importance
from unlearnkit.exceptions import DataError, IneffectiveWarning
from unlearnkit.methods.assd import paper_percentile
from unlearnkit.metrics import accuracy

KIND = FisherDiagonal().kind


class Weights(nn.Module):
    """Nothing but weights, so that importances can be set by hand."""

    def __init__(self, count):
        super().__init__()
        self.w = nn.Parameter(torch.ones(count))


def fitted(forget, full, **parameters):
    """ASSD fitted on ones, by the mean importances of 10 samples to forget and of all 100."""
    known, gone = (
        Importance({"w": count * torch.tensor(values, dtype=torch.float64)}, count, KIND)
        for values, count in ((full, 100), (forget, 10))
    )
    assd = ASSD(against="full", **{"percentile": "paper", **parameters})
    return assd.fit(Weights(len(forget)), known, gone)


def weights_of(assd):
    return assd.transform(Weights(assd.edit_.n_total)).w.detach().numpy()


# the percentile ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("share", "selected", "p"),
    [
        (0.025, 0.025, 99.975),
        (0.165, 0.153, 99.847),
        (0.25, 0.223, 99.777),
        (0.5, 0.405, 99.595),
        (1, 0.693, 99.307),
        (2.5, 1.253, 98.747),
        (5, 1.792, 98.208),
        (7.5, 2.140, 97.860),
        (10, 2.398, 97.602),
        (25, 3.258, 96.742),
        (50, 3.932, 96.068),
    ],
)
def test_percentile_of_the_paper(share, selected, p):
    found = paper_percentile(round(1000 * share), 100_000)
    assert found == pytest.approx(100 - math.log(1 + share), abs=1e-12)
    assert round(found, 3) == p and round(100 - found, 3) == selected


@given(total=st.integers(2, 10**7), data=st.data())
def test_percentile_of_the_paper_falls_ever_more_slowly(total, data):
    few, more = sorted(data.draw(st.tuples(*[st.integers(1, total)] * 2)))
    assert 95.38 < paper_percentile(more, total) <= paper_percentile(few, total) < 100
    twice = paper_percentile(min(2 * few, total), total)
    assert 100 - twice <= 2 * (100 - paper_percentile(few, total))


# against the published rule ---------------------------------------------------------------------


@pytest.mark.parametrize("against", ["full", "retain"])
@pytest.mark.parametrize("percentile", ["paper", 99.5, 90.0])
def test_it_is_the_published_rule(digits, model, published, against, percentile):
    retain, forget = published.batches(digits.retain), published.batches(digits.forget)
    n_forget = len(digits.forget[1])
    p = 100 - np.log(1 + 100 * n_forget / 1000) if percentile == "paper" else percentile
    F_f = published.importances(model, forget)
    F_D = published.importances(model, retain + forget if against == "full" else retain)
    alpha = published.adaptive_alpha(F_f, F_D, p)
    expected = published.dampened(model, F_f, F_D, alpha)

    assd = ASSD(importance="batch", against=against, percentile=percentile)
    clean = assd.fit(model, retain, forget).transform(model)
    published.assert_weights(clean, expected)
    assert assd.alpha_ == pytest.approx(alpha, rel=1e-4)
    assert assd.percentile_ == pytest.approx(p)
    assert (assd.n_forget_, assd.n_total_) == (n_forget, 1000)
    changed = sum((expected[n] != w.detach().numpy()).sum() for n, w in model.named_parameters())
    assert assd.edit_.n_changed == changed > 0


def test_the_papers_setting_forgets_a_class(digits, model):
    assd = ASSD(importance="batch", against="retain", percentile="paper")
    clean = assd.fit(model, digits.retain, digits.forget).transform(model)
    # a tenth is what guessing gets; how far below it is depends on the rounding of the training
    assert accuracy(model, digits.forget) > 0.95 and accuracy(clean, digits.forget) < 0.1
    assert accuracy(clean, digits.retain) > 0.95


def test_the_rule_holds_for_per_sample_gradients_too(digits, model, published):
    singles = {name: published.batches(getattr(digits, name), 1) for name in ("forget", "retain")}
    F_f, F_D = (published.importances(model, singles[name]) for name in ("forget", "retain"))
    alpha = published.adaptive_alpha(F_f, F_D, 97)
    assd = ASSD(percentile=97).fit(model, digits.retain, digits.forget)
    expected = published.dampened(model, F_f, F_D, alpha)
    published.assert_weights(assd.transform(model), expected, 1e-5)


# the rule, weight by weight ---------------------------------------------------------------------


@pytest.mark.parametrize("percentile", [99.307, 95.0, 80.0])
def test_the_share_of_finite_ratios_above_the_percentile_is_dampened(percentile):
    ratios = np.random.default_rng(0).uniform(1, 9, 1000)
    found = weights_of(fitted(ratios, np.ones(1000), percentile=percentile))
    assert (found < 1).sum() == math.ceil(999 * (1 - percentile / 100))
    chosen = ratios > np.percentile(ratios, percentile)
    np.testing.assert_allclose(found, np.where(chosen, 1 / ratios, 1), rtol=1e-6)


def test_zeros_count_and_what_has_no_ratio_does_not():
    # ratios 0 (twice), 2, 4, 8; beside them 0 / 0, and two x / 0
    forget = [0.0, 0.0, 2.0, 4.0, 8.0, 0.0, 1.0, 5.0]
    full = [1.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0]
    assd = fitted(forget, full, percentile=75)
    assert assd.alpha_ == 4.0
    np.testing.assert_allclose(weights_of(assd), [1, 1, 1, 1, 1 / 8, 1, 0, 0])  # strictly above 4


def test_scales_change_the_strength_and_not_the_selection():
    draw = np.random.default_rng(0)
    forget, full = draw.uniform(1, 50, 500), draw.uniform(1, 5, 500)
    plain = weights_of(fitted(forget, full))
    for scale in (0.25, 2.0):
        for parts in ((forget * scale, full), (forget, full * scale)):
            scaled = weights_of(fitted(*parts))
            assert ((scaled < 1) == (plain < 1)).all() and (plain < 1).sum() > 5
            assert not np.allclose(scaled, plain)


def test_frozen_weights_have_no_part_in_the_percentile(digits, model):
    whole = ASSD(percentile=97).fit(model, digits.retain, digits.forget)
    model[5].requires_grad_(False)
    part = ASSD(percentile=97).fit(model, digits.retain, digits.forget)
    left = 4554 - sum(p.numel() for p in model[5].parameters())
    assert part.alpha_ != whole.alpha_ and "5.weight" not in part.edit_
    assert part.edit_.n_changed == pytest.approx(0.03 * left, abs=2)


def test_an_alpha_below_one_is_told(digits, model):
    with pytest.warns(IneffectiveWarning, match=r"alpha = 0\.\d+ is below 1: \d+ of the.*percentile"):
        ASSD(percentile=55).fit(model, digits.retain, digits.forget)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ASSD(percentile=97).fit(model, digits.retain, digits.forget)


def test_where_no_weight_matters_for_the_rest_there_is_no_rank():
    with pytest.raises(DataError, match=r"no weight matters for the data to keep.*reference"):
        fitted([1.0, 0.0], [0.0, 0.0])


# parameters -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"percentile": "auto"}, "'paper', 'calibrated' or a number from 0 to 100, got 'auto'"),
        ({"percentile": 101}, "percentile must be a number from 0 to 100, got 101"),
        ({"percentile": None}, "percentile must be a number from 0 to 100, got None"),
        ({"percentile": math.nan}, "percentile must be a number"),
        ({"target": 5}, "target must be an accuracy, a fraction from 0 to 1, got 5"),
        ({"tolerance": -0.1}, "tolerance must be a loss of accuracy, a fraction from 0 to 1"),
        ({"lambda_": "1"}, "lambda_ must be a number from 0 on, got '1'"),
        ({"against": None}, "against must be 'full' or 'retain', got None"),
        (
            {"loss": lambda model, batch: model(batch[0])[:, 0]},
            "percentile='calibrated' watches accuracy.*percentile='paper' or a number",
        ),
    ],
)
def test_parameters_are_checked_in_fit(digits, model, parameters, words):
    assd = ASSD(**parameters)
    with pytest.raises(DataError, match=words):
        assd.fit(model, digits.retain, digits.forget)


def test_own_loss(digits, model):
    def margin(model, batch):
        return model(batch[0]).gather(1, batch[1][:, None])[:, 0].square()

    plain = ASSD(percentile=97).fit(model, digits.retain, digits.forget).edit_
    own = ASSD(percentile=97, loss=margin).fit(model, digits.retain, digits.forget).edit_
    assert own != plain and own.n_changed > 0


def test_progress_is_shown_when_asked_for(digits, model, capsys):
    ASSD(percentile=97).fit(model, digits.retain, digits.forget)
    assert capsys.readouterr().err == ""
    ASSD(percentile=97, progress=True).fit(model, digits.retain, digits.forget)
    assert capsys.readouterr().err.count("importance") >= 2
