# SPDX-License-Identifier: BSD-3-Clause
import copy
import warnings

import joblib
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import loguniform
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from torch import nn
from torch.utils.data import Subset, TensorDataset

from unlearnkit import (
    ASSD,
    SSD,
    DataError,
    FineTune,
    FisherDiagonal,
    FisherRatio,
    FisherReset,
    Importance,
    RandomLabel,
    ResetFinetune,
    SalUn,
    UnlearnSearch,
    UnlearnWarning,
    WeightEdit,
)
from unlearnkit.importance import ImportanceEstimator
from unlearnkit.metrics import accuracy, avg_gap, tow
from unlearnkit.search._results import pareto, ranks

CENTRES = torch.randn(4, 6, generator=torch.Generator().manual_seed(1)) * 2.5
DRAW = torch.Generator().manual_seed(2)


def samples(n):
    y = torch.arange(n) % 4
    return CENTRES[y] + torch.randn(n, 6, generator=DRAW), y


X, Y = samples(240)
GONE = Y == 3
RETAIN, FORGET, HELD_OUT = (X[~GONE], Y[~GONE]), (X[GONE], Y[GONE]), samples(80)
GOAL = {"forget": 0.0, "retain": 1.0, "test": 0.75}
ALPHAS = [0.3, 1.0, 2.0, 3.0, 10.0]
SAMPLED = SSD(importance="per_sample", against="retain")


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 24), nn.ReLU(), nn.Linear(24, 4))
    optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(X), Y).backward()
        optimizer.step()
    return net


def search(model, *given, **named):
    sets = {"validation": HELD_OUT, "oracle": GOAL}
    sets |= {name: named.pop(name) for name in ("validation", "oracle") if name in named}
    return UnlearnSearch(*given, **named).fit(model, RETAIN, FORGET, **sets)


def untimed(results):
    """Return a table without what a clock has written."""
    return {name: column for name, column in results.items() if not name.endswith("_time")}


def assert_same(one, other):
    assert list(one) == list(other)
    for name, column in untimed(one).items():
        np.testing.assert_equal(np.asarray(column, dtype=object), np.asarray(other[name], dtype=object), name)
        if isinstance(column, np.ma.MaskedArray):
            np.testing.assert_equal(column.mask, other[name].mask)


# what a search is ---------------------------------------------------------------------------------


def test_a_search_gives_what_separate_fits_give(model):
    estimators = {
        "ssd": SAMPLED,
        "assd": ASSD(),
        "salun": SalUn(epochs=2, random_state=3),
        "reset": FisherReset(random_state=1, cycles=1),
        "tuned": FineTune(epochs=1),
        "random": RandomLabel(importance="gradient", granularity="channel", budget=0.5, epochs=1),
    }
    found = search(model, estimators, {"ssd": {"alpha": ALPHAS}}, max_drop=None)
    table = found.cv_results_
    assert list(table["estimator"]) == ["ssd"] * 5 + ["assd", "salun", "reset", "tuned", "random"]
    for at, name in enumerate(table["estimator"]):
        alone = clone(estimators[name]).set_params(**table["params"][at])
        if "random_state" in alone.get_params() and alone.random_state is None:
            alone.set_params(random_state=0)  # the search's
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UnlearnWarning)
            clean = alone.fit_transform(model, RETAIN, FORGET, validation=HELD_OUT)
        sets = {"forget": FORGET, "retain": RETAIN, "test": HELD_OUT}
        expected = tow({part: accuracy(clean, data) for part, data in sets.items()}, GOAL)
        assert table["mean_test_score"][at] == expected
        assert table["n_changed"][at] == alone.edit_.n_changed
        if at == found.best_index_:
            assert found.edit_ == alone.edit_ and found.best_score_ == expected
            assert not WeightEdit.between(clean, found.transform(model))


