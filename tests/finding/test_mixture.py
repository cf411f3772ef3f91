# SPDX-License-Identifier: BSD-3-Clause
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_iris, load_wine
from sklearn.metrics import roc_auc_score
from sklearn.mixture import GaussianMixture
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset, TensorDataset, WeightedRandomSampler

from unlearnkit import DataError, GradientActivation, MixtureFinder, UnsupportedModuleError
from unlearnkit.data import in_order
from unlearnkit.exceptions import SeparationWarning
from unlearnkit.finding import _rows
from unlearnkit.finding._division import of_a_class

quietly = pytest.mark.filterwarnings("ignore::unlearnkit.exceptions.SeparationWarning")


def squared(model, batch):
    return (model(batch[0])[:, 0] - batch[1]) ** 2


def test_equals_the_pipeline_of_scikit_learn(clouds, model_of, inputs):
    X, y, second = clouds()
    steps = make_pipeline(StandardScaler(), GaussianMixture(2, random_state=42))
    wanted = steps.fit(X.double().numpy()).predict_proba(X.double().numpy())
    noisy = steps.predict(X[second].double().numpy()).round().astype(int)[0]
    finder = MixtureFinder.published().set_params(attribution=inputs)
    found = finder.find(model_of(), (X, y))
    np.testing.assert_allclose(found.noise, wanted[:, noisy], rtol=1e-5, atol=1e-6)
    assert torch.equal(found.is_noisy, second)
    assert found.is_separated and finder.features_ == "attribution"


@pytest.mark.parametrize("noisy_is_wide", [True, False])
def test_the_clean_cluster_is_the_one_of_lower_loss(noisy_is_wide, model_of, inputs):
    X = torch.cat([torch.randn(100, 5) * 3 + 20, torch.randn(300, 5)])
    wide = torch.arange(400) < 100
    y = torch.where(wide if noisy_is_wide else ~wide, 2, 0)
    found = MixtureFinder("attribution", inputs, by_class=False, random_state=0).find(model_of(), (X, y))
    assert torch.equal(found.is_noisy, wide if noisy_is_wide else ~wide)


@quietly
@pytest.mark.parametrize("features", ["auto", "attribution", "loss"])
@pytest.mark.parametrize("max_fit", [20_000, 60])
def test_what_is_not_kept_in_memory_changes_nothing(features, max_fit, clouds, model_of, inputs, monkeypatch):
    X, y, _ = clouds(away=2.0)
    data = DataLoader(TensorDataset(X, y), batch_size=37)
    finder = MixtureFinder(features, inputs, by_class=False, max_fit=max_fit, random_state=0)
    model = model_of()
    wanted = finder.find(model, data)
    once = inputs.walks
    monkeypatch.setattr(_rows, "KEPT", 0)
    monkeypatch.setattr(_rows, "CHUNK", 8 * 5 * 11)
    found = finder.find(model, data)
    assert inputs.walks == 3 * once  # in the second run each walk was taken twice
    torch.testing.assert_close(found.noise, wanted.noise)
    assert torch.equal(found.is_noisy, wanted.is_noisy) and found.separation == wanted.separation


def test_all_samples_are_assigned_by_a_fit_to_some(clouds, model_of, inputs):
    (X, y, second), model = clouds(1000, away=12.0), model_of()
    few = MixtureFinder("attribution", inputs, by_class=False, max_fit=100, random_state=0)
    found = few.find(model, (X, y))
    assert torch.equal(found.is_noisy, second)
    assert torch.equal(few.find(model, (X, y)).noise, found.noise)
    other = few.set_params(random_state=1).find(model, (X, y))
    assert not torch.equal(other.noise, found.noise)


@pytest.mark.parametrize("features", ["auto", "attribution", "loss"])
def test_the_order_is_that_of_the_data_whatever_the_loader_draws(features, clouds, model_of, inputs):
    X, y, second = clouds()
    finder, model = MixtureFinder(features, inputs, by_class=False, random_state=0), model_of()
    wanted = finder.find(model, (X, y))
    shuffling = DataLoader(
        TensorDataset(X, y), batch_size=16, shuffle=True, generator=torch.Generator().manual_seed(5)
    )
    before = shuffling.generator.get_state()
    found = finder.find(model, shuffling)
    torch.testing.assert_close(found.noise, wanted.noise)
    assert torch.equal(found.indices, second.nonzero()[:, 0])
    assert torch.equal(torch.cat([x for x, _ in in_order(found.forget)]), X[second])
    assert torch.equal(shuffling.generator.get_state(), before)


