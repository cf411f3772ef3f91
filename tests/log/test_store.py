# SPDX-License-Identifier: BSD-3-Clause
"""The folder: whole after a kill at any moment, refused where it is damaged, and without a sample."""

import hashlib
import json
import os
import shutil
import signal
import time

import numpy as np
import pytest
import torch

from unlearnkit import DataError, FineTune, ForgetLog
from unlearnkit.log.samples import sample_digests
from unlearnkit.log.store import State, Store
from unlearnkit.parameters import bits


@pytest.fixture
def folder(log):
    return log._session.store.folder


def files(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


# The four files of a request and log.json, each before and after it gets its name.
@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
@pytest.mark.parametrize("nth", range(1, 5))
def test_killed_while_writing(nth, before, task, base, log, folder, forget, child, kill, same, monkeypatch):
    forget(log, 0, 1)
    forget(log, 2, 3, name="whole")

    def request():
        calls, put = [], os.replace

        def replace(*names):
            calls.append(names)
            if len(calls) == nth and before:
                kill()
            put(*names)
            if len(calls) == nth:
                kill()

        monkeypatch.setattr(os, "replace", replace)
        forget(log, 4, 5, name="torn")

    assert child(request) == 9
    opened = ForgetLog(folder, base)
    is_whole = nth == 4 and not before
    assert [one.request_id for one in opened.requests] == ["(0, 1)", "whole", *["torn"] * is_whole]
    assert files(folder) == opened._session.state.files() | {"log.json", "salt", "lock"}
    forget(opened, 4, 5, name="torn")  # the job is run again
    forget(log, 4, 5, name="torn")  # and so is a process that was not killed: nothing is done twice
    assert len(opened.requests) == len(log.requests) == 3 and same(opened.model, log.model)
    other = ForgetLog(folder.with_name("other"), base, task.reference, task.held_out)
    for rows, name in (((0, 1), "(0, 1)"), ((2, 3), "whole"), ((4, 5), "torn")):
        forget(other, *rows, name=name)
    assert same(other.model, opened.model)
    for name, value in other.reference.sums.items():
        assert torch.equal(bits(value), bits(opened.reference.sums[name]))


def test_killed_while_it_is_fitted(task, base, log, folder, forget, child, kill, same, monkeypatch):
    forget(log, 0, 1)
    train = FineTune(epochs=3)

    def request():
        steps, step = [], torch.optim.SGD.step

        def killing(self, *arguments):
            steps.append(1)
            return kill() if len(steps) == 2 else step(self, *arguments)

        monkeypatch.setattr(torch.optim.SGD, "step", killing)
        forget(log, 4, 5, name="torn", estimator=train, retain=task.train)

    assert child(request) == 9
    opened = ForgetLog(folder, base)
    assert len(opened.requests) == 1
    forget(opened, 4, 5, name="torn", estimator=train, retain=task.train)
    other = ForgetLog(folder.with_name("other"), base, task.reference)
    forget(other, 0, 1)
    forget(other, 4, 5, name="torn", estimator=train, retain=task.train)
    assert same(opened.model, other.model)


def test_killed_while_it_is_made_or_undone(task, base, log, folder, forget, child, kill, same, monkeypatch):
    def made():
        monkeypatch.setattr(Store, "commit", kill)
        ForgetLog(folder.with_name("new"), base, task.reference)

    assert child(made) == 9
    assert ForgetLog(folder.with_name("new"), base, task.reference).reference.samples == 120
    forget(log, 0, 1)
    monkeypatch.setattr(Store, "sweep", kill)
    assert child(log.undo) == 9
    monkeypatch.undo()
    opened = ForgetLog(folder, base)
    assert [one.status for one in opened.requests] == ["undone"] and same(opened.model, base)
    assert files(folder) == {"log.json", "salt", "lock", "reference/0001.safetensors"}


def test_killed_from_outside(task, base, tmp_path, forget, same):
    """A process that does request after request, killed -9 when it has come some way."""

    def requests(folder):
        log = ForgetLog(folder, base, max_forgotten=None)
        for k in range(6):
            forget(log, k, estimator=FineTune(epochs=3, batch_size=8), retain=task.train)
        return log

    process = os.fork()
    if process == 0:
        requests(tmp_path / "a")
        os._exit(0)
    while len(list((tmp_path / "a").glob("edits/*"))) < 3:
        time.sleep(0.001)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    done = json.loads((tmp_path / "a" / "log.json").read_bytes())["log"]["entries"]
    assert 2 <= len(done) < 6
    first, other = requests(tmp_path / "a"), requests(tmp_path / "b")
    assert len(first.requests) == 6 and same(first.model, other.model)


def test_no_sample_is_in_it(task, log, folder, forget, base):
    torch.manual_seed(5)
    forget(log, *range(8), estimator=FineTune(epochs=1), retain=task.train)
    forget(log, *range(8, 12))
    content = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    X, y = task.part(*range(12))
    for row in X:
        assert row.numpy().tobytes() not in content and str(row[0].item()).encode() not in content
        assert row[:2].numpy().tobytes() not in content
    # what anybody could compute of a sample without the salt
    plain = hashlib.blake2b(digest_size=16)
    for row, label in zip(X, y, strict=True):
        for text in (row.numpy().tobytes(), row.numpy().tobytes() + label.numpy().tobytes()):
            for name in ("md5", "sha1", "sha256", "blake2b"):
                found = hashlib.new(name, text).digest()
                assert found not in content and found.hex().encode() not in content
            plain.update(text)
    # with the salt they are what they should be, and in no order that tells of the data
    salt = (folder / "salt").read_bytes()
    marks = sample_digests((X[:8], y[:8]), salt)
    assert (folder / "samples" / "0001.bin").read_bytes() == b"".join(sorted(marks))
    assert (folder / "salt").stat().st_mode & 0o077 == 0


def test_a_salt_of_ones_own_is_not_kept(task, base, tmp_path, forget):
    log = ForgetLog(tmp_path, base, task.reference, salt=b"0123456789abcdef")
    forget(log, 1)
    content = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"0123456789abcdef" not in content and not (tmp_path / "salt").exists()
    with pytest.raises(DataError, match="this log's salt is not kept in its folder"):
        ForgetLog(tmp_path, base)
    with pytest.raises(DataError, match="the salt given is not the one that this log was begun with"):
        ForgetLog(tmp_path, base, salt=b"another one of 16")
    assert len(ForgetLog(tmp_path, base, salt=b"0123456789abcdef").requests) == 1


@pytest.mark.parametrize("name", ["log.json", "samples/0001.bin", "edits/0001.safetensors", "salt",
                                  "reference/0002.safetensors"])  # fmt: skip
@pytest.mark.parametrize("how", ["removed", "cut", "changed"])
def test_damage_is_noticed(name, how, base, log, folder, forget):
    forget(log, 1, 2)
    path = folder / name
    content = np.frombuffer(path.read_bytes(), dtype=np.uint8).copy()
    if how == "changed":
        content[len(content) // 2] ^= 1
    path.write_bytes(content[: len(content) // 2].tobytes() if how == "cut" else content.tobytes())
    if how == "removed":
        path.unlink()
    with pytest.raises(DataError, match=r"damaged|missing|salt|match its checksum|no log\.json"):
        ForgetLog(folder, base)


def test_other_layouts_are_refused(base, log, folder):
    content = json.loads((folder / "log.json").read_bytes())
    for change, said in [({"version": 2}, "newer unlearnkit"), ({"kind": "other"}, "holds a other")]:
        (folder / "log.json").write_text(json.dumps(content | change))
        with pytest.raises(DataError, match=said):
            ForgetLog(folder, base)


def test_a_folder_of_other_things_is_refused(base, tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(DataError, match=r"holds other things \('thesis.tex'\) and no log"):
        ForgetLog(tmp_path, base)
    with pytest.raises(DataError, match="is a file"):
        ForgetLog(tmp_path / "thesis.tex", base)
    assert files(tmp_path) == {"thesis.tex"} and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    "name", ["samples/cat.png", "edits/0001.safetensors", "reference/0002.safetensors", "a.tmp"]
)
def test_nothing_is_swept_that_is_not_known_to_be_the_logs(name, base, tmp_path):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.touch()
    with pytest.raises(DataError, match="and no log"):
        ForgetLog(tmp_path, base)
    assert path.exists()


def test_the_loss_of_log_json_is_not_taken_for_a_new_log(base, log, folder, forget):
    forget(log, 1, 2)
    before = files(folder)
    os.rename(folder / "log.json", folder.with_name("copy"))
    for act in (lambda: ForgetLog(folder, base), lambda: forget(log, 3)):
        with pytest.raises(DataError, match=r"put a copy of its log\.json back"):
            act()
    os.rename(folder.with_name("copy"), folder / "log.json")
    assert files(folder) == before and len(ForgetLog(folder, base).requests) == 1


def test_a_folder_that_is_moved_away_is_missed(log, folder, forget):
    shutil.move(folder, folder.with_name("elsewhere"))
    with pytest.raises(DataError, match="is gone"):
        forget(log, 3)


def test_other_things_may_lie_beside_the_files_of_a_log(base, log, folder, forget):
    (folder / "edits" / ".ipynb_checkpoints").mkdir()
    (folder / "edits" / "notes.md").touch()
    forget(log, 1, 2)
    assert len(ForgetLog(folder, base).requests) == 1 and (folder / "edits" / "notes.md").exists()


def test_a_copy_of_the_folder_goes_on(task, base, log, folder, forget, same):
    forget(log, 1, 2)
    shutil.copytree(folder, folder.with_name("copy"))
    assert same(ForgetLog(folder.with_name("copy"), base).model, log.model)


def test_commits_are_read_back(tmp_path):
    store = Store(tmp_path / "log")
    assert store.read() is None
    state = State("a", "a", {"w": "x"}, 1.5, "s", 0, 7)
    store.commit(state)
    assert store.read() == state and state.files() == set() and state.digests == ["a"]


# An interrupt, unlike a kill, lets the process go on: what is committed then stands, in it and in the folder.
@pytest.mark.parametrize("operation", ["apply", "undo"])
@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
def test_interrupted_at_the_commit(before, operation, base, log, folder, forget, same, monkeypatch):
    forget(log, 0, 1)
    forget(log, 2, 3)
    put = os.replace

    def replace(source, target):
        if before and str(target).endswith("log.json"):
            raise KeyboardInterrupt
        put(source, target)
        if str(target).endswith("log.json"):
            raise KeyboardInterrupt

    act = {"apply": lambda: forget(log, 4, 5), "undo": log.undo}[operation]
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace)
        with pytest.raises(KeyboardInterrupt):
            act()

    change = {"apply": 1, "undo": -1}[operation]
    assert log.drift.n_requests == 2 + (0 if before else change)
    opened = ForgetLog(folder, base)
    assert opened.requests == log.requests and same(opened.model, log.model)
    forget(log, 6, 7)  # and it goes on
    assert same(ForgetLog(folder, base).model, log.model)
    log.undo()
    assert same(ForgetLog(folder, base).model, log.model)
