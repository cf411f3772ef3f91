# SPDX-License-Identifier: BSD-3-Clause
import pytest
import torch
from torch.utils.data import DataLoader, Subset, TensorDataset

from unlearnkit import Importance
from unlearnkit.data import ForgetRetain, Measured
from unlearnkit.exceptions import DataError

X, Y = torch.arange(8.0)[:, None], torch.arange(8)
TRAIN = TensorDataset(X, Y)
A, B, C = (DataLoader(TRAIN) for _ in range(3))
STORED = Importance({"w": torch.ones(1)}, 1, "example")


def seen(loader):
    return sorted(int(label) for _, y in loader for label in y)


def test_one_positional_is_forget_two_are_retain_and_forget():
    one = ForgetRetain.resolve((A,))
    assert one == ForgetRetain(forget=A)
    assert ForgetRetain.resolve((A, B)) == ForgetRetain(forget=B, retain=A)


def test_keywords_mean_what_they_say():
    assert ForgetRetain.resolve((), forget=A) == ForgetRetain(forget=A)
    assert ForgetRetain.resolve((A,), retain=B) == ForgetRetain(forget=A, retain=B)
    found = ForgetRetain.resolve((), retain=A, forget=B, validation=C)
    assert found == ForgetRetain(forget=B, retain=A, validation=C)


@pytest.mark.parametrize(
    ("data", "named", "got"),
    [
        ((), {}, "the forget set is missing"),
        ((), {"retain": A}, "the forget set is missing"),
        ((A, B, C), {}, r"got 3 positional data argument\(s\)\."),
        ((A,), {"forget": B}, r"1 positional data argument\(s\) beside forget="),
        ((A, B), {"retain": C}, r"2 positional data argument\(s\) beside retain="),
        ((A, B), {"retain": C, "forget": C}, "beside retain= and forget="),
    ],
)
def test_other_forms_are_refused_and_the_three_shown(data, named, got):
    with pytest.raises(TypeError, match=got) as caught:
        ForgetRetain.resolve(data, **named)
    for form in ("fit(model, forget)", "fit(model, retain, forget)", "validation=..."):
        assert form in str(caught.value)


def test_retain_is_the_rest_where_forget_is_a_subset():
    roles = ForgetRetain.resolve((Subset(TRAIN, [1, 5]),))
    assert seen(roles.forget) == [1, 5]
    assert seen(roles.retain) == [0, 2, 3, 4, 6, 7]


def test_what_is_given_goes_before_what_is_found():
    assert ForgetRetain.resolve((), forget=Subset(TRAIN, [1]), retain=A).retain is A


def test_an_importance_stands_in_for_data():
    assert isinstance(STORED, Measured) and not isinstance(A, Measured)
    assert ForgetRetain.resolve((STORED, A)).retain is STORED
    assert ForgetRetain.resolve((STORED,)) == ForgetRetain(forget=STORED)


def test_what_is_not_data_is_refused_by_its_role():
    for role in ("forget", "retain", "validation"):
        with pytest.raises(DataError, match=f"^{role} must be a DataLoader.* got int"):
            ForgetRetain.resolve((), **{"forget": A, role: 3})
    with pytest.raises(DataError, match=r"^validation must be .* got Importance"):
        ForgetRetain.resolve((A,), validation=STORED)
