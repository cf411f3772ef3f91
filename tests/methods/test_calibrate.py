# SPDX-License-Identifier: BSD-3-Clause
"""What ``ASSD(percentile="calibrated")``, the default, finds."""

import warnings

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Subset, TensorDataset

from unlearnkit import ASSD, FisherDiagonal, WeightEdit
from unlearnkit.exceptions import DataError, IneffectiveWarning
from unlearnkit.importance import ImportanceEstimator
from unlearnkit.methods._calibrate import SHARES, STEPS, _smallest_edit, unseen_accuracy
from unlearnkit.metrics import accuracy


def grid(percentile):
    """How far apart the percentiles are that were looked at last, beside this one."""
    share = min(share for share in SHARES if share > 100 - percentile)
    return share / 2 / 2**STEPS


class Unmeasurable(ImportanceEstimator):
    """Fails where it is used: what is missing shall be told before anything slow is done."""

    def measure(self, model, data, loss=None, progress=False):
        raise AssertionError("measured")


def where(data, chosen):
    return data[0][chosen], data[1][chosen]


@pytest.fixture
def scattered(digits):
    """Every tenth training sample, and the others: (forget, retain)."""
    chosen = torch.arange(1000) % 10 == 0
    return where(digits.train, chosen), where(digits.train, ~chosen)


def silently(assd, *data, **named):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return assd.fit(*data, **named)


# a class that goes ------------------------------------------------------------------------------


@pytest.mark.parametrize("against", ["full", "retain"])
@pytest.mark.parametrize("importance", ["per_sample", "batch"])
def test_it_reaches_the_target_with_the_smallest_edit(digits, model, importance, against):
    data = model, digits.retain, digits.forget
    assd = silently(ASSD(importance, against), *data)
    result, found = assd.calibration_, assd.calibration_.found
    clean = assd.transform(model)
    assert result.target == 0.0 == found.forget == accuracy(clean, digits.forget)
    assert found.kept == accuracy(clean, digits.retain) >= result.before.kept - 0.03
    assert result.before.forget == accuracy(model, digits.forget)
    assert not result.stopped_short and result.full == found
    assert assd.percentile_ == found.percentile and assd.alpha_ == result.alpha

    again = ASSD(importance, against, assd.percentile_).fit(*data)
    assert again.alpha_ == assd.alpha_
    assert not WeightEdit.between(again.transform(model), clean)
    milder = ASSD(importance, against, assd.percentile_ + grid(assd.percentile_)).fit(*data)
    assert accuracy(milder.transform(model), digits.forget) > 0


def test_a_large_edit_that_undoes_what_a_smaller_one_reached_does_not_mislead():
    seen = []

    def reaches(percentile):
        seen.append(percentile)
        return 90 < percentile < 97.3

    found = _smallest_edit(reaches)
    assert 97.3 - grid(found) <= found < 97.3 and len(seen) < 20
    assert _smallest_edit(lambda percentile: False) is None
    assert _smallest_edit(lambda percentile: percentile < 99.99) > 99.98


def test_a_target_of_ones_own(digits, model):
    data = model, digits.retain, digits.forget
    half, none = (silently(ASSD(target=target), *data) for target in (0.5, 0))
    assert 0 < half.calibration_.found.forget <= 0.5
    assert half.calibration_.target == 0.5
    assert half.edit_.n_changed < none.edit_.n_changed
    assert none.calibration_ == silently(ASSD(), *data).calibration_


def test_the_class_that_goes_has_no_part_in_what_is_kept(digits, model):
    X, y = digits.held_out
    validation = (torch.cat([X, *[X[y == 3]] * 9]), torch.cat([y, *[y[y == 3]] * 9]))
    assd = silently(ASSD(), model, digits.retain, digits.forget, validation=validation)
    kept = where(digits.held_out, y != 3)
    assert assd.calibration_.before.kept == accuracy(model, kept)
    assert assd.calibration_.found.kept == accuracy(assd.transform(model), kept)


