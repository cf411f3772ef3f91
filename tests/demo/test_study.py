# SPDX-License-Identifier: BSD-3-Clause
"""The demo's substance: it forgets, over seeds, and its figures are what they say."""

import pytest
import torch

from unlearnkit import WeightEdit
from unlearnkit.demo import study as study_module
from unlearnkit.demo.digits import faulty_scanner
from unlearnkit.demo.study import study

pytestmark = pytest.mark.slow


def accuracy(model, data):
    """Measure it again, without the library."""
    with torch.no_grad():
        return (model(data.images).argmax(1) == data.labels).float().mean().item()


@pytest.fixture(params=[0, 1], ids=["scanner", "class"])
def outcomes(request, done):
    return done.studies[request.param]


def test_scanner_is_forgotten_over_seeds(scanner):
    for outcome in scanner:
        original, retrained, unlearned = outcome.results.values()
        assert original["forget"] > 0.95
        assert unlearned["forget"] <= 0.05
        assert original["probe"] < 0.2
        assert unlearned["probe"] > 0.75
        assert unlearned["test"] > original["test"] + 0.04  # towards the retrained one
        assert abs(unlearned["test"] - retrained["test"]) < 0.06
        assert unlearned["tow"] > 0.9 > 0.1 > original["tow"]


def test_class_is_forgotten_over_seeds(whole_class):
    for outcome in whole_class:
        original, retrained, unlearned = outcome.results.values()
        assert original["forget"] > 0.95
        assert original["probe"] > 0.9
        assert unlearned["forget"] <= 0.02
        assert unlearned["probe"] <= 0.1
        assert abs(unlearned["test"] - retrained["test"]) < 0.03
        assert unlearned["tow"] > 0.95


def test_figures_can_be_recomputed(outcomes):
    for outcome in outcomes:
        request, sets = outcome.request, {}
        for name, model in outcome.models.items():
            data = dict(test=request.test, retain=request.retained, forget=request.forgotten)
            sets[name] = {key: accuracy(model, part) for key, part in data.items()}
            for key, value in sets[name].items():
                assert outcome.results[name][key] == pytest.approx(value)
            assert outcome.results[name]["probe"] == pytest.approx(accuracy(model, request.probe))
        gaps = [abs(sets["unlearned"][key] - sets["retrained"][key]) for key in sets["original"]]
        by_hand = (1 - gaps[0]) * (1 - gaps[1]) * (1 - gaps[2])
        assert outcome.results["unlearned"]["tow"] == pytest.approx(by_hand)
        assert outcome.results["retrained"]["tow"] == 1


def test_retrained_network_is_a_new_one(outcomes):
    for outcome in outcomes:
        original, retrained = (outcome.models[name] for name in ("original", "retrained"))
        pairs = zip(original.parameters(), retrained.parameters(), strict=True)
        assert not any(torch.equal(old, new) for old, new in pairs)


def test_stored_edit_applies_and_reverts_to_the_bit(outcomes):
    for outcome in outcomes:
        original, unlearned = (outcome.models[name] for name in ("original", "unlearned"))
        before = {name: value.clone() for name, value in original.state_dict().items()}
        undo = WeightEdit.load(outcome.path).apply_(original)
        after = unlearned.state_dict()
        assert all(torch.equal(value, after[name]) for name, value in original.state_dict().items())
        undo.apply_(original)
        assert all(torch.equal(value, before[name]) for name, value in original.state_dict().items())
        assert outcome.exact


def test_a_wrong_bit_is_noticed(tmp_path, monkeypatch):
    class Careless(WeightEdit):
        def apply_(self, model):
            undo = super().apply_(model)
            model.output.bias.data[0] += 1
            return undo

    class Given:
        def fit(self, model, retain, forget):
            self.edit_ = WeightEdit.from_factors(model, {"conv1.bias": torch.full((32,), 0.5)})
            return self

        def transform(self, model):
            return self.edit_.apply(model)

    monkeypatch.setattr(study_module, "ASSD", lambda **_: Given())
    assert study(faulty_scanner, 0, tmp_path, epochs=1).exact
    monkeypatch.setattr(study_module, "WeightEdit", Careless)
    assert not study(faulty_scanner, 0, tmp_path, epochs=1).exact
