# SPDX-License-Identifier: BSD-3-Clause
"""A bank hands out what was trained, once; its keys tell apart what differs; it refuses what it cannot tell."""

import random
import resource
import time

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset, WeightedRandomSampler

from unlearnkit import ASSD, DataError, FallbackWarning, OracleBank, Partition, Retrain, Trainer
from unlearnkit.demo.digits import whole_class
from unlearnkit.importance import LayerDepth
from unlearnkit.metrics import evaluate, predict_logits
from unlearnkit.parameters import named_tensors
from unlearnkit.testing._task import FORGET, RETAIN, Task, Tied, convnet, mlp


def assert_same(first, second):
    first, second = named_tensors(first), named_tensors(second)
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


def retrain(**given):
    return Retrain(**{"factory": mlp, "epochs": 2, "lr": 0.05, "batch_size": 16, **given})


def test_trained_once_and_found_again(bank, train, tmp_path, samples, network):
    first = list(bank.models(samples(), range(3)))
    again = OracleBank(tmp_path / "bank", train, "three steps", factory=network)
    for model, other in zip(first, again.models(samples(), range(3)), strict=True):
        assert_same(model, other)
        assert not model.training
    assert_same(first[1], bank.model(samples(), np.int64(1)))
    assert train.seeds == [0, 1, 2]
    assert not torch.equal(first[0][0].weight, first[1][0].weight)


def test_models_trains_at_once_and_yields_one_by_one(bank, train, monkeypatch, samples, network):
    models = bank.models(samples(), [3, 1])
    assert train.seeds == [3, 1]
    bank.fill(samples(), [1, 3, 5])
    assert train.seeds == [3, 1, 5]
    built = []
    monkeypatch.setattr(bank._recipe, "factory", lambda: built.append(network()) or built[-1])
    next(models)
    assert len(built) == 1


@pytest.mark.parametrize("factory", [mlp, convnet, Tied])
def test_retrain_gives_what_fit_gives(factory, tmp_path):
    """Buffers and tied weights included."""
    task = Task(factory)
    bank = OracleBank(tmp_path, retrain(factory=factory, random_state=7))
    direct = retrain(factory=factory, random_state=3)
    expected = direct.fit_transform(task.model, task.arrays(RETAIN), task.arrays(FORGET))
    for _ in range(2):
        assert_same(bank.model(task.arrays(RETAIN), 3), expected)


def test_what_is_frozen_stays_as_the_factory_makes_it(tmp_path):
    def factory():
        model = convnet()
        model[0].requires_grad_(False)
        return model

    bank = OracleBank(tmp_path, retrain(factory=factory))
    model = bank.model(Task(convnet).arrays(RETAIN), 2)
    with torch.random.fork_rng():
        torch.manual_seed(2)
        assert torch.equal(model[0].weight, factory()[0].weight)
    assert not model[0].weight.requires_grad and model[1].weight.requires_grad


def test_logits_are_the_models_and_are_kept(bank, train, monkeypatch, samples):
    X, y = samples()
    seeds = [0, 4]
    expected = torch.stack([predict_logits(model, (X, y))[0] for model in bank.models((X, y), seeds)])
    shuffled = DataLoader(TensorDataset(X, y), batch_size=7, shuffle=True)
    for on in ((X, y), shuffled):
        logits, labels = bank.logits((X, y), on=on, seeds=seeds)
        assert torch.equal(labels, y)
        torch.testing.assert_close(logits, expected)
    assert torch.equal(bank.logits((X, y), on=(X, y), seeds=seeds, keep=False)[0], expected)
    kept = sorted(path.name for path in bank.folder.rglob("logits-*"))
    assert len(kept) == 2 and len(set(kept)) == 1
    for path in bank.folder.rglob("oracle.safetensors"):
        path.unlink()
    assert torch.equal(bank.logits((X, y), on=(X, y), seeds=seeds)[0], logits)
    assert train.seeds == seeds  # without the models
    bank.logits((X, y), on=(X[:5], y[:5]), seeds=[4])
    assert train.seeds == [*seeds, 4]