def test_one_measurement_serves_all_that_agree(model, monkeypatch):
    calls, own = [], FisherDiagonal.measure

    def counted(self, *given, **named):
        calls.append(self)
        return own(self, *given, **named)

    monkeypatch.setattr(FisherDiagonal, "measure", counted)
    grids = {"SSD": {"alpha": np.geomspace(0.1, 100, 50), "against": ["full", "retain"]}}
    found = search(model, [SSD(importance="per_sample"), ASSD(), ASSD(percentile=99.0)][:2], grids)
    assert len(found.cv_results_["params"]) == 101
    assert len(calls) == 2  # the forget set once, and the retain set once
    assert found.n_measurements_ == 1
    found = search(
        model, SSD(), {"importance": ["batch", "per_sample", FisherDiagonal()], "alpha": [1.0, 3.0]}
    )
    assert found.n_measurements_ == 2  # FisherDiagonal() is what "per_sample" stands for
    assert len(calls) == 2 + 2 * 2


def test_what_is_not_shared_is_measured_by_itself(model):
    trained = [SalUn(epochs=1, lr=lr, random_state=0) for lr in (0.01, 0.02)]
    assert search(model, trained).n_measurements_ == 1
    assert search(model, trained, n_repeats=3).n_measurements_ == 3  # a seed each
    assert search(model, SalUn(epochs=1), {"random_state": [0, 1]}).n_measurements_ == 2
    assert search(model, FineTune(epochs=1), {"lr": [0.01, 0.02]}).n_measurements_ == 0


def test_the_model_is_left_as_it_was_and_the_random_state_too(model):
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    found = search(model, [SAMPLED, SalUn(epochs=1)], {"SSD": {"alpha": ALPHAS}})
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())
    assert isinstance(found.edit_, WeightEdit) and found.best_estimator_.edit_ is found.edit_
    with pytest.raises(NotFittedError):
        UnlearnSearch(SSD()).transform(model)


def test_the_table_speaks_scikit_learn(model):
    scoring = {"tow": "tow", "quick": "neg_seconds", "mine": lambda net: accuracy(net, HELD_OUT)}
    found = search(
        model, [SAMPLED, FineTune(epochs=1)], {"SSD": {"alpha": ALPHAS}}, scoring=scoring, refit="tow"
    )
    table = found.cv_results_
    for name in ("tow", "neg_seconds", "mine"):
        np.testing.assert_array_equal(table[f"mean_test_{name}"], table[f"split0_test_{name}"])
        assert (table[f"std_test_{name}"] == 0).all()
        assert table[f"rank_test_{name}"].min() == 1
    assert list(table["param_alpha"][:5]) == ALPHAS and table["param_alpha"].mask[5]
    assert table["mean_test_tow"][found.best_index_] == found.best_score_ == np.nanmax(table["mean_test_tow"])
    assert found.best_params_ == table["params"][found.best_index_]
    assert {"mean_fit_time", "std_fit_time", "mean_score_time", "std_score_time"} <= set(table)
    frame = pytest.importorskip("pandas") and found.to_frame()
    assert (
        list(frame["rank_test_tow"]) == sorted(table["rank_test_tow"]) and frame.index[0] == found.best_index_
    )
    again = clone(found).set_params(refit=False)
    assert again.get_params()["scoring"].keys() == scoring.keys()
    again.fit(model, RETAIN, FORGET, validation=HELD_OUT, oracle=GOAL)
    with pytest.raises(DataError, match="refit=False keeps no estimator"):
        again.transform(model)


def test_an_oracle_is_a_model_or_what_it_reaches(model):
    torch.manual_seed(5)
    oracle = FineTune(epochs=3).fit_transform(model, RETAIN, FORGET)
    sets = {"forget": FORGET, "retain": RETAIN, "test": HELD_OUT}
    reached = {part: accuracy(oracle, data) for part, data in sets.items()}
    grid = {"alpha": ALPHAS}
    found = search(model, SAMPLED, grid, scoring=["tow", "avg_gap"], refit="avg_gap", oracle=oracle)
    told = search(model, SAMPLED, grid, scoring=["tow", "avg_gap"], refit="avg_gap", oracle=reached)
    assert_same(found.cv_results_, told.cv_results_)
    clean = {part: accuracy(found.transform(model), data) for part, data in sets.items()}
    assert found.best_score_ == -avg_gap(clean, reached)
    several = search(model, SAMPLED, grid, oracle=iter([oracle, model]))
    means = {part: (reached[part] + accuracy(model, data)) / 2 for part, data in sets.items()}
    assert_same(several.cv_results_, search(model, SAMPLED, grid, oracle=means).cv_results_)
    assert search(model, SAMPLED, grid, oracle=reached, refit="tow").best_params_ == told.best_params_


