# SPDX-License-Identifier: BSD-3-Clause
"""The base of what finds the noisy part of a data set."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from sklearn.base import BaseEstimator
from torch import nn

from unlearnkit.data import Loss, Partition


class Finder(BaseEstimator):
    """Base of what divides a data set into a clean and a noisy part, without being told which is which."""

    @abstractmethod
    def find(
        self, model: nn.Module, data: Any, loss: Loss | None = None, progress: bool = False
    ) -> Partition:
        """Divide `data` by what a trained model makes of it; the model is left as it was.

        Parameters
        ----------
        model : nn.Module
            Trained on `data`.
        data : DataLoader, Dataset or (X, y)
            Read in the order of its indices, also where a loader shuffles.
        loss : callable, optional
            ``loss(model, batch) -> Tensor [N]``, cross-entropy where left out.
        progress : bool
            Show a progress bar.

        Returns
        -------
        Partition
        """
