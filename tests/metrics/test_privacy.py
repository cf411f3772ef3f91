# SPDX-License-Identifier: BSD-3-Clause
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.svm import SVC
from torch import nn

from unlearnkit.exceptions import DataError
from unlearnkit.metrics import (
    confidence_from_logits,
    confidence_mia,
    mia,
    modified_entropy_from_logits,
    svc_mia,
)


def test_two_points_split_at_their_midpoint():
    # By symmetry the decision boundary of one member at 1 and one non-member at 0 is 1/2.
    assert mia([1.0], [0.0], [0.9, 0.6, 0.4, 0.1]) == 0.5
    assert mia([1.0], [0.0], [0.49]) == 1
    assert mia([1.0], [0.0], [0.51]) == 0


def test_separated_sides():
    rng = np.random.default_rng(0)
    high, low = 0.95 + 0.04 * rng.random(60), 0.05 + 0.04 * rng.random(60)
    assert mia(high, low, low) == 1
    assert mia(high, low, high) == 0
    assert mia(high, low, np.concatenate([low[:15], high[:5]])) == 0.75


def test_it_is_the_authors_attack_where_nothing_is_drawn():
    # Unlearn-Saliency, evaluation/SVC_MIA.py: SVC(C=3, gamma="auto", kernel="rbf") with members
    # labelled 1 and 1 - mean(prediction) of the targets; equal sides leave no room for a draw.
    rng = np.random.default_rng(1)
    members, nonmembers, targets = rng.beta(6, 1, 200), rng.beta(3, 1, 200), rng.beta(4, 1, 150)
    clf = SVC(C=3, gamma="auto", kernel="rbf")
    clf.fit(
        np.concatenate([members, nonmembers]).reshape(-1, 1),
        np.concatenate([np.ones(200), np.zeros(200)]),
    )
    expected = 1 - clf.predict(targets.reshape(-1, 1)).mean()
    assert mia(members, nonmembers, targets) == pytest.approx(expected, abs=1e-12)


def test_exchangeable_samples_average_to_a_half():
    rng = np.random.default_rng(2)
    scores = [mia(*rng.random((3, 100)), random_state=seed) for seed in range(60)]
    assert np.mean(scores) == pytest.approx(0.5, abs=0.1)


def test_shadow_sets_are_balanced():
    # 10 members against 1,000 non-members, all separable: an unbalanced SVC with C = 3 and
    # inseparable sides would call everything a non-member.
    rng = np.random.default_rng(3)
    members, nonmembers = rng.normal(0.6, 0.1, 20), rng.normal(0.5, 0.1, 2000)
    judged = rng.normal(0.6, 0.1, 500)
    unbalanced = SVC(C=3, gamma="auto").fit(
        np.concatenate([members, nonmembers])[:, None], np.repeat([1, 0], [20, 2000])
    )
    assert 1 - unbalanced.predict(judged[:, None]).mean() == 1
    assert mia(members, nonmembers, judged) < 0.8


@settings(deadline=None, max_examples=25)
@given(
    st.integers(1, 40), st.integers(1, 40), st.integers(1, 40), st.integers(1, 50),
    st.integers(0, 100),
)  # fmt: skip
def test_score_is_a_share_of_the_targets_and_repeats(m, n, t, cap, seed):
    rng = np.random.default_rng(seed)
    sides = rng.random(m), rng.random(n), rng.random(t)
    score = mia(*sides, max_samples=cap, random_state=seed)
    assert 0 <= score <= 1
    assert score * t == pytest.approx(round(score * t))
    assert score == mia(*sides, max_samples=cap, random_state=seed)


def test_max_samples_caps_either_side(monkeypatch):
    sizes = []
    fit = SVC.fit
    monkeypatch.setattr(SVC, "fit", lambda self, x, y: sizes.append(np.bincount(y)) or fit(self, x, y))
    rng = np.random.default_rng(4)
    mia(rng.random(90), rng.random(50), rng.random(5), max_samples=30)
    mia(rng.random(90), rng.random(50), rng.random(5), max_samples=None)
    assert [list(size) for size in sizes] == [[30, 30], [50, 50]]


