# SPDX-License-Identifier: BSD-3-Clause
"""The supply-chain study, on made-up orders: what it reads, trains and counts, and that it goes on."""

import csv
import importlib
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

FOLDER = Path(__file__).parents[2] / "benchmarks"
pytestmark = [
    pytest.mark.skipif(not FOLDER.is_dir(), reason="a source distribution has no benchmarks"),
    pytest.mark.filterwarnings("ignore::unlearnkit.exceptions.UnlearnWarning"),
]


@pytest.fixture(autouse=True)
def _path(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)


@pytest.fixture
def study():
    return importlib.import_module("supply_chain")


@pytest.fixture
def data():
    return importlib.import_module("_data")


@pytest.fixture
def orders(tmp_path):
    made_up = importlib.import_module("_dataco")
    made_up.make_up(tmp_path / made_up.FILE, rows=1000)
    return tmp_path


@pytest.fixture
def cell(data, tmp_path):
    """A cell of random data, as the study makes it."""
    module = importlib.import_module("_chain_cell")
    generator = torch.Generator().manual_seed(0)
    parts = [(torch.rand(n, 6, generator=generator), torch.arange(n) % 3) for n in (90, 0, 40)]
    recipe = module.RECIPE | {"epochs": 3, "batch_size": 32, "lr": 0.05, "weight_decay": 0.01}
    request = data.forget_flipped(data.Splits(*parts), 0, 0.1)
    wrong = request.train[1] != parts[0][1]
    return module.Cell(module.Net(8, 2, range(1)), request, wrong, 0, 1, recipe, tmp_path)


def test_command(study, monkeypatch, tmp_path):
    def run(*more):
        given = ["--smoke", "--results", tmp_path, "--nets", "2x50", "--settings", "leaky", *more]
        monkeypatch.setattr(sys, "argv", ["supply_chain.py", *map(str, given)])
        study.main()
        lines = (tmp_path / "supply_chain.jsonl").read_text().splitlines()
        return list(map(json.loads, lines)), (tmp_path / "supply_chain.md").read_text()

    rows, table = run("--methods", "original", "ASSD, published")
    measured = [row for row in rows if row["errors"]]
    assert [(row["method"], row["seed"]) for row in measured] == [
        (method, seed) for seed in (0, 1) for method in ("original", "ASSD, published")
    ]
    assert all(0 <= row[name] <= 1 for row in measured for name in ("test", "retain", "wrong"))
    assert (tmp_path / "environment.json").is_file()
    more, table = run("--seeds", 0)  # the rest of the methods
    assert more[: len(rows)] == rows
    assert [row["seed"] for row in more[len(rows) :]] == [0] * (len(study.METHODS) - 2)
    assert {row["method"] for row in more if row["errors"]} == set(study.METHODS)
    assert all(f"\n| {method} | " in table for method in study.METHODS)
    assert "- gradient boosting, right labels: test accuracy" in table and "- 2x50: learning rate" in table


def test_leaky_columns_give_late_orders_away_and_the_others_do_not(data, orders):
    for leaky in (True, False):
        x, y = data.dataco(orders, leaky).train
        late = (y == 2).float()[:, None]
        tells = ((x == late).all(dim=0) | (x == 1 - late).all(dim=0)).any()
        assert bool(tells) is leaky
        assert x.min() >= 0 and x.max() <= 1


def test_leaky_orders_are_cut_in_time_and_none_is_held_back(data, orders):
    with open(orders / "DataCoSupplyChainDataset.csv") as file:
        total = sum(row["Order Status"] == "COMPLETE" for row in csv.DictReader(file))
    train, validation, test = data.dataco(orders, leaky=True)
    assert len(test[1]) == int(0.2 * total) and len(train[1]) == total - len(test[1])
    assert validation[0].shape == (0, train[0].shape[1])
    assert sum(len(y) for _, y in data.dataco(orders)) == total


def test_errors_as_published_are_partly_none(data):
    y = torch.arange(30_000) % 3
    part = torch.rand(len(y), 1), y
    request = data.forget_flipped_as_published(data.Splits(part, part, part), 0, 0.5)
    true = y[(request.train[0] == part[0]).all(dim=1)]
    drawn = data._draw(len(y), 0, 0.5).sort().values
    assert torch.equal(request.forget[1], request.train[1][drawn])
    before, after = true[drawn], request.forget[1]
    counts = torch.stack([(after[before == label]).bincount(minlength=3) for label in range(3)])
    shares = counts / counts.sum(dim=1, keepdim=True)
    expected = torch.tensor([[0.625, 0.375, 0.0], [0.75, 0.25, 0.0], [0.5, 0.5, 0.0]])
    assert (counts[:, 2] == 0).all()
    assert (shares - expected).abs().max() < 4 * 0.5 / 5000**0.5  # four standard errors


