# SPDX-License-Identifier: BSD-3-Clause
"""Every method that is exported keeps its promises on a diffusion model too, or says why it has no use there."""

import copy
import inspect
import random

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, TensorDataset

import unlearnkit
from unlearnkit import (
    ASSD,
    SSD,
    DataError,
    FisherDiagonal,
    GradientSaliency,
    Importance,
    RandomLabel,
    SalUn,
    Trainer,
    UnlearnSearch,
    UnsupportedModuleError,
    WeightEdit,
)
from unlearnkit.base import Unlearner
from unlearnkit.diffusion import DiffusionLoss
from unlearnkit.methods._localised import Localised
from unlearnkit.parameters import bits, named_parameters, named_tensors
from unlearnkit.testing._state import difference, model_state, random_state

pytestmark = pytest.mark.filterwarnings("ignore::unlearnkit.UnlearnWarning")  # toys, soon ruined

NULL, CLASSES, N_FORGET, N = 4, 4, 8, 40
OF_CLASSES = {"BadTeacher", "SCRUB", "JiT", "BoundaryExpanding", "BoundaryShrink", "LFSSD"}
"""They compare or move a classifier's outputs."""

SETTINGS = {"epochs": 2, "batch_size": 8, "random_state": 0, "cycles": 1, "n_samples": 8, "order": "paired"}
NEEDED = {
    "ASSD": {"percentile": 90.0},
    "SSD": {"importance": "per_sample", "alpha": 1.5},
    "DEL": {"lr": 0.01},
}

METHODS = {
    name: kind
    for name, kind in vars(unlearnkit).items()
    if name in unlearnkit.__all__ and inspect.isclass(kind) and issubclass(kind, Unlearner)
}
GENERATIVE = [name for name in METHODS if name not in OF_CLASSES]
UNITS = {"Prune", "RLAP"}  # they select whole units, of hidden layers alone
SELECTING = [name for name in GENERATIVE if issubclass(METHODS[name], Localised) and name not in UNITS]


class Anew:
    """Builds the model anew, for what needs a factory; the same in every process."""

    def __init__(self, kind):
        self.kind = kind

    def __call__(self):
        return self.kind()

    def __repr__(self):
        return "anew"


@pytest.fixture
def data():
    """Retain and forget sets: samples of class 1 to 3, and of class 0."""
    x = torch.randn(N, 2, 4, 4, generator=torch.Generator().manual_seed(1))
    c = torch.cat([torch.zeros(N_FORGET, dtype=torch.long), 1 + torch.arange(N - N_FORGET) % 3])
    x = x + c.view(-1, 1, 1, 1)
    return (x[N_FORGET:], c[N_FORGET:]), (x[:N_FORGET], c[:N_FORGET])


@pytest.fixture
def loss(alphas):
    return DiffusionLoss(alphas, null=NULL, condition_drop=0.2, classes=CLASSES)


def built(name, loss, model, **given):
    kind = METHODS[name]
    known = (
        kind().get_params(deep=False)
        if name != "Retrain"
        else kind(factory=Anew(type(model))).get_params(deep=False)
    )
    chosen = {**SETTINGS, **NEEDED.get(name, {}), **given}
    if name == "Retrain":
        chosen["factory"] = Anew(type(model))
    return kind(**{"loss": loss}, **{key: value for key, value in chosen.items() if key in known})


@pytest.mark.parametrize("name", GENERATIVE)
def test_a_method_learns_an_edit_and_leaves_all_else_alone(denoiser, data, loss, name):
    denoiser.train()
    denoiser.leave.weight.grad = torch.ones_like(denoiser.leave.weight)
    before, drawn = model_state(denoiser), random_state()
    estimator = built(name, loss, denoiser).fit(denoiser, *data)
    assert difference(before, model_state(denoiser)) is None
    assert difference(drawn, random_state()) is None
    assert estimator.edit_.n_changed > 0
    assert all(
        bool(value.isfinite().all()) for value in named_tensors(estimator.transform(denoiser)).values()
    )


@pytest.mark.parametrize("name", GENERATIVE)
def test_a_method_does_the_same_again(denoiser, data, loss, name):
    """Whatever was drawn before, and from batches of either form."""
    loaders = [DataLoader(TensorDataset(*part), batch_size=8) for part in data]
    first = built(name, loss, denoiser).fit(denoiser.train(), *loaders).edit_
    torch.rand(7), np.random.rand(3), random.random()
    assert built(name, loss, denoiser).fit(denoiser, *loaders).edit_ == first

    def call(model, noisy, times, condition):
        return model(noisy, times, condition["class_labels"])

    named = [DataLoader(Named(*part), batch_size=8) for part in data]
    by_call = DiffusionLoss(**{**loss.get_params(deep=False), "call": call})
    assert built(name, by_call, denoiser).fit(denoiser, *named).edit_ == first