def test_draw_depends_on_the_seed_alone():
    rng = np.random.default_rng(5)
    sides = rng.random(300), rng.random(300), rng.random(200)
    scores = [mia(*sides, max_samples=20, random_state=seed) for seed in range(8)]
    assert len(set(scores)) > 1
    np.random.seed(0)
    assert mia(*sides, max_samples=20, random_state=3) == scores[3]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (([], [0.1], [0.1]), "members"),
        (([0.1], [], [0.1]), "nonmembers"),
        (([0.1], [0.1], []), "targets"),
        (([[0.1]], [0.1], [0.1]), "one value a sample"),
        (([0.1, np.nan], [0.1], [0.1]), "got 1 NaN"),
        (([0.1], [0.1], [np.inf]), "targets must be finite"),
    ],
)
def test_unusable_arrays_are_refused(arrays, message):
    with pytest.raises(DataError, match=message):
        mia(*arrays)


def test_a_cap_below_one_is_refused():
    with pytest.raises(DataError, match="max_samples"):
        mia([0.1], [0.2], [0.3], max_samples=0)


def test_confidence_mia_of_a_model():
    # Confidence in label 1 is sigmoid(2x): members near 1, the others near 0.
    model = nn.Linear(1, 2, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[-1.0], [1.0]]))

    def data(value, n):
        return torch.full((n, 1), value), torch.ones(n, dtype=torch.long)

    forget = tuple(torch.cat(pair) for pair in zip(data(3.0, 1), data(-3.0, 3), strict=True))
    assert confidence_mia(model, data(3.0, 12), data(-3.0, 9), forget) == 0.75


def logits(n, seed, gain):
    rng = np.random.default_rng(seed)
    labels = rng.integers(5, size=n)
    z = rng.normal(size=(n, 5))
    z[np.arange(n), labels] += gain
    return torch.from_numpy(z), torch.from_numpy(labels)


PAIRS = logits(150, 0, 3.0), logits(150, 1, 1.5), logits(80, 2, 2.0)


def attack(features):
    """The authors' attack, on features [N, ...] of members, non-members and targets."""
    members, nonmembers, targets = (np.asarray(rows, dtype=float).reshape(len(rows), -1) for rows in features)
    clf = SVC(C=3, gamma="auto", kernel="rbf")
    clf.fit(np.concatenate([members, nonmembers]), np.repeat([1, 0], [len(members), len(nonmembers)]))
    return 1 - clf.predict(targets).mean()


def test_the_five_features_are_the_authors_attacks():
    found = svc_mia(*PAIRS)
    assert list(found) == ["correctness", "confidence", "entropy", "m_entropy", "prob"]
    p = [z.softmax(1).numpy() for z, _ in PAIRS]
    right = [(z.argmax(1) == y).numpy() for z, y in PAIRS]
    entropy = [-(rows * np.log(rows)).sum(1) for rows in p]
    expected = {"correctness": attack(right), "entropy": attack(entropy), "prob": attack(p)}
    expected["confidence"] = mia(*(confidence_from_logits(*pair) for pair in PAIRS))
    expected["m_entropy"] = attack([modified_entropy_from_logits(*pair) for pair in PAIRS])
    assert found == pytest.approx(expected)
    assert svc_mia(*PAIRS, features=["prob"]) == {"prob": found["prob"]}


def test_the_published_modified_entropy_gives_another_score():
    def published(z, y):
        p = z.softmax(1).numpy()
        p[:, y.unique()] = 1 - p[:, y.unique()]
        return -(p * z.log_softmax(1).numpy()).sum(1)

    theirs = attack([published(*pair) for pair in PAIRS])
    assert abs(svc_mia(*PAIRS)["m_entropy"] - theirs) > 0.03


def test_all_features_see_the_same_draw():
    state = np.random.RandomState(3)
    found = svc_mia(*PAIRS, max_samples=15, random_state=state)
    again = svc_mia(*PAIRS, max_samples=15, random_state=np.random.RandomState(3))
    assert found == again
    seed = int(np.random.RandomState(3).randint(2**31))
    assert found["confidence"] == mia(
        *(confidence_from_logits(*pair) for pair in PAIRS), max_samples=15, random_state=seed
    )


def test_an_unknown_feature_is_refused():
    with pytest.raises(DataError, match="no feature 'loss': choose among correctness"):
        svc_mia(*PAIRS, features=["loss"])


def test_tensors_with_a_graph_or_of_low_precision_are_taken():
    logits, labels = torch.randn(40, 3, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 3
    sides = [(logits[at : at + 10], labels[at : at + 10]) for at in (0, 10, 20)]
    tracked = [(rows.clone().requires_grad_(), its) for rows, its in sides]
    assert svc_mia(*tracked) == svc_mia(*sides)
    values = [confidence_from_logits(*side).bfloat16() for side in sides]
    assert mia(*(value.clone().requires_grad_() for value in values)) == mia(*(v.double() for v in values))