def test_logits_train_what_is_not_there(bank, train, samples):
    logits, labels = bank.logits(samples(), on=samples(1.0), seeds=range(3))
    assert logits.shape == (3, 60, 3) and labels.shape == (60,)
    assert train.seeds == [0, 1, 2]
    bank.fill(samples(), range(3))
    assert train.seeds == [0, 1, 2]


def test_caller_keeps_random_state_and_modes(bank, samples):
    loader = DataLoader(TensorDataset(*samples()), shuffle=True, generator=torch.Generator().manual_seed(4))

    def state():
        return (
            torch.get_rng_state(),
            np.random.get_state()[1],
            random.getstate(),
            loader.generator.get_state(),
        )

    before, data = state(), samples()
    with torch.inference_mode():
        bank.logits(data, on=loader, seeds=[0])
        model = bank.model(data, 0)
    for now, then in zip(state(), before, strict=True):
        assert np.array_equal(np.asarray(now, dtype=object), np.asarray(then, dtype=object))
    assert not any(tensor.is_inference() for tensor in named_tensors(model).values())


def keys(bank):
    return {path.name for path in bank.folder.glob("*")}


def test_how_the_data_comes_does_not_count(bank, train, samples):
    X, y = samples()
    data = TensorDataset(X, y)
    seen = []
    bank._recipe.train = lambda given, seed: seen.append(given) or train((X, y), seed)
    for form in (
        (X, y),
        (X.double().numpy(), y.numpy()),
        data,
        DataLoader(data, batch_size=7),
        DataLoader(data, batch_size=11, shuffle=True, drop_last=True),
        DataLoader(Subset(TensorDataset(torch.cat([X, X]), torch.cat([y, y])), range(60))),
        DataLoader([(row, int(label)) for row, label in zip(X, y, strict=True)], batch_size=3),
    ):
        bank.fill(form, [0])
    assert len(seen) == 1 and len(keys(bank)) == 1


def test_what_differs_has_another_key(tmp_path, train, samples, network):
    X, y = samples()
    folder = tmp_path / "bank"
    one = OracleBank(folder, train, "a", factory=network)
    bent = X.clone()
    bent[17, 2] += 1e-6
    swapped = y.clone()
    swapped[0] = 1 - swapped[0] % 2
    order = torch.arange(60).flip(0)
    for data in ((X, y), (bent, y), (X, swapped), (X[:-1], y[:-1]), (X[order], y[order])):
        one.fill(data, [0])
    assert len(keys(one)) == 5

    def wider():
        return nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3))

    def eased():
        return nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8, momentum=0.5), nn.ReLU(), nn.Linear(8, 3))

    def pretrained():
        model = network()
        nn.init.constant_(model[0].weight, 0.5)
        return model

    for recipe, factory in (("b", network), ("a", eased), ("a", pretrained)):
        OracleBank(folder, train, recipe, factory=factory).fill((X, y), [0])
    assert len(keys(one)) == 8
    with pytest.raises(DataError, match="another form"):  # the training makes a network, still
        OracleBank(folder, train, "a", factory=lambda: nn.Linear(5, 3)).fill((X, y), [0])
    OracleBank(folder, lambda data, seed: wider(), "a", factory=wider).fill((X, y), [0])
    assert len([path for path in folder.rglob("oracle.safetensors")]) == 9


def test_parameters_of_retrain_are_the_recipe(tmp_path):
    task = Task()
    for given in (
        {},
        {"lr": 0.04},
        {"epochs": 1},
        {"trainer": Trainer(momentum=0.5)},
        {"schedule": "linear"},
    ):
        OracleBank(tmp_path, retrain(**given)).fill(task.arrays(RETAIN), [0])
    bank = OracleBank(tmp_path, retrain())
    assert len(keys(bank)) == 5
    for given in (
        {"progress": True, "random_state": 9, "lr": np.float64(0.05)},
        {"trainer": Trainer(checkpoint=tmp_path / "x")},
    ):
        OracleBank(tmp_path, retrain(**given)).fill(task.arrays(RETAIN), [0])
    assert len(keys(bank)) == 5
    assert all("lr=" in row["recipe"] and "momentum=" in row["recipe"] for row in bank.status())


