# SPDX-License-Identifier: BSD-3-Clause
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from unlearnkit import ASSD, DataError, Partition
from unlearnkit.testing._task import FORGET, RETAIN, Task


def data(n=10):
    return TensorDataset(torch.arange(n, dtype=torch.float32)[:, None], torch.arange(n))


def read(loader):
    return [int(number) for batch in loader for number in batch[-1]]


@given(st.lists(st.booleans(), min_size=1, max_size=40), st.integers(1, 9))
def test_the_two_parts_are_the_whole_in_order(noisy, size):
    mask = torch.tensor(noisy)
    loader = DataLoader(data(len(noisy)), batch_size=size, shuffle=True)
    partition = Partition.of(loader, mask)
    retain, forget = partition
    assert read(forget) == partition.indices.tolist() == mask.nonzero()[:, 0].tolist()
    assert read(retain) == (~mask).nonzero()[:, 0].tolist()
    assert torch.equal(partition.is_noisy, mask) and torch.equal(partition.noise, mask.float())


@pytest.mark.parametrize("kind", [list, np.array, torch.tensor])
def test_indices_masks_and_probabilities_say_the_same(kind):
    wanted = [1, 4, 7]
    mask = [at in wanted for at in range(10)]
    for given_as in (wanted, mask, [0.9 if noisy else 0.1 for noisy in mask]):
        partition = Partition.of(data(), kind(given_as))
        assert partition.indices.tolist() == wanted
        assert read(partition.forget) == wanted


def test_an_array_that_may_not_be_written_to_is_read_without_a_warning():
    mask = np.arange(10) < 3
    mask.flags.writeable = False  # as pandas hands them out
    assert Partition.of(data(), mask).indices.tolist() == [0, 1, 2]


def test_a_threshold_decides_on_probabilities():
    noise = torch.linspace(0, 0.9, 10)
    assert Partition.of(data(), noise, threshold=0.75).indices.tolist() == [8, 9]
    assert Partition.of(data(), noise.double(), threshold=1).indices.tolist() == []


def test_indices_of_a_subset_are_positions_within_it():
    partition = Partition.of(Subset(data(), [9, 3, 5]), [0, 2])
    assert read(partition.forget) == [9, 5]
    assert partition.indices.tolist() == [0, 2]


def test_indices_of_a_sampler_are_those_of_the_data_set():
    loader = DataLoader(data(), batch_size=2, sampler=SubsetRandomSampler([9, 3, 5]))
    partition = Partition.of(loader, [3])
    assert read(partition.forget) == [3] and read(partition.retain) == [9, 5]
    assert partition.is_noisy.tolist() == [False, True, False]


class Stream(IterableDataset):
    def __iter__(self):
        yield from data()


@pytest.mark.parametrize(
    "source", [DataLoader(Stream(), batch_size=4), list(DataLoader(data(), batch_size=3))]
)
def test_a_stream_is_divided_while_it_is_read(source):
    partition = Partition.of(source, [0, 5, 9])
    for _ in range(2):
        assert read(partition.forget) == [0, 5, 9]
        assert read(partition.retain) == [1, 2, 3, 4, 6, 7, 8]


def test_a_stream_is_counted_without_a_draw():
    before = torch.get_rng_state()
    Partition.of(DataLoader(Stream(), batch_size=4), [0])
    assert torch.equal(torch.get_rng_state(), before)


class Sorted(BatchSampler):
    """Batches of one's own, the same at every walk."""

    def __init__(self):
        pass

    def __iter__(self):
        return iter([[3, 1], [9, 0, 5]])

    def __len__(self):
        return 2


class Shuffled(Sorted):
    def __iter__(self):
        return (part.tolist() for part in torch.randperm(10).split(5))


class Batches(TensorDataset):
    """A data set whose items are batches."""

    def __getitem__(self, index):
        return tuple(tensor[2 * index : 2 * index + 2] for tensor in self.tensors)

    def __len__(self):
        return 5


@pytest.mark.parametrize(
    "loader",
    [
        DataLoader(data(), batch_size=5, sampler=WeightedRandomSampler(torch.ones(10), 10)),
        DataLoader(data(), batch_size=5, sampler=RandomSampler(data(), replacement=True)),
        DataLoader(data(), batch_sampler=Shuffled()),
        DataLoader(Batches(*data().tensors), batch_size=None, shuffle=True),
    ],
)
def test_samples_without_a_number_are_refused(loader):
    before = torch.get_rng_state()
    with pytest.raises(DataError, match="pass the data set in place of the loader"):
        Partition.of(loader, [1, 2])
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("loader", "numbers"),
    [
        (DataLoader(data(), batch_sampler=Sorted()), [3, 1, 9, 0, 5]),
        (DataLoader(Batches(*data().tensors), batch_size=None), range(10)),
    ],
)
def test_batches_of_ones_own_are_divided_in_their_order(loader, numbers):
    partition = Partition.of(loader, [1, 2])
    assert read(partition.forget) == list(numbers)[1:3]
    assert sorted(read(partition.retain) + read(partition.forget)) == sorted(numbers)


def test_a_loader_keeps_its_collation():
    loader = DataLoader(
        data(), batch_size=4, collate_fn=lambda rows: {"labels": torch.stack([y for _, y in rows])}
    )
    (batch,) = Partition.of(loader, [2, 3]).forget
    assert batch["labels"].tolist() == [2, 3]


@pytest.mark.parametrize(
    ("noise", "said"),
    [
        ([0.5] * 9, "9 values, and the data 10 samples"),
        ([True] * 11, "11 values"),
        ([0, 10], "index 10"),
        ([-1], "index -1"),
        ([0, 1] * 5, "must be of bools"),
        ([0.2] * 9 + [1.2], "above 1"),
        ([0.2] * 9 + [float("nan")], "NaN"),
        ([[True] * 10], r"shape \[1, 10\]"),
        (["a"], "indices of samples"),
        (object(), "indices of samples"),
    ],
)
def test_what_does_not_fit_is_refused(noise, said):
    with pytest.raises(DataError, match=said):
        Partition.of(data(), noise)


@pytest.mark.parametrize("threshold", [0, -1, 1.5, float("nan"), None, "0.5"])
def test_a_threshold_is_a_probability(threshold):
    with pytest.raises(DataError, match="threshold"):
        Partition.of(data(), [1], threshold)


@pytest.mark.filterwarnings("ignore::unlearnkit.UnlearnWarning")
def test_every_estimator_takes_one_in_place_of_the_two_sets():
    task = Task()
    partition = Partition.of(task.train, torch.arange(FORGET.stop))
    wanted = ASSD().fit(task.model, task.arrays(RETAIN), task.arrays(FORGET)).edit_
    assert ASSD().fit(task.model, partition).edit_ == wanted
    assert ASSD().fit(task.model, *partition).edit_ == wanted


@pytest.mark.parametrize("role", ["retain", "forget"])
def test_in_the_place_of_one_set_it_is_refused(role):
    task = Task()
    roles = {"retain": task.retain, "forget": task.forget, role: Partition.of(task.train, [0])}
    with pytest.raises(DataError, match=rf"partition\.{role}"):
        ASSD().fit(task.model, **roles)


def test_its_repr_says_how_much_was_found():
    assert repr(Partition.of(data(), [1])) == "Partition: 1 of 10 samples noisy (10.0 %)"
    assert "hardly" in repr(Partition.of(data(), [1], is_separated=False))
