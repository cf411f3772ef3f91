# SPDX-License-Identifier: BSD-3-Clause
"""A training that counts itself in a file, and programs that run in processes of their own."""

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


@pytest.fixture
def start(tmp_path):
    """Start a program with what stands here at hand; whatever still runs at the end is ended."""
    running = []
    head = """
        import os, signal, sys, time
        sys.path[:0] = [{root!r}, {here!r}]
        from pathlib import Path
        import torch
        torch.set_num_threads(1)
        from conftest import Counting, network, samples
        from unlearnkit import OracleBank, Retrain, Trainer
        folder = Path({folder!r})
        train = Counting(folder / "trainings.txt")
        bank = OracleBank(folder / "bank", train, "three steps", factory=network)
    """

    def run(code):
        given = {"root": str(ROOT), "here": str(Path(__file__).parent), "folder": str(tmp_path)}
        program = textwrap.dedent(head).format(**given) + textwrap.dedent(code)
        command = [sys.executable, "-c", program]
        running.append(subprocess.Popen(command, stderr=subprocess.PIPE, text=True))
        return running[-1]

    yield run
    for process in running:
        process.kill()
        process.communicate()
