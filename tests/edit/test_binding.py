# SPDX-License-Identifier: BSD-3-Clause
import pytest
import torch
from torch import nn

from unlearnkit.edit.binding import bound_tensors, write_all
from unlearnkit.edit.change import Change
from unlearnkit.exceptions import EditMismatchError, UnsupportedModuleError
from unlearnkit.parameters import digest, named_tensors


def model():
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))


def changes_to(target, names=("0.weight", "0.bias", "1.running_mean", "2.weight")):
    """Return changes that add 1 to the first element of each named tensor."""
    changes = {}
    for name in names:
        after = named_tensors(target)[name].detach().clone()
        after.view(-1)[0] += 1
        changes[name] = Change.between(named_tensors(target)[name], after)
    return changes


def digests(target):
    return {name: digest(tensor) for name, tensor in named_tensors(target).items()}


def check_refused(changes, target, message):
    """The target is refused with a message that names a remedy, and is left as it is."""
    before = digests(target)
    with pytest.raises(EditMismatchError, match=message) as caught:
        bound_tensors(changes, target)
    assert "Apply the edit to the model it was made from" in str(caught.value)
    assert digests(target) == before


def test_the_models_own_tensors_are_returned():
    target = model()
    tensors = bound_tensors(changes_to(target), target)
    assert list(tensors) == ["0.weight", "0.bias", "1.running_mean", "2.weight"]
    assert tensors["0.weight"] is target[0].weight
    assert tensors["1.running_mean"] is target[1].running_mean


def test_another_architecture_names_the_missing_tensor():
    # Of values that differ in '0.weight', too, nothing is said: a missing tensor tells more.
    target = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    check_refused(changes_to(model()), target, r"the model has no tensor '1\.running_mean'\. ")
    target = nn.Sequential(model()[0], model()[1])
    target.add_module("2", nn.ModuleDict({"weights": nn.Linear(3, 2)}))
    check_refused(changes_to(model()), target, r"the model has no tensor '2\.weight'\. ")


def test_another_shape():
    target = model()
    target[2] = nn.Linear(3, 5)
    check_refused(
        changes_to(model()),
        target,
        r"tensor '2\.weight' of the model has shape \[5, 3\], but \[2, 3\] in the edit",
    )


def test_another_dtype():
    check_refused(
        changes_to(model()),
        model().bfloat16(),
        r"'0\.weight' of the model is torch.bfloat16, but torch.float32 .* before its conversion",
    )


def test_other_values_name_the_first_tensor_and_count_the_rest():
    target = model()
    with torch.no_grad():
        target[0].bias[1] += 1e-6
        target[2].weight[0, 0] = 0
        target[2].bias.zero_()  # the edit does not touch it
    check_refused(changes_to(model()), target, r"'0\.bias' .* other values .* 2 of 4 tensors")


def test_one_flipped_sign_of_a_zero_is_another_value():
    target, twin = model(), model()
    for each in (target, twin):
        each[1].running_mean.zero_()
    twin[1].running_mean[2] = -0.0
    check_refused(changes_to(target), twin, r"'1\.running_mean' .* other values")


def test_an_edit_that_is_applied_already_says_so():
    target = model()
    changes = changes_to(target)
    write_all(changes, bound_tensors(changes, target))
    with pytest.raises(EditMismatchError, match=r"already applied.* in all 4 tensors"):
        bound_tensors(changes, target)


def test_an_edit_that_is_applied_in_part_says_so():
    target = model()
    part = changes_to(target, ["0.bias"])
    changes = changes_to(target)
    write_all(part, bound_tensors(part, target))
    check_refused(changes, target, "'0.bias' .* 1 of 4 tensors differ, 1 of them .* new values")


def test_a_state_dict_is_not_a_model():
    target = model()
    with pytest.raises(TypeError, match=r"got OrderedDict; .*load_state_dict"):
        bound_tensors(changes_to(target), target.state_dict())


def test_writing_returns_the_way_back():
    target = model()
    before = digests(target)
    changes = changes_to(target)
    tensors = bound_tensors(changes, target)
    back = write_all(changes, tensors)
    assert {name: digest(tensors[name]) for name in changes} == {
        name: change.after for name, change in changes.items()
    }
    again = write_all(back, bound_tensors(back, target))
    assert digests(target) == before
    assert {n: c.after for n, c in again.items()} == {n: c.after for n, c in changes.items()}


@pytest.mark.parametrize("failure", [RuntimeError("device lost"), KeyboardInterrupt()])
@pytest.mark.parametrize("moment", ["before the write", "after the write"])
def test_a_failed_write_leaves_nothing_behind(monkeypatch, failure, moment):
    target = model()
    before, changes = digests(target), changes_to(target)
    write, failures = Change.write, [failure]

    def fails_once(change, tensor):
        fails = bool(failures) and tensor is target[1].running_mean
        if not fails or moment == "after the write":
            write(change, tensor)
        if fails:
            raise failures.pop()

    monkeypatch.setattr(Change, "write", fails_once)
    expected = KeyboardInterrupt if failure.args == () else UnsupportedModuleError
    with pytest.raises(expected) as caught:
        write_all(changes, bound_tensors(changes, target))
    assert not failures
    assert digests(target) == before
    if expected is UnsupportedModuleError:
        assert "'1.running_mean' cannot be written" in str(caught.value)
        assert "device lost" in str(caught.value)


def test_a_tensor_that_refuses_every_write_does_not_stop_the_others_from_coming_back():
    target = nn.Linear(4, 3)
    target.register_buffer("wide", torch.zeros(1).expand(2))
    before = digests(target)
    changes = changes_to(target, ["weight", "bias"])
    changes["wide"] = Change.between(target.wide, torch.ones(2))
    with pytest.raises(UnsupportedModuleError, match="'wide' cannot be written in place"):
        write_all(changes, bound_tensors(changes, target))
    assert digests(target) == before


def test_a_model_made_in_inference_mode_can_be_written():
    with torch.inference_mode():
        target = model()
    changes = changes_to(target)
    write_all(changes, bound_tensors(changes, target))
    assert {n: digests(target)[n] for n in changes} == {n: c.after for n, c in changes.items()}


@pytest.mark.filterwarnings("ignore:Use of index_put_ on expanded tensors:UserWarning")
@pytest.mark.parametrize("n_changed", [1, 100])
def test_a_tensor_that_overlaps_itself_is_refused_unchanged(n_changed):
    target = nn.Module()
    target.register_buffer("wide", torch.zeros(1).expand(100))
    after = torch.zeros(100)
    after[:n_changed] = torch.arange(1.0, n_changed + 1)
    changes = {"wide": Change.between(target.wide, after)}
    with pytest.raises(UnsupportedModuleError, match=r"'wide' (shares|cannot be written)"):
        write_all(changes, bound_tensors(changes, target))
    assert torch.equal(target.wide, torch.zeros(100))


def test_tensors_that_share_memory_unseen_are_refused_unchanged():
    target = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    target[1].weight = nn.Parameter(target[0].weight.data)  # not tied: two parameters, one memory
    before, changes = digests(target), {}
    for i, name in enumerate(["0.weight", "1.weight"]):
        after = target[0].weight.detach().clone()
        after[i, i] += 1
        changes[name] = Change.between(target[0].weight, after)
    with pytest.raises(UnsupportedModuleError, match=r"'0\.weight' shares its memory"):
        write_all(changes, bound_tensors(changes, target))
    assert digests(target) == before
