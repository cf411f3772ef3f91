# SPDX-License-Identifier: BSD-3-Clause
"""WeightEdit: the result of unlearning, as an object that is applied, saved and undone."""

from unlearnkit.edit.change import Change
from unlearnkit.edit.weight_edit import ChangedTensor, WeightEdit

__all__ = ["Change", "ChangedTensor", "WeightEdit"]
