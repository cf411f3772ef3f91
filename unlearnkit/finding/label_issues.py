# SPDX-License-Identifier: BSD-3-Clause
"""Wrong labels as the cleanlab package finds them."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from unlearnkit.data import Loss, Partition
from unlearnkit.exceptions import DataError
from unlearnkit.finding._look import look
from unlearnkit.finding.base import Finder


class LabelIssues(Finder):
    """Find wrong labels by confident learning, with the package cleanlab (``unlearnkit[cleanlab]``).

    Parameters
    ----------
    pred_probs : array, shape [N, K], optional
        Probabilities of each class from models that were not trained on the sample, as
        cross-validation gives them, in the order in which the data is read unshuffled. Where left
        out, the model's own, which do not doubt a wrong label that it has learned by heart.
    filter_by : str, default="prune_by_noise_rate"
        As of :func:`cleanlab.filter.find_label_issues`.

    Notes
    -----
    Northcutt, Jiang, Chuang, "Confident Learning", arXiv 1911.00068. :attr:`Partition.noise` is one
    less the probability of the given label; which samples are noisy is cleanlab's decision, made
    per class, and not a threshold on it.
    """

    def __init__(self, pred_probs: Any = None, filter_by: str = "prune_by_noise_rate") -> None:
        self.pred_probs = pred_probs
        self.filter_by = filter_by

    def find(
        self, model: nn.Module, data: Any, loss: Loss | None = None, progress: bool = False
    ) -> Partition:
        """Divide `data` into samples with right and with wrong labels; the model is left as it was.

        Parameters
        ----------
        model : nn.Module
            A classifier.
        data : DataLoader, Dataset or (X, y)
            Read in the order of its indices, also where a loader shuffles.
        loss : None
            Cleanlab looks at probabilities of classes, and a loss of one's own has none.
        progress : bool
            Show a progress bar.

        Raises
        ------
        DataError
            If the data is empty or no classification, or `pred_probs` does not fit it.
        ImportError
            If cleanlab is not installed.
        """
        if loss is not None:
            raise DataError("LabelIssues looks at probabilities of classes, not at a loss: leave loss out.")
        filters = _cleanlab("filter")
        seen = look(model, data, None, progress, probabilities=True)
        if seen.labels is None or seen.probabilities is None:
            raise DataError(
                "LabelIssues needs one class label a sample, of whole numbers from 0 on, and logits [N, K]: for "
                "another task use MixtureFinder()."
            )
        given = (
            seen.probabilities if self.pred_probs is None else self._given(seen.labels, seen.probabilities)
        )
        try:
            wrong = filters.find_label_issues(seen.labels, given, filter_by=self.filter_by, n_jobs=1)
        except (ValueError, AssertionError) as error:
            raise DataError(
                f"cleanlab refuses the labels, the probabilities, or filter_by={self.filter_by!r}: {error}"
            ) from error
        noise = 1 - given[np.arange(len(given)), seen.labels]  # [N]
        partition = Partition.of(data, wrong, losses=seen.losses)
        partition.noise = torch.from_numpy(noise).float()
        return partition

    def _given(self, labels: NDArray[Any], own: NDArray[Any]) -> NDArray[Any]:
        given = self.pred_probs.detach().cpu() if isinstance(self.pred_probs, Tensor) else self.pred_probs
        found = np.asarray(given, dtype=np.float64)
        if found.shape != own.shape:
            raise DataError(
                f"pred_probs must have a row for each sample and a column for each class, {list(own.shape)}, got "
                f"{list(found.shape)}."
            )
        if not (np.isfinite(found).all() and (found >= 0).all() and np.allclose(found.sum(1), 1, atol=1e-3)):
            raise DataError("pred_probs must be probabilities: zero or more, and of sum 1 in each row.")
        return found


def _cleanlab(module: str) -> Any:
    try:
        return import_module(f"cleanlab.{module}")
    except ModuleNotFoundError as error:
        raise ImportError(
            "LabelIssues needs cleanlab, which is not installed: pip install 'unlearnkit[cleanlab]'"
        ) from error
