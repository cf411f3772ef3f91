# SPDX-License-Identifier: BSD-3-Clause
import warnings

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn
from torch.utils.data import DataLoader, Subset, TensorDataset

from unlearnkit.exceptions import DataError, SmallSampleWarning
from unlearnkit.metrics import (
    Evaluation,
    accuracy,
    avg_gap,
    confidence_mia,
    entropy_from_logits,
    entropy_mia,
    evaluate,
    indis,
    loss_from_logits,
    lr_mia,
    predict_logits,
    relearning_time,
    svc_mia,
    tow,
    tow_mia,
    zrf,
)
from unlearnkit.metrics.iam import iam
from unlearnkit.metrics.margins import margins_from_logits

pytestmark = pytest.mark.filterwarnings("ignore::unlearnkit.exceptions.SmallSampleWarning")


def data(n, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 5, generator=generator), torch.randint(3, (n,), generator=generator)


SETS = {"retain": data(40, 0), "forget": data(12, 1), "test": data(30, 2)}


def model(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3))


def test_each_figure_is_its_own_metric():
    net = model(0)
    results = evaluate(net, **SETS)
    assert list(results) == ["test", "retain", "forget", "mia", "lr_mia"]
    for name, pair in SETS.items():
        assert results[name] == accuracy(net, pair)
    assert results["mia"] == confidence_mia(net, SETS["retain"], SETS["test"], SETS["forget"])


def test_an_oracle_adds_the_distance_to_it():
    net, oracle = model(0), model(1)
    results, expected = evaluate(net, **SETS, oracle=oracle), evaluate(oracle, **SETS)
    assert results["tow"] == tow(results, expected)
    assert results["avg_gap"] == avg_gap(results, expected)
    declared = evaluate(net, **SETS, oracle=expected)
    assert declared == {name: results[name] for name in declared}
    assert set(results) - set(declared) == {"iam"}  # which takes models that never saw the samples


def test_the_oracle_itself_is_at_no_distance():
    results = evaluate(model(0), **SETS, oracle=model(0))
    assert results["tow"] == 1 and results["avg_gap"] == 0


def test_the_model_is_left_alone():
    net = model(0).train()
    state = torch.random.get_rng_state()
    evaluate(net, **SETS)
    assert net.training and torch.equal(state, torch.random.get_rng_state())


def test_empty_forget_set_is_refused():
    empty = torch.zeros(0, 5), torch.zeros(0, dtype=torch.long)
    with pytest.raises(DataError):
        evaluate(model(0), **SETS | {"forget": empty})


def test_an_oracle_of_other_results_is_refused():
    with pytest.raises(DataError, match="lack 'forget'"):
        evaluate(model(0), **SETS, oracle={"test": 0.9})


LARGE = {"retain": data(300, 0), "forget": data(100, 1), "test": data(200, 2)}
NAMES = ("test", "retain", "forget")


class Counting(nn.Module):
    """Counts the samples that it is asked about."""

    def __init__(self, seed):
        super().__init__()
        self.inner, self.seen = model(seed), 0

    def forward(self, x):
        self.seen += len(x)
        return self.inner(x)


def correct(net, pair):
    return (predict_logits(net, pair)[0].argmax(1) == pair[1]).double().numpy()


