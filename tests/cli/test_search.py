# SPDX-License-Identifier: BSD-3-Clause
"""``unlearnkit search``: that it is `UnlearnSearch`, and what it makes of its arguments."""

import csv

import pytest
from scipy import stats

from unlearnkit import SSD, UnlearnSearch, WeightEdit
from unlearnkit.cli._errors import WrongUse
from unlearnkit.cli._grid import estimators_of, grids_of
from unlearnkit.cli._models import subject
from unlearnkit.cli._names import Name
from unlearnkit.data import Partition

pytestmark = pytest.mark.filterwarnings("ignore::unlearnkit.UnlearnWarning")


@pytest.fixture
def search(folder, run):
    def search(*arguments):
        what = ["--data", "train.py:train_set", "--forget-class", "2", "--validation", "train.py:held_out"]
        return run("search", "--model", "train.py:build", "--weights", "model.safetensors", *what, *arguments)

    return search


ORACLE = ["--oracle", "oracle.safetensors"]


def test_it_finds_what_python_finds(search, folder):
    grid = ["--method", "SSD", "--grid", "alpha=1.2,1.5,2,1000", "--set", "lambda_=0.5"]
    files = ["--edit", "best.safetensors", "--out", "new.safetensors", "--table", "candidates.csv"]
    ran = search(*grid, *ORACLE, *files, "--json", "--max-drop", "0.5")
    assert ran.code == 0
    name, train = Name.parse("train.py:build", ""), Name.parse("train.py:train_set", "").make()
    base, oracle = (
        subject(name, f"{one}.safetensors", "", False, None, 0).model for one in ("model", "oracle")
    )
    retain, forget = Partition.of(train, (train.tensors[1] == 2).nonzero()[:, 0])
    by_hand = UnlearnSearch(SSD(lambda_=0.5), {"alpha": [1.2, 1.5, 2, 1000]}, max_drop=0.5)
    by_hand.fit(
        base, retain, forget, validation=Name.parse("train.py:held_out", "").make(tuple), oracle=oracle
    )
    assert WeightEdit.load("best.safetensors") == by_hand.edit_
    found = ran.json
    assert found["best"]["params"] == by_hand.best_params_
    assert found["best"]["tow"] == by_hand.best_score_
    assert found["n_measurements"] == 1
    with open(folder / "candidates.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["candidate"] for row in rows] == [row["candidate"] for row in found["candidates"]]
    assert float(rows[0]["tow"]) == by_hand.best_score_
    assert (folder / "new.safetensors").is_file()


def test_several_methods_scores_and_draws(search):
    ran = search(
        "--method", "SSD", "--method", "GradientAscent", "--grid", "SSD.alpha=loguniform(1.1, 30)", "--grid",
        "gradientascent.lr=0.001,0.01", "--set", "epochs=1", "--n-iter", "3", "--scoring", "avg_gap", "--scoring",
        "retain", "--oracle", "forget=0,retain=1,test=0.67",
    )  # fmt: skip
    assert ran.code in (0, 3)
    head, *rows = ran.out.partition("\n\n")[2].splitlines()
    assert head.split() == ["candidate", "neg_avg_gap", "retain", "changed", "seconds", "trouble"]
    assert sum(row.startswith("SSD(") for row in rows) == 3
    assert sum(row.startswith("GradientAscent(") for row in rows) == 2


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--grid", "alpha=1"], 2, "ASSD has no parameter 'alpha'"),
        (["--method", "SSD", "--grid", "ASSD.percentile=99"], 2, "'ASSD' is none of the methods, SSD"),
        (["--method", "SSD", "--grid", "SSD.alfa=1"], 2, "did you mean 'alpha'"),
        (["--method", "SSD", "--grid", "alpha=1,"], 2, "a value is missing beside a comma"),
        (["--method", "SSD", "--grid", "alpha"], 2, "expected NAME=VALUE"),
        (["--method", "SSD", "--grid", "alpha=1", "--grid", "SSD.alpha=2"], 2, "alpha of SSD is given twice"),
        (["--method", "SSD", "--method", "ssd"], 2, "--method ssd is given twice"),
        (["--scoring", "tov"], 1, "there is no scoring 'tov'"),
        (["--oracle", "model.safetensors"], 2, "a search compares with one --oracle"),
        (["--table", "table.txt"], 2, "must end in .csv"),
        (["--method", "SSD", "--grid", "alpha=uniform(1, 2)"], 1, "set n_iter="),
        (["--method", "SSD", "--grid", "alpha=0", "--set", "lambda_=0"], 1, "could be scored: 1 collapsed"),
    ],
)
def test_misuse_is_explained(search, folder, arguments, code, message):
    ran = search(*ORACLE, "--edit", "edit.safetensors", *arguments)
    assert ran.code == code
    assert message in ran.err
    assert not (folder / "edit.safetensors").exists()


def test_without_an_oracle_the_error_says_so(search):
    ran = search()
    assert (ran.code, "--scoring tow compares with a retrained model: give --oracle" in ran.err) == (2, True)
    ran = search("--scoring", "retain", "--scoring", "avg_gap")
    assert (ran.code, "--scoring avg_gap compares with a retrained model" in ran.err) == (2, True)
    assert search("--scoring", "retain").code in (0, 3)


def test_settings_and_grids_go_to_the_methods_that_have_them():
    estimators = estimators_of(["SSD", "SalUn", "SCRUB"], ["epochs=2", "salun.lr=0.5", "lambda_=0.5"])
    assert [repr(one) for one in estimators.values()] == [
        "SSD(lambda_=0.5)",
        "SalUn(epochs=2, lr=0.5)",
        "SCRUB(epochs=2)",
    ]
    grids = grids_of(estimators, ["lr=0.1,0.2", "SSD.alpha=randint(1, 9)", "SCRUB.schedule=cosine,constant"])
    assert grids["SalUn"] == {"lr": [0.1, 0.2]}
    assert grids["SCRUB"] == {"lr": [0.1, 0.2], "schedule": ["cosine", "constant"]}
    drawn = grids["SSD"]["alpha"].rvs(size=50, random_state=0)
    assert set(drawn) == set(range(1, 9))


def test_distributions_have_the_ends_that_are_typed():
    estimators = estimators_of(["SSD"], [])
    found = grids_of(estimators, ["alpha=uniform(2, 5)"])["SSD"]["alpha"]
    assert found.support() == (2, 5)
    assert isinstance(found.dist, type(stats.uniform))
    with pytest.raises(WrongUse, match="missing 1 required positional argument"):
        grids_of(estimators, ["alpha=uniform(2)"])