def test_repeats_are_splits_with_seeds_of_their_own(model):
    estimators = {"reset": ResetFinetune(epochs=1, importance="random", budget=0.5), "ssd": SAMPLED}
    settings = {
        "scoring": {"sum": lambda net: float(net(X).sum()), "tow": "tow"},
        "refit": "sum",
        "max_drop": None,
    }
    found = search(model, estimators, n_repeats=3, **settings)
    table = found.cv_results_
    splits = np.stack([table[f"split{repeat}_test_sum"] for repeat in range(3)])  # [repeats, candidates]
    np.testing.assert_allclose(table["mean_test_sum"], splits.mean(0))
    np.testing.assert_allclose(table["std_test_sum"], splits.std(0))
    assert len(set(splits[:, 0])) == 3 and len(set(splits[:, 1])) == 1  # SSD draws nothing
    assert_same(table, search(model, estimators, n_repeats=3, **settings).cv_results_)
    other = search(model, estimators, random_state=7, **settings).cv_results_
    assert other["mean_test_sum"][0] not in splits[:, 0]
    own = {"reset": estimators["reset"].set_params(random_state=7)}
    assert search(model, own, **settings).cv_results_["mean_test_sum"][0] == other["mean_test_sum"][0]


# what is drawn ------------------------------------------------------------------------------------


def test_settings_are_drawn_from_lists_and_distributions(model):
    grid = {"alpha": loguniform(0.5, 50), "against": ["full", "retain"]}
    found = search(model, [SAMPLED, FineTune(epochs=1)], {"SSD": grid}, n_iter=8)
    alphas = found.cv_results_["param_alpha"][:8]
    assert len(set(alphas)) == 8 and all(0.5 <= alpha <= 50 for alpha in alphas)
    assert len(found.cv_results_["params"]) == 9  # what has no grid is tried once
    assert_same(
        found.cv_results_,
        search(model, [SAMPLED, FineTune(epochs=1)], {"SSD": grid}, n_iter=8).cv_results_,
    )
    whole = search(model, SAMPLED, {"alpha": ALPHAS}, n_iter=50)
    assert list(whole.cv_results_["param_alpha"]) == ALPHAS
    assert len(search(model, SAMPLED, {"alpha": ALPHAS}, n_iter=3).cv_results_["params"]) == 3


def test_nested_parameters_and_lists_of_grids(model):
    grid = [
        {"importance": [FisherDiagonal()], "importance__labels": ["true", "predicted"]},
        {"alpha": [1.0, 2.0]},
    ]
    found = search(model, SAMPLED, grid)
    assert (
        len(found.cv_results_["params"]) == 4 and found.n_measurements_ == 2
    )  # the true labels are the default
    assert found.cv_results_["param_importance__labels"].mask.tolist() == [False, False, True, True]


def test_a_class_named_twice_is_numbered(model):
    found = search(model, [SAMPLED, FineTune(epochs=1), SSD(alpha=2.0)])
    assert list(found.cv_results_["estimator"]) == ["SSD-1", "FineTune", "SSD-2"]
    assert found.best_name_ == found.cv_results_["estimator"][found.best_index_]


# what goes wrong ----------------------------------------------------------------------------------


def test_a_collapsed_candidate_is_not_scored_nor_repeated(model):
    scored = []

    def scorer(net):
        scored.append(net)
        return accuracy(net, HELD_OUT)

    wild = ResetFinetune(lr=1e-9, epochs=1, random_state=0)  # all is reset, and nothing learned again
    found = search(model, {"wild": wild, "mild": FineTune(epochs=1)}, scoring=scorer, n_repeats=2)
    table = found.cv_results_
    assert list(table["collapsed"]) == [True, False] and list(table["rank_test_score"]) == [2, 1]
    assert np.isnan(table["mean_test_score"][0]) and found.best_name_ == "mild"
    assert len(scored) == 2 and not table["is_pareto"][0]
    with pytest.raises(DataError, match=r"none of 1 candidates .* 1 collapsed.*max_drop"):
        search(model, wild)
    assert not np.isnan(search(model, wild, max_drop=None).best_score_)


