# SPDX-License-Identifier: BSD-3-Clause
"""Fingerprints: however a data set is batched they are one, and any other bit makes another."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from unlearnkit import DataError, UnsupportedModuleError
from unlearnkit.oracles._fingerprint import fingerprint, form_of

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.uint8, torch.bool]


def parts(n, shape, dtype, seed):
    generator = torch.Generator().manual_seed(seed)
    X = torch.randint(0, 2, (n, *shape), generator=generator).to(dtype)
    return X, torch.randint(3, (n,), generator=generator)


@given(
    n=st.integers(1, 12),
    shape=st.lists(st.integers(0, 3), max_size=3),
    dtype=st.sampled_from(DTYPES),
    sizes=st.lists(st.integers(1, 12), min_size=2, max_size=2),
    seed=st.integers(0, 99),
)
def test_batches_do_not_count(n, shape, dtype, sizes, seed):
    X, y = parts(n, shape, dtype, seed)
    one, other = (DataLoader(TensorDataset(X, y), batch_size=size) for size in sizes)
    assert fingerprint(one, "x") == fingerprint(other, "x")
    assert fingerprint(one, "x")[1] == n
    cuts = [-(-n // min(size, n)) for size in sizes]
    if cuts[0] != cuts[1]:
        assert fingerprint(one, "x", batched=True) != fingerprint(other, "x", batched=True)


@given(n=st.integers(2, 12), at=st.integers(0, 11), dtype=st.sampled_from(DTYPES), seed=st.integers(0, 99))
def test_every_element_and_the_form_count(n, at, dtype, seed):
    X, y = parts(n, (3,), dtype, seed)
    bent, relabelled = X.clone(), y.clone()
    bent[at % n, at % 3] = 1 - bent[at % n, at % 3].int()
    relabelled[at % n] += 1
    others = [(bent, y), (X, relabelled), (X[1:], y[1:]), (X[:, None], y), (X, y.int()), (y, X), (X, X, y)]
    if dtype is not torch.bool:
        others.append((X.bool(), y))
    found = {fingerprint([given], "x")[0] for given in [(X, y), *others]}
    assert len(found) == 1 + len(others)


def test_structure_counts_and_its_classes_do_not():
    X, y = parts(6, (2,), torch.float32, 0)
    assert fingerprint([(X, y)], "x") == fingerprint([[X, y]], "x")
    one, swapped = {"a": X, "labels": y}, {"labels": y, "a": X}
    assert fingerprint([one], "x") == fingerprint([swapped], "x") != fingerprint([(X, y)], "x")
    assert fingerprint([one], "x") != fingerprint([{"b": X, "labels": y}], "x")
    constants = [
        {**one, "scale": scale} for scale in (1.0, 2.0, torch.tensor(1.0), torch.tensor(2.0), None, "a")
    ]
    assert len({fingerprint([each], "x") for each in constants}) == len(constants)


def test_samples_of_several_lengths():
    ragged = [(torch.ones(2, 3), torch.zeros(2)), (torch.ones(2, 4), torch.zeros(2))]
    assert fingerprint(ragged, "x") != fingerprint(ragged[::-1], "x")
    with pytest.raises(DataError, match="x is empty"):
        fingerprint([], "x")


def test_what_a_factory_builds():
    def built(*layers, value=None):
        def build(seed):
            torch.manual_seed(seed)
            model = nn.Sequential(*(kind(*given) for kind, *given in layers))
            if value is not None:
                nn.init.constant_(model[0].weight, value)
            return model

        return build

    plain = (nn.Linear, 3, 4), (nn.LeakyReLU, 0.1)
    forms = [
        built(*plain),
        built(plain[0], (nn.LeakyReLU, 0.2)),
        built((nn.Linear, 3, 5), plain[1]),
        built(plain[0], (nn.Tanh,)),
        built(*plain, value=1.0),
        built(*plain, value=2.0),
        lambda seed: built(*plain)(seed).double(),
        lambda seed: built(*plain)(seed).requires_grad_(False),
    ]
    assert len({form_of(build) for build in forms}) == len(forms)
    assert form_of(built(*plain)) == form_of(built(*plain))
    assert form_of(lambda seed: nn.DataParallel(built(*plain)(seed))) == form_of(built(*plain))


def test_function_in_a_module_has_no_address():
    class Shown(nn.Module):
        def __init__(self):
            super().__init__()
            self.act = lambda x: x
            self.fc = nn.Linear(2, 2)

        def extra_repr(self):
            return f"act={self.act}"

    assert form_of(lambda seed: Shown()) == form_of(lambda seed: Shown())


def test_sparse_weights_are_refused():
    def build(seed):
        model = nn.Linear(2, 2)
        model.register_buffer("graph", torch.eye(2).to_sparse())
        return model

    with pytest.raises(UnsupportedModuleError, match=r"graph is of layout torch\.sparse_coo"):
        form_of(build)
