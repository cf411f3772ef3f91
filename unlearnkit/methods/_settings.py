# SPDX-License-Identifier: BSD-3-Clause
"""What every method has that draws at random and may take long."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from sklearn.base import BaseEstimator

from unlearnkit.base import Unlearner
from unlearnkit.data import Loss
from unlearnkit.methods._checks import check_seed
from unlearnkit.methods._docstring import composed


@dataclass(kw_only=True, eq=False, repr=False)
class Seeded(Unlearner):
    """Base of the methods with a seed.

    Parameters
    ----------
    loss : callable, optional
        ``loss(model, batch) -> Tensor [N]``; cross-entropy where left out.
    progress : bool
        Show progress bars.
    random_state : int, optional
        Fixes all that is drawn; None draws anew each time.
    """

    _own_docstring: ClassVar[str] = ""

    loss: Loss | None = None
    progress: bool = False
    random_state: int | None = None

    def __init_subclass__(cls, **given: Any) -> None:
        super().__init_subclass__(**given)
        cls._own_docstring = cls.__doc__ or ""
        told = [base for base in cls.__mro__ if issubclass(base, Unlearner)]
        if cls.__doc__ is not None:  # as under python -OO
            cls.__doc__ = composed(cls, [(base, _docstring(base)) for base in told])

    def _validate(self) -> None:
        super()._validate()
        check_seed("random_state", self.random_state)

    def _seed(self) -> int:
        """Return the seed of a fit."""
        if self.random_state is None:
            return int(np.random.SeedSequence().generate_state(1)[0])
        return self.random_state

    def _described(self) -> str:
        """Return the estimator's repr without what is no setting: it goes into the edit's file."""
        given = self.get_params(deep=False)
        for name in ("progress", "trainer", "factory"):
            given.pop(name, None)
        if not isinstance(self.loss, BaseEstimator):  # a function says nothing of what it does
            given.pop("loss", None)
        shown = ", ".join(f"{name}={value!r}" for name, value in given.items() if value is not None)
        # a function's address is another one in each process
        return re.sub(" at 0x[0-9a-fA-F]+", "", f"{type(self).__name__}({shown})")


def _docstring(kind: type) -> str:
    """Return what stands in a class's own source."""
    return vars(kind).get("_own_docstring") or kind.__doc__ or ""