def test_a_failure_is_a_row_or_an_error(model):
    estimators = {"good": SAMPLED, "bad": SSD(alpha=-1.0), "worse": SalUn(budget=2.0)}
    with pytest.warns(UnlearnWarning, match=r"2 of 3 candidates failed.*bad.*alpha"):
        found = search(model, estimators, error_score=-1.0)
    assert list(found.cv_results_["mean_test_score"][1:]) == [-1.0, -1.0] and found.best_name_ == "good"
    assert "alpha" in found.cv_results_["error"][1] and found.cv_results_["error"][0] == ""
    with pytest.raises(DataError, match="alpha must be"):
        search(model, estimators, error_score="raise")
    with pytest.raises(DataError, match=r"none of 2 candidates could be scored: 2 failed.*alpha"):
        search(model, SSD(), {"alpha": [-1.0, -2.0]})


class Broken(ImportanceEstimator):
    """Fails whenever it is asked."""

    def measure(self, model, data, loss=None, progress=False):
        raise DataError("no batch is good enough")


def test_a_measurement_that_fails_is_told_by_each_candidate(model):
    grid = {"importance": [Broken(), "per_sample"], "alpha": [1.0, 2.0]}
    with pytest.warns(UnlearnWarning, match="2 of 4 candidates failed"):
        found = search(model, SSD(), grid)
    assert ["good enough" in error for error in found.cv_results_["error"]] == [True, False, True, False]
    with pytest.raises(DataError, match="good enough"):
        search(model, SSD(), grid, error_score="raise")


def test_a_measurement_may_raise_anything(model):
    def odd(net, batch):
        raise ZeroDivisionError("odd loss")

    with pytest.warns(UnlearnWarning, match="2 of 3 candidates failed"):
        found = search(model, {"odd": SSD(loss=odd), "good": SAMPLED}, {"odd": {"alpha": [1.0, 2.0]}})
    assert found.best_name_ == "good" and "odd loss" in found.cv_results_["error"][0]


def test_a_scorer_cannot_spoil_what_comes_after_it(model):
    def spoil(net):
        net.register_forward_hook(lambda *of_call: of_call[2] * 0)
        net.double().train()
        with torch.no_grad():
            for weight in net.parameters():
                weight.zero_()
        return 0.0

    grid = {"alpha": ALPHAS}
    spoiled = search(model, SAMPLED, grid, scoring={"spoil": spoil, "tow": "tow", "net": count}, refit="tow")
    plain = search(model, SAMPLED, grid, scoring={"tow": "tow", "net": count}, refit="tow")
    kept = [name for name in plain.cv_results_ if "test_" in name or name in ("error", "n_changed")]
    assert_same(
        {name: plain.cv_results_[name] for name in kept}, {name: spoiled.cv_results_[name] for name in kept}
    )


def count(net):
    return float(sum(weight.double().abs().sum() for weight in net.parameters()))


def test_no_score_is_a_number(model):
    found = search(model, SAMPLED, scoring=lambda net: float("nan"))
    with pytest.raises(DataError, match="every score is NaN"):
        found.transform(model)


def test_the_winner_s_warnings_are_told(model):
    with pytest.warns(UnlearnWarning, match=r"the best candidate: .*changes no weight"):
        found = search(model, SSD(), {"alpha": [1e6, 1e7]})
    assert all("changes no weight" in " ".join(told) for told in found.cv_results_["warnings"])


