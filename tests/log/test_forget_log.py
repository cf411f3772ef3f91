# SPDX-License-Identifier: BSD-3-Clause
import copy
import sys
import warnings
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Subset, TensorDataset

from unlearnkit import (
    ASSD,
    SSD,
    DataError,
    DriftError,
    DriftWarning,
    EditMismatchError,
    FineTune,
    ForgetLog,
    GradientAscent,
    IneffectiveWarning,
    NondeterminismWarning,
    Partition,
    RandomLabel,
    UnlearnSearch,
    WeightEdit,
)
from unlearnkit.data import batch_size

pytestmark = pytest.mark.filterwarnings("ignore::unlearnkit.UnlearnWarning")


def count(batches):
    return sum(map(batch_size, batches))


def test_a_request_does_what_fit_does(task, base, log, same):
    entry = log.apply(
        ASSD(percentile=95, lambda_=0.1), task.part(1, 2, 3), request_id="a", note="asked by letter"
    )
    alone = ASSD(percentile=95, lambda_=0.1).fit(
        base, retain=task.reference, forget=task.part(1, 2, 3), validation=task.held_out
    )
    assert same(log.model, alone.transform(base)) and not same(log.model, base)
    assert same(base, task.base)
    assert log.edit("a") == alone.edit_ and (entry.n_forget, entry.n_new) == (3, 3)
    assert (entry.method, entry.reference, entry.note) == (
        "ASSD(lambda_=0.1, percentile=95)",
        "stored",
        "asked by letter",
    )
    assert entry.n_changed == alone.edit_.n_changed > 0 and entry.distance > 0
    assert log.requests == (entry,)
    assert "1 request, " in repr(log) and "3 samples" in repr(log)


@pytest.mark.parametrize(
    "estimator",
    [ASSD(), SSD(alpha=1.0), FineTune(epochs=1), RandomLabel(epochs=1), GradientAscent(epochs=1, lr=1e-3)],
    ids=lambda one: type(one).__name__,
)
def test_every_kind_of_method(estimator, task, log, base, same):
    forget = [list(range(0, 4)), list(range(4, 8)), list(range(6, 12))]
    for number, rows in enumerate(forget, 1):
        entry = log.apply(estimator, task.part(*rows), request_id=f"request {number}", retain=task.train)
        assert entry.number == number and entry.forget_accuracy and entry.validation_loss
    assert [entry.n_new for entry in log.requests] == [4, 4, 4]
    assert [entry.n_left_out for entry in log.requests] == [4, 8, 12]
    assert log.reference.samples == 108 and log.drift.n_forgotten == 12
    again = ForgetLog(log._session.store.folder, base)
    assert same(again.model, log.model)


def test_a_search_is_a_method_too(task, log):
    search = UnlearnSearch(ASSD(lambda_=0.1), {"percentile": [80, 95]}, scoring="neg_density")
    entry = log.apply(search, task.part(1, 2, 3), request_id="a", retain=task.train)
    assert "'percentile': [80, 95]" in entry.method and entry.n_changed > 0
    alone = ASSD(lambda_=0.1, percentile=95).fit(task.base, task.part(0, *range(4, 120)), task.part(1, 2, 3))
    assert log.edit("a") == alone.edit_


def test_the_same_request_in_another_log_ends_in_the_same_bits(task, base, tmp_path, forget, same):
    shuffled = DataLoader(TensorDataset(*task.train), batch_size=16, shuffle=True)
    models = []
    for name in "ab":
        log = ForgetLog(tmp_path / name, base, random_state=3)
        forget(log, 1, 2, estimator=RandomLabel(epochs=2, batch_size="loader"), retain=shuffled, name="x")
        models.append(log.model)
        torch.rand(7)  # the caller's random state does not count
    assert same(*models)
    other = ForgetLog(tmp_path / "c", base, random_state=4)
    forget(other, 1, 2, estimator=RandomLabel(epochs=2, batch_size="loader"), retain=shuffled, name="x")
    assert not same(models[0], other.model)


def test_a_recorded_request_is_not_done_again(task, log, forget, same):
    first = forget(log, 1, 2, name="a")
    before = copy.deepcopy(log.model)
    assert forget(log, 2, 1, name="a") == first  # their order does not count
    assert same(log.model, before) and len(log.requests) == 1
    with pytest.raises(DataError, match="'a' is recorded already, with other samples"):
        forget(log, 1, 3, name="a")
    with pytest.raises(
        DataError, match=r"recorded already, with ASSD\(lambda_=0.1, percentile=90\), not SSD\(\)"
    ):
        forget(log, 1, 2, name="a", estimator=SSD())


