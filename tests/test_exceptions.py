# SPDX-License-Identifier: BSD-3-Clause
import inspect

import pytest

from unlearnkit import exceptions

CLASSES = [found for _, found in inspect.getmembers(exceptions, inspect.isclass)]


@pytest.mark.parametrize("found", CLASSES, ids=lambda found: found.__name__)
def test_has_one_root_by_its_name(found):
    kind = "Error" if found.__name__.endswith("Error") else "Warning"
    assert issubclass(found, getattr(exceptions, f"Unlearn{kind}"))


def test_data_error_is_the_value_error_that_scikit_learn_users_catch():
    with pytest.raises(ValueError, match="forget is empty"):
        raise exceptions.DataError("forget is empty")


def test_warnings_are_warnings_of_the_user():
    assert issubclass(exceptions.UnlearnWarning, UserWarning)
