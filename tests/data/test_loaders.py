# SPDX-License-Identifier: BSD-3-Clause
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from unlearnkit.data import as_loader, complement, in_order, sample_of, shared, warn_if_random
from unlearnkit.data.loaders import read_indices
from unlearnkit.exceptions import DataError, NondeterminismWarning

N = 20
X, Y = torch.arange(float(N))[:, None], torch.arange(N)
TRAIN = TensorDataset(X, Y)


def seen(loader):
    """The labels that a loader yields; sample k has label k."""
    return [int(label) for batch in loader for label in batch[-1]]


class Duck:
    """A data set in all but its class, as those of the datasets library are."""

    def __len__(self):
        return N

    def __getitem__(self, index):
        return X[index], Y[index]


class Stream(IterableDataset):
    def __iter__(self):
        return iter(zip(X, Y, strict=True))


class Augmented(Dataset):
    def __init__(self, read):
        self.read = read

    def __len__(self):
        return N

    def __getitem__(self, index):
        return self.read(index), index


# as_loader --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        (X, Y),
        (X.numpy(), Y.numpy()),
        (X.numpy().astype("float64"), Y),
        TRAIN,
        Duck(),
        Stream(),
        DataLoader(TRAIN, batch_size=3),
        [(X[:5], Y[:5]), (X[5:], Y[5:])],
    ],
    ids=lambda data: type(data).__name__,
)
def test_as_loader_can_be_walked_again(data):
    loader = as_loader(data)
    assert seen(loader) == seen(loader) == list(range(N))
    assert next(iter(loader))[0].dtype == torch.float32


def test_as_loader_keeps_loaders_and_batches_the_rest():
    loader = DataLoader(TRAIN)
    assert as_loader(loader) is loader
    assert [len(y) for _, y in as_loader(TRAIN, size=8)] == [8, 8, 4]
    images = torch.zeros(3, 2, dtype=torch.float64)
    assert next(iter(as_loader((images, Y[:3]))))[0].dtype == torch.float64  # tensors are the user's


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (X, r"one array without labels: pass \(X, y\)"),
        (X.numpy(), r"one array without labels: pass \(X, y\)"),
        ((X,), r"got a tuple of \(Tensor\)"),
        ((X, "y"), r"got a tuple of \(Tensor, str\)"),
        ((X, Y[:3]), r"same number of samples, got shapes \[20, 1\] and \[3\]"),
        ((torch.tensor(1.0), torch.tensor(1)), r"got shapes \[\] and \[\]"),
        ((np.array(["a"]), Y[:1]), "numbers, got dtype <U1: encode"),
        (iter(DataLoader(TRAIN)), r"one-shot \w+, .*pass list\(batches\)"),
        ((batch for batch in DataLoader(TRAIN)), "one-shot generator"),
        ({"X": X, "y": Y}, "got dict"),
        ("train", "got str"),
        (None, "got NoneType"),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else type(value).__name__,
)
def test_as_loader_says_what_it_takes(data, words):
    with pytest.raises(DataError, match=f"^the set.*{words}"):
        as_loader(data, name="the set")


# complement -------------------------------------------------------------------------------------

INDICES = st.lists(st.integers(-N, N - 1), max_size=2 * N)


def forms(indices):
    """Every way in which a loader draws these of the data."""
    drawn = SubsetRandomSampler(indices)
    yield Subset(TRAIN, indices)
    yield DataLoader(Subset(TRAIN, indices), batch_size=3)
    yield DataLoader(TRAIN, batch_size=3, sampler=drawn)
    yield DataLoader(TRAIN, batch_sampler=BatchSampler(drawn, 3, drop_last=False))
    if indices:
        yield DataLoader(Subset(TRAIN, indices), batch_size=3, shuffle=True)


@given(indices=INDICES)
def test_complement_is_what_is_not_drawn(indices):
    chosen = {index % N for index in indices}
    for data in forms(indices):
        rest = seen(complement(data))
        assert set(seen(as_loader(data))) == chosen
        assert chosen.isdisjoint(rest) and chosen | set(rest) == set(range(N))
        assert rest == sorted(rest)


