# SPDX-License-Identifier: BSD-3-Clause
"""What a request takes for the data to keep."""

import warnings

import pytest
import torch
from torch.utils.data import DataLoader, Subset, TensorDataset

from unlearnkit import ASSD, DataError, FineTune, FisherDiagonal, ForgetLog, Importance, UnlearnWarning
from unlearnkit.data import batch_size
from unlearnkit.log.request import now, samples_of

pytestmark = pytest.mark.filterwarnings("ignore::unlearnkit.UnlearnWarning")


@pytest.fixture
def seen(monkeypatch):
    """What estimators are given as retain."""
    found = []
    for kind in (ASSD, FineTune):
        fit = kind.fit

        def watched(self, *data, _fit=fit, **named):
            found.append(named["retain"])
            return _fit(self, *data, **named)

        monkeypatch.setattr(kind, "fit", watched)
    return found


def test_given_data_comes_first(task, log, seen, forget):
    entry = forget(log, 0, 1, retain=task.train)
    assert entry.reference == "samples" and sum(map(batch_size, seen[0])) == 118


def test_then_the_stored_reference(task, base, log, seen, forget):
    forget(log, 0, 1)
    entry = forget(log, 2, 3)
    assert entry.reference == "stored" and isinstance(seen[1], Importance)
    # the forget set as it is on the current model, the rest as it was on the base
    rest = FisherDiagonal().measure(base, task.part(*range(4, 120)))
    after_first = ForgetLog(log._session.store.folder, base)._session.state.standing[0]
    assert seen[1].samples == 118 and after_first.reference == "stored"
    measured = seen[1] - FisherDiagonal().measure(log.edit("(0, 1)").apply(base), task.part(2, 3))
    for name, value in rest.sums.items():
        torch.testing.assert_close(measured.sums[name], value, rtol=1e-4, atol=1e-8)


def test_then_the_rest_of_the_data_set(task, base, tmp_path, seen):
    log = ForgetLog(tmp_path, base)
    part = DataLoader(Subset(TensorDataset(*task.train), [0, 1]), batch_size=2)
    entry = log.apply(ASSD(percentile=90), part, request_id="a")
    assert entry.reference == "samples" and sum(map(batch_size, seen[0])) == 118


def test_then_nothing(task, base, tmp_path, forget):
    log = ForgetLog(tmp_path, base)
    with pytest.raises(DataError, match="nothing is known of the data to keep"):
        forget(log, 0)
    with pytest.raises(DataError, match="looks at the samples of the retain set"):
        forget(log, 0, estimator=FineTune(epochs=1))
    assert log.requests == ()


def test_an_importance_of_ones_own(task, base, tmp_path, seen, forget):
    log = ForgetLog(tmp_path, base)
    assert forget(log, 0, retain=task.reference).reference == "given" and seen[0] is task.reference
    log = ForgetLog(tmp_path / "b", base, task.reference)
    own = ASSD(percentile=90, reference=task.reference)
    assert forget(log, 0, estimator=own).reference == "given" and seen[1] is None


def test_samples_of(task):
    loader, digests = samples_of(task.train, b"0123456789abcdef")
    assert loader.batch_size == 128 and len(set(digests)) == 120
    with pytest.raises(DataError, match="forget must be samples"):
        samples_of(task.reference, b"0123456789abcdef")
    assert now().endswith("+00:00")


def test_other_dtypes_are_told(task, base, tmp_path):
    X, y = task.part(0, 1)
    log = ForgetLog(tmp_path, base)
    with pytest.warns(UnlearnWarning, match="not recognised in retain"):
        entry = log.apply(FineTune(epochs=1), (X, y.int()), request_id="a", retain=task.train)
    assert entry.n_left_out == 0
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "a sample of forget")
        entry = log.apply(FineTune(epochs=1), (X.numpy(), y.numpy()), request_id="b", retain=task.train)
    assert entry.n_left_out == 2
