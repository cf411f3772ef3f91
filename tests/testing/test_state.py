# SPDX-License-Identifier: BSD-3-Clause
import random
import warnings

import numpy as np
import pytest
import torch

from unlearnkit.testing._state import difference, model_state, random_state, surroundings
from unlearnkit.testing._task import Task, convnet

TOUCHES = {
    "the values of 0.weight": lambda m: m[0].weight.data.neg_(),
    "the identity of 0.bias": lambda m: setattr(m[0], "bias", torch.nn.Parameter(m[0].bias.data)),
    "requires_grad of 0.bias": lambda m: m[0].bias.requires_grad_(False),
    "the .grad object of 0.bias": lambda m: setattr(m[0].bias, "grad", torch.ones(6)),
    "the attributes of 0.bias": lambda m: setattr(m[0].bias, "mark", 1),
    "the hooks of 0.bias": lambda m: m[0].bias.register_hook(lambda gradient: None),
    "the values of 1.running_mean": lambda m: m[1].running_mean.add_(1),
    "the training flag of 4": lambda m: m[4].eval(),
    "the attributes of the model": lambda m: setattr(m, "mark", 1),
    "forward hooks of 2": lambda m: m[2].register_forward_hook(lambda *_: None),
    "the identity of module 2": lambda m: m.__setitem__(2, torch.nn.ReLU()),
}


@pytest.mark.parametrize("what", TOUCHES)
def test_state_sees_every_touch(what):
    model = Task(convnet).model
    before = model_state(model)
    assert difference(before, model_state(model)) is None
    TOUCHES[what](model)
    assert what in difference(before, model_state(model))


def test_state_sees_settings():
    before = surroundings()
    with warnings.catch_warnings(), torch.no_grad():
        assert difference(before, surroundings()) == "grad mode"
        warnings.simplefilter("ignore")


@pytest.mark.parametrize("draw", [random.random, np.random.rand, lambda: torch.rand(1)])
def test_state_sees_every_draw(draw):
    before = random_state()
    draw()
    assert "random state" in difference(before, random_state())
