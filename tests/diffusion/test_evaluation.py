# SPDX-License-Identifier: BSD-3-Clause
"""Two generators beside each other: the right figures, of the same noise, and plain words about them."""

import copy
import json
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from unlearnkit.diffusion import evaluate_generator, frechet_distance
from unlearnkit.exceptions import DataError, SmallSampleWarning

MEANS = (-0.8, 0.0, 0.8)
SHAPE = (1, 2, 2)


class OneStep:
    """Takes what the model says for the image."""

    def __init__(self):
        self.config, self.timesteps = {"num_train_timesteps": 1}, []

    def set_timesteps(self, steps):
        self.timesteps = [0] * steps

    def step(self, found, time, x):
        return (found,)


class Maker(nn.Module):
    """Makes images whose brightness tells the class."""

    def __init__(self, means=MEANS, spread=0.05):
        super().__init__()
        self.means, self.spread = nn.Parameter(torch.tensor(means)), spread

    def forward(self, x, times, class_labels):
        return self.means[class_labels].view(-1, 1, 1, 1) + self.spread * x


class Brightness(nn.Module):
    """Takes an image for class 0, 1 or 2 by its mean."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(1, 3)
        with torch.no_grad():
            self.head.weight.copy_(torch.tensor([[-1.0], [0], [1]]))
            self.head.bias.copy_(torch.tensor([0.0, 0.5, 0]))

    def forward(self, x):
        return self.head(x.mean((1, 2, 3))[:, None])


def real_images(counts=(90, 90, 90), means=MEANS, seed=9):
    """As the generator makes them, but with noise of their own."""
    draw = torch.Generator().manual_seed(seed)
    y = torch.arange(3).repeat_interleave(torch.tensor(counts))
    return torch.tensor(means)[y].view(-1, 1, 1, 1) + 0.05 * torch.randn(len(y), *SHAPE, generator=draw), y


def evaluated(before=None, after=None, classifier=None, **settings):
    settings = {"forget": 2, "classes": 3, "per_class": 40, "shape": SHAPE} | settings
    before, after = before or Maker(), after or Maker((-0.8, 0.0, -0.8))
    return evaluate_generator(before, after, OneStep(), classifier or Brightness(), **settings)


def test_shares_of_what_was_forgotten_and_kept():
    result = evaluated()
    before, after = result.scores["before"], result.scores["after"]
    assert dict(before) == {"forgotten_share": 1.0, "kept_accuracy": 1.0}
    assert dict(after) == {"forgotten_share": 0.0, "kept_accuracy": 1.0}
    assert after.scores["forgotten_share"].high == pytest.approx(1 - 0.025 ** (1 / 40))
    assert [score.n for score in after.scores.values()] == [40, 80]
    share = result.per_class["after"][2]
    assert (share.value, share.n, share.seen_as, share.seen_share) == (0.0, 40, 0, 1.0)
    assert result.per_class["after"][0].seen_as == 0
    assert result.forget == (2,) and result.classes.tolist() == [0] * 40 + [1] * 40 + [2] * 40


def test_a_share_between():
    result = evaluated(after=Maker((-0.8, 0.4, 0.5), spread=1.0), forget=[0, 2], per_class=100)
    logits = Brightness()(result.images["after"])
    hits = (logits.argmax(1) == result.classes).reshape(3, 100).double().mean(1)
    after = result.scores["after"]
    assert after["forgotten_share"] == pytest.approx((hits[0] + hits[2]) / 2)
    assert after["kept_accuracy"] == pytest.approx(hits[1])
    for score in after.scores.values():
        assert score.low < score.value < score.high


@pytest.mark.parametrize("random_state", [3, None, np.random.RandomState(3)], ids=str)
def test_both_start_from_the_same_noise(random_state):
    result = evaluated(random_state=random_state, batch_size=7)
    torch.testing.assert_close(result.images["before"][:80], result.images["after"][:80], rtol=0, atol=0)
    assert len(result.images["before"].flatten(1).unique(dim=0)) == 120
    assert isinstance(result.settings["random_state"], int)


def test_frechet_distance_beside_that_of_real_images():
    result = evaluated(after=Maker((-0.5, 0.3, 0.0)), real=real_images())
    found = {name: scores["frechet"] for name, scores in result.scores.items()}
    assert found["real"] < 1e-3 and found["before"] < 1e-3
    assert found["after"] == pytest.approx(0.3**2, rel=0.05)  # the kept classes are brighter
    assert [scores.scores["frechet"].n for scores in result.scores.values()] == [80, 80, 80]
    assert result.scores["real"]["kept_accuracy"] == 1.0
    assert result.scores["after"].scores["frechet"].low is None


def test_frechet_distance_takes_equal_numbers_of_each_class():
    """Where the kept classes have other shares among the real images, no distance comes of it."""
    result = evaluated(real=real_images((200, 11, 0)))
    assert result.scores["before"].scores["frechet"].n == 40 + 5
    assert result.scores["before"]["frechet"] < 3e-3
    x, _ = real_images((200, 11, 0))
    uneven = frechet_distance(
        result.images["before"][:80].mean((1, 2, 3))[:, None], x.mean((1, 2, 3))[:, None]
    )
    assert uneven > 0.05
    assert "forgotten_share" not in result.scores["real"]
    assert list(result.per_class["real"]) == [0, 1]
    assert "kept classes" in "".join(result.notes)


def test_the_oracle_is_the_target():
    result = evaluated(oracle=Maker((-0.8, 0.0, 0.1)), real=real_images())
    oracle = result.scores["oracle"]
    for name in ("before", "after"):
        for key, score in result.scores[name].scores.items():
            assert score.target == oracle[key]
    assert result.per_class["oracle"][2].seen_as == 1
    assert not any("No oracle" in note for note in result.notes)
    assert any("No oracle" in note for note in evaluated().notes)


def test_notes_say_what_the_figures_are_not():
    said = " ".join(evaluated(real=real_images()).notes)
    assert "not the paper's FID" in said and "1 features, of 80 images" in said
    assert "recognises 100.0 % of the forgotten and 100.0 % of the kept classes" in said
    assert "noise has it too" in said and "Not verified" in said and "scales differ" not in said
    x, y = real_images()
    assert "scales differ" in evaluated(real=(127.5 * (x + 1), y)).notes[0]
    assert "Pass real=" in " ".join(evaluated().notes)


def test_it_warns_of_few_images():
    with pytest.warns(SmallSampleWarning, match="rests on 9 images"):
        result = evaluated(per_class=9)
    assert "rests on 9 images" in result.notes[0]
    body = nn.Sequential(nn.Flatten(), nn.Linear(4, 90), nn.ReLU(), nn.Linear(90, 3))
    with pytest.warns(SmallSampleWarning, match="90 features rests on 80 images"):
        evaluated(classifier=body, real=real_images())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        evaluated(real=real_images())


def test_it_reads_as_a_table():
    pytest.importorskip("pandas")
    result = evaluated(real=real_images())
    shown = repr(result)
    lines = shown.splitlines()
    assert lines[0].split() == ["before", "after", "real"]
    assert lines[1].startswith("forgotten share") and "1.000 (0.912 to 1.000)" in lines[1]
    assert lines[3].startswith("Fréchet distance")
    assert any(line.split()[:2] == ["2", "(forgotten)"] and line.endswith("0 (1.00)") for line in lines)
    assert shown.count("\n- ") == len(result.notes)
    frame = result.to_frame()
    assert frame.index.names == ["model", "metric"] and len(frame) == 9
    assert frame.loc[("after", "forgotten_share"), "value"] == 0
    classes = result.per_class_frame()
    assert classes.loc[("after", 2), "seen_as"] == 0 and classes["forgotten"].sum() == 3
    stored = json.loads(json.dumps(result.to_dict()))
    assert stored["scores"]["before"]["forgotten_share"]["value"] == 1
    assert stored["per_class"]["after"]["2"]["seen_as"] == 0
    assert stored["settings"] == {
        "scheduler": "OneStep",
        "steps": 1,
        "guidance": 0.0,
        "per_class": 40,
        "classifier": "Brightness",
        "confidence": 0.95,
        "n_bootstrap": 1000,
        "random_state": 0,
    }


class Prompted(Maker):
    def forward(self, x, times, encoder_hidden_states, scale=None):
        mean = encoder_hidden_states.mean((1, 2)) * (1 if scale is None else scale)
        return mean.view(-1, 1, 1, 1) + self.spread * x


def test_classes_by_their_prompts():
    prompts = {at: torch.full((2, 4), MEANS[at]) for at in (2, 0, 1)}
    result = evaluated(Prompted(), Prompted(), classes=prompts)
    assert dict(result.scores["after"]) == {"forgotten_share": 1.0, "kept_accuracy": 1.0}
    named = {
        at: {"encoder_hidden_states": prompt, "scale": torch.tensor(1.0)} for at, prompt in prompts.items()
    }
    again = evaluated(Prompted(), Prompted(), classes=named)
    torch.testing.assert_close(again.images["after"], result.images["after"])
    latent = evaluated(Prompted(), Prompted(), classes=prompts, decode=lambda x: -x.double(), batch_size=9)
    torch.testing.assert_close(latent.images["after"], -result.images["after"])


def test_nothing_is_left_behind():
    models = [Maker(), Maker(), Brightness()]
    states = [copy.deepcopy(model.state_dict()) for model in models]
    state = torch.get_rng_state()
    first, second = (evaluated(*models, real=real_images(), progress=False).to_dict() for _ in range(2))
    assert first == second
    assert torch.equal(torch.get_rng_state(), state)
    for model, before in zip(models, states, strict=True):
        assert all(module.training and not module._forward_pre_hooks for module in model.modules())
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_what_does_not_fit_is_refused():
    for settings in ({"forget": 3}, {"forget": [0, 1, 2]}, {"forget": []}, {"classes": [0, 0, 2]}):
        with pytest.raises(DataError, match="forget must be some of classes"):
            evaluated(**settings)
    with pytest.raises(DataError, match="per_class"):
        evaluated(per_class=0)
    with pytest.raises(DataError, match="real holds 1 images of class 1"):
        evaluated(real=real_images((9, 1, 9)))
    x, y = real_images((2, 2, 2))
    with pytest.raises(DataError, match="make pairs of it"):
        evaluated(real=[{"pixel_values": x, "labels": y}])
    with pytest.raises(DataError, match="real holds no images"):
        evaluated(real=[])
    with pytest.raises(DataError, match="all of one shape"):
        evaluated(Prompted(), Prompted(), classes={at: torch.ones(at + 1, 2) for at in range(3)})
    with pytest.raises(DataError, match="last layer"):
        evaluated(classifier=nn.Sequential(nn.Flatten(), nn.Linear(4, 2)))
