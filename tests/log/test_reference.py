# SPDX-License-Identifier: BSD-3-Clause
import pytest
import torch

from unlearnkit import ASSD, DataError, FisherDiagonal, LogitNorm
from unlearnkit.log.reference import check_reference, estimator_of, updated


def test_sums_subtract_on_the_model_they_were_measured_on(task, base):
    moved = ASSD(percentile=80, lambda_=0.1).fit(base, task.reference, task.part(0, 1)).transform(base)
    forget, rest = task.part(*range(9)), task.part(*range(9, 120))
    fisher = FisherDiagonal()
    found = updated(task.reference, fisher, base, moved, forget, forget, None)
    expected, current = fisher.measure(base, rest), fisher.measure(moved, forget)
    left = found.known - current  # what a method makes of it
    assert (found.rest.samples, found.known.samples) == (111, 120)
    for name, value in expected.sums.items():
        torch.testing.assert_close(found.rest.sums[name], value, rtol=1e-5, atol=1e-9)
        torch.testing.assert_close(left.sums[name], value, rtol=1e-5, atol=1e-9)


def test_the_first_request_takes_the_reference_as_it_is(task, base):
    forget = task.part(3)
    found = updated(task.reference, FisherDiagonal(), base, base, forget, forget, None)
    assert found.known is task.reference and found.rest.samples == 119


def test_samples_that_are_gone_are_not_subtracted_again(task, base):
    found = updated(task.reference, FisherDiagonal(), base, base, task.part(3), None, None)
    assert found.rest is task.reference and found.known.samples == 121
    rest = FisherDiagonal().measure(base, task.part(*range(3), *range(4, 120)))
    found = updated(rest, FisherDiagonal(), base, base, task.part(3, 4), task.part(4), None)
    expected = FisherDiagonal().measure(base, task.part(*range(3), *range(5, 120)))
    assert (found.rest.samples, found.known.samples) == (118, 120)
    for name, value in expected.sums.items():
        torch.testing.assert_close(found.rest.sums[name], value, rtol=1e-5, atol=1e-9)


def test_strange_samples_cannot_be_subtracted(task, base):
    strange = (50 * torch.randn(5, 6), torch.zeros(5, dtype=torch.long))
    with pytest.raises(DataError, match="its samples were not all among the first's"):
        updated(task.reference, FisherDiagonal(), base, base, strange, strange, None)


def test_its_own_loss_is_measured(task, base):
    def loss(model, batch):
        return model(batch[0]).square().sum(1)

    reference = FisherDiagonal().measure(base, task.train, loss=loss)
    found = updated(reference, FisherDiagonal(), base, base, task.part(1, 2), task.part(1, 2), loss)
    expected = FisherDiagonal().measure(base, task.part(0, *range(3, 120)), loss=loss)
    for name, value in expected.sums.items():
        torch.testing.assert_close(found.rest.sums[name], value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "estimator", [FisherDiagonal(), FisherDiagonal(labels="predicted"), LogitNorm()], ids=repr
)
def test_a_kind_tells_its_estimator(estimator):
    assert repr(estimator_of(estimator.kind)) == repr(estimator)


def test_what_cannot_be_a_reference(task, base):
    with pytest.raises(DataError, match="is a sum over batches"):
        check_reference(FisherDiagonal(gradient="batch").measure(base, task.train), base)
    with pytest.raises(DataError, match="expected data or an Importance, got dict"):
        check_reference({}, base)
    with pytest.raises(DataError, match="not measured on this model"):
        check_reference(task.reference, torch.nn.Linear(2, 2))
    with pytest.raises(DataError, match="'no such kind'"):
        estimator_of("no such kind")
    assert check_reference(task.reference, base) is task.reference
