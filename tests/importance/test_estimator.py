# SPDX-License-Identifier: BSD-3-Clause
"""What an importance is measured on, and that nothing of the model or the caller is touched."""

import pytest
import torch
from sklearn.base import clone

from unlearnkit import (
    CritMem,
    FisherDiagonal,
    FisherRatio,
    GradientSaliency,
    Importance,
    LayerDepth,
    LogitNorm,
    RandomScore,
    Sensitivity,
    WeightedSaliency,
)
from unlearnkit.data import ForgetRetain
from unlearnkit.exceptions import DataError
from unlearnkit.importance import ImportanceEstimator
from unlearnkit.testing._state import difference, model_state, random_state, surroundings

WITH_ON = [
    FisherDiagonal(),
    FisherDiagonal("batch"),
    GradientSaliency(),
    WeightedSaliency(),
    LogitNorm(),
]
ALL = [
    *WITH_ON,
    FisherRatio(),
    FisherRatio(labels="sampled"),
    CritMem(max_samples=4),
    LayerDepth(),
    LayerDepth("shallowest"),
    Sensitivity(),
    Sensitivity("error", mode="absolute"),
    Sensitivity.published(),
    RandomScore(),
    RandomScore(WeightedSaliency(), "channels"),
]


def assert_close(found, expected, atol=1e-12):
    assert (found.count, found.samples, found.kind) == (expected.count, expected.samples, expected.kind)
    assert list(found.sums) == list(expected.sums)
    for name, value in expected.sums.items():
        torch.testing.assert_close(found.sums[name], value, rtol=1e-10, atol=atol)


@pytest.mark.parametrize("estimator", WITH_ON, ids=repr)
def test_on_names_the_samples(estimator, model, data):
    on = {
        which: clone(estimator).set_params(on=which).locate(model, data.roles)
        for which in ("forget", "retain", "all")
    }
    assert_close(on["forget"], estimator.measure(model, data.forget))
    assert_close(on["retain"], estimator.measure(model, data.retain))
    assert_close(on["all"], estimator.measure(model, [*data.forget, *data.retain]))
    assert_close(clone(estimator).locate(model, data.roles), on["forget"])


@pytest.mark.parametrize("estimator", [FisherDiagonal(), GradientSaliency()], ids=repr)
def test_an_importance_stands_in_for_data(estimator, model, data):
    everything = estimator.measure(model, [*data.forget, *data.retain])
    forget, retain = estimator.measure(model, data.forget), estimator.measure(model, data.retain)

    def unreadable():
        raise AssertionError("the data was read")
        yield

    class Guarded:
        def __iter__(self):
            return unreadable()

    expected = {"forget": forget, "retain": retain, "all": everything}
    for roles in (
        ForgetRetain(data.forget, everything),
        ForgetRetain(forget, everything),
    ):
        for on, answer in expected.items():
            assert_close(clone(estimator).set_params(on=on).locate(model, roles), answer, atol=1e-9)
    # what is known is not measured again
    assert clone(estimator).locate(model, ForgetRetain(forget, Guarded())) is forget
    for on in ("forget", "all"):
        roles = ForgetRetain(forget if on == "forget" else Guarded(), everything)
        assert_close(clone(estimator).set_params(on=on).locate(model, roles), expected[on])
    assert_close(
        clone(estimator).set_params(on="all").locate(model, ForgetRetain(forget, data.retain)), everything
    )


def test_sums_of_squares_over_batches_do_not_subtract(model, data):
    for estimator in (FisherDiagonal("batch", on="retain"), LogitNorm(on="retain")):
        everything = estimator.measure(model, [*data.forget, *data.retain])
        with pytest.raises(DataError, match=r"is a sum over batches.*Pass the retain set itself"):
            estimator.locate(model, ForgetRetain(data.forget, everything))


def test_what_is_missing_or_does_not_fit_is_said(model, data):
    saliency = GradientSaliency()
    for on in ("retain", "all"):
        with pytest.raises(DataError, match=rf"on='{on}' measures on the data to keep.*on='forget'"):
            GradientSaliency(on).locate(model, ForgetRetain(data.forget))
    assert saliency.locate(model, ForgetRetain(data.forget)).samples == 19
    x, y = data.forget[0]
    nothing = [(x[:0], y[:0])]
    with pytest.raises(DataError, match="the forget set: the data is empty"):
        saliency.locate(model, ForgetRetain(nothing, data.retain))
    for on in ("retain", "all"):
        with pytest.raises(DataError, match="the retain set: the data is empty"):
            GradientSaliency(on).locate(model, ForgetRetain(data.forget, nothing))
    with pytest.raises(DataError, match="on must be 'forget', 'retain' or 'all', got 'test'"):
        GradientSaliency("test").locate(model, data.roles)
    other = FisherDiagonal().measure(model, data.forget)
    with pytest.raises(
        DataError, match=r"measures 'gradient/batch'.* forget set is 'fisher/per_sample/true'"
    ):
        saliency.locate(model, ForgetRetain(other, data.retain))
    foreign = Importance({"w": torch.ones(2)}, 1, saliency.kind)
    with pytest.raises(DataError, match="not measured on this model"):
        saliency.locate(model, ForgetRetain(foreign, data.retain))


def test_scores_are_the_mean_where_nothing_else_is_said(model, data):
    class Constant(ImportanceEstimator):
        def measure(self, model, data, loss=None, progress=False):
            return Importance(
                {n: torch.full(p.shape, 6.0) for n, p in model.named_parameters()}, 2, "constant"
            )

    estimator = Constant()
    measured = estimator.locate(model, data.roles)
    assert all(bool((score == 3).all()) for score in estimator.scores(model, measured).values())
    assert estimator.locate(model, ForgetRetain(measured)) is measured  # of a kind that is not told


@pytest.mark.filterwarnings("ignore:CritMem")
@pytest.mark.parametrize("estimator", ALL, ids=repr)
@pytest.mark.parametrize("training", [False, True])
def test_nothing_is_touched_and_scores_fit_the_parameters(estimator, training, model, data):
    model.train(training)
    model.head.eval()
    model.conv.weight.requires_grad_(False)
    model.head.weight.grad = torch.ones_like(model.head.weight)
    before = model_state(model) | random_state() | surroundings()
    scores = estimator.scores(model, estimator.locate(model, data.roles))
    after = model_state(model) | random_state() | surroundings()
    assert difference(before, after) is None
    trainable = {name: p.shape for name, p in model.named_parameters() if p.requires_grad}
    assert {name: score.shape for name, score in scores.items()} == trainable
    for score in scores.values():
        assert score.dtype in (torch.float32, torch.float64)
        assert bool((score >= 0).all())  # so it is no NaN either


@pytest.mark.parametrize("estimator", ALL, ids=repr)
def test_estimators_are_cloned_as_scikit_learns_are(estimator):
    assert repr(clone(estimator)) == repr(estimator)
    assert clone(estimator).get_params().keys() == estimator.get_params().keys()