def test_all_figures_are_their_own_metrics():
    net, oracle, other = model(0), model(1), model(2)
    found = evaluate(
        net,
        **LARGE,
        oracle=oracle,
        metrics="full",
        original=other,
        incompetent=other,
        seconds=2.0,
        retrain_seconds=30,
    )
    logits = {name: predict_logits(net, pair) for name, pair in LARGE.items()}
    attacks = svc_mia(logits["retain"], logits["test"], logits["forget"])
    assert found["mia"] == attacks.pop("confidence")
    for name, value in attacks.items():
        assert found[f"mia_{name}"] == value
    loss = {name: loss_from_logits(*pair) for name, pair in logits.items()}
    entropy = {name: entropy_from_logits(*pair) for name, pair in logits.items()}
    assert found["lr_mia"] == lr_mia(loss["forget"], loss["test"])
    assert found["indis"] == indis(found["lr_mia"])
    assert found["entropy_mia"] == entropy_mia(entropy["retain"], entropy["test"], entropy["forget"])
    expected = evaluate(oracle, **LARGE)
    assert found["tow_mia"] == tow_mia(found, expected)
    for name in NAMES:
        assert found[f"retention_{name}"] == pytest.approx(found[name] / expected[name])
    assert found["ua"] == pytest.approx(1 - found["forget"])
    assert found["zrf"] == pytest.approx(zrf(net, other, LARGE["forget"]).value)
    assert found["rte"] == 15 and found["seconds"] == 2 and found.scores["seconds"].target == 30
    phi = [margins_from_logits(*predict_logits(one, LARGE["forget"])) for one in (net, oracle, other)]
    single = iam(phi[0], phi[1][None], phi[2])
    score = found.scores["iam"]
    assert (score.value, score.low, score.high, score.target) == (
        single.value,
        single.low,
        single.high,
        single.level,
    )


def test_each_score_has_what_is_needed_to_read_it():
    found = evaluate(
        model(0), **LARGE, oracle=model(1), metrics="full", incompetent=model(2), seconds=1, retrain_seconds=9
    )
    sizes = {"test": 200, "retain": 300, "forget": 100, "lr_mia": 200, "zrf": 100, "mia": 100, "tow": 100}
    for name, score in found.scores.items():
        assert score.name == name and len(score.meaning) > 20 and "\n" not in score.meaning
        assert score.target is not None
        assert score.n == sizes.get(name, score.n)
        if name in ("rte", "seconds"):
            assert score.low is score.high is None and score.group == "cost"
        else:
            assert score.low <= score.value + 1e-12 and score.value <= score.high + 1e-12
    oracle = evaluate(model(1), **LARGE, metrics="full", incompetent=model(2))
    for name in (*NAMES, "ua", "mia", "mia_prob", "lr_mia", "indis", "entropy_mia", "zrf"):
        assert found.scores[name].target == oracle[name]
        assert oracle.scores[name].target is None
    again = Evaluation.from_dict(found.to_dict())
    assert again.scores == found.scores and again.notes == found.notes


def test_accuracy_has_the_binomials_interval():
    score = evaluate(model(0), **LARGE, confidence=0.9, n_bootstrap=50_000).scores["test"]
    ends = stats.binom.ppf([0.05, 0.95], 200, score.value) / 200
    assert (score.low, score.high) == pytest.approx(ends, abs=0.0051)


def test_indiscernibility_reaches_1_where_the_attack_may_be_chance():
    scores = evaluate(model(0), **LARGE, metrics=["lr_mia", "indis"]).scores
    low, high = scores["lr_mia"].low, scores["lr_mia"].high
    assert low < 0.5 < high and scores["indis"].high == 1
    assert scores["indis"].low == pytest.approx(1 - 2 * max(0.5 - low, high - 0.5))
    apart = LARGE | {"forget": (LARGE["forget"][0] * 30, LARGE["forget"][1])}
    scores = evaluate(model(0), **apart, metrics=["lr_mia", "indis"]).scores
    assert scores["lr_mia"].low > 0.5
    ends = scores["lr_mia"].high, scores["lr_mia"].low
    assert (scores["indis"].low, scores["indis"].high) == pytest.approx(tuple(map(indis, ends)))