def test_where_validation_holds_but_that_class_retain_is_watched(digits, model):
    validation = where(digits.held_out, digits.held_out[1] == 3)
    assd = silently(ASSD(), model, digits.retain, digits.forget, validation=validation)
    assert assd.calibration_.before.kept == accuracy(model, digits.retain)


def test_it_stops_at_the_tolerance_and_says_what_goes_on(digits, model):
    data = model, digits.retain, digits.forget
    with pytest.warns(IneffectiveWarning, match="stopped short") as caught:
        assd = ASSD(tolerance=0.002).fit(*data)
    result = assd.calibration_
    assert result.stopped_short and result.found.forget > 0
    assert result.found.kept >= result.before.kept - 0.002 > result.full.kept
    assert result.full.forget == 0 and result.full.percentile < result.found.percentile
    said = str(caught[0].message)
    for words in (
        f"accuracy on the forget set is {result.found.forget:.1%}, and the target is 0.0%",
        f"percentile={result.full.percentile:.7g} reaches it",
        f"falls from {result.before.kept:.1%} to {result.full.kept:.1%}, more than tolerance=0.002",
        "fine-tuning",
    ):
        assert words in said
    assert caught[0].filename == __file__

    enough = result.before.kept - result.full.kept + 1e-9
    assert silently(ASSD(tolerance=enough), *data).percentile_ == result.full.percentile


def test_weights_that_do_not_matter_for_the_rest_go_first():
    torch.manual_seed(0)
    X = torch.zeros(60, 3)  # class 2 is told by a feature that no other sample has
    y = torch.arange(60) % 3
    X[torch.arange(60), y] = 1 + torch.rand(60)
    model = nn.Linear(3, 3, bias=False)
    model.weight.data = 4 * torch.eye(3) - 1
    model.weight.data[2, 0:2] = -0.9
    assd = ASSD().fit(model, where((X, y), y < 2), where((X, y), y == 2))
    assert assd.percentile_ == 100 and assd.calibration_.found.forget == 0
    clean = assd.transform(model)
    assert clean.weight[:, 2].tolist() == [0, 0, 0]
    assert torch.equal(clean.weight[:, :2], model.weight[:, :2])


# classes that live on ---------------------------------------------------------------------------


def test_scattered_samples_aim_at_held_out_accuracy(digits, model, scattered):
    forget, retain = scattered
    X, y = digits.held_out
    expected = sum(accuracy(model, (X[y == k], y[y == k])) for k in forget[1].tolist()) / 100
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", IneffectiveWarning)
        assd = ASSD().fit(model, retain, forget, validation=digits.held_out)
    result = assd.calibration_
    assert result.target == pytest.approx(expected)
    assert 0.9 < result.target < result.before.forget
    assert result.before.kept == accuracy(model, digits.held_out)
    assert result.found.forget <= result.target or result.stopped_short