class Stream(IterableDataset):
    def __init__(self, X, y):
        self.rows = list(zip(X, y, strict=True))

    def __iter__(self):
        yield from self.rows


def test_a_stream_is_divided_as_it_comes(clouds, model_of, inputs):
    X, y, second = clouds()
    found = MixtureFinder("auto", inputs, random_state=0).find(model_of(), DataLoader(Stream(X, y), 32))
    assert torch.equal(found.is_noisy, second)
    assert torch.equal(torch.cat([x for x, _ in found.forget]), X[second])


class Fickle(IterableDataset):
    walks = 0

    def __iter__(self):
        Fickle.walks += 1
        for at in range(30 + Fickle.walks):
            yield torch.full((5,), float(at)), torch.tensor(at % 2)


def test_data_that_changes_its_length_is_refused(model_of, inputs):
    with pytest.raises(DataError, match="every walk over the data the same samples"):
        MixtureFinder("attribution", inputs).find(model_of(), DataLoader(Fickle(), 8))


@quietly
def test_the_model_and_the_callers_chance_are_left_alone(digits_after):
    model, data, _ = digits_after("images", 3)
    model.train().zero_grad()
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    finder = MixtureFinder(random_state=3)
    first = finder.find(model, data)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.random.get_state()[1].tolist() == states[1] and random.getstate() == states[2]
    assert model.training and all(weight.grad is None for weight in model.parameters())
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    torch.rand(7), np.random.rand(7)
    assert torch.equal(finder.find(model, data).noise, first.noise)
    MixtureFinder().find(model, data)
    model.eval()


@quietly
@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.sampled_from(["auto", "attribution", "loss"]))
def test_few_samples_are_divided_somehow_and_never_trusted(seed, n, features):
    draw = torch.Generator().manual_seed(seed)
    X, y = torch.randn(n, 4, generator=draw), torch.randint(3, (n,), generator=draw)
    X[: n // 2] = X[0]
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 3))
    found = MixtureFinder(features, GradientActivation("0"), random_state=0).find(model, (X, y))
    assert len(found.noise) == n and not found.is_separated
    assert ((found.noise >= 0) & (found.noise <= 1)).all()


@pytest.mark.parametrize("features", ["auto", "attribution", "loss"])
def test_of_samples_that_are_all_alike_none_is_noisy(features, model_of, inputs):
    data = torch.ones(200, 5), torch.zeros(200).long()
    with pytest.warns(SeparationWarning, match="all of them look alike"):
        found = MixtureFinder(features, inputs).find(model_of(), data)
    assert not found.is_noisy.any() and found.separation == 0 and not found.is_separated


@settings(max_examples=20)
@given(st.integers(0, 2**32 - 1), st.floats(0.2, 0.5), st.integers(1, 12))
def test_two_clouds_are_told_from_one(clouds_seed, share, columns):
    """The halves of one cloud would look separate by their samples; by their parameters they do not."""
    draw = torch.Generator().manual_seed(clouds_seed)
    X = torch.randn(600, columns, generator=draw)
    second = torch.rand(600, generator=draw) < share
    model = nn.Linear(columns, 3)

    class Inputs:
        def stream(self, model, data, loss=None):
            yield from (x for x, _ in in_order(data))

    finder = MixtureFinder("attribution", Inputs(), by_class=False, random_state=0)
    finder.attribution.get_params = dict
    with pytest.warns(SeparationWarning, match="overlap|same loss"):
        one = finder.find(model, (X, second.long()))
    assert not one.is_separated
    X[second] += 6 / columns**0.5
    with torch.no_grad():
        model.weight.zero_()
        model.bias.copy_(torch.tensor([3.0, 0, 0]))
    two = finder.find(model, (X, second.long()))
    assert two.is_separated and (two.is_noisy == second).float().mean() > 0.97


def test_clusters_of_the_same_loss_are_not_trusted(clouds, model_of, inputs):
    X, _, _ = clouds()
    with pytest.warns(SeparationWarning, match="overlap|much the same loss"):
        MixtureFinder("attribution", inputs, by_class=False).find(model_of(), (X, torch.arange(300) % 2))


@pytest.mark.parametrize("classes", [1, 2])
@quietly
def test_by_the_loss_alone_less_loss_is_never_noisier(classes):
    """Two classes have no certainty beside the loss; of two heaps, the wide one has both tails."""
    loss = torch.cat([torch.rand(200) * 4, torch.rand(300) * 0.1 + 1.0])
    found = MixtureFinder("loss", random_state=0).find(
        nn.Linear(1, classes), (loss[:, None], torch.zeros(500).long()), lambda model, batch: batch[0][:, 0]
    )
    order = loss.argsort()
    assert (found.noise[order].diff() >= -1e-6).all()
    assert found.losses.tolist() == loss.tolist()


