# SPDX-License-Identifier: BSD-3-Clause
"""One door to all that tells the noisy part of a data set."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from unlearnkit.data import Loss, Partition, preserved_rng, seed_rng
from unlearnkit.exceptions import DataError
from unlearnkit.finding import Finder
from unlearnkit.methods._run import derived
from unlearnkit.methods.warm_up import WarmUpFinder, with_seed

FINDING = 0xF12D
"""Sets the seed of what a data set draws while it is looked at apart."""


def find_forget_set(
    model: nn.Module,
    data: Any,
    finder: Any = None,
    loss: Loss | None = None,
    progress: bool = False,
    random_state: int | None = None,
) -> Partition:
    """Divide the data that a model was trained on into a clean and a noisy part.

    What it returns goes to any estimator: ``ASSD().fit(model, find_forget_set(model, data))``.

    Parameters
    ----------
    model : nn.Module
        It is left as it was.
    data : DataLoader, Dataset or (X, y)
    finder : Finder, or array, optional
        Where left out :class:`WarmUpFinder`, which looks through the model and, where that hides
        the noise, through a copy that has begun to learn. :class:`MixtureFinder` looks through the
        model alone, :class:`LabelIssues` is for wrong labels alone. Or what
        another tool has found: a mask [N], probabilities [N] of being noisy, indices [M], or the
        table of cleanlab's ``find_label_issues``.
    loss : callable, optional
        ``loss(model, batch) -> Tensor [N]``, cross-entropy where left out.
    progress : bool
        Show progress bars.
    random_state : int, optional
        Seeds a finder that has no seed of its own, and what a data set that augments its samples
        draws.

    Returns
    -------
    Partition

    Raises
    ------
    DataError
        If what was found does not fit the data; and as ``finder.find``.

    Examples
    --------
    >>> import torch
    >>> from unlearnkit import find_forget_set
    >>> model, data = torch.nn.Linear(2, 3), (torch.zeros(4, 2), torch.tensor([0, 1, 2, 0]))
    >>> find_forget_set(model, data, [False, True, False, False])
    Partition: 1 of 4 samples noisy (25.0 %)
    """
    if finder is None:
        finder = WarmUpFinder()
    if isinstance(finder, Finder):
        with preserved_rng(data), torch.inference_mode(False):
            if random_state is not None:
                seed_rng(derived(random_state, FINDING), data)
            return with_seed(finder, random_state).find(model, data, loss, progress)
    if isinstance(finder, type):
        raise DataError(
            f"finder must be an instance, got the class {finder.__name__}: pass {finder.__name__}()."
        )
    if hasattr(finder, "columns") and "is_label_issue" in finder.columns:
        finder = finder["is_label_issue"].to_numpy()
    return Partition.of(data, finder)