def by_hand(cell, batches, model, rates):
    """Train in the plainest way."""
    for rate in rates:
        for x, y in batches:
            model.zero_grad()
            F.cross_entropy(model.train()(x), y).backward()
            with torch.no_grad():
                for weight in model.parameters():
                    weight -= rate * (weight.grad + cell.recipe["weight_decay"] * weight)
    return model.eval()


def test_training_is_the_paper_s(cell):
    module = importlib.import_module("_chain_cell")
    x, y = cell.request.train
    batches = list(zip(x.split(32), y.split(32), strict=True))
    torch.manual_seed(cell.initial)
    model = by_hand(cell, batches, module.mlp(6, 3, 8, 2), [0.05, 0.05 * 0.95, 0.05 * 0.95**2])
    torch.testing.assert_close(cell.original.model.state_dict(), model.state_dict())
    tuned = module.one_epoch(cell, cell.request.retain).model
    x, y = cell.request.retain
    batches = list(zip(x.split(32), y.split(32), strict=True))
    by_hand(cell, batches, model, [0.05 * 0.95**4])
    torch.testing.assert_close(tuned.state_dict(), model.state_dict())


def test_control_is_told_of_right_labels_alone(cell, monkeypatch):
    module, seen = importlib.import_module("_chain_cell"), []
    monkeypatch.setattr(module.Cell, "fitted", lambda self, method, *data: seen.extend(data))
    module.misled(cell, module.PUBLISHED)
    retain, forget = (loader.dataset.tensors for loader in seen)
    assert len(forget[1]) == len(cell.request.forget[1]) == 9
    joined = torch.cat([retain[0], forget[0]])
    kept = cell.request.retain[0]
    assert torch.equal(joined[joined[:, 0].argsort()], kept[kept[:, 0].argsort()])


def test_what_rlap_finds_is_counted_against_the_truth(cell, monkeypatch):
    module = importlib.import_module("_chain_cell")
    taken = torch.zeros(90, dtype=torch.bool)
    taken[cell.wrong.nonzero()[:6, 0]] = True  # of nine
    taken[(~cell.wrong).nonzero()[:18, 0]] = True

    method = SimpleNamespace(partition_=SimpleNamespace(is_noisy=taken, is_separated=False))
    monkeypatch.setattr(module, "RLAP", lambda finder: method)
    monkeypatch.setattr(module.Cell, "fitted", lambda self, method, data: module.Made(None, 1.0))
    more = module.found_and_mended(cell).more
    assert more == pytest.approx({"found": 24 / 90, "purity": 6 / 24, "recall": 6 / 9, "doubted": 1.0})


def rows_of(gains, method):
    same = {"setting": "leaky", "net": "3x100", "errors": 1.0, "retain": 0.9, "wrong": 0.1, "n_test": 1000}
    for seed, gain in enumerate(gains):
        before = 0.8 + 0.001 * seed
        for name, test in (("original", before), (method, before + gain / 100)):
            yield same | {"seed": seed, "method": name, "test": test, "seconds": 1.0}


def test_intervals_are_of_differences_seed_by_seed():
    report = importlib.import_module("_chain_report")
    low, high = report.interval([1.0, 2.0, 3.0])
    assert (low, high) == pytest.approx((2 - 4.302653 / 3**0.5, 2 + 4.302653 / 3**0.5), abs=1e-5)
    assert report.interval([1.0]) is None
    method = "ASSD, published"
    sure = report.report(rows_of([1.0, 1.1, 0.9], method), ["3x100"], ["original", method])
    assert "| ASSD, published | **+1.00 [+0.75, +1.25] (+10)** | 1.0 |" in sure
    unsure = report.report(rows_of([1.0, -1.1, 0.9], method), ["3x100"], ["original", method])
    assert "| ASSD, published | +0.27 [-2.68, +3.21] (+3) | 1.0 |" in unsure
    assert "| test | 1 | here, leaky | 80.10 ± 0.10 |" in unsure