def test_serves_a_regression(inputs):
    X = torch.randn(400, 5)
    y = X[:, 0] + 0.1 * torch.randn(400)
    noisy = torch.arange(400) % 4 == 0
    y[noisy] += 30
    model = nn.Linear(5, 1)
    with torch.no_grad():
        model.weight.copy_(torch.eye(5)[:1])
        model.bias.zero_()
    found = MixtureFinder("loss", random_state=0).find(model, (X, y), squared)
    assert torch.equal(found.is_noisy, noisy) and found.is_separated


@pytest.mark.parametrize("epochs", [3, 30])
def test_finds_input_noise_in_digits(epochs, digits_after):
    model, data, is_noisy = digits_after("images", epochs)
    finder = MixtureFinder(random_state=0)
    found = finder.find(model, data)
    assert found.is_separated and finder.features_ == "attribution"
    assert roc_auc_score(is_noisy, found.noise) > 0.95
    assert (~is_noisy)[~found.is_noisy].float().mean() > 0.95


@pytest.mark.parametrize("share", [0.2, 0.4])
def test_finds_wrong_labels_in_digits(share, digits_after):
    model, data, is_noisy = digits_after(share, 3)
    finder = MixtureFinder(random_state=0)
    found = finder.find(model, data)
    assert found.is_separated and finder.features_ == "loss"
    assert roc_auc_score(is_noisy, found.noise) > 0.95
    assert (~is_noisy)[~found.is_noisy].float().mean() > 0.9


@pytest.mark.parametrize(("kind", "epochs"), [("clean", 3), ("clean", 10), (0.2, 60)])
def test_warns_where_nothing_is_noisy_or_all_is_learned_by_heart(kind, epochs, digits_after):
    model, data, _ = digits_after(kind, epochs)
    with pytest.warns(SeparationWarning, match="a few epochs only"):
        found = MixtureFinder(random_state=0).find(model, data)
    assert not found.is_separated and found.separation < 1


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"features": "both"}, "'auto' or 'attribution' or 'loss'"),
        ({"covariance": "tied"}, "'full' or 'diag'"),
        ({"pca": 0}, "pca must be a whole number from 1"),
        ({"pca": 0.9}, "pca must"),
        ({"n_init": 0}, "n_init must"),
        ({"n_init": None}, "n_init must"),
        ({"max_fit": 1}, "max_fit must"),
        ({"random_state": -1}, "random_state must"),
        ({"threshold": 0}, "threshold must"),
        ({"threshold": float("nan")}, "threshold must"),
        ({"attribution": "fc"}, "such as GradCAM"),
        ({"attribution": GradientActivation}, "such as GradCAM"),
    ],
)
def test_parameters_are_checked(changed, said, clouds, model_of):
    with pytest.raises(DataError, match=said):
        MixtureFinder(**changed).find(model_of(), clouds(20)[:2])


def test_what_is_not_finite_is_refused_by_name(clouds, model_of, inputs):
    X, y, _ = clouds(60)
    X[7, 2] = torch.nan
    with pytest.raises(DataError, match="loss of 1 of 60 samples is not finite, first that of sample 7"):
        MixtureFinder().find(model_of(), (X, y))
    with pytest.raises(DataError, match="features of sample 7 are not finite"):
        MixtureFinder("attribution", inputs).find(
            model_of(), (X, y), lambda model, batch: batch[0][:, 0].square()
        )


@pytest.mark.parametrize("features", ["auto", "attribution", "loss"])
def test_empty_data_is_refused(features, model_of):
    with pytest.raises(DataError, match="yielded no sample"):
        MixtureFinder(features).find(model_of(), (torch.zeros(0, 5), torch.zeros(0).long()))


def test_features_are_rows(clouds, model_of):
    class Maps:
        def stream(self, model, data, loss=None):
            yield torch.zeros(20, 2, 2)

    with pytest.raises(DataError, match=r"got the shape \[20, 2, 2\]"):
        MixtureFinder("attribution", Maps()).find(model_of(), clouds(20)[:2])


def test_a_sampler_that_draws_at_random_is_refused_before_anything_is_read(model_of, clouds):
    X, y, _ = clouds()
    sampler = WeightedRandomSampler(torch.ones(len(y)), len(y))
    with pytest.raises(DataError, match="pass the data set in place of the loader"):
        MixtureFinder("loss").find(model_of(), DataLoader(TensorDataset(X, y), sampler=sampler))


