# SPDX-License-Identifier: BSD-3-Clause
import pytest
from sklearn.base import clone

from unlearnkit import LabelIssues, MixtureFinder, Partition
from unlearnkit.finding import Finder


@pytest.mark.parametrize(
    "finder", [MixtureFinder("loss", pca=3), MixtureFinder.published(), LabelIssues(filter_by="both")]
)
def test_a_finder_is_an_estimator(finder):
    assert isinstance(finder, Finder)
    assert clone(finder).get_params() == finder.get_params()
    assert eval(repr(finder)).get_params() == finder.get_params()


def test_a_finder_of_ones_own_needs_nothing_but_find():
    class Nothing(Finder):
        def find(self, model, data, loss=None, progress=False):
            return Partition.of(data, [])

    assert clone(Nothing()).get_params() == {}
