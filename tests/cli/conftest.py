# SPDX-License-Identifier: BSD-3-Clause
"""A folder as a user has it: a training script, a checkpoint, data in files; and a way to run commands in it."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import save_file

from unlearnkit.cli import main

SCRIPT = '''
"""A training script: three classes in six dimensions."""
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

print("imported")  # which must not get into --json


def part(seed, count):
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(count) % 3
    return torch.randn(count, 6, generator=generator) + 3 * nn.functional.one_hot(y, 6), y


def train_set():
    return TensorDataset(*part(0, 90))


held_out = TensorDataset(*part(1, 45))


def test_set():
    return part(2, 60)


def loader():
    return DataLoader(train_set(), batch_size=16, shuffle=True)


class Stream(IterableDataset):
    def __iter__(self):
        return iter(train_set())


def build(width=16, classes=3):
    return nn.Sequential(nn.Linear(6, width), nn.ReLU(), nn.Linear(width, classes))


def loss(model, batch):
    x, y = batch
    return nn.functional.cross_entropy(model(x), y, reduction="none")


def trained(data, seed=0):
    torch.manual_seed(seed)
    model = build()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(data[0]), data[1]).backward()
        optimizer.step()
    return model


def broken():
    raise RuntimeError("no such\\nGPU")


number = 7
'''


@dataclass
class Ran:
    """What a command returned and printed."""

    code: int
    out: str
    err: str

    @property
    def json(self):
        return json.loads(self.out)


@pytest.fixture(scope="session")
def template(tmp_path_factory) -> Path:
    """The files, made once."""
    folder = tmp_path_factory.mktemp("user")
    (folder / "train.py").write_text(SCRIPT)
    names: dict = {"__name__": "script"}
    exec(SCRIPT.replace('print("imported")', ""), names)
    X, y = names["part"](0, 90)
    save_file(names["trained"]((X, y)).state_dict(), folder / "model.safetensors")
    kept = y != 2
    save_file(names["trained"]((X[kept], y[kept]), seed=1).state_dict(), folder / "oracle.safetensors")
    np.savez(folder / "train.npz", X=X.numpy(), y=y.numpy())
    save_file({"X": X, "y": y}, folder / "data.safetensors")
    rows = [
        [f"user-{at // 2}", *map(str, x.tolist()), str(int(k))]
        for at, (x, k) in enumerate(zip(X, y, strict=True))
    ]
    text = [["id", *(f"x{at}" for at in range(6)), "target"], *rows]
    (folder / "train.csv").write_text("\n".join(",".join(row) for row in text) + "\n")
    return folder


@pytest.fixture
def folder(template, tmp_path, monkeypatch) -> Path:
    """A copy of them, as the current folder."""
    for file in template.iterdir():
        shutil.copy(file, tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(capsys):
    """Run a command in this process."""

    def run(*arguments: str) -> Ran:
        capsys.readouterr()
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as end:
            code = end.code
        out, err = capsys.readouterr()
        return Ran(code, out, err)

    return run


@pytest.fixture
def forget(folder, run):
    """Run ``unlearnkit forget`` on the folder's model and data, with more arguments."""

    def forget(*arguments: str, data: str = "train.py:train_set", weights: str = "model.safetensors") -> Ran:
        return run("forget", "--model", "train.py:build", "--weights", weights, "--data", data, *arguments)

    return forget
