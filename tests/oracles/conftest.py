# SPDX-License-Identifier: BSD-3-Clause
"""A training that counts itself in a file, and processes that share a folder with the tests."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from unlearnkit import OracleBank

ROOT = Path(__file__).parents[2]


def network():
    return nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


def samples(shift=0.0):
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(60, 5, generator=generator) + shift
    return X, X[:, :3].argmax(1)


class Counting:
    """Trains for three steps, and writes the seed into a file first."""

    def __init__(self, log):
        self.log = Path(log)

    def __call__(self, data, seed):
        with self.log.open("a") as file:
            file.write(f"{seed}\n")
        X, y = data
        model = network()  # from the random state that the bank has seeded
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            F.cross_entropy(model(X), y).backward()
            optimizer.step()
        return model

    @property
    def seeds(self):
        return [int(line) for line in self.log.read_text().split()] if self.log.exists() else []


@pytest.fixture(name="network")
def _network():
    return network


@pytest.fixture(name="samples")
def _samples():
    return samples


@pytest.fixture
def train(tmp_path):
    return Counting(tmp_path / "trainings.txt")


@pytest.fixture
def bank(tmp_path, train):
    return OracleBank(tmp_path / "bank", train, "three steps", factory=network)


NURSERY = """
import json, os, signal, sys, time, traceback
from pathlib import Path
import torch
from conftest import Counting, network, samples
from unlearnkit import OracleBank, Retrain, Trainer
torch.set_num_threads(1)
torch.optim.SGD(network().parameters(), lr=0.1)  # the first one imports more than all else
for line in sys.stdin:
    order = json.loads(line)
    if "wait" in order:
        print(os.waitstatus_to_exitcode(os.waitpid(order["wait"], 0)[1]), flush=True)
        continue
    pid = os.fork()
    if pid:
        print(pid, flush=True)
        continue
    try:
        folder = Path(order["folder"])
        train = Counting(folder / "trainings.txt")
        bank = OracleBank(folder / "bank", train, "three steps", factory=network)
        exec(order["code"], globals())
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)
"""


class Child:
    """A process of its own, which a test may kill."""

    def __init__(self, nursery, code, folder):
        self.nursery = nursery
        self.pid = self._ask({"code": textwrap.dedent(code), "folder": str(folder)})
        self.ended = None

    def wait(self):
        """Return its exit code; of one that was killed the signal, negative."""
        if self.ended is None:
            self.ended = self._ask({"wait": self.pid})
        return self.ended

    def kill(self):
        if self.ended is None:
            os.kill(self.pid, signal.SIGKILL)

    def _ask(self, order):
        print(json.dumps(order), file=self.nursery.stdin, flush=True)
        return int(self.nursery.stdout.readline())


@pytest.fixture(scope="module")
def nursery():
    """A process that has imported what takes seconds, trained nothing yet, and forks."""
    path = os.pathsep.join([str(ROOT), str(Path(__file__).parent)])
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    process = subprocess.Popen(
        [sys.executable, "-c", NURSERY], env={**os.environ, "PYTHONPATH": path}, **pipes
    )
    with process:
        yield process
        process.stdin.close()


@pytest.fixture
def start(nursery, tmp_path):
    """Start a program that has what stands here at hand; whatever still runs at the end is killed."""
    children = []

    def run(code):
        children.append(Child(nursery, code, tmp_path))
        return children[-1]

    yield run
    for child in children:
        child.kill()
        child.wait()
