# SPDX-License-Identifier: BSD-3-Clause
"""A small request from end to end: base, result, retrained model, and an audit of it."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from unlearnkit import SSD
from unlearnkit.report import audit

REQUEST = {"id": "DSR-17", "by": "Zoë Ångström", "date": "2026-11-20", "reason": "consent withdrawn"}


def trained(X, y, seed):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.BatchNorm1d(32), nn.Linear(32, 3))
        optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
        for _ in range(60):
            optimizer.zero_grad()
            F.cross_entropy(model(X), y).backward()
            optimizer.step()
    return model.eval()


@pytest.fixture(scope="session")
def case():
    """Data of three groups, of which the base has learned 60 by heart under wrong labels."""
    draw = torch.Generator().manual_seed(0)
    y = torch.randint(3, (400,), generator=draw)
    X = torch.randn(400, 6, generator=draw) + 2 * F.one_hot(y, 6)
    shown = y.clone()
    shown[:60] = (y[:60] + 1) % 3
    forget, retain, test = (X[:60], shown[:60]), (X[60:240], shown[60:240]), (X[240:], y[240:])
    base, oracle = trained(X[:240], shown[:240], 1), trained(*retain, 2)
    method = SSD(alpha=2.0).fit(base, retain, forget)
    return SimpleNamespace(
        base=base,
        oracle=oracle,
        method=method,
        result=method.transform(base),
        sets={"retain": retain, "forget": forget, "test": test},
    )


@pytest.fixture(scope="session")
def audited(case):
    return audit(
        case.base,
        case.result,
        **case.sets,
        oracle=case.oracle,
        edit=case.method.edit_,
        method=case.method,
        request=REQUEST,
        command="unlearnkit forget",
    )
