# SPDX-License-Identifier: BSD-3-Clause
import warnings

import pytest
import torch

from unlearnkit import (
    ASSD,
    DataError,
    FineTune,
    FisherDiagonal,
    IneffectiveWarning,
    RandomLabel,
    SalUn,
    Trainer,
)
from unlearnkit.log.attempt import attempt, described, prepared, seed_of


def test_described_does_not_depend_on_the_process():
    def own(model, batch):
        return model(batch[0]).sum(1)

    texts = {described(FineTune(loss=lambda model, batch: own(model, batch))) for _ in range(3)}
    assert len(texts) == 1 and "0x" not in texts.pop()
    assert (
        described(ASSD(FisherDiagonal(labels="predicted")))
        == "ASSD(importance=FisherDiagonal(labels='predicted'))"
    )
    long = FineTune(include=[f"layer{k}.*" for k in range(200)], trainer=Trainer(clip=1.0))
    assert "layer199" in described(long) and "\n" not in described(long) and "clip=1.0" in described(long)


def test_seeds_are_the_requests_own():
    given = SalUn(random_state=None)
    first, again, other = (prepared(given, 0, name).random_state for name in ("a", "a", "b"))
    assert first == again != other and given.random_state is None
    assert prepared(given, 1, "a").random_state not in (first, other)
    assert prepared(FineTune(random_state=5), 0, "a").random_state == 5
    nested = prepared(ASSD(FisherDiagonal(labels="sampled")), 0, "a")
    assert nested.importance.random_state == seed_of(0, "a", "importance__random_state")
    assert 0 <= seed_of(0, "a", "x") < 2**31


@pytest.mark.parametrize("estimator", ["ASSD", None, FisherDiagonal()])
def test_what_is_no_estimator(estimator):
    with pytest.raises(DataError, match="the estimator must be one of this library's"):
        prepared(estimator, 0, "a")


def test_the_callers_random_state_and_warnings(task, base):
    state = torch.get_rng_state()
    loader = [task.train]
    with pytest.warns(IneffectiveWarning, match="changes no weight"):
        done = attempt(ASSD(percentile=100), base, 3, task.part(0), task.reference, None)
    assert torch.equal(torch.get_rng_state(), state)
    assert len(done.warnings) == 1 and "changes no weight" in done.warnings[0] and done.seconds > 0
    runs = []
    for _ in range(2):
        torch.rand(3)
        runs.append(
            attempt(RandomLabel(epochs=1, random_state=0), base, 3, task.part(0, 1), loader, None).edit
        )
    assert runs[0] == runs[1]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(IneffectiveWarning):
            attempt(ASSD(percentile=100), base, 3, task.part(0), task.reference, None)
