# SPDX-License-Identifier: BSD-3-Clause
"""The benchmark of generators: its losses, how a learning rate is chosen, and that it runs."""

import importlib
import json
import sys
from pathlib import Path

import pytest
import torch

from unlearnkit import GradientAscent, SalUn
from unlearnkit.exceptions import IneffectiveWarning

FOLDER = Path(__file__).parents[2] / "benchmarks"
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="a source distribution has no benchmarks")


@pytest.fixture
def study(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module("generators")


@pytest.fixture
def made(study):
    return importlib.import_module("_generators")


def drawn(n=6):
    torch.manual_seed(0)
    return torch.rand(n, 1, 8, 8), torch.arange(n) % 3 + 3


@pytest.mark.parametrize("where", ["prior", "posterior"])
def test_a_decoder_that_ignores_the_class_is_aligned_already(made, where):
    """The cross-entropy with its own prediction has no gradient."""
    model, loss, batch = made.VAE(), made.ElboLoss(where), drawn()
    with torch.no_grad():
        model.decoder[0].weight[:, made.VAE_LATENT :] = 0
    losses = loss.misaligned(model, batch, lambda: model, torch.Generator().manual_seed(0))
    assert losses.shape == (6,)
    losses.mean().backward()
    assert max(float(p.grad.abs().max()) for p in model.decoder.parameters()) < 1e-6
    assert all(p.grad is None for p in model.encoder.parameters())


def test_the_bound_is_what_torch_makes_of_the_two_distributions(made):
    model, (x, c) = made.VAE().eval(), drawn()
    mean, log_variance = model.encode(x, c)
    posterior = torch.distributions.Normal(mean, (log_variance / 2).exp())
    prior = torch.distributions.Normal(torch.zeros_like(mean), torch.ones_like(mean))
    divergence = torch.distributions.kl_divergence(posterior, prior).sum(1)
    pixels = torch.distributions.ContinuousBernoulli(logits=model.decode(mean, c))
    rebuilt = -(pixels.log_prob(x.flatten(1)) - pixels._cont_bern_log_norm()).sum(1)
    losses = made.ElboLoss()(model, (x, c))
    torch.testing.assert_close(losses, rebuilt + divergence)
    torch.testing.assert_close(losses, made.ElboLoss()(model, (x, c)))
    model.train()
    assert not torch.equal(losses, made.ElboLoss()(model, (x, c)))


def test_the_distance_to_the_original_has_no_gradient_there(made):
    torch.manual_seed(0)
    model = made.GAN()
    loss = made.DistilLoss(model)
    retain, forget = ((torch.randn(8, made.GAN_LATENT), torch.full((8,), k)) for k in (0, 3))
    settings = {"loss": loss, "optimizer": "adam", "lr": 1e-3, "weight_decay": 0.0, "random_state": 0}
    with pytest.warns(IneffectiveWarning, match="changed no weight"):
        after = GradientAscent(epochs=2, **settings).fit_transform(model, retain, forget)
    for old, new in zip(model.parameters(), after.parameters(), strict=True):
        assert torch.equal(old, new)
    with pytest.warns(IneffectiveWarning, match="all scores"):
        after = SalUn(order="paired", epochs=50, **settings).fit_transform(model, retain, forget)
    assert loss.saliency(model, forget).min() > 0
    assert loss.saliency(after, forget).mean() < loss.saliency(model, forget).mean()


def test_a_rate_near_the_best_with_the_least_distance_is_taken(study):
    rows = [
        {"lr": lr, "kept_accuracy": kept, "forgotten_share": gone, "frechet": distance}
        for lr, kept, gone, distance in ((1, 1.0, 0.0, 9.0), (2, 0.99, 0.0, 5.0), (3, 0.9, 0.0, 1.0))
    ]
    assert study.best(rows)["lr"] == 2


def test_it_runs(study, tmp_path, monkeypatch, capsys):
    out, picture = tmp_path / "results" / "generators.json", tmp_path / "grid.png"
    monkeypatch.setattr(
        sys, "argv", ["generators.py", "--smoke", "--out", str(out), "--picture", str(picture)]
    )
    monkeypatch.setattr(study, "PER_CLASS", 20)
    study.main()
    found = json.loads(out.read_text())
    arms = {(row["generator"], row["arm"]) for row in found["rows"]}
    wanted = {(name, arm) for name, rates in study.CHOSEN.items() for arm in rates}
    assert wanted | {(name, arm) for name in study.CASES for arm in ("before", "retrained")} == arms
    assert all(0 <= row["kept_accuracy"] <= 1 and row["frechet"] >= 0 for row in found["rows"])
    assert found["real"]["frechet"] >= 0 and "threads" in found["environment"]
    assert out.with_suffix(".md").read_text().count("| SalUn |") == 2 and picture.is_file()
    assert "GAN before" in " ".join(capsys.readouterr().out.split())