@pytest.mark.parametrize(
    ("given", "named", "words"),
    [
        ((SSD,), {}, r"must be an estimator.*write SSD\(\)"),
        (([],), {}, "no estimator to search"),
        (({"a": 3},), {}, "'a' must be an estimator"),
        ((SSD(), {"alfa": [1]}), {}, "Invalid parameter 'alfa'"),
        ((SSD(), {"alpha": 1.0}), {}, r"must be a list.*\{'alpha': \[1.0\]\}"),
        ((SSD(), {"alpha": []}), {}, "list of values of alpha is empty"),
        ((SSD(), {"against": "full"}), {}, r"\{'against': \['full'\]\}"),
        ((SSD(), 3), {}, "grid of SSD must be a dict"),
        ((SSD(), {"alpha": {1.0, 2.0}}), {}, r"must be a list.*list\(...\) makes one"),
        ((SSD(), {"alpha": (1.0 for _ in range(2))}), {}, r"must be a list.*list\(...\) makes one"),
        ((SSD(), {"alpha": torch.ones(2)}), {}, "must be a list"),
        ((SSD(), {"alpha": np.array(3.0)}), {}, r"must be a list"),
        ((SSD(), {"alpha": np.ones((2, 2))}), {}, "an array of one dimension"),
        ((SSD(), {"importance__labels": ["true"]}), {}, "SSD has no parameters"),
        ((SSD(), {3: [1]}), {}, "SSD has no parameters"),
        (
            ([SSD(), ASSD()], {"alpha": [1]}),
            {},
            r"dict of grids by estimator, \['SSD', 'ASSD'\]; got \['alpha'\]",
        ),
        ((SSD(), {"alpha": loguniform(1, 2)}), {}, "alpha is a distribution.*n_iter="),
        ((SSD(),), {"n_iter": 0}, "n_iter must be a whole number"),
        ((SSD(),), {"n_repeats": 1.5}, "n_repeats must be a whole number"),
        ((SSD(),), {"scoring": "accuracy"}, "there is no scoring 'accuracy': choose from"),
        ((SSD(),), {"scoring": []}, "scoring must be one of"),
        ((SSD(),), {"scoring": 3}, "scoring must be one of"),
        ((SSD(),), {"scoring": {"tow": "retain"}}, "another one"),
        ((SSD(),), {"scoring": ["tow", "retain"]}, r"refit= names the one that decides, \['tow', 'retain'\]"),
        ((SSD(),), {"refit": "retain"}, "refit must be True, False or 'score'"),
        ((SSD(),), {"max_drop": 3}, "max_drop is a loss of accuracy"),
        ((SSD(),), {"max_drop": "0.1"}, "max_drop is a loss of accuracy"),
        ((SSD(),), {"error_score": None}, "error_score must be"),
        ((SSD(),), {"random_state": "a"}, "random_state must be"),
        ((SSD(),), {"random_state": np.random.RandomState(0)}, "random_state must be"),
        ((SSD(),), {"error_score": "ignore"}, "error_score must be"),
        (
            (SSD(),),
            {"scoring": lambda net: "good", "error_score": "raise"},
            "must return a number, got 'good'",
        ),
        ((SSD(),), {"oracle": None}, r"compares with a retrained model: pass fit\(..., oracle="),
        ((SSD(),), {"validation": None}, r"needs samples of validation, and got nothing"),
        # what is wrong with an oracle is told before anything is fitted, and not by each candidate
        ((SSD(),), {"oracle": {"forget": 0.0}}, "^the oracle model's results lack 'retain'"),
        ((SSD(),), {"oracle": {"forget": 10, "retain": 99, "test": 97}}, "^'forget' of the oracle.*percent"),
        ((SSD(),), {"oracle": "oracle.pt"}, "^oracle is a model, several of them, or"),
        ((SSD(),), {"oracle": []}, "^oracle is a model, several of them, or"),
    ],
)
def test_wrong_use_is_told(model, given, named, words):
    with pytest.raises(DataError, match=f"(?s){words}"):
        search(model, *given, **named)


def test_the_forms_of_fit_are_those_of_every_estimator(model):
    data = TensorDataset(X, Y)
    forget = Subset(data, GONE.nonzero()[:, 0].tolist())
    named = {"validation": HELD_OUT, "oracle": GOAL}
    one = UnlearnSearch(SAMPLED, {"alpha": ALPHAS}).fit(model, forget, **named)
    assert_same(one.cv_results_, search(model, SAMPLED, {"alpha": ALPHAS}).cv_results_)
    with pytest.raises(TypeError, match="forget set is missing"):
        UnlearnSearch(SSD()).fit(model, **named)
    with pytest.raises(TypeError, match="first argument of fit is the model"):
        UnlearnSearch(SSD()).fit(RETAIN, FORGET)
    with pytest.warns(UnlearnWarning, match="60 samples of validation are in forget too"):
        UnlearnSearch(SAMPLED).fit(model, forget, validation=forget, oracle=GOAL)


