# SPDX-License-Identifier: BSD-3-Clause
"""What dampening knows of the data to keep: the data, its complement, or a stored importance."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Subset, SubsetRandomSampler, TensorDataset

from unlearnkit import ASSD, SSD, FisherDiagonal, Importance
from unlearnkit.exceptions import DataError
from unlearnkit.parameters import named_tensors

KIND = FisherDiagonal().kind


def test_where_nothing_is_known_the_ways_out_are_named(digits, model):
    with pytest.raises(DataError) as caught:
        SSD().fit(model, digits.forget)
    for way in ("fit(model, retain, forget)", "Subset(train, forget_indices)", "reference=Fisher"):
        assert way in str(caught.value)


@pytest.mark.parametrize("against", ["full", "retain"])
@pytest.mark.parametrize("way", ["reference", "positional", "keyword", "subset", "sampler"])
def test_a_stored_importance_gives_the_edit_that_the_data_gives(digits, model, against, way):
    ssd = SSD("per_sample", against, alpha=4)
    expected = ssd.fit(model, digits.retain, digits.forget).transform(model)
    everything = FisherDiagonal().measure(model, digits.train)
    if way == "reference":
        found = ssd.set_params(reference=everything).fit(model, digits.forget)
    elif way == "positional":
        found = ssd.fit(model, everything, digits.forget)
    elif way == "keyword":
        forget = FisherDiagonal().measure(model, digits.forget)
        found = ssd.fit(model, retain=everything, forget=forget)
    else:
        train, chosen = TensorDataset(*digits.train), digits.gone.nonzero().flatten().tolist()
        if way == "subset":
            forget = DataLoader(Subset(train, chosen), batch_size=50)
        else:  # its data set is the whole of train: what counts is what the loader yields
            forget = DataLoader(train, batch_size=50, sampler=SubsetRandomSampler(chosen))
        found = ssd.fit(model, forget)
    assert (found.n_forget_, found.n_total_) == (len(digits.forget[1]), 1000)
    clean = found.transform(model)
    for name, tensor in named_tensors(expected).items():
        torch.testing.assert_close(named_tensors(clean)[name], tensor, rtol=1e-3, atol=1e-6)


def test_what_matters_for_the_forget_set_alone_is_known_from_a_stored_importance_too():
    torch.manual_seed(0)
    X, y = torch.randn(600, 12), torch.arange(600) % 3
    gone = y == 2
    X[:, :8] += y[:, None]
    X[~gone, 8:] = 0  # features of the class that goes: on the rest, their weights have F = 0
    model = nn.Sequential(nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, 3))
    everything = FisherDiagonal().measure(model, (X, y))
    for percentile in ("paper", 80):
        assd = ASSD(percentile=percentile)
        data = assd.fit(model, (X[~gone], y[~gone]), (X[gone], y[gone])).transform(model)
        alpha = assd.alpha_
        stored = assd.set_params(reference=everything).fit(model, (X[gone], y[gone]))
        assert stored.alpha_ == pytest.approx(alpha, rel=1e-4)
        clean = stored.transform(model)
        assert bool((clean[0].weight[:, 8:] == 0).all())
        for name, tensor in named_tensors(data).items():
            torch.testing.assert_close(named_tensors(clean)[name], tensor, rtol=1e-4, atol=1e-6)


def test_with_a_reference_the_retain_loader_is_not_walked(digits, model):
    class Guarded(DataLoader):
        def __iter__(self):
            raise AssertionError("the retain loader was walked")

    retain = Guarded(TensorDataset(*digits.retain), batch_size=50)
    everything = FisherDiagonal().measure(model, digits.train)
    ssd = SSD("per_sample", alpha=4, reference=everything)
    assert ssd.fit(model, retain, digits.forget).edit_.n_changed > 0
    with pytest.raises(AssertionError, match="was walked"):
        ssd.set_params(reference=None).fit(model, retain, digits.forget)


def test_a_reference_may_cover_more_than_is_edited(digits, model):
    everything = FisherDiagonal().measure(model, digits.train)
    model[0].requires_grad_(False)
    for against in ("full", "retain"):
        ssd = SSD("per_sample", against, alpha=4, reference=everything)
        assert "0.weight" not in ssd.fit(model, digits.forget).edit_


def test_a_reference_that_does_not_fit_is_refused(digits, model):
    everything = FisherDiagonal().measure(model, digits.train)
    part = {name: value for name, value in everything.sums.items() if name != "7.bias"}
    few = FisherDiagonal().measure(model, (digits.retain[0][:9], digits.retain[1][:9]))
    other = Importance({"w": torch.ones(3)}, 1000, KIND)
    forget = FisherDiagonal().measure(model, digits.forget)
    for reference, words in (
        (FisherDiagonal("batch").measure(model, digits.train), "different kinds.*same estimator"),
        (Importance(part, 1000, KIND), "does not cover 7.bias: it was frozen.*measure"),
        (other, "not measured on this model: w has shape .*Measure it on this model"),
        (few, "reference saw 9 samples, fewer .*the whole training set"),
        (forget, "forget set is all of the training set.*newly built model"),
        (few + few + few + few + few + few + few + few + few + few + few + few, "cannot subtract"),
        ("importance.safetensors", "reference must be an Importance, got str.*Importance.load"),
    ):
        with pytest.raises(DataError, match=words):
            SSD("per_sample", "retain", reference=reference).fit(model, digits.forget)


def test_sums_over_batches_do_not_subtract(digits, model):
    everything = FisherDiagonal("batch").measure(model, digits.train)
    SSD(against="full", reference=everything).fit(model, digits.forget)
    with pytest.raises(DataError, match=r"fisher/batch/true is a sum over batches.*per_sample"):
        SSD(against="retain", reference=everything).fit(model, digits.forget)
    assert SSD(against="retain").fit(model, digits.retain, digits.forget).edit_.n_changed > 0


def test_empty_sets_are_told_apart(digits, model):
    nothing = (digits.retain[0][:0], digits.retain[1][:0])
    with pytest.raises(DataError, match=r"forget set: the data is empty.*Check the indices"):
        SSD().fit(model, digits.retain, nothing)
    with pytest.raises(DataError, match="forget set is empty"):
        SSD().fit(model, FisherDiagonal("batch").measure(model, digits.train), Importance({}, 0))
    with pytest.raises(DataError, match=r"forget set is all of the training set.*newly built"):
        SSD().fit(model, nothing, digits.forget)
    with pytest.raises(DataError, match="forget set is all of the training set"):
        SSD().fit(model, Subset(TensorDataset(*digits.train), range(1000)))


def test_an_importance_below_zero_is_refused(digits, model):
    everything = FisherDiagonal("batch").measure(model, digits.train)
    everything.sums["7.bias"][3] = -1
    with pytest.raises(DataError, match=r"importance of 7\.bias is below zero at 1 weights"):
        SSD(reference=everything).fit(model, digits.forget)