class Named(Dataset):
    """The same samples as mappings."""

    def __init__(self, x, c):
        self.x, self.c = x, c

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return {"sample": self.x[index], "class_labels": self.c[index]}


@pytest.mark.parametrize("name", GENERATIVE)
def test_an_edit_is_saved_applied_and_undone(denoiser, data, loss, name, tmp_path):
    estimator = built(name, loss, denoiser).fit(denoiser, *data)
    clean, before = estimator.transform(denoiser), copy.deepcopy(denoiser)
    estimator.edit_.save(tmp_path / "edit.safetensors")
    undo = WeightEdit.load(tmp_path / "edit.safetensors").apply_(denoiser)
    assert same_bits(denoiser, clean)
    undo.apply_(denoiser)
    assert same_bits(denoiser, before)


@pytest.mark.parametrize("granularity", ["weight", "channel"])
@pytest.mark.parametrize("name", SELECTING)
def test_what_is_not_selected_keeps_every_bit(denoiser, data, loss, name, granularity):
    given = {"importance": "gradient", "granularity": granularity, "budget": 0.5, "weight_decay": 0.1}
    estimator = built(name, loss, denoiser, **given).fit(denoiser, *data)
    changeable = estimator.mask_ | getattr(estimator, "trained_", estimator.mask_)
    clean = named_parameters(estimator.transform(denoiser))
    for key, value in named_parameters(denoiser).items():
        kept = ~changeable[key].flatten()
        assert bool((bits(value).flatten() == bits(clean[key]).flatten())[kept].all())


@pytest.mark.parametrize("name", sorted(OF_CLASSES))
def test_a_method_of_classifiers_says_so(denoiser, data, loss, name):
    estimator = METHODS[name]()
    if "loss" in estimator.get_params(deep=False):
        estimator.set_params(loss=loss)
    with pytest.raises((DataError, UnsupportedModuleError)) as caught:
        estimator.fit(denoiser, *data)
    assert len(str(caught.value)) > 40


def test_a_classifiers_labels_are_refused_with_a_way_out(denoiser, data):
    with pytest.raises(DataError, match="loss="):
        SalUn().fit(denoiser, *data)


# importances ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "importance",
    ["gradient", "weighted", "fisher", "fisher_ratio", "deepest", "shallowest", "random"],
)
def test_every_importance_that_needs_no_classes_selects(denoiser, data, loss, importance):
    estimator = SalUn(loss=loss, importance=importance, order="paired", epochs=1, random_state=0)
    mask = estimator.fit(denoiser, *data).mask_
    assert 0 < mask.n_selected <= mask.n_total // 2