def test_a_class_that_goes_and_samples_of_others_are_told_apart(digits, model):
    X, y = digits.train
    forget = digits.gone | (torch.arange(1000) % 50 == 0)
    held_out = digits.held_out
    expected = sum(
        0 if k == 3 else accuracy(model, where(held_out, held_out[1] == k)) for k in y[forget].tolist()
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", IneffectiveWarning)
        data = where((X, y), ~forget), where((X, y), forget)
        assd = ASSD().fit(model, *data, validation=held_out)
    assert assd.calibration_.target == pytest.approx(expected / int(forget.sum()))


def test_a_class_without_held_out_samples_is_expected_to_do_as_the_others(digits, model):
    y = digits.held_out[1]
    part = where(digits.held_out, y != 5)
    found = unseen_accuracy(model, torch.tensor([5, 5, 7]), set(), [part])
    seven = accuracy(model, where(part, part[1] == 7))
    assert found == pytest.approx((2 * accuracy(model, part) + seven) / 3)


def test_without_held_out_samples_it_goes_as_far_as_the_tolerance_and_says_so(digits, model, scattered):
    forget, retain = scattered
    with pytest.warns(IneffectiveWarning) as caught:
        assd = ASSD(tolerance=0.02).fit(model, retain, forget)
    said = str(caught[0].message)
    for words in (r"classes (0, 1, 2, 3, 4, ...) live on", "validation=held_out", "target="):
        assert words in said
    assert caught[0].filename == __file__
    result = assd.calibration_
    assert result.target == 0 and result.found.kept >= result.before.kept - 0.02
    with pytest.warns(IneffectiveWarning, match="stopped short"):
        asked = ASSD(target=0, tolerance=0.02).fit(model, retain, forget)
    assert asked.edit_ == assd.edit_


def test_where_no_percentile_reaches_the_target_that_is_said(digits, model, scattered):
    forget, retain = scattered
    with pytest.warns(IneffectiveWarning, match="No percentile reaches it, training does") as caught:
        assd = ASSD(target=0, tolerance=0.02).fit(model, retain, forget)
    assert assd.calibration_.full is None and "scattered samples" in str(caught[0].message)
    assert assd.calibration_.found.kept >= assd.calibration_.before.kept - 0.02


def test_where_nothing_is_to_be_forgotten_nothing_is_edited(digits, model, scattered):
    forget, retain = scattered
    with pytest.warns(IneffectiveWarning, match=r"accuracy on the forget set is .* already") as caught:
        assd = ASSD(target=1).fit(model, retain, forget)
    assert assd.edit_.n_changed == 0 and assd.percentile_ == 100 and len(caught) == 1
    assert "the target is 100.0%" in str(caught[0].message) and "target=" in str(caught[0].message)


# the training data is gone ----------------------------------------------------------------------


def test_with_a_stored_reference_validation_is_enough(digits, model):
    everything = FisherDiagonal().measure(model, digits.train)
    kept = where(digits.held_out, digits.held_out[1] != 3)
    found = ASSD(reference=everything, target=0).fit(model, digits.forget, validation=kept)
    data = ASSD(target=0).fit(model, digits.retain, digits.forget, validation=kept)
    assert found.percentile_ == pytest.approx(data.percentile_, abs=0.1)
    clean = found.transform(model)
    assert accuracy(clean, digits.forget) == 0 and accuracy(clean, kept) > 0.93


def test_the_whole_way_with_a_subset_and_a_reference(digits, model):
    train = TensorDataset(*digits.train)
    forget = DataLoader(Subset(train, digits.gone.nonzero().flatten().tolist()), batch_size=32)
    everything = FisherDiagonal().measure(model, train)
    assd = silently(ASSD(reference=everything), model, forget)  # retain is known: the class goes
    assert assd.calibration_.target == 0 == assd.calibration_.found.forget


def test_what_is_missing_is_told_before_anything_is_measured(digits, model):
    forget = FisherDiagonal().measure(model, digits.forget)
    assd = ASSD(importance=Unmeasurable())
    soft = (digits.forget[0], torch.rand(len(digits.forget[1]), 10))
    for data, words in (
        ((digits.retain, forget), "accuracy on the forget set, so it needs the samples.*'paper'"),
        ((digits.retain, soft), r"class indices, one a sample; got \[\d+, 10\] of torch.float32"),
    ):
        with pytest.raises(DataError, match=words):
            assd.fit(model, *data)
    with pytest.raises(DataError, match="nothing is known of the data to keep"):
        assd.fit(model, digits.forget)


def test_with_nothing_to_watch_the_papers_percentile_is_used_and_that_is_said(digits, model):
    everything = FisherDiagonal().measure(model, digits.train)
    with pytest.warns(IneffectiveWarning, match="neither the retain set nor a validation set"):
        assd = ASSD().fit(model, everything, digits.forget)
    paper = silently(ASSD(percentile="paper"), model, everything, digits.forget)
    assert assd.edit_ == paper.edit_ and assd.percentile_ == paper.percentile_


def test_repr_says_what_was_reached(digits, model):
    assd = ASSD().fit(model, digits.retain, digits.forget)
    result = assd.calibration_
    assert repr(result) == (
        f"Calibration: percentile {assd.percentile_:.7g}, accuracy on forget 100.0% -> 0.0% "
        f"(target 0.0%), on what is kept {result.before.kept:.1%} -> {result.found.kept:.1%}"
    )