def test_the_training_data_may_be_gone(model):
    stored = FisherDiagonal().measure(model, (X, Y))
    assert isinstance(stored, Importance)
    named = {"validation": HELD_OUT, "oracle": GOAL}
    with pytest.raises(DataError, match="needs samples of retain, and got an Importance"):
        UnlearnSearch(SAMPLED).fit(model, stored, FORGET, **named)
    found = UnlearnSearch(SAMPLED, {"alpha": ALPHAS}, scoring="test").fit(model, stored, FORGET, **named)
    assert found.n_measurements_ == 1 and found.best_score_ <= 1


def squared(model, batch):
    return (model(batch[0]) - batch[1]).square().mean(1)


def test_another_task_has_a_scorer_of_its_own():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 2))
    x, y = torch.randn(60, 6), torch.randn(60, 2)

    def unlearned(net):
        return float(squared(net, (x[:20], y[:20])).mean() - squared(net, (x[20:], y[20:])).mean())

    base = SSD(importance="per_sample", loss=squared)
    found = UnlearnSearch(base, {"alpha": [0.5, 1.0, 2.0]}, scoring=unlearned)
    found.fit(net, (x[20:], y[20:]), (x[:20], y[:20]))
    assert found.best_score_ == unlearned(found.transform(net))


# over processes -----------------------------------------------------------------------------------

PAIRED = {
    "ssd": SAMPLED,
    "salun": SalUn(epochs=1),
    "ratio": RandomLabel(importance=FisherRatio(), budget=0.5, epochs=1),
}
GRIDS = {"ssd": {"alpha": ALPHAS}, "salun": {"lr": [0.01, 0.05]}}


@pytest.fixture(scope="module")
def one_process(model):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the workers of a pool have; another number adds up in another order
    yield search(model, PAIRED, GRIDS, scoring=["tow", "retain"], refit="tow")
    torch.set_num_threads(threads)


@pytest.mark.parametrize("backend", ["loky", "threading"])
def test_any_backend_gives_the_same_table(model, one_process, backend):
    with joblib.parallel_config(backend=backend, inner_max_num_threads=None if backend == "threading" else 1):
        found = search(model, PAIRED, GRIDS, scoring=["tow", "retain"], refit="tow", n_jobs=2)
    assert_same(found.cv_results_, one_process.cv_results_)
    assert found.edit_ == one_process.edit_ and found.n_measurements_ == one_process.n_measurements_
    assert found.best_index_ == one_process.best_index_


def test_a_dask_cluster_gives_the_same_table(model, one_process):
    distributed = pytest.importorskip("distributed")
    cluster = distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None, silence_logs=50
    )
    with cluster, distributed.Client(cluster), joblib.parallel_config(backend="dask"):
        found = search(model, PAIRED, GRIDS, scoring=["tow", "retain"], refit="tow")
    assert_same(found.cv_results_, one_process.cv_results_)
    assert found.edit_ == one_process.edit_


# the arithmetic of the table ----------------------------------------------------------------------

SCORES = arrays(
    np.float64, st.tuples(st.integers(1, 12), st.integers(1, 3)), elements=st.sampled_from([0, 1, 2, np.nan])
)


@given(SCORES)
def test_the_front_is_what_nothing_beats(scores):
    front = pareto(scores)
    for at, mine in enumerate(scores):
        beaten = any(
            (other >= mine).all() and (other > mine).any() for other in scores if not np.isnan(other).any()
        )
        assert front[at] == (not np.isnan(mine).any() and not beaten)


@given(SCORES)
def test_ranks_count_those_before(scores):
    for column in scores.T:
        filled = np.where(np.isnan(column), -np.inf, column)
        assert list(ranks(column)) == [1 + int((filled > value).sum()) for value in filled]
