# SPDX-License-Identifier: BSD-3-Clause
"""Values that metrics must reach, as they are typed: ``tow>=0.95``."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import nan

from unlearnkit.cli._errors import WrongUse

COMPARE: Mapping[str, Callable[[float, float], bool]] = {
    ">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt,
}  # fmt: skip

_BAR = re.compile(r"\s*(?P<metric>[A-Za-z_]\w*)\s*(?P<sign>>=|<=|>|<)\s*(?P<value>[-+.\deE]+)\s*")


@dataclass(frozen=True)
class Bar:
    """A value that a metric must reach.

    Attributes
    ----------
    text, metric, sign : str
    value : float
    """

    text: str
    metric: str
    sign: str
    value: float

    @classmethod
    def parse(cls, text: str) -> Bar:
        """Read ``tow>=0.95``.

        Raises
        ------
        WrongUse
            If it is not of this form.
        """
        found = _BAR.fullmatch(text)
        try:
            if found is not None:
                return cls(text, found["metric"], found["sign"], float(found["value"]))
        except ValueError:
            pass
        raise WrongUse(
            f"--require {text}: expected a metric, >=, <=, > or <, and a number, as in 'tow>=0.95'."
        )

    def unmet(self, scores: Mapping[str, float]) -> str | None:
        """Say how the metric misses the bar; None where it does not. A NaN does."""
        got = scores.get(self.metric, nan)
        return (
            None
            if COMPARE[self.sign](got, self.value)
            else f"{self.metric} is {got:.4g}, required is {self.text}"
        )