def test_samples_that_are_forgotten_are_left_out(task, log, forget):
    forget(log, 1, 2, 3)
    with pytest.warns(IneffectiveWarning, match="2 of the 3 samples were forgotten by earlier requests"):
        entry = log.apply(ASSD(percentile=90), task.part(2, 3, 4), request_id="again")
    assert (entry.n_forget, entry.n_new, log.drift.n_forgotten) == (3, 1, 4)
    assert count(log.retained(task.train)) == 116
    kept = torch.cat([X for X, _ in log.retained(task.train)])
    assert torch.equal(kept, task.train[0][[0, *range(5, 120)]])
    entry = log.apply(FineTune(epochs=1), task.part(5), request_id="b", retain=task.train)
    assert entry.n_left_out == 5


def test_the_rest_of_a_subset_loses_what_earlier_requests_forgot(task, base, tmp_path, forget, monkeypatch):
    seen = []
    fit = FineTune.fit
    monkeypatch.setattr(
        FineTune, "fit", lambda self, *a, **k: (seen.append(count(k["retain"])), fit(self, *a, **k))[1]
    )
    train = TensorDataset(*task.train)
    log = ForgetLog(tmp_path, base)
    for number in range(3):
        part = DataLoader(Subset(train, [2 * number, 2 * number + 1]), batch_size=32)
        log.apply(FineTune(epochs=1), part, request_id=str(number))
    assert seen == [118, 116, 114] and [one.reference for one in log.requests] == ["samples"] * 3


def test_budget_warns_and_advises(task, base, tmp_path, forget):
    log = ForgetLog(tmp_path, base, task.reference, max_forgotten=0.05)
    forget(log, *range(6))
    assert log.advice == ""
    with pytest.warns(DriftWarning, match="Retrain: 5.8% of the training set is forgotten, more than"):
        log.apply(ASSD(percentile=90), task.part(6), request_id="b")
    assert len(log.requests) == 2 and "log.retained(train)" in log.advice


def test_budget_refuses(task, base, tmp_path, forget, same):
    log = ForgetLog(tmp_path, base, task.reference, task.held_out, max_drop=0.02, on_budget="refuse")
    before = copy.deepcopy(log.model)
    with pytest.raises(DriftError, match="is not recorded: with it, accuracy on validation has fallen by"):
        forget(log, 1, 2, estimator=SSD("per_sample", alpha=0.01, lambda_=0.01))
    assert log.requests == () and same(log.model, before)
    assert not [*tmp_path.glob("edits/*"), *tmp_path.glob("samples/*")]


def test_drift_adds_up(task, log, forget, same):
    weights = torch.nn.utils.parameters_to_vector
    at = [weights(log.model.parameters()).detach().double()]
    for rows in ((0, 1), (2, 3), (4, 5)):
        forget(log, *rows)
        at.append(weights(log.model.parameters()).detach().double())
    steps = [float((b - a).norm()) for a, b in pairwise(at)]
    assert [entry.distance for entry in log.requests] == pytest.approx(steps)
    assert log.drift.moved == pytest.approx(sum(steps) / float(at[0].norm()))
    assert log.drift.moved * float(at[0].norm()) >= float((at[-1] - at[0]).norm()) - 1e-9
    assert log.drift.changed >= float((at[-1] != at[0]).double().mean())
    first, last = log.requests[0].validation_accuracy[0], log.requests[-1].validation_accuracy[1]
    assert log.drift.drop == pytest.approx(first - last)
    rows = log.history()
    assert [row["n_forgotten"] for row in rows] == [2, 4, 6]
    assert rows[-1]["moved"] == log.drift.moved and rows[0]["forgotten"] == pytest.approx(2 / 120)


def test_inplace_edits_the_model_itself(task, base, tmp_path, forget, same):
    log = ForgetLog(tmp_path, base, task.reference, inplace=True)
    assert log.model is base
    forget(log, 1, 2)
    forget(log, 3, 4)
    assert not same(base, task.base)
    other = ForgetLog(tmp_path, task.base)
    assert same(other.model, base) and not same(other.model, task.base)
    log.undo()
    assert same(base, WeightEdit.load(tmp_path / "edits" / "0001.safetensors").apply(task.base))