def test_saluns_mask_is_the_largest_half_of_the_guided_gradient(denoiser, data, loss, alphas):
    """The published rule, by hand: guided loss, batches clipped to norm 1, signs kept until the end."""
    guided = DiffusionLoss(alphas, null=NULL, guidance=2.0, reduction="sum")
    saliency = GradientSaliency(loss=guided, clip=1.0)
    estimator = SalUn(loss=loss, importance=saliency, order="paired", epochs=1, random_state=0)
    found = estimator.fit(denoiser, data[0], DataLoader(TensorDataset(*data[1]), batch_size=4)).mask_
    denoiser.eval()
    total = {name: torch.zeros_like(p, dtype=torch.float64) for name, p in denoiser.named_parameters()}
    for x, c in zip(data[1][0].split(4), data[1][1].split(4), strict=True):
        gradients = torch.autograd.grad(guided(denoiser, (x, c)).mean(), list(denoiser.parameters()))
        norm = sum(float(g.double().square().sum()) for g in gradients) ** 0.5
        for value, gradient in zip(total.values(), gradients, strict=True):
            value += gradient.double() * min(1, 1 / norm)
    flat = torch.cat([value.abs().flatten() for value in total.values()])
    chosen = torch.zeros_like(flat, dtype=torch.bool)
    chosen[flat.argsort(descending=True, stable=True)[: len(flat) // 2]] = True
    assert torch.equal(torch.cat([found[name].flatten() for name in total]), chosen)


@pytest.mark.parametrize("kind", [SSD, ASSD])
def test_dampening_works_from_a_stored_reference(denoiser, data, loss, kind, tmp_path):
    """A deletion request when the training data is gone."""
    everything = tuple(torch.cat(parts) for parts in zip(*data, strict=True))
    FisherDiagonal().measure(denoiser, everything, loss=loss).save(tmp_path / "all.safetensors")
    stored = Importance.load(tmp_path / "all.safetensors")
    own = {SSD: {"alpha": 1.5}, ASSD: {"percentile": 90.0}}[kind]
    given = {"importance": "per_sample", "against": "full", "loss": loss, **own}
    by_data = kind(**given).fit(denoiser, *data).edit_
    by_reference = kind(**given, reference=stored).fit(denoiser, data[1]).edit_
    assert by_data.n_changed > 0 and by_data.names == by_reference.names
    for name, value in by_data.apply(denoiser).named_parameters():
        torch.testing.assert_close(dict(by_reference.apply(denoiser).named_parameters())[name], value)


# the rest of the house --------------------------------------------------------------------------


@pytest.mark.parametrize("own", [True, False])
def test_a_search_walks_the_losss_parameters(denoiser, data, loss, own):
    """Saliency is measured with the loss; once for all, where it has one of its own."""

    def farther(model):
        return float((loss(model.eval(), data[1]).mean() - loss(model, data[0]).mean()).detach())

    importance = GradientSaliency(loss=loss) if own else "gradient"
    given = {"order": "paired", "epochs": 1, "lr": 0.01, "batch_size": 8, "random_state": 0}
    salun = SalUn(loss=loss, importance=importance, **given)
    grid = {"loss__instead": ["next", "null"], "loss__target": ["current", "original"]}
    search = UnlearnSearch(salun, grid, scoring={"farther": farther}, refit="farther", max_drop=None)
    search.fit(denoiser, *data)
    assert len(search.cv_results_["params"]) == 4 and search.n_measurements_ == (1 if own else 4)
    assert set(search.best_params_) == set(grid)
    assert search.best_score_ == max(search.cv_results_["mean_test_farther"])


def test_an_interrupted_training_ends_in_the_same_bits(denoiser, data, loss, tmp_path):
    given = {**SETTINGS, "epochs": 3, "lr": 0.01}
    given = {name: value for name, value in given.items() if name not in ("cycles", "n_samples")}
    whole = SalUn(loss=loss, **given).fit(denoiser, *data).edit_

    class Stop(Exception):  # noqa: N818
        pass

    def stop(model):
        stop.calls += 1
        if stop.calls == 2:
            raise Stop
        return 0.0

    stop.calls = 0
    path = tmp_path / "state"
    trainer = Trainer(checkpoint=path, monitor=stop)
    with pytest.raises(Stop):
        SalUn(loss=loss, trainer=trainer, **given).fit(denoiser, *data)
    assert path.exists()
    assert SalUn(loss=loss, trainer=Trainer(checkpoint=path), **given).fit(denoiser, *data).edit_ == whole


def test_a_class_is_moved_to_another(data, alphas):
    """Of a model that makes each class its own constant, class 0 afterwards comes out as class 1 does."""
    model, loss = Constant(), DiffusionLoss(alphas, classes=CLASSES)
    x = data[0][1].view(-1, 1, 1, 1).expand(-1, 2, 4, 4).float()
    retain, forget = (x, data[0][1]), (torch.zeros(N_FORGET, 2, 4, 4), data[1][1])
    assert float(loss(model.eval(), forget).mean().detach()) < 1e-9
    given = {"order": "paired", "optimizer": "adam", "lr": 0.05, "epochs": 200, "schedule": "cosine"}
    for target in ("current", "original"):
        own = DiffusionLoss(alphas, classes=CLASSES, target=target)
        estimator = RandomLabel(loss=own, weight_decay=0.0, random_state=0, **given)
        level = estimator.fit(model, retain, forget).transform(model).level.detach()
        torch.testing.assert_close(level[:4], torch.tensor([1.0, 1.0, 2.0, 3.0]), rtol=0, atol=0.05)


class Constant(torch.nn.Module):
    """Knows that all images of class k are k, and predicts the noise exactly."""

    def __init__(self):
        super().__init__()
        self.level = torch.nn.Parameter(torch.arange(5.0))
        self.register_buffer("alphas", torch.linspace(0.999, 0.01, 50))

    def forward(self, noisy, times, classes):
        a = self.alphas[times].view(-1, 1, 1, 1)
        return (noisy - a.sqrt() * self.level[classes].view(-1, 1, 1, 1)) / (1 - a).sqrt()


def same_bits(first, second):
    its = named_tensors(second)
    return all(torch.equal(bits(value), bits(its[name])) for name, value in named_tensors(first).items())
