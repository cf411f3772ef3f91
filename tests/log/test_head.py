# SPDX-License-Identifier: BSD-3-Clause
"""Opening a log with the base, with the model after any request, or with another one."""

import copy

import pytest
import torch
from torch import nn

from unlearnkit import DataError, EditMismatchError, ForgetLog, UnlearnError
from unlearnkit.log.head import model_digest, tensor_digests


def test_every_state_is_known(task, base, log, forget, same):
    folder, states = log._session.store.folder, [base]
    for rows in ((0, 1), (2, 3), (4, 5)):
        forget(log, *rows)
        states.append(copy.deepcopy(log.model))
    for state in states:
        before = copy.deepcopy(state)
        opened = ForgetLog(folder, state)
        assert same(opened.model, log.model) and same(state, before)
        assert opened.requests == log.requests and opened.drift == log.drift
        assert [len(y) for _, y in opened.retained(task.train)] == [114]


def test_another_model_is_refused(base, log, forget):
    folder = log._session.store.folder
    forget(log, 0, 1)
    other = copy.deepcopy(base)
    with torch.no_grad():
        other[3].weight[0, 0] += 1
    with pytest.raises(
        EditMismatchError, match=r"neither the base .* any of the 1 requests: \d of its 9 tensors"
    ):
        ForgetLog(folder, other)
    with pytest.raises(EditMismatchError, match=r"it has no tensor '0\.weight'"):
        ForgetLog(folder, nn.Sequential(nn.Flatten(), nn.Linear(2, 2)))
    with pytest.raises(EditMismatchError, match=r"a tensor '4\.weight', which the log does not know"):
        ForgetLog(folder, nn.Sequential(*copy.deepcopy(base), nn.Linear(3, 3)))


def test_the_reference_needs_the_model_that_it_was_measured_on(task, base, log, forget, same):
    folder = log._session.store.folder
    forget(log, 0, 1)
    opened = ForgetLog(folder, log.model)
    with pytest.raises(DataError, match="the log was not opened with that one: open it with the base"):
        forget(opened, 2, 3)
    assert len(opened.requests) == 1
    forget(ForgetLog(folder, base), 2, 3)
    assert len(log.requests) == 1
    forget(log, 2, 3)  # done already, by the other
    assert len(log.requests) == 2


def test_another_process_is_caught_up_with(task, base, log, forget, child, same):
    forget(log, 0, 1)
    assert child(forget, log, 2, 3) == 0
    assert len(log.requests) == 1
    forget(log, 4, 5)
    assert [one.request_id for one in log.requests] == ["(0, 1)", "(2, 3)", "(4, 5)"]
    assert same(ForgetLog(log._session.store.folder, base).model, log.model)
    assert child(log.undo) == 0
    with pytest.raises(UnlearnError, match="another process has undone a request"):
        forget(log, 6)


def test_digests_name_every_tensor():
    model = nn.BatchNorm1d(2)
    found = tensor_digests(model)
    assert list(found) == ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]
    before = model_digest(found)
    model.num_batches_tracked += 1
    assert model_digest(tensor_digests(model)) != before
