# SPDX-License-Identifier: BSD-3-Clause
"""What candidates are compared by: names of metrics, or functions; higher is better in all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import nn

from unlearnkit.base import Unlearner
from unlearnkit.data import ForgetRetain, Measured
from unlearnkit.exceptions import DataError
from unlearnkit.metrics import accuracy, avg_gap, tow
from unlearnkit.parameters import copy_of

Scorer = Callable[[nn.Module], float]

ROLES = {"forget": "forget", "retain": "retain", "test": "validation"}
"""The data that accuracies are measured on, by the names that metrics have for it."""


class Metric(NamedTuple):
    """A score that has a name: which accuracies it needs, whether an oracle, and what it is."""

    sets: tuple[str, ...]
    compares: bool
    value: Callable[[Mapping[str, float], Any, Unlearner], float]


METRICS = {
    "tow": Metric(tuple(ROLES), True, lambda found, goal, _: tow(found, goal)),
    "neg_avg_gap": Metric(tuple(ROLES), True, lambda found, goal, _: -avg_gap(found, goal)),
    "retain": Metric(("retain",), False, lambda found, _, __: found["retain"]),
    "test": Metric(("test",), False, lambda found, _, __: found["test"]),
    "neg_seconds": Metric((), False, lambda _, __, fitted: -fitted.seconds_),
    "neg_density": Metric((), False, lambda _, __, fitted: -fitted.edit_.density),
}

NO_ORACLE = (
    "scoring={name!r} compares with a retrained model: pass fit(..., oracle=retrained), or say what is to be "
    "reached, oracle={{'forget': 0.1, 'retain': 0.99, 'test': 0.97}} (accuracies)."
)
NO_SAMPLES = "scoring={name!r} needs samples of {role}, and got {got}: pass fit(..., {role}=...){beside}."


@dataclass(frozen=True)
class Scoring:
    """The scores of a search.

    Attributes
    ----------
    scorers : dict of str to callable or None
        By name; None where it is a metric of that name.
    is_one : bool
        Whether one score was asked for as itself, so that its name is "score" in the results.
    """

    scorers: dict[str, Scorer | None]
    is_one: bool

    @classmethod
    def of(cls, given: Any) -> Scoring:
        """Read ``scoring=``.

        Raises
        ------
        DataError
            If there is no such metric.
        """
        if isinstance(given, str):
            return cls({_metric(given): None}, True)
        if callable(given):
            return cls({"score": given}, True)
        if isinstance(given, Mapping):
            pairs = [(str(name), each) for name, each in given.items()]
        elif isinstance(given, list | tuple | set):
            pairs = [(str(each), each) for each in given]
        else:
            pairs = []
        if not pairs:
            raise DataError(
                f"scoring must be one of {sorted(METRICS)}, a function of the model, a list of names, or a dict; "
                f"got {given!r}."
            )
        scorers: dict[str, Scorer | None] = {}
        for name, each in pairs:
            if callable(each):
                scorers[name] = each
            elif _metric(each) != _metric(name if name in METRICS else each):
                raise DataError(f"scoring: {name!r} is the name of a metric, and {each!r} is another one.")
            else:
                scorers[_metric(each)] = None
        return cls(scorers, False)

    @property
    def names(self) -> list[str]:
        """The names of the scores in the results."""
        return ["score"] if self.is_one else list(self.scorers)

    def check(self, roles: ForgetRetain, oracle: Any) -> None:
        """Refuse a search that lacks what its scores need, before anything is computed.

        Raises
        ------
        DataError
            It says what is missing.
        """
        for name in self._metrics():
            if METRICS[name].compares and oracle is None:
                raise DataError(NO_ORACLE.format(name=name))
            for role in (ROLES[part] for part in METRICS[name].sets):
                source = getattr(roles, role)
                if source is None or isinstance(source, Measured):
                    got = "nothing" if source is None else f"an {type(source).__name__}"
                    held_out = ", samples that are in neither of the others" if role == "validation" else ""
                    raise DataError(NO_SAMPLES.format(name=name, role=role, got=got, beside=held_out))

    def goal(self, oracle: Any, roles: ForgetRetain) -> Mapping[str, float] | None:
        """Return the oracle's accuracies, measured once for all candidates; of several, their means.

        Raises
        ------
        DataError
            If `oracle` is neither models nor what one reaches.
        """
        if oracle is None or not any(METRICS[name].compares for name in self._metrics()):
            return None
        if isinstance(oracle, Mapping):
            tow(dict.fromkeys(ROLES, 0.0), oracle)  # checks it: once, and not in every candidate
            return oracle
        models = (
            list(oracle) if isinstance(oracle, Iterable) and not isinstance(oracle, nn.Module) else [oracle]
        )
        if not models or not all(isinstance(one, nn.Module) for one in models):
            raise DataError(
                "oracle is a model, several of them, or a mapping of their accuracies under 'forget', 'retain' and "
                f"'test'; got {oracle!r}."
            )
        found = [_accuracies(one, roles, tuple(ROLES)) for one in models]
        return {part: sum(one[part] for one in found) / len(found) for part in ROLES}

    def scores(
        self, model: nn.Module, estimator: Unlearner, roles: ForgetRetain, goal: Mapping[str, float] | None
    ) -> dict[str, float]:
        """Return every score, by name, of a model that has forgotten.

        Raises
        ------
        DataError
            If a function of the user's returns no number.
        """
        metrics = self._metrics()
        sets = {part for name in metrics for part in METRICS[name].sets}
        accuracies = _accuracies(model, roles, [part for part in ROLES if part in sets])
        found = {}
        for name, scorer in self.scorers.items():
            # a copy: a scorer may train the model, hook into it, or leave it in another mode
            value = scorer(copy_of(model)) if scorer else METRICS[name].value(accuracies, goal, estimator)
            found["score" if self.is_one else name] = _number(value, name)
        return found

    def _metrics(self) -> list[str]:
        return [name for name, scorer in self.scorers.items() if scorer is None]


def _metric(name: Any) -> str:
    known = "neg_avg_gap" if name == "avg_gap" else name
    if known not in METRICS:
        raise DataError(
            f"there is no scoring {name!r}: choose from {sorted(METRICS)}, or pass a function of the model that "
            "returns a number, the higher the better."
        )
    return str(known)


def _accuracies(model: nn.Module, roles: ForgetRetain, sets: Sequence[str]) -> dict[str, float]:
    return {part: accuracy(model, getattr(roles, ROLES[part])) for part in sets}


def _number(value: Any, name: str) -> float:
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise DataError(f"the scorer {name!r} must return a number, got {value!r}.") from error