def test_batches_count_where_training_takes_them_as_they_come(tmp_path):
    X, y = Task().arrays(RETAIN)
    data = TensorDataset(X, y)
    own = OracleBank(tmp_path / "own", retrain(batch_size="loader"))
    for size in (16, 32):
        own.fill(DataLoader(data, batch_size=size), [0])
    assert len(keys(own)) == 2
    stream = OracleBank(tmp_path / "stream", retrain())
    for size in (16, 32, 16):
        stream.fill(list(zip(X.split(size), y.split(size), strict=True)), [0])
    assert len(keys(stream)) == 2


def untrained(data, seed):
    return nn.Linear(5, 3)


class Augmented(Dataset):
    def __getitem__(self, index):
        return torch.randn(5), index % 3

    def __len__(self):
        return 12


def test_data_that_changes_needs_a_key(tmp_path, train, samples, network):
    bank = OracleBank(tmp_path / "bank", train, "a", factory=network)
    X, y = samples()
    drawn = DataLoader(TensorDataset(X, y), sampler=WeightedRandomSampler([1.0] * 60, 60))
    for data in (Augmented(), DataLoader(Augmented(), batch_size=4), drawn):
        with pytest.raises(DataError, match=r"other samples at every walk.*data_key=function"):
            bank.model(data, 0)
        with pytest.raises(DataError, match=r"^on yields other samples"):
            bank.logits(samples(), on=data, seeds=[0])
    given = []
    named = OracleBank(
        tmp_path / "bank",
        lambda data, seed: given.append(data) or train((X, y), seed),
        "a",
        lambda data: f"{type(data).__name__} {len(data)}",
        factory=network,
    )
    for data in (Augmented(), Augmented(), drawn):
        named.fill(data, [0])
    assert [type(data) for data in given] == [Augmented, DataLoader]
    assert {row["samples"] for row in named.status()} == {12, None}


def test_damage_is_said_and_mended(bank, train, samples):
    expected = bank.model(samples(), 0)
    bank.logits(samples(), on=samples(), seeds=[0])
    (path,) = bank.folder.rglob("oracle.safetensors")
    content = path.read_bytes()
    for damaged in (content[:-9], content[:-1] + bytes([content[-1] ^ 1]), b"", bytes(len(content))):
        path.write_bytes(damaged)
        with pytest.warns(FallbackWarning, match="damaged.*computed again") as said:
            assert_same(bank.model(samples(), 0), expected)
        assert len(said) == 1 and said[0].filename == __file__
    assert train.seeds == [0] * 5
    (kept,) = bank.folder.rglob("logits-*")
    kept.write_bytes(b"?")
    assert bank.status()[0]["damaged"] == 1
    with pytest.warns(FallbackWarning, match="computed again"):
        bank.logits(samples(), on=samples(), seeds=[0])
    assert bank.status()[0]["damaged"] == 0 and train.seeds == [0] * 5


def test_file_under_another_seed_is_not_taken_for_it(bank, train, samples):
    bank.fill(samples(), [0, 1])
    first, second = sorted(bank.folder.rglob("oracle.safetensors"))
    second.write_bytes(first.read_bytes())
    with pytest.warns(FallbackWarning, match="moved here, or renamed"):
        bank.fill(samples(), [1])
    assert train.seeds == [0, 1, 1]


