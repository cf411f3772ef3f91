# SPDX-License-Identifier: BSD-3-Clause
import warnings

import pytest
import torch
from torch import nn

from unlearnkit import CollapseWarning, DataError, IneffectiveWarning, Prune, Sensitivity, compact
from unlearnkit.parameters import bits, named_parameters
from unlearnkit.testing._task import FORGET, RETAIN, Task, convnet, mlp

pytestmark = pytest.mark.filterwarnings("ignore::unlearnkit.UnlearnWarning")


def deep():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(48, 16),
        nn.ReLU(),
        nn.Linear(16, 32),
        nn.LayerNorm(32),
        nn.ReLU(),
        nn.Linear(32, 3),
    )


def pruned(model, **settings):
    task = Task()
    prune = Prune(random_state=0, **settings).fit(model, task.arrays(RETAIN), task.arrays(FORGET))
    return prune, prune.transform(model)


def test_the_edit_is_zeros_and_nothing_else():
    model = deep()
    prune, clean = pruned(model)
    rows = prune.mask_.rows("3.weight")
    assert int(rows.sum()) == 5  # 5/32 of 32 units
    for name, before in named_parameters(model).items():
        after, chosen = clean.get_parameter(name), prune.mask_[name]
        assert not bits(after[chosen]).any()
        assert torch.equal(bits(after[~chosen]), bits(before[~chosen]))
    assert {name for name, mask in prune.mask_.items() if mask.any()} == {
        "3.weight",
        "3.bias",
        "4.weight",
        "4.bias",
    }
    assert not clean.eval()[:6](torch.randn(4, 3, 4, 4))[:, rows].any()


@pytest.mark.parametrize("importance", ["random", "fisher_ratio", "gradient"])
def test_any_importance_ranks_units(importance):
    prune, _ = pruned(deep(), importance=importance, budget=0.25)
    assert int(prune.mask_.rows("3.weight").sum()) == 8


def test_single_weights_may_be_pruned():
    prune, clean = pruned(deep(), importance="random", granularity="weight", budget=0.1)
    assert prune.mask_.n_selected == int(0.1 * 16 * 32)
    assert int((clean.get_parameter("3.weight") == 0).sum()) == prune.mask_.n_selected


def test_layers_are_chosen_by_patterns():
    prune, _ = pruned(deep(), include=["1.*", "3.*"], budget=0.5)
    assert prune.mask_["1.weight"].any() or prune.mask_["3.weight"].any()
    prune, _ = pruned(deep(), exclude="3.*")
    assert prune.mask_["1.weight"].any() and not prune.mask_["3.weight"].any()
    for nothing in ({"include": "6.*"}, {"include": "3.*", "exclude": "3.*"}, {"exclude": ["1.*", "3.*"]}):
        with pytest.raises(DataError, match=r"1\.weight, 3\.weight"):
            pruned(deep(), **nothing)


def test_at_least_one_unit_goes():
    prune, _ = pruned(convnet(), budget=1e-6)
    assert int(prune.mask_.rows("0.weight").sum()) == 1


def test_a_unit_that_is_frozen_in_part_is_left_alone():
    model = mlp()
    model[1].bias.requires_grad_(False)
    with pytest.warns(IneffectiveWarning, match="no unit can be pruned"):
        prune, _ = pruned(model)
    assert not prune.edit_


def test_ruin_is_reported():
    task = Task()
    with pytest.warns(CollapseWarning, match="budget"):
        Prune(budget=1.0).fit(task.model, task.arrays(RETAIN), task.arrays(FORGET))


def test_a_loss_of_ones_own_runs_the_model():
    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = deep()

        def forward(self, x, scale):
            return scale * self.net(x)

    def loss(model, batch):
        return nn.functional.cross_entropy(model(batch[0], 1.0), batch[1], reduction="none")

    torch.manual_seed(0)
    prune, _ = pruned(Wrapped(), loss=loss)
    plain, _ = pruned(deep())
    assert torch.equal(prune.mask_["net.3.weight"], plain.mask_["3.weight"])
    assert torch.equal(prune.mask_["net.4.bias"], plain.mask_["4.bias"])


def test_what_was_pruned_can_be_cut_out():
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 32), nn.ReLU(), nn.Linear(32, 3))
    _, clean = pruned(model, budget=0.5)
    x = torch.randn(5, 3, 4, 4)
    small = compact(clean, x)
    assert small[1].weight.shape == (16, 48) and small[3].weight.shape == (3, 16)
    torch.testing.assert_close(small(x), clean(x))


def test_without_an_importance_it_says_what_to_do():
    with pytest.raises(DataError, match="FineTune"):
        pruned(deep(), importance=None)


def test_an_importance_that_ranks_other_layers_is_reported():
    with pytest.warns(IneffectiveWarning, match=r"same for all of 3\.weight"):
        pruned(deep(), importance=Sensitivity(layers="1"))
    with warnings.catch_warnings():
        warnings.simplefilter("error", IneffectiveWarning)
        pruned(deep(), importance=Sensitivity(layers="1"), include="1.weight")
        pruned(deep(), importance="deepest", granularity="layer")