def hard_classes(n=900, seed=0):
    """Return (X, y) in which class 2 is plain and the others are told by a coin, and a model that knows that."""
    draw = torch.Generator().manual_seed(seed)
    y = torch.randint(3, (n,), generator=draw)
    X = torch.stack([(y == 2).float() * 8 - 4, torch.randn(n, generator=draw)], 1)
    X[:, 0] += 0.3 * torch.randn(n, generator=draw)
    model = nn.Linear(2, 3)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[-1.0, 0.1], [-1.0, -0.1], [1.0, 0.0]]))
        model.bias.copy_(torch.tensor([0.2, 0.0, 0.0]))
    return (X, y), model


def test_a_class_that_is_hard_is_no_noise():
    data, model = hard_classes()
    with pytest.warns(SeparationWarning, match=r"of the samples of class [01], and \d+% of all.*hard"):
        found = MixtureFinder("loss", random_state=0).find(model, data)
    assert not found.is_separated and found.separation > 1


@pytest.mark.parametrize("labels", [None, np.zeros(100, int), np.r_[np.zeros(95, int), np.ones(5, int)]])
def test_one_class_or_a_rare_one_says_nothing(labels):
    is_noisy = np.arange(100) >= 90
    assert of_a_class(is_noisy, labels) == ""


def test_noise_in_half_of_a_class_is_found_and_not_doubted():
    labels = np.arange(200) // 100
    assert of_a_class(np.arange(200) < 50, labels) == ""
    assert "class 0" in of_a_class(np.arange(200) < 90, labels)


class Squeezed(nn.Sequential):
    """A regression model that puts out [N]."""

    def forward(self, x):
        return super().forward(x)[:, 0]


def of_squeezed(model, batch):
    return (model(batch[0]) - batch[1]) ** 2


def of_a_dict(model, batch):
    return squared(model, (batch["x"], batch["target"]))


def of_itself(model, batch):
    return (model(batch) - batch[:, :1]).square().mean(1)


@quietly
@pytest.mark.parametrize(
    ("build", "form", "loss"),
    [
        (Squeezed, lambda X, y: (X, y), of_squeezed),
        (nn.Sequential, lambda X, y: {"x": X, "target": y}, of_a_dict),
        (nn.Sequential, lambda X, y: X, of_itself),
    ],
)
def test_a_model_that_its_loss_alone_can_run_is_looked_at_by_the_loss(build, form, loss, clouds):
    X, y, _ = clouds()
    batches = [form(x, label.float()) for x, label in zip(X.split(50), y.split(50), strict=True)]
    model = build(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 1))
    found, by_loss = (
        MixtureFinder(features, random_state=0).find(model, batches, loss) for features in ("auto", "loss")
    )
    assert torch.equal(found.noise, by_loss.noise)
    with pytest.raises((DataError, TypeError)):
        MixtureFinder("attribution").find(model, batches, loss)


@quietly
def test_a_model_without_a_hidden_layer_is_looked_at_by_the_loss(clouds):
    X, y, _ = clouds()
    finder = MixtureFinder(random_state=0)
    finder.find(nn.Linear(5, 3), (X, y))
    assert finder.features_ == "loss"
    with pytest.raises(UnsupportedModuleError, match="layer="):
        MixtureFinder("attribution").find(nn.Linear(5, 3), (X, y))


def test_an_error_of_the_models_own_is_not_hidden(clouds):
    class Broken(nn.Linear):
        def forward(self, x):
            if len(x) == 2:  # a look at a few samples
                raise KeyError("own")
            return super().forward(x)

    X, y, _ = clouds()
    with pytest.raises(KeyError, match="own"):
        MixtureFinder().find(Broken(5, 3), (X, y))


@pytest.mark.parametrize("load", [load_iris, load_wine])
def test_clean_tables_are_not_said_to_hold_wrong_labels(load):
    X, y = load(return_X_y=True)
    X, y = torch.tensor(StandardScaler().fit_transform(X)).float(), torch.tensor(y)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(X.shape[1], 32), nn.ReLU(), nn.Linear(32, 3))
        optimizer = torch.optim.Adam(model.parameters(), 0.01)
        for _ in range(200):
            optimizer.zero_grad()
            F.cross_entropy(model(X), y).backward()
            optimizer.step()
    with pytest.warns(SeparationWarning, match="likelier right than wrong|overlap"):
        found = MixtureFinder("loss", random_state=0).find(model, (X, y))
    assert not found.is_separated