def test_training_that_fails_leaves_nothing(tmp_path, train, samples, network):
    broken = [
        (lambda data, seed: 1 / 0, ZeroDivisionError, "division"),
        (lambda data, seed: None, DataError, "must return a model, got NoneType"),
        (lambda data, seed: nn.Linear(5, 3), DataError, "another form than factory builds"),
        (
            lambda data, seed: nn.init.constant_((m := network())[0].weight, torch.nan) is None or m,
            DataError,
            "NaN",
        ),
    ]
    for function, error, message in broken:
        bank = OracleBank(tmp_path / "bank", function, "a", factory=network)
        with pytest.raises(error, match=message):
            bank.model(samples(), 0)
        assert bank.status() == [] and not list(bank.folder.rglob("*.*"))
    OracleBank(tmp_path / "bank", train, "a", factory=network).fill(samples(), [0])  # nor a lock that is held
    assert train.seeds == [0]


def test_disk_without_room(bank, train, samples):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            bank.fill(samples(), [0])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(bank.folder.rglob("*.*")) and bank.status() == []
    bank.fill(samples(), [0])
    assert train.seeds == [0, 0]


def test_folder_that_cannot_be_written_serves_what_it_holds(bank, train, monkeypatch, samples):
    bank.fill(samples(), [0])

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.mkdir", refuse)  # root may write wherever it likes
    monkeypatch.setattr("unlearnkit._tensor_file.write_tensors", refuse)
    bank.model(samples(), 0)
    bank.logits(samples(), on=samples(), seeds=[0], keep=False)
    with pytest.raises(PermissionError):
        bank.model(samples(), 1)
    assert train.seeds == [0]  # it was found out before the training


def test_status_says_what_is_there(tmp_path, train, samples, network):
    bank = OracleBank(tmp_path / "bank", train, "three steps", factory=network)
    assert bank.status() == [] and repr(bank).endswith(": empty")
    bank.fill(samples(), [0, 1, 2, 7])
    other = OracleBank(
        tmp_path / "bank", train, "another, of which much is said: " + "x" * 80, factory=network
    )
    other.logits(samples(), on=samples(1), seeds=[5])
    rows = {row["recipe"][:5]: row for row in bank.status()}
    assert rows["three"]["seeds"] == [0, 1, 2, 7] and rows["anoth"]["seeds"] == [5]
    assert {row["samples"] for row in rows.values()} == {60}
    assert sum(row["bytes"] for row in rows.values()) == sum(
        path.stat().st_size for path in bank.folder.rglob("*.safetensors")
    )
    assert 0 < rows["three"]["seconds"] < 60
    first, *lines = repr(bank).splitlines()
    assert "5 oracles" in first and "0-2, 7" in repr(bank) and max(map(len, lines)) < 110


def test_seconds_are_those_of_the_training(bank, train, samples):
    bank._recipe.train = lambda data, seed: time.sleep(0.05 * seed) or train(data, seed)
    first, second = bank.seconds(samples(), [0, 2])
    assert first < 0.1 <= second < 60 and first + second == bank.status()[0]["seconds"]
    assert bank.seconds(samples(), [2]) == [second]
    assert train.seeds == [0, 2]


def test_nothing_is_made_before_it_is_needed(bank, tmp_path):
    repr(bank)
    assert not (tmp_path / "bank").exists()


def test_progress_is_shown(tmp_path, train, capsys, samples, network):
    bank = OracleBank(tmp_path / "bank", train, "a", factory=network, progress=True)
    bank.fill(samples(), range(2))
    assert "oracles" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((untrained,), "a function needs recipe=.*neither its name nor its source"),
        ((untrained, "a"), "a function needs factory="),
        ((untrained, "  "), "recipe must be a text"),
        (("train", "a"), "train must be Retrain"),
        ((Retrain, "a"), "train must be Retrain"),
        ((Retrain(),), "Retrain needs factory="),
        ((retrain(loss=lambda model, batch: 0),), r"Retrain\(loss=...\) is a function.*add recipe="),
        ((retrain(optimizer=torch.optim.Adam),), r"Retrain\(optimizer=...\) is a function"),
        ((retrain(trainer=Trainer(monitor=len)),), r"Retrain\(monitor=...\) is a function"),
        ((untrained, "a", "one key"), "data_key must be a function.*another's"),
    ],
)
def test_what_cannot_be_told_apart_is_refused(tmp_path, given, message):
    with pytest.raises(DataError, match=message):
        OracleBank(tmp_path, *given)