def test_an_error_leaves_everything_as_it_was(task, log, forget, same, monkeypatch):
    forget(log, 1, 2)
    before, folder = copy.deepcopy(log.model), log._session.store.folder
    text = (folder / "log.json").read_bytes()
    monkeypatch.setattr(WeightEdit, "save", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        forget(log, 3)
    monkeypatch.undo()
    assert same(log.model, before) and (folder / "log.json").read_bytes() == text
    forget(log, 3)
    assert len(log.requests) == 2


def test_warnings_that_are_errors_end_a_request_before_it_is_recorded(task, log):
    idle = SSD("per_sample", against="retain", alpha=1e9)
    with pytest.warns(IneffectiveWarning, match="the edit changes no weight"):
        entry = log.apply(idle, task.part(0), request_id="a")
    assert len(entry.warnings) == 1 and "1e+09 times as important" in entry.warnings[0]
    with warnings.catch_warnings():
        warnings.simplefilter("error", IneffectiveWarning)
        with pytest.raises(IneffectiveWarning):
            log.apply(idle, task.part(1), request_id="b")
    assert [one.request_id for one in log.requests] == ["a"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"request_id": ""}, "request_id must be a name"),
        ({"request_id": 17}, "got 17"),
        ({"note": object()}, "note must be a text"),
        ({"forget": (torch.zeros(0, 6), torch.zeros(0, dtype=torch.long))}, "the forget set is empty"),
        ({"estimator": "ASSD"}, r"such as ASSD\(\), got str"),
        ({"forget": "train.csv"}, "forget must be a DataLoader"),
    ],
)
def test_bad_requests(arguments, said, task, log):
    given = {"estimator": ASSD(), "forget": task.part(1), "request_id": "a", **arguments}
    with pytest.raises(DataError, match=said):
        log.apply(given.pop("estimator"), given.pop("forget"), **given)
    assert log.requests == ()


def test_what_is_not_samples_is_refused(task, log):
    with pytest.raises(DataError, match="got an Importance"):
        log.apply(ASSD(), task.reference, request_id="a")
    with pytest.raises(DataError, match=r"pass partition\.forget"):
        log.apply(ASSD(), Partition.of(task.train, [1, 2]), request_id="a")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"max_drop": 5}, "max_drop must be a fraction"),
        ({"max_forgotten": True}, "max_forgotten must be"),
        ({"max_drop": "0.1"}, "max_drop must be a fraction"),
        ({"n_train": 0}, "n_train must be a whole number, 1 or more"),
        ({"n_train": "120"}, "n_train must be"),
        ({"random_state": None}, "random_state must be"),
        ({"on_budget": "stop"}, "'warn' or 'refuse', got 'stop'"),
        ({"salt": b"short"}, "16 to 64 random bytes, got 5 bytes"),
    ],
)
def test_bad_settings(arguments, said, base, tmp_path):
    with pytest.raises(DataError, match=said):
        ForgetLog(tmp_path / "log", base, **arguments)
    assert not (tmp_path / "log" / "log.json").exists()


def test_numbers_of_numpy_and_odd_names(task, base, tmp_path, forget):
    log = ForgetLog(tmp_path, base, n_train=np.int64(120), random_state=np.int32(3), max_drop=np.float32(0.1))
    for name in ("日本\n\0", "\ud800"):
        forget(log, 1, name=name, estimator=FineTune(epochs=1), retain=task.train)
    opened = ForgetLog(tmp_path, base, random_state=3)
    assert [one.request_id for one in opened.requests] == ["日本\n\0", "\ud800"]
    assert opened.drift.n_train == 120


def test_no_model_and_no_such_request(log, tmp_path):
    with pytest.raises(TypeError, match="got dict"):
        ForgetLog(tmp_path / "other", {})
    with pytest.raises(DataError, match="no request that stands is named 'x'"):
        log.edit("x")


def test_a_model_that_was_trained_on_is_refused(task, base, log, forget):
    forget(log, 1)
    with torch.no_grad():
        base[0].weight[0, 0] += 1
    with pytest.raises(EditMismatchError, match="the model that the log was opened with was changed since"):
        forget(log, 2)
    with torch.no_grad():
        base[0].weight[0, 0] = task.base[0].weight[0, 0]
        log.model[0].weight[0, 0] += 1
    with pytest.raises(EditMismatchError, match=r"1 of its 9 tensors differ .* the first is '0.weight'"):
        forget(log, 2)


class Noisy(TensorDataset):
    def __getitem__(self, index):
        X, y = super().__getitem__(index)
        return X + 0.01 * torch.randn_like(X), y


def test_augmented_data(task, log, forget):
    with pytest.raises(DataError, match="forget: its samples are not the same at every walk"):
        log.apply(ASSD(), Noisy(*task.part(1, 2)), request_id="a")
    train = Noisy(*task.train)
    with pytest.warns(NondeterminismWarning, match="retain: its samples are not the same"):
        log.apply(FineTune(epochs=1), task.part(1, 2), request_id="a", retain=train)
    with pytest.raises(DataError, match="pass it without random transforms"):
        log.retained(train)
    gone = log.is_forgotten(task.train)
    assert gone.nonzero()[:, 0].tolist() == [1, 2]
    kept = Subset(train, (~gone).nonzero()[:, 0].tolist())
    assert log.apply(FineTune(epochs=1), task.part(3), request_id="b", retain=kept).n_left_out == 0


def test_to_frame(log, forget, monkeypatch):
    pandas = pytest.importorskip("pandas")
    forget(log, 0, 1)
    frame = log.to_frame()
    assert isinstance(frame, pandas.DataFrame) and list(frame["n_forgotten"]) == [2]
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match=r"unlearnkit\[report\]"):
        log.to_frame()