@given(outer=st.sets(st.integers(0, N - 1), min_size=1), data=st.data())
def test_complement_of_nested_subsets_stays_inside_the_outer_one(outer, data):
    train = Subset(TRAIN, sorted(outer))
    inner = data.draw(st.sets(st.integers(0, len(outer) - 1)))
    forget = Subset(train, sorted(inner))
    rest = seen(complement(forget))
    assert set(rest) | set(seen(as_loader(forget))) == outer
    assert len(rest) == len(outer) - len(inner)


@pytest.mark.parametrize(
    "data",
    [
        TRAIN,
        (X, Y),
        [(X, Y)],
        Stream(),
        DataLoader(TRAIN, shuffle=True),
        DataLoader(Subset(TRAIN, [1, 2, 3]), sampler=RandomSampler(range(3), replacement=True)),
        DataLoader(Subset(TRAIN, [1, 2, 3]), sampler=RandomSampler(range(3), num_samples=2)),
        DataLoader(Subset(TRAIN, [1, 2]), sampler=WeightedRandomSampler([1.0, 1.0], 2)),
        DataLoader(Subset(TRAIN, [1, 2]), batch_sampler=[[0]]),
    ],
)
def test_complement_is_not_guessed(data):
    assert complement(data) is None


def test_complement_reads_as_the_loader_does():
    def collate(samples):
        return [torch.stack(part) for part in zip(*samples, strict=True)]

    loader = DataLoader(Subset(TRAIN, [0]), batch_size=7, shuffle=True, collate_fn=collate)
    rest = complement(loader)
    assert rest.batch_size == 7 and rest.collate_fn is collate
    assert seen(rest) == list(range(1, N))  # in order


def test_complement_of_a_data_set_of_batches_yields_its_batches():
    batches = [(X[at : at + 4], Y[at : at + 4]) for at in range(0, N, 4)]
    loader = DataLoader(Subset(batches, [0, 2]), batch_size=None)
    assert [list(y) for _, y in complement(loader)] == [list(batches[at][1]) for at in (1, 3, 4)]


# sample_of --------------------------------------------------------------------------------------