def test_distances_compare_sample_by_sample():
    # Two models that err on the same samples: paired differences are 0, unpaired they would not be.
    twin = model(0)
    with torch.no_grad():
        twin[2].weight *= 2
        twin[2].bias *= 2
    score = evaluate(model(0), **LARGE, oracle=twin).scores["tow"]
    other = evaluate(model(0), **LARGE, oracle=model(1)).scores["tow"]
    declared = evaluate(model(0), **LARGE, oracle=evaluate(twin, **LARGE)).scores["tow"]
    assert score.value == declared.value == 1 and score.high == 1
    # All of 100 alike: Clopper and Pearson's bound at a third of the error, two-sided.
    bound = [1 - (0.05 / 6) ** (1 / n) for n in (100, 300, 200)]
    assert score.low == pytest.approx(np.prod(1 - np.array(bound)))
    assert other.high - other.low > score.high - score.low < declared.high - declared.low


def test_several_oracles_are_averaged_and_show_their_own_distance():
    oracles = [model(1), model(2), model(3)]
    found = evaluate(model(0), **LARGE, oracle=oracles)
    each = [evaluate(one, **LARGE) for one in oracles]
    mean = {name: float(np.mean([one[name] for one in each])) for name in each[0]}
    assert found["tow"] == pytest.approx(tow(found, mean)) and found["avg_gap"] == pytest.approx(
        avg_gap(found, mean)
    )
    assert all(found.scores[name].target == pytest.approx(mean[name]) for name in mean)
    pairs = [(0, 1, 2), (1, 0, 2), (2, 0, 1)]
    beside = [
        tow(each[a], {name: (each[b][name] + each[c][name]) / 2 for name in NAMES}) for a, b, c in pairs
    ]
    assert found.scores["tow"].target == pytest.approx(np.mean(beside)) and np.mean(beside) < 1
    assert not any("One oracle" in note for note in found.notes)
    assert any("One oracle" in note for note in evaluate(model(0), **LARGE, oracle=oracles[:1]).notes)


def test_each_set_is_read_once_a_model():
    net, oracle = Counting(0), Counting(1)
    evaluate(net, **LARGE, oracle=[oracle, oracle], original=net, incompetent=oracle, metrics="full")
    assert net.seen == oracle.seen == 600
    evaluate(net, **LARGE, metrics=["forget"])
    assert net.seen == 700


def test_without_intervals_it_is_quick_and_says_what_it_left_out():
    net, oracle = model(0), model(1)
    whole, quick = evaluate(net, **LARGE, oracle=oracle), evaluate(net, **LARGE, oracle=oracle, n_bootstrap=0)
    assert list(quick) == ["test", "retain", "forget", "tow", "avg_gap"]
    assert quick["tow"] == whole["tow"]
    assert all(score.low is score.high is None for score in quick.scores.values())
    assert "Not measured: iam, mia, lr_mia (slow, and n_bootstrap is 0)." in quick.notes
    accuracies = {name: quick[name] for name in NAMES}
    assert quick["avg_gap"] == avg_gap(accuracies, {name: quick.scores[name].target for name in NAMES})
    asked = evaluate(net, **LARGE, oracle=oracle, n_bootstrap=0, metrics=["avg_gap", "mia"])
    assert asked["avg_gap"] == whole["avg_gap"] and asked["mia"] == whole["mia"]


def test_a_list_is_measured_in_its_order():
    found = evaluate(model(0), **LARGE, oracle=model(1), metrics=["tow", "test", "tow"])
    assert list(found) == ["tow", "test"]
    assert list(evaluate(model(0), **LARGE, metrics="test")) == ["test"]


def test_relearning_is_measured_only_by_name():
    net, oracle, original = model(0), model(1), model(2)
    with torch.no_grad():
        original[2].weight *= 0
    sets = LARGE | {"forget": (LARGE["forget"][0][:30], torch.zeros(30, dtype=torch.long))}
    original[2].bias.data = torch.tensor([5.0, 0.0, 0.0])
    found = evaluate(net, **sets, oracle=oracle, original=original, metrics=["relearning"])
    assert found["relearning"] == relearning_time(net, oracle, original, sets["forget"]).ratio
    full = evaluate(net, **sets, oracle=oracle, original=original, incompetent=original, metrics="full")
    assert "relearning" not in full and "Not measured: relearning (it trains models: name it)." in full.notes