def test_a_careless_data_key_mixes_up_no_sets_of_other_sizes(tmp_path):
    data = Task().arrays(RETAIN)
    bank = OracleBank(tmp_path, retrain(), data_key=lambda data: "digits v1")
    for on in (data, tuple(part[:5] for part in data)):
        logits, labels = bank.logits(data, on=on, seeds=[0])
        assert logits.shape[1] == len(on[0]) and torch.equal(labels, on[1])
    assert bank.status()[0]["samples"] == len(data[0])


def test_functions_of_retrain_go_with_a_recipe(tmp_path):
    def loss(model, batch):
        return nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="none")

    data = Task().arrays(RETAIN)
    for recipe in ("v1", "v2", "v1"):
        OracleBank(tmp_path, retrain(loss=loss), recipe).fill(data, [0])
    bank = OracleBank(tmp_path, retrain(), "v1")
    assert len(keys(bank)) == 2
    assert all(row["recipe"].startswith("v") for row in bank.status())


def test_wrong_use_is_explained(bank, train, tmp_path, samples, network):
    X, y = samples()
    part = Partition.of((X, y), [1, 2])
    importance = LayerDepth().measure(nn.Sequential(nn.Linear(5, 3)), (X, y))
    for data, message in (
        ((X[:0], y[:0]), "retain is empty"),
        (part, "pass partition.retain"),
        (importance, "retain must be data, got Importance"),
        (iter([(X, y)]), "one-shot"),
        ([(X, object())], r"holds a object, which has no digest.*data_key="),
    ):
        with pytest.raises(DataError, match=message):
            bank.model(data, 0)
    for seeds, message in (
        (3, r"seeds must be whole numbers, such as range\(16\)"),
        ([0, 1, 0], "names 0 twice"),
        ([-1], "from 0 on, got -1"),
        (["a"], "got 'a'"),
        ([True], "got True"),
        ([0.5], "got 0.5"),
        ([], "names no seed"),
    ):
        with pytest.raises(DataError, match=message):
            bank.models((X, y), seeds)
    with pytest.raises(DataError, match="folder must be a path"):
        OracleBank(None, train, "a", factory=network)
    with pytest.raises(DataError, match="factory of its own"):
        OracleBank(tmp_path, retrain(), factory=network)
    with pytest.raises(DataError, match="must return a newly built model"):
        OracleBank(tmp_path, train, "a", factory=dict).model((X, y), 0)
    widths = iter(range(3, 99))
    with pytest.raises(DataError, match="another model at each call: 'weight'"):
        OracleBank(tmp_path, train, "a", factory=lambda: nn.Linear(5, next(widths))).model((X, y), 0)
    with pytest.raises(DataError, match="returns a text, and it returned 3"):
        OracleBank(tmp_path, train, "a", lambda data: 3, factory=network).model((X, y), 0)
    assert train.seeds == []


def test_oracles_of_digits_judge_an_unlearned_model(tmp_path):
    def perceptron():
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))

    request = whole_class(0)
    everything, retain = tuple(request.train), tuple(request.train.where(~request.forget))
    data = {"retain": retain, "forget": tuple(request.forgotten), "test": tuple(request.test)}
    bank = OracleBank(tmp_path, Retrain(factory=perceptron, epochs=15, lr=0.1, batch_size=64))
    original = bank.model(everything, 0)  # a retain set of all: the model before the request
    unlearned = ASSD().fit_transform(original, retain, data["forget"])
    first, second = bank.models(retain, [1, 2])
    assert len(bank.status()) == 2
    before, after, floor = (
        evaluate(model, **data, oracle=first)["tow"] for model in (original, unlearned, second)
    )
    assert before < 0.1 < 0.8 < after and floor > 0.95
    assert evaluate(bank.model(retain, 1), **data, oracle=first)["tow"] == 1
