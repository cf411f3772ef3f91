# SPDX-License-Identifier: BSD-3-Clause
"""Checkpoints: what is read, refused, written; and how they meet a model."""

import json
import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from unlearnkit import UnlearnWarning
from unlearnkit.cli._checkpoint import files_of, plain, read, write
from unlearnkit.cli._errors import UserCodeError, WrongUse
from unlearnkit.cli._models import Subject, build, load, subject
from unlearnkit.cli._names import Name
from unlearnkit.exceptions import DataError


@pytest.fixture
def model():
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))


@pytest.fixture
def state(model):
    return {name: torch.rand_like(one.float()).to(one.dtype) for name, one in model.state_dict().items()}


def saved(tmp_path, tensors, name="a.safetensors"):
    save_file(tensors, tmp_path / name)
    return read(str(tmp_path / name), "--weights")


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
def test_wrappers_prefixes_are_looked_through(tmp_path, model, state, prefix):
    checkpoint = saved(tmp_path, {prefix + name: one for name, one in state.items()})
    names = load(model, checkpoint)
    assert names == {prefix + name: name for name in state}
    assert all(torch.equal(one, state[name]) for name, one in model.state_dict().items())
    Subject(model, checkpoint, names).save(tmp_path / "b.safetensors")
    assert load_file(tmp_path / "b.safetensors").keys() == checkpoint.tensors.keys()


def test_a_models_own_module_is_no_prefix(tmp_path):
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.module = nn.Linear(2, 2)

    model = Own()
    wanted = {name: torch.rand_like(one) for name, one in model.state_dict().items()}
    load(model, saved(tmp_path, wanted))
    assert torch.equal(model.module.weight, wanted["module.weight"])


def test_compiled_parts_and_wrappers_of_the_model_are_looked_through(tmp_path, model, state):
    model[0] = torch.compile(model[0], backend="eager")
    load(nn.DataParallel(model), saved(tmp_path, state))
    assert torch.equal(model[0].weight, state["0.weight"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("0.bias"), r"it lacks 0.bias\. Build the model"),
        (lambda state: state.update(extra=torch.ones(1)), "the model has no extra"),
        (
            lambda state: state.update({"0.wieght": state.pop("0.weight")}),
            r"lacks 0.weight \(did you mean '0.wieght'\?\)",
        ),
        (
            lambda state: state.update({"0.bias": torch.ones(3)}),
            r"0.bias has shape \[3\] there and \[2\] in the model",
        ),
        (
            lambda state: state.update({"0.bias": torch.ones(2).double()}),
            r"float64, which does not fit into .*model.double",
        ),
        (
            lambda state: [state.pop(name) for name in list(state)[:6]] and state.update(a=torch.ones(1)),
            "and 2 more",
        ),
    ],
)
def test_weights_that_do_not_fit_are_listed(tmp_path, model, state, change, message):
    before = {name: one.clone() for name, one in model.state_dict().items()}
    change(state)
    with pytest.raises(DataError, match=message):
        load(model, saved(tmp_path, state))
    assert all(torch.equal(one, before[name]) for name, one in model.state_dict().items())


def test_a_narrower_dtype_fits_and_is_said(tmp_path, model, state):
    state["0.weight"] = state["0.weight"].bfloat16()
    with pytest.warns(
        UnlearnWarning, match="0.weight is torch.bfloat16 there and torch.float32 in the model"
    ):
        load(model, saved(tmp_path, state))
    assert torch.equal(model[0].weight, state["0.weight"].float())


def test_tied_weights_may_lack_one_of_their_names(tmp_path):
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[1].weight = model[0].weight
    state = {"1.weight": torch.rand(2, 2), "0.bias": torch.rand(2), "1.bias": torch.rand(2)}
    checkpoint = saved(tmp_path, state)
    names = load(model, checkpoint)
    assert torch.equal(model[0].weight, state["1.weight"])
    Subject(model, checkpoint, names).save(tmp_path / "b.safetensors")
    assert load_file(tmp_path / "b.safetensors").keys() == state.keys()


def test_values_that_a_model_ties_must_be_equal(tmp_path):
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2, bias=False))
    model[1].weight = model[0].weight
    state = {"0.weight": torch.rand(2, 2), "0.bias": torch.rand(2), "1.weight": torch.rand(2, 2)}
    with pytest.raises(DataError, match=r"0.weight and 1.weight differ there, .* without tying them"):
        load(model, saved(tmp_path, state))
    load(model, saved(tmp_path, state | {"1.weight": state["0.weight"].clone()}, "same.safetensors"))
    assert torch.equal(model[1].weight, state["0.weight"])