def test_a_cap_is_reported_in_words():
    net, sets = (
        model(0),
        LARGE | {"forget": (LARGE["forget"][0][:1].repeat(4, 1), torch.tensor([0, 0, 1, 1]))},
    )
    found = evaluate(net, **sets, oracle=net, original=net, metrics=["test", "relearning"])
    assert list(found) == ["test"]
    assert any(
        "relearning (no ratio: the model took 0 steps, the oracle 0 steps)" in note for note in found.notes
    )


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ({"metrics": ["auc"]}, "no metric 'auc': choose 'default', 'full' or among test, retain"),
        ({"metrics": []}, "no metric is named"),
        ({"metrics": ["test", "tow"]}, "metric 'tow' needs oracle=: pass it to evaluate"),
        ({"metrics": ["rte"], "seconds": 1.0}, "metric 'rte' needs retrain_seconds="),
        ({"metrics": ["iam"]}, "needs shadows= or oracle= as a model"),
        ({"metrics": ["zrf"]}, "needs incompetent="),
        ({"metrics": ["relearning"], "oracle": {"test": 1.0}}, "needs original= and oracle= as a model"),
        ({"metrics": ["retention_forget"], "oracle": {"forget": 0.0}}, "which is 0"),
        ({"oracle": []}, "got a list of nothing"),
        ({"oracle": [model(0), 3]}, "got a list of Sequential, int"),
        ({"confidence": 95}, "0.95 for 95 %"),
        ({"n_bootstrap": -1}, "n_bootstrap"),
        ({"seconds": 0.0, "retrain_seconds": 1.0}, "seconds must be a positive number"),
    ],
)
def test_what_cannot_be_measured_is_refused(named, message):
    with pytest.raises(DataError, match=message):
        evaluate(model(0), **LARGE, **named)


def test_what_has_no_value_is_left_out_with_its_reason():
    one = LARGE | {"forget": data(1, 1)}
    found = evaluate(model(0), **one, oracle=model(1), metrics="full", incompetent=model(2))
    assert not {"lr_mia", "indis", "iam"} & set(found) and found.scores["forget"].n == 1
    notes = " ".join(found.notes)
    assert "lr_mia and indis need two samples" in notes and "iam needs two samples" in notes
    never = torch.full((100,), 2)
    oracle = nn.Sequential(nn.Linear(5, 3, bias=False))
    oracle[0].weight.data = torch.tensor([[0.0] * 5, [0.0] * 5, [0.0] * 5])
    found = evaluate(
        model(0), **LARGE | {"forget": (LARGE["forget"][0], never)}, oracle=oracle, metrics="full"
    )
    assert "retention_forget" not in found and "retention_test" in found
    assert any("the oracle's accuracy on forget, which is 0" in note for note in found.notes)


def test_a_masked_class_leaves_the_attacks_out_and_the_rest_in():
    class Masked(nn.Module):
        def forward(self, x):
            return torch.stack([x[:, 0], x[:, 1], torch.full_like(x[:, 0], -torch.inf)], dim=1)

    found = evaluate(Masked(), **LARGE)
    assert "test" in found and "mia" in found and "lr_mia" not in found
    assert any("lr_mia (forget must be finite" in note for note in found.notes)
    with pytest.raises(DataError, match="forget must be finite"):
        evaluate(Masked(), **LARGE, metrics=["lr_mia"])


def test_few_samples_are_warned_of_and_noted():
    with pytest.warns(SmallSampleWarning, match="forget has only 12 samples.*± 0.28"):
        found = evaluate(model(0), **SETS)
    assert any(note.startswith("forget has only 12 samples") for note in found.notes)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        evaluate(model(0), **LARGE)
        quick = evaluate(model(0), **SETS, n_bootstrap=0)  # a search would warn at each candidate
    assert any(note.startswith("forget has only 12 samples") for note in quick.notes)


