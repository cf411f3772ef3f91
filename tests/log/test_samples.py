# SPDX-License-Identifier: BSD-3-Clause
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Subset, TensorDataset, WeightedRandomSampler

from unlearnkit import DataError
from unlearnkit.log.samples import Forgotten, check_salt, reads_alike, sample_digests

SALT = b"0123456789abcdef"


@pytest.fixture
def data():
    return torch.randn(20, 3), torch.arange(20) % 2


def test_batches_and_order_do_not_count(data):
    expected = sample_digests(data, SALT)
    assert len(set(expected)) == 20 and {len(one) for one in expected} == {16}
    for size in (1, 7, 64):
        for shuffle in (False, True):
            loader = DataLoader(TensorDataset(*data), batch_size=size, shuffle=shuffle)
            assert sample_digests(loader, SALT) == expected
    part = DataLoader(Subset(TensorDataset(*data), [5, 2]), batch_size=2)
    assert sample_digests(part, SALT) == [expected[5], expected[2]]


def test_all_of_a_sample_and_the_salt_count(data):
    X, y = data
    expected = sample_digests(data, SALT)
    for other in [(X, 1 - y), (X.double(), y), (X, y.int()), (X.view(20, 1, 3), y), (X + 1e-6, y)]:
        assert not set(sample_digests(other, SALT)) & set(expected)
    assert not set(sample_digests(data, SALT + b"!")) & set(expected)


def test_mappings_texts_and_what_is_no_column(data):
    X, y = data
    batches = [{"x": X[:3], "name": ["a", "b", "c"], "scale": torch.tensor(2.0), "labels": y[:3]}]
    found = sample_digests(batches, SALT)
    renamed = [batches[0] | {"name": ["a", "b", "d"]}]
    assert [one == other for one, other in zip(found, sample_digests(renamed, SALT), strict=True)] == [
        True,
        True,
        False,
    ]
    assert found == sample_digests([batches[0] | {"scale": torch.tensor(3.0)}], SALT)
    numbers = [([1, 2, 3], y[:3])]
    assert len(set(sample_digests(numbers, SALT))) == 3


@pytest.mark.parametrize(
    "dtype", [torch.bool, torch.bfloat16, torch.complex64, torch.complex128, torch.uint8]
)
def test_every_dtype(dtype, data):
    X = torch.arange(60).view(20, 3).to(dtype)
    found = sample_digests((X, torch.arange(20)), SALT)
    assert len(set(found)) == 20
    assert sample_digests([(X[:1], torch.arange(1))], SALT) == found[:1]


@given(st.sets(st.integers(0, 19)), st.sets(st.integers(0, 19)), st.integers(1, 21))
def test_what_is_left(forgotten, more, size):
    X, y = torch.arange(20.0)[:, None], torch.arange(20)
    marks = sample_digests((X, y), SALT)
    memory = Forgotten(SALT, {marks[at] for at in forgotten})
    loader = DataLoader(TensorDataset(X, y), batch_size=size)
    kept, left_out = memory.without(loader, [marks[at] for at in more])
    gone = forgotten | more
    left = torch.cat([y[:0], *(target for _, target in kept)])
    assert left.tolist() == [at for at in range(20) if at not in gone] and left_out == len(gone)
    assert (kept is loader) == (not gone)
    assert memory.among(marks).nonzero()[:, 0].tolist() == sorted(forgotten) and len(memory) == len(forgotten)


def test_samples_that_are_drawn_have_no_number(data):
    memory = Forgotten(SALT, {b"x" * 16})
    sampler = WeightedRandomSampler([1.0] * 20, 20)
    with pytest.raises(DataError, match="pass the data set in place of the loader"):
        memory.without(DataLoader(TensorDataset(*data), sampler=sampler))


@pytest.mark.parametrize("salt", ["0123456789abcdef", b"0123456789abcde", b"x" * 65, None])
def test_bad_salts(salt):
    with pytest.raises(DataError, match="16 to 64 random bytes, got"):
        check_salt(salt)


class Noisy(TensorDataset):
    def __getitem__(self, index):
        X, y = super().__getitem__(index)
        return X + torch.randn(3), y


def test_augmentation_is_seen(data):
    state = torch.get_rng_state()
    assert not reads_alike(DataLoader(Noisy(*data)), SALT)
    assert reads_alike(DataLoader(TensorDataset(*data), shuffle=True), SALT)
    assert torch.equal(torch.get_rng_state(), state)
