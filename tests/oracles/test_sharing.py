# SPDX-License-Identifier: BSD-3-Clause
"""Several processes at one folder, and processes that are killed: each oracle is trained once, and whole."""

import signal
import time
from pathlib import Path
from threading import Thread

import torch

from unlearnkit import OracleBank, Retrain, Trainer
from unlearnkit.methods._finetune import Loop
from unlearnkit.oracles._slot import Slot
from unlearnkit.parameters import named_tensors
from unlearnkit.testing._task import FORGET, RETAIN, Task, mlp


def until(condition, seconds=60):
    """Wait for something that another process does."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.02)


def files(bank):
    return sorted(path.name for path in bank.folder.rglob("*") if path.is_file())


def test_processes_share_the_work(bank, train, samples, network, start, tmp_path):
    code = """
        (folder / "ready-{0}").touch()
        while not all((folder / f"ready-{{name}}").exists() for name in "ab"):
            time.sleep(0.01)
        count = train.__call__
        def slow(data, seed):
            (folder / f"by-{0}-{{seed}}").touch()
            time.sleep(0.1)
            return count(data, seed)
        bank = OracleBank(folder / "bank", slow, "three steps", factory=network)
        models = list(bank.models(samples(), range(*{1})))
        torch.save([model.state_dict() for model in models], folder / "{0}.pt")
    """
    processes = [start(code.format(name, seeds)) for name, seeds in (("a", (0, 8)), ("b", (2, 10)))]
    for process in processes:
        assert process.wait() == 0
    assert sorted(train.seeds) == list(range(10))
    assert set(files(bank)) == {"lock", "oracle.safetensors"}
    # the second did not stand waiting for the first
    assert len(list(tmp_path.glob("by-a-*"))) >= 2 and len(list(tmp_path.glob("by-b-*"))) >= 2
    first, second = torch.load(tmp_path / "a.pt"), torch.load(tmp_path / "b.pt")
    alone = OracleBank(tmp_path / "alone", train, "three steps", factory=network)
    for seed, model in zip(range(2, 8), alone.models(samples(), range(2, 8)), strict=True):
        for name, tensor in model.state_dict().items():
            assert torch.equal(first[seed][name], second[seed - 2][name])
            assert torch.equal(first[seed][name], tensor), "another process gives the same bits"


def test_one_who_waits_takes_over_from_one_killed(bank, train, samples, start):
    code = """
        count = train.__call__
        def endless(data, seed):
            count(data, seed)
            time.sleep(600)
        OracleBank(folder / "bank", endless, "three steps", factory=network).model(samples(), 0)
    """
    other = start(code)
    until(lambda: train.seeds == [0])
    found = []
    waiting = Thread(target=lambda: found.append(bank.model(samples(), 0)))
    waiting.start()
    waiting.join(0.5)
    assert waiting.is_alive() and train.seeds == [0], "the lock is held"
    other.kill()
    waiting.join(60)
    assert len(found) == 1 and train.seeds == [0, 0]
    assert files(bank) == ["lock", "oracle.safetensors"]


def test_killed_while_it_writes(bank, train, samples, start):
    """The second file is not there, the first is, and what was written of the second is cleared away."""
    code = """
        bank.model(samples(), 0)
        os.fsync = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        bank.model(samples(), 1)
    """
    assert start(code).wait() == -signal.SIGKILL
    names = files(bank)
    assert names.count("oracle.safetensors") == 1 and any(name.endswith(".tmp") for name in names)
    assert [row["seeds"] for row in bank.status()] == [[0]]
    bank.fill(samples(), [0, 1])
    assert train.seeds == [0, 1, 1]
    assert files(bank) == ["lock", "lock", "oracle.safetensors", "oracle.safetensors"]


def test_killed_training_goes_on_from_its_checkpoint(start, tmp_path, monkeypatch):
    code = """
        from unlearnkit.methods._checkpoint import Checkpoint
        from unlearnkit.testing._task import RETAIN, Task, mlp
        write = Checkpoint.write
        def write_and_end(self, state):
            write(self, state)
            if len(state["history"]) == 3:
                os.kill(os.getpid(), signal.SIGKILL)
        Checkpoint.write = write_and_end
        retrain = Retrain(factory=mlp, epochs=5, lr=0.05, batch_size=16, trainer=Trainer(checkpoint="any"))
        OracleBank(folder / "bank", retrain).model(Task().arrays(RETAIN), 4)
    """
    assert start(code).wait() == -signal.SIGKILL
    (left,) = (tmp_path / "bank").rglob("checkpoint.pt")
    assert len(torch.load(left)["history"]) == 3
    task = Task()
    given = {"factory": mlp, "epochs": 5, "lr": 0.05, "batch_size": 16, "random_state": 4}
    whole = Retrain(**given).fit_transform(task.model, task.arrays(RETAIN), task.arrays(FORGET))
    bank = OracleBank(tmp_path / "bank", Retrain(**given, trainer=Trainer(checkpoint=Path("other") / "name")))
    epochs, run = [], Loop._epoch
    monkeypatch.setattr(Loop, "_epoch", lambda self, at, *rest: epochs.append(at) or run(self, at, *rest))
    model = bank.model(task.arrays(RETAIN), 4)
    assert epochs == [3, 4]
    for name, tensor in named_tensors(whole).items():
        assert torch.equal(tensor, named_tensors(model)[name]), name
    assert files(bank) == ["lock", "oracle.safetensors"]


def test_a_slot_is_claimed_once_in_a_process_too(tmp_path):
    first, second, other = Slot(tmp_path, "key", 0), Slot(tmp_path, "key", 0), Slot(tmp_path, "key", 1)
    with first.claimed() as held:
        assert held
        with second.claimed() as again, other.claimed() as beside:
            assert not again and beside
    with second.claimed() as held:
        assert held
