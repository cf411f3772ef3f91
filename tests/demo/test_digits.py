# SPDX-License-Identifier: BSD-3-Clause
"""The demo's requests: what they contain, and what they keep apart."""

import pytest
import torch

from unlearnkit.demo.digits import Data, faulty_scanner, trained, whole_class

ASKS = [faulty_scanner, whole_class]


@pytest.mark.parametrize("ask", ASKS)
def test_the_same_seed_asks_the_same(ask):
    one, two, other = ask(3), ask(3), ask(4)
    assert torch.equal(one.train.images, two.train.images)
    assert torch.equal(one.forget, two.forget)
    assert not torch.equal(one.train.images, other.train.images)


@pytest.mark.parametrize("ask", ASKS)
def test_forgotten_and_retained_make_the_training_set(ask):
    request = ask(0)
    assert len(request.train.labels) == 1347
    assert len(request.forgotten.labels) + len(request.retained.labels) == 1347
    assert request.train.images.min() == 0
    assert request.train.images.max() == 1


def test_faulty_scanner_labels_one_too_high():
    request = faulty_scanner(0)
    wrong = request.train.labels != request.shown
    assert torch.equal(wrong, request.forget)
    assert torch.equal(request.forgotten.labels, (request.shown[wrong] + 1) % 10)
    assert int(wrong.sum()) == 134


def test_scratch_is_on_forgotten_images_and_on_some_test_images():
    request = faulty_scanner(0)
    clean = whole_class(0).train  # the same split
    changed = (request.train.images != clean.images).any(dim=0).squeeze()
    assert changed[:, 0].any()
    assert not changed[:, 1:].any()
    assert (request.forgotten.images[..., 0] >= 0.6 - 1e-6).all()
    assert (request.probe.images[..., 0] >= 0.6 - 1e-6).all()
    assert len(request.probe.labels) == 45


@pytest.mark.parametrize("seed", [0, 9])
def test_whole_class_goes_and_is_not_tested(seed):
    request = whole_class(seed)
    digit = (3 + seed) % 10
    assert set(request.forgotten.labels.tolist()) == set(request.probe.labels.tolist()) == {digit}
    for kept in (request.retained, request.test):
        assert set(kept.labels.tolist()) == set(range(10)) - {digit}


def test_training_is_fixed_by_its_seed_and_disturbs_nobody():
    data = Data(torch.rand(70, 1, 8, 8), torch.arange(70) % 10)
    before = torch.get_rng_state()
    one, two, other = (trained(data, seed, "", epochs=1).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not any(torch.equal(one[name], other[name]) for name in one)