def test_shards_are_read_from_their_index_or_folder(tmp_path, model, state):
    halves = [dict(list(state.items())[:3]), dict(list(state.items())[3:])]
    for number, half in enumerate(halves):
        save_file(half, tmp_path / f"part-{number}.safetensors")
    index = {
        "weight_map": {
            name: f"part-{number}.safetensors" for number, half in enumerate(halves) for name in half
        }
    }
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    for path in (tmp_path, tmp_path / "model.safetensors.index.json"):
        assert read(str(path), "--weights").tensors.keys() == state.keys()
    (tmp_path / "part-1.safetensors").unlink()
    with pytest.raises(DataError, match=r"names part-1.safetensors, which is not beside it"):
        read(str(tmp_path), "--weights")
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(DataError, match="no index of a sharded checkpoint"):
        read(str(tmp_path), "--weights")


@pytest.mark.parametrize("end", [".pt", ".pth", ".bin", ".ckpt", ".PT"])
def test_pickles_are_refused_with_the_way_out(tmp_path, state, end):
    path = tmp_path / f"a{end}"
    torch.save(state, path)
    with pytest.raises(
        WrongUse, match=r"is a pickle, which can run code .*weights_only=True.*--allow-pickle"
    ):
        files_of(str(path), "--weights")
    assert read(str(path), "--weights", allow_pickle=True).tensors.keys() == state.keys()


def test_the_conversion_that_is_named_works(tmp_path, state, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(state, "a.pt")
    with pytest.raises(WrongUse) as error:
        files_of("a.pt", "--weights")
    exec(str(error.value).partition('python -c "')[2].partition('"')[0])
    assert read("a.safetensors", "--weights").tensors.keys() == state.keys()


def test_an_allowed_pickle_never_runs_code(tmp_path, state):
    class Evil:
        def __reduce__(self):
            return exec, (f"open({str(tmp_path / 'ran')!r}, 'w').close()",)

    for content in (Evil(), {"state_dict": state, "more": Evil()}):
        with open(tmp_path / "a.pt", "wb") as file:
            pickle.dump(content, file, protocol=2)
        with pytest.raises(DataError, match="to read that would run its code"):
            read(str(tmp_path / "a.pt"), "--weights", allow_pickle=True)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("key", ["state_dict", "model", "model_state_dict"])
def test_the_state_dict_inside_a_pickle_is_found(tmp_path, state, key):
    torch.save({key: state, "epoch": 3}, tmp_path / "a.pt")
    assert read(str(tmp_path / "a.pt"), "--weights", allow_pickle=True).tensors.keys() == state.keys()


@pytest.mark.parametrize("content", [{"epoch": 3}, [1, 2], {}])
def test_a_pickle_without_tensors_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(DataError, match="without tensors, expected a state dict"):
        read(str(tmp_path / "a.pt"), "--weights", allow_pickle=True)


def test_missing_and_damaged_files_are_refused(tmp_path):
    with pytest.raises(WrongUse, match="there is no such file"):
        read(str(tmp_path / "a.safetensors"), "--weights")
    with pytest.raises(WrongUse, match=r"neither model.safetensors nor model.safetensors.index.json"):
        read(str(tmp_path), "--weights")
    (tmp_path / "a.safetensors").write_bytes(b"nonsense")
    with pytest.raises(DataError, match="no safetensors file"):
        read(str(tmp_path / "a.safetensors"), "--weights")


def test_what_is_written_is_what_is_read(tmp_path):
    shared = torch.rand(4, 4)
    tensors = {"a": shared, "b": shared, "c": shared.t()[1:], "d": torch.ones(2, dtype=torch.bfloat16)}
    write(tmp_path / "a.safetensors", tensors, {"format": "pt"})
    checkpoint = read(str(tmp_path / "a.safetensors"), "--weights")
    assert checkpoint.metadata == {"format": "pt"}
    assert all(torch.equal(checkpoint.tensors[name], one) for name, one in tensors.items())


def test_plain_names():
    assert [plain(name) for name in ("a.b", "module.a", "module.module.a", "a._orig_mod.b", "module")] == [
        "a.b", "a", "a", "a.b", "module"
    ]  # fmt: skip


def test_models_that_are_none_are_refused(folder):
    with pytest.raises(DataError, match=r"gave a int, expected a torch.nn.Module"):
        build(Name.parse("train.py:number", "--model"))
    with pytest.raises(UserCodeError, match="no such GPU"):
        build(Name.parse("train.py:broken", "--model"))
    with pytest.raises(DataError, match="cannot be put on --device nowhere"):
        build(Name.parse("train.py:build", "--model"), "nowhere")


def test_a_model_is_built_with_the_seed(folder):
    name = Name.parse("train.py:build", "--model")
    models = [build(name, seed=seed) for seed in (1, 1, 2)]
    assert torch.equal(models[0][0].weight, models[1][0].weight)
    assert not torch.equal(models[0][0].weight, models[2][0].weight)
    found = subject(name, None, "--weights", False, "cpu", 1)
    assert found.described("train.py:build") == "train.py:build, 163 weights"
    found.save(folder / "own.safetensors")
    assert load_file("own.safetensors").keys() == models[0].state_dict().keys()