def test_samples_on_two_sides_are_noted():
    train = TensorDataset(*data(200, 0))
    sets = {
        "retain": Subset(train, range(50, 200)),
        "forget": DataLoader(Subset(train, range(60))),
        "test": data(90, 1),
    }
    assert any("retain and forget share 10 samples" in note for note in evaluate(model(0), **sets).notes)
    sets["retain"] = Subset(train, range(60, 200))
    assert not any("share" in note for note in evaluate(model(0), **sets).notes)


def test_notes_say_what_was_not_verified():
    alone = " ".join(evaluate(model(0), **LARGE).notes)
    assert "No oracle" in alone and "Weak: mia, lr_mia." in alone and "KLoM or U-LiRA" in alone
    assert "Not measured: tow, avg_gap (needs oracle=)." in alone
    declared = " ".join(evaluate(model(0), **LARGE, oracle={"test": 1.0, "forget": 0.0, "retain": 1.0}).notes)
    assert "declared, not measured" in declared


def test_declared_values_are_targets():
    found = evaluate(model(0), **LARGE, oracle={"test": 0.9, "forget": 0.5, "retain": 0.8})
    assert [found.scores[name].target for name in (*NAMES, "mia")] == [0.9, 0.8, 0.5, None]
    gaps = [abs(found[name] - value) for name, value in zip(NAMES, (0.9, 0.8, 0.5), strict=True)]
    assert found["avg_gap"] == pytest.approx(np.mean(gaps))


def test_the_choice_of_metrics_changes_no_figure():
    whole = evaluate(model(0), **LARGE, oracle=model(1), random_state=5)
    for name in whole:
        alone = evaluate(model(0), **LARGE, oracle=model(1), metrics=[name], random_state=5)
        if name != "avg_gap":  # of mia too, where that is measured
            assert alone.scores[name] == whole.scores[name]


def test_random_states_of_every_kind():
    def found(state):
        return evaluate(model(0), **LARGE, max_samples=20, random_state=state).to_dict()

    assert found(3) == found(3) != found(4)
    assert found(np.random.RandomState(1)) == found(np.random.RandomState(1))


def test_shuffling_loaders_change_no_figure():
    loaders = {
        name: DataLoader(TensorDataset(*pair), batch_size=64, shuffle=True) for name, pair in LARGE.items()
    }
    shuffled, plain = (
        evaluate(model(0), **loaders, oracle=model(1)),
        evaluate(model(0), **LARGE, oracle=model(1)),
    )
    assert {name: shuffled[name] for name in (*NAMES, "tow")} == {
        name: plain[name] for name in (*NAMES, "tow")
    }
    own = {
        name: DataLoader(TensorDataset(*pair), shuffle=True, generator=torch.Generator())
        for name, pair in LARGE.items()
    }
    found = evaluate(model(0), **own, oracle=model(1))
    assert found["tow"] == plain["tow"] and "iam" not in found
    assert any("iam (what compares models sample by sample" in note for note in found.notes)
    with pytest.raises(DataError, match="does not shuffle"):
        evaluate(model(0), **own, oracle=model(1), metrics=["iam"])


def test_one_shadow_needs_no_list():
    one = evaluate(model(0), **SETS, shadows=model(1), metrics="iam")
    assert one == evaluate(model(0), **SETS, shadows=[model(1)], metrics="iam")


class Masked(nn.Module):
    def forward(self, logits):
        return logits.masked_fill(torch.tensor([False, False, True]), -torch.inf)


def test_a_masked_class_costs_iam_and_no_other_figure():
    net = nn.Sequential(model(0), Masked())
    results = evaluate(net, **SETS, oracle=model(1))
    assert {"test", "retain", "forget", "tow"} <= set(results) and "iam" not in results
    assert any("iam (iam needs finite margins: a class is masked" in note for note in results.notes)
    with pytest.raises(DataError, match="a class is masked with -inf"):
        evaluate(net, **SETS, oracle=model(1), metrics=["iam"])