@given(count=st.integers(1, 2 * N))
def test_sample_is_spread_over_the_data(count):
    found = seen(sample_of(DataLoader(TRAIN, batch_size=3, shuffle=True), count))
    assert len(found) == min(count, N) and found == sorted(set(found))
    gaps = np.diff([-1, *found, N])
    assert max(gaps) <= 2 * -(-N // count)  # no part of sorted data is passed over


def test_sample_is_of_what_the_loader_draws():
    for drawn in forms([3, 5, 8, 13]):
        assert set(seen(sample_of(as_loader(drawn), 100))) == {3, 5, 8, 13}


def test_sample_of_what_has_no_indices_is_its_first_batches():
    batches = [(X[at : at + 4], Y[at : at + 4]) for at in range(0, N, 4)]
    assert seen(sample_of(batches, 6)) == list(range(8))
    assert seen(sample_of(DataLoader(batches, batch_size=None), 6)) == list(range(8))
    assert seen(sample_of(DataLoader(Stream(), batch_size=4), 6)) == list(range(8))
    assert seen(sample_of([], 6)) == []


# warn_if_random ---------------------------------------------------------------------------------


def said(loader, order_matters=False):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warn_if_random(loader, "forget", order_matters)
    assert all(w.category is NondeterminismWarning for w in caught)
    assert all(w.filename == __file__ for w in caught)
    return [str(w.message) for w in caught]


@pytest.mark.parametrize("order_matters", [False, True])
def test_silent_where_every_walk_is_the_same(order_matters):
    for loader in (
        [(X, Y)],
        DataLoader(TRAIN, batch_size=3),
        DataLoader(TRAIN, batch_size=5, drop_last=True),
        DataLoader(Stream(), batch_size=3),
        DataLoader(TensorDataset(torch.full((4, 1), torch.nan), Y[:4])),
        DataLoader(Augmented(lambda index: X[index]), batch_size=None),
        DataLoader([], batch_size=3),
    ):
        assert said(loader, order_matters) == []


def test_shuffling_counts_where_order_matters():
    for loader in (
        DataLoader(TRAIN, shuffle=True),
        DataLoader(TRAIN, sampler=SubsetRandomSampler([1, 2])),
        DataLoader(TRAIN, batch_sampler=BatchSampler(RandomSampler(TRAIN), 3, False)),
    ):
        assert said(loader) == []
        (line,) = said(loader, order_matters=True)
        assert line.startswith("forget: the loader shuffles") and "shuffle=False" in line


def test_samples_left_out_are_told():
    for loader in (
        DataLoader(TRAIN, batch_size=3, drop_last=True),
        DataLoader(TRAIN, batch_sampler=BatchSampler(range(N), 3, drop_last=True)),
        DataLoader(Stream(), batch_size=3, drop_last=True),
    ):
        (line,) = said(loader)
        assert line.startswith("forget: drop_last=True leaves samples out")


def test_samples_drawn_at_random_are_told():
    for sampler in (
        RandomSampler(TRAIN, replacement=True),
        RandomSampler(TRAIN, num_samples=5),
        WeightedRandomSampler([1.0] * N, N),
    ):
        (line,) = said(DataLoader(TRAIN, sampler=sampler), order_matters=True)
        assert "draws samples at random" in line and "reads each sample once" in line


@pytest.mark.parametrize(
    "read",
    [
        lambda index: torch.rand(2),
        lambda index: np.random.rand(2),
        lambda index: {"x": [torch.rand(2)]},
        lambda index: (X[index], torch.rand(2)),
    ],
)
def test_augmentation_is_told_without_a_draw(read):
    torch.manual_seed(0)
    np.random.seed(0)
    (line,) = said(DataLoader(Augmented(read)))
    assert "augmentation?" in line and "without random transforms" in line
    assert torch.equal(torch.rand(2), torch.rand(2, generator=torch.Generator().manual_seed(0)))
    assert np.random.rand() == np.random.RandomState(0).rand()


def test_what_cannot_be_read_by_index_is_passed_over():
    class Keyed(Augmented):
        def __getitem__(self, key):
            raise KeyError(key)

    assert said(DataLoader(Keyed(None))) == []


def test_shared_samples_are_counted_through_subsets_and_samplers():
    train = TensorDataset(torch.zeros(20, 1), torch.zeros(20))
    low, nested = Subset(train, range(8)), Subset(Subset(train, range(5, 15)), [0, 1, 9])
    sampled = DataLoader(train, sampler=SubsetRandomSampler([7, -1]))
    assert shared(DataLoader(train, 3), DataLoader(low)) == 8
    assert shared(DataLoader(low), DataLoader(nested)) == 2
    assert shared(DataLoader(low), sampled) == 1
    assert shared(complement(low), DataLoader(low)) == 0
    assert shared(DataLoader(TensorDataset(*train.tensors)), DataLoader(train)) == 0  # another data set
    assert shared([(torch.zeros(1),)], DataLoader(train)) == 0


def test_a_batch_sampler_of_ones_own_is_not_seen_through():
    class Half(BatchSampler):
        def __iter__(self):
            return iter(list(super().__iter__())[::2])

    half = DataLoader(TRAIN, batch_sampler=Half(RandomSampler(TRAIN), 2, False))
    assert read_indices(half) is None and complement(half) is None
    assert read_indices(
        DataLoader(TRAIN, batch_sampler=BatchSampler(RandomSampler(TRAIN), 2, False))
    ) == range(N)


@pytest.mark.parametrize("shuffle", [False, True])
def test_in_order_reads_the_same_at_every_walk(shuffle):
    X, y = torch.arange(10.0)[:, None], torch.arange(10)
    loader = DataLoader(TensorDataset(X, y), batch_size=4, shuffle=shuffle)
    for _ in range(2):
        assert torch.cat([batch[1] for batch in in_order(loader)]).tolist() == list(range(10))


def test_in_order_leaves_alone_what_draws_at_random():
    data = TensorDataset(torch.arange(10.0)[:, None], torch.arange(10))
    loader = DataLoader(data, sampler=WeightedRandomSampler([1.0] * 10, 10))
    assert in_order(loader) is loader
