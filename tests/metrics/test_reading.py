# SPDX-License-Identifier: BSD-3-Clause
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset, default_collate

from unlearnkit.data import as_loader
from unlearnkit.metrics._reading import batches

DATA = TensorDataset(torch.arange(22.0).reshape(11, 2), torch.arange(11))
NESTED = Subset(Subset(DATA, [9, 3, 5, 0, 10]), [4, 1, 2])


class Own(Dataset):
    def __len__(self):
        return 5

    def __getitem__(self, index):
        return torch.tensor([float(index)]), index


QUICK = {
    "tuple": as_loader(DATA.tensors),
    "size": DataLoader(DATA, batch_size=4),
    "drop_last": DataLoader(DATA, batch_size=4, drop_last=True),
    "nothing left": DataLoader(DATA, batch_size=12, drop_last=True),
    "whole": DataLoader(DATA, batch_size=11, drop_last=True),
    "subset": DataLoader(Subset(DATA, [3, 1, 7, 7]), batch_size=3),
    "nested": DataLoader(NESTED, batch_size=2),
    "empty": as_loader(tuple(t[:0] for t in DATA.tensors)),
}
AS_THEY_ARE = {
    "shuffled": DataLoader(DATA, batch_size=4, shuffle=True),
    "own": DataLoader(Own(), batch_size=2),
    "collated": DataLoader(DATA, batch_size=4, collate_fn=lambda rows: default_collate(rows)),
    "unbatched": DataLoader(DATA, batch_size=None),
    "list": [tuple(DATA[:3])],
}


@pytest.mark.parametrize("loader", QUICK.values(), ids=QUICK)
def test_the_same_batches_come_out(loader):
    quick = batches(loader)
    assert quick is not loader
    mine, theirs = list(quick), list(loader)
    assert len(mine) == len(theirs)
    for one, other in zip(mine, theirs, strict=True):
        assert type(one) is type(other) and all(map(torch.equal, one, other))


@pytest.mark.parametrize("loader", AS_THEY_ARE.values(), ids=AS_THEY_ARE)
def test_what_makes_batches_of_its_own_is_left_to_it(loader):
    assert batches(loader) is loader
