# SPDX-License-Identifier: BSD-3-Clause
import os
import warnings

import pytest

from unlearnkit import ASSD, DataError, FisherDiagonal, ForgetLog, Importance, UnlearnWarning


def test_processes_wait_for_each_other(task, base, tmp_path, forget, same):
    ForgetLog(tmp_path, base, task.reference)
    children = []
    for worker in range(3):
        process = os.fork()
        if process == 0:
            try:
                warnings.simplefilter("ignore", UnlearnWarning)
                log = ForgetLog(tmp_path, base, max_forgotten=None)
                for k in range(4):
                    forget(log, 4 * worker + k, name=f"{worker}/{k}")
                os._exit(0)
            except BaseException:
                os._exit(1)
        children.append(process)
    assert [os.waitpid(process, 0)[1] for process in children] == [0, 0, 0]
    log = ForgetLog(tmp_path, base)
    assert sorted(one.request_id for one in log.requests) == [f"{w}/{k}" for w in range(3) for k in range(4)]
    assert [one.number for one in log.requests] == list(range(1, 13))
    assert log.drift.n_forgotten == 12 and log.reference.samples == 108
    other = ForgetLog(tmp_path / "other", base, task.reference, max_forgotten=None)
    for one in log.requests:
        worker, k = map(int, one.request_id.split("/"))
        forget(other, 4 * worker + k, name=one.request_id)
    assert same(other.model, log.model)


def test_settings_of_the_folder_count(task, base, log):
    folder = log._session.store.folder
    other = FisherDiagonal().measure(base, task.part(0, 1, 2))
    opened = ForgetLog(folder, base, other, n_train=3)
    assert opened.reference.samples == 120 and opened.drift.n_train == 120
    with pytest.raises(DataError, match="begun with random_state=0, got 1"):
        ForgetLog(folder, base, random_state=1)


def test_what_measured_the_reference(task, base, tmp_path, forget):
    class Own(FisherDiagonal):
        kind = "own"

        def measure(self, *arguments, **more):
            found = super().measure(*arguments, **more)
            return Importance(found.sums, found.count, "own", found.samples)

    reference = Own().measure(base, task.train)
    with pytest.raises(DataError, match=r"which estimator measured the reference \('own'\) is not known"):
        ForgetLog(tmp_path / "a", base, reference)
    with pytest.raises(DataError, match="measures 'own', and the reference is 'fisher/per_sample/true'"):
        ForgetLog(tmp_path / "b", base, task.reference, importance=Own())
    log = ForgetLog(tmp_path / "c", base, reference, importance=Own())
    forget(log, 1, 2, estimator=ASSD(importance=Own(), percentile=90, lambda_=0.1))
    assert log.reference.kind == "own" and log.reference.samples == 118
