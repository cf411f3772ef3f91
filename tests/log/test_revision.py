# SPDX-License-Identifier: BSD-3-Clause
"""Undo, seal and renew, and whatever they do in any order."""

import copy
import tempfile

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unlearnkit import DataError, FineTune, FisherDiagonal, ForgetLog, UnlearnError
from unlearnkit.data import batch_size


def sums_equal(first, second):
    return all(torch.equal(first.sums[name], value) for name, value in second.sums.items())


def test_undo_brings_every_bit_back(task, base, log, forget, same):
    folder = log._session.store.folder
    forget(log, 0, 1)
    model, reference, drift = copy.deepcopy(log.model), log.reference, log.drift
    forget(log, 2, 3, estimator=FineTune(epochs=1), retain=task.train, name="wrong")
    undone = log.undo()
    assert (undone.request_id, undone.status) == ("wrong", "undone") and undone.undone_at
    assert same(log.model, model) and sums_equal(log.reference, reference) and log.drift == drift
    assert log.requests[-1] == undone and len(log.requests) == 2
    assert not (folder / "edits/0002.safetensors").exists() and not (folder / "samples/0002.bin").exists()
    assert sum(map(batch_size, log.retained(task.train))) == 118
    with pytest.raises(UnlearnError, match="there is no request to undo"):
        log.undo()
    entry = forget(log, 2, 3, name="wrong")  # its name is free again
    assert (entry.number, entry.status) == (3, "applied") and same(ForgetLog(folder, base).model, log.model)
    assert [row["n_forgotten"] for row in log.history()] == [2, 2, 4]


def test_undo_after_opening(task, base, log, forget, same):
    folder = log._session.store.folder
    forget(log, 0, 1)
    first = copy.deepcopy(log.model)
    forget(log, 2, 3)
    with pytest.raises(
        UnlearnError, match=r"not on disk: open the log with the base, as ForgetLog\(folder, base\)"
    ):
        ForgetLog(folder, log.model).undo()
    opened = ForgetLog(folder, first)
    opened.undo()
    assert same(opened.model, first) and opened.reference.samples == 118


def test_undo_of_what_changed_nothing(base, log, forget, same):
    forget(log, 0)
    forget(
        log,
        0,
        name="again",
        estimator=FineTune(epochs=1, lr=0.0),
        retain=(torch.randn(9, 6), torch.arange(9) % 3),
    )
    opened = ForgetLog(log._session.store.folder, base)
    opened.undo()
    assert [one.status for one in opened.requests] == ["applied", "undone"]
    assert opened.drift.n_forgotten == 1


def test_an_undo_that_fails_leaves_everything(base, log, forget, same, monkeypatch):
    forget(log, 0, 1)
    before = copy.deepcopy(log.model)
    monkeypatch.setattr(
        type(log._session.store), "commit", lambda *_: (_ for _ in ()).throw(OSError("disk full"))
    )
    with pytest.raises(OSError, match="disk full"):
        log.undo()
    monkeypatch.undo()
    assert same(log.model, before) and log.drift.n_requests == 1
    log.undo()
    assert same(log.model, base)


def test_seal_removes_the_way_back(base, log, forget):
    folder = log._session.store.folder
    forget(log, 0, 1)
    assert len(list(folder.glob("reference/*"))) == 2
    log.seal()
    assert len(list(folder.glob("reference/*"))) == 1
    for opened in (log, ForgetLog(folder, base)):
        with pytest.raises(UnlearnError, match=r"not after seal\(\) or renew\(\)"):
            opened.undo()


def test_renew_and_a_request_that_was_done(task, log, forget):
    forget(log, 0, 1)
    log.renew(FisherDiagonal().measure(log.model, log.retained(task.train)))
    at_renewal = copy.deepcopy(log.model)
    forget(log, 1, 2)
    expected = FisherDiagonal().measure(at_renewal, task.part(*range(3, 120)))
    for name, value in expected.sums.items():
        torch.testing.assert_close(log.reference.sums[name], value, rtol=1e-4, atol=1e-7)


def test_renew(task, base, log, forget, same):
    folder = log._session.store.folder
    forget(log, 0, 1)
    with pytest.raises(DataError, match="saw 120 samples, and 118 are retained"):
        log.renew(FisherDiagonal().measure(log.model, task.train))
    fresh = FisherDiagonal().measure(log.model, log.retained(task.train))
    log.renew(fresh)
    assert sums_equal(log.reference, fresh)
    at_renewal = copy.deepcopy(log.model)
    forget(log, 2, 3)
    forget(log, 4, 5)
    expected = FisherDiagonal().measure(at_renewal, log.retained(task.train))
    for name, value in expected.sums.items():
        torch.testing.assert_close(log.reference.sums[name], value, rtol=1e-4, atol=1e-7)
    for start in (base, at_renewal):  # both lead past the model that it was measured on
        forget(ForgetLog(folder, start), 4, 5)
        opened = ForgetLog(folder, start)
        assert same(opened._session.head.anchor, at_renewal) and same(opened.model, log.model)
    log.renew(None)
    assert log.reference is None and not list(folder.glob("reference/*"))
    forget(log, 6, estimator=FineTune(epochs=1), retain=task.train)


OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("apply"), st.integers(0, 30), st.integers(1, 4)),
        st.tuples(st.sampled_from(["undo", "seal", "renew", "open base", "open head"])),
    ),
    max_size=9,
)


@settings(max_examples=15)
@given(operations=OPERATIONS)
def test_whatever_is_done(operations, task, forget, same):
    """The model is the base with the standing edits, the reference the anchor's sums of what is left."""
    with tempfile.TemporaryDirectory() as folder:
        base = copy.deepcopy(task.base)
        log = ForgetLog(folder, base, task.reference, max_forgotten=None)
        models, gone, anchor, can_undo = [base], [], base, False
        for number, (what, *rows) in enumerate(operations):
            if what == "apply" and log._session.head.anchor is not None:
                chosen = range(rows[0], rows[0] + rows[1])
                forget(log, *chosen, name=str(number))
                models.append(copy.deepcopy(log.model))
                gone.append(set(chosen))
                can_undo = True
            elif what == "undo" and can_undo and log._session.head.undo is not None:
                log.undo()
                models.pop()
                gone.pop()
                can_undo = False
            elif what == "undo":
                with pytest.raises(UnlearnError):
                    log.undo()
            elif what == "seal":
                log.seal()
                can_undo = False
            elif what == "renew":
                log.renew(FisherDiagonal().measure(log.model, log.retained(task.train)))
                anchor, can_undo = models[-1], False
            elif what.startswith("open"):
                log = ForgetLog(folder, base if what == "open base" else models[-1], max_forgotten=None)
            left = [at for at in range(120) if at not in set().union(*gone)]
            assert same(log.model, models[-1]) and log.drift.n_requests == len(gone)
            assert sum(map(batch_size, log.retained(task.train))) == len(left)
            assert log.reference.samples == len(left)
            expected = FisherDiagonal().measure(anchor, task.part(*left))
            for name, value in expected.sums.items():
                torch.testing.assert_close(log.reference.sums[name], value, rtol=1e-4, atol=1e-6)
