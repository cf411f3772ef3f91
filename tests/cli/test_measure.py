# SPDX-License-Identifier: BSD-3-Clause
"""``unlearnkit measure``."""

import pytest
import torch
from safetensors.torch import load_file as tensors
from torch.utils.data import DataLoader

from unlearnkit import FisherDiagonal, Importance, LogitNorm
from unlearnkit.cli._names import Name


@pytest.fixture
def measure(folder, run):
    def measure(*arguments, data="train.npz"):
        return run(
            "measure",
            "--model",
            "train.py:build",
            "--weights",
            "model.safetensors",
            "--data",
            data,
            *arguments,
        )

    return measure


def model():
    built = Name.parse("train.py:build", "").make()
    built.load_state_dict(tensors("model.safetensors"))
    return built


@pytest.mark.parametrize(
    ("arguments", "estimator"),
    [
        ([], FisherDiagonal()),
        (["--set", "labels=predicted"], FisherDiagonal(labels="predicted")),
        (["--importance", "logit_norm"], LogitNorm()),
        (["--importance", "logitnorm"], LogitNorm()),
        (["--set", "gradient=batch", "--batch-size", "7"], FisherDiagonal(gradient="batch")),
    ],
)
def test_it_measures_what_python_measures(measure, arguments, estimator):
    ran = measure("--out", "importance.safetensors", *arguments)
    assert (ran.code, ran.err) == (0, "imported\n")
    found, train = Importance.load("importance.safetensors"), Name.parse("train.py:train_set", "").make()
    size = 7 if "7" in arguments else 128
    expected = estimator.measure(model(), DataLoader(train, batch_size=size))
    assert (found.kind, found.samples) == (expected.kind, 90)
    for name, value in expected.sums.items():
        torch.testing.assert_close(found.sums[name], value)


def test_drawn_labels_follow_the_seed(measure):
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        assert measure("--set", "labels=sampled", "--seed", seed, "--out", f"{name}.safetensors").code == 0
    a, b, c = (Importance.load(f"{name}.safetensors").sums["0.weight"] for name in "abc")
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_json_says_what_was_measured(measure):
    facts = measure("--out", "importance.safetensors", "--json", data="train.py:loader").json
    assert (facts["kind"], facts["samples"], facts["n_weights"]) == ("fisher/per_sample/true", 90, 163)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--importance", "fishr"], "did you mean 'fisher'"),
        (["--set", "gradien=batch"], "did you mean 'gradient'"),
        (["--out", "importance.pt"], "must end in .safetensors"),
    ],
)
def test_misuse_is_explained(measure, arguments, message):
    ran = measure("--out", "importance.safetensors", *arguments)
    assert ran.code == 2
    assert message in ran.err
