# SPDX-License-Identifier: BSD-3-Clause
"""A small network with its data, a log of it, and how a model is compared bit by bit."""

import os
import signal
import traceback
import warnings
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from unlearnkit import ASSD, FisherDiagonal, ForgetLog, UnlearnWarning
from unlearnkit.log.head import tensor_digests
from unlearnkit.parameters import copy_of

CENTRES = torch.tensor([[2.0, 0, 0, 1, 0, 0], [0, 2, 0, 0, 1, 0], [0, 0, 2, 0, 0, 1]])


@pytest.fixture(scope="session")
def task():
    """A network of 8 hidden units with a buffer, trained on 120 samples of 3 classes; 60 held out."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        y = torch.arange(180) % 3
        X = CENTRES[y] + 0.7 * torch.randn(180, 6)
        model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
        optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
        for _ in range(30):
            optimizer.zero_grad()
            F.cross_entropy(model(X[:120]), y[:120]).backward()
            optimizer.step()
    model.eval()
    train = (X[:120], y[:120])
    return SimpleNamespace(
        base=model,
        train=train,
        held_out=(X[120:], y[120:]),
        reference=FisherDiagonal().measure(model, train),
        part=lambda *at: (X[list(at)], y[list(at)]),
    )


@pytest.fixture
def base(task):
    return copy_of(task.base)


@pytest.fixture
def log(task, base, tmp_path):
    return ForgetLog(tmp_path / "log", base, task.reference, task.held_out, max_drop=None)


@pytest.fixture(scope="session")
def forget(task):
    """Apply a request for some samples with a method that always changes some weights."""

    def apply(log, *at, name=None, estimator=None, **more):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UnlearnWarning)
            return log.apply(
                estimator or ASSD(percentile=90, lambda_=0.1),
                task.part(*at),
                request_id=name or str(at),
                **more,
            )

    return apply


@pytest.fixture(scope="session")
def same():
    """Tell whether models have the same bits."""
    return lambda first, second: tensor_digests(first) == tensor_digests(second)


@pytest.fixture
def child():
    """Run a function in a process of its own; return the signal that ended it, 0 if it came to an end."""

    def run(function, *arguments):
        process = os.fork()
        if process == 0:
            try:
                function(*arguments)
                os._exit(0)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
        status = os.waitpid(process, 0)[1]
        assert not os.WIFEXITED(status) or os.WEXITSTATUS(status) == 0
        return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0

    return run


@pytest.fixture
def kill():
    """End this process as kill -9 does."""
    return lambda *_: os.kill(os.getpid(), signal.SIGKILL)
