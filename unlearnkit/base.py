# SPDX-License-Identifier: BSD-3-Clause
"""The base of every method: one public verb checks, one private hook computes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, ClassVar, Literal, TypeVar, overload

import torch
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted
from torch import nn

from unlearnkit._hidden import hidden_from_sklearn
from unlearnkit.data import (
    Batch,
    ForgetRetain,
    Loss,
    Measured,
    cross_entropy,
    device_of,
    evaluating,
    labels,
    preserved_rng,
    sample_of,
    shared,
    to_device,
)
from unlearnkit.edit import WeightEdit
from unlearnkit.exceptions import CollapseWarning, DataError, IneffectiveWarning, warn
from unlearnkit.metrics import Timer, accuracy, evaluate
from unlearnkit.parameters import unwrap

M = TypeVar("M", bound=nn.Module)
Self = TypeVar("Self", bound="Unlearner")

COLLAPSE = 0.1
"""A loss of accuracy on what should be kept of which a user must know."""

SAMPLES = 1024
"""How many samples are looked at for that."""


class Unlearner(BaseEstimator):
    """Base of the methods: learns a :class:`~unlearnkit.WeightEdit` from a model and its data.

    A method implements :meth:`_fit`, and :meth:`_measure` where part of the work serves every
    setting of its parameters, as in a search. Everything else is done here, once: the arguments of
    ``fit`` are resolved, the model is kept as it was, and an edit that ruins what should be kept is
    reported.

    Attributes
    ----------
    edit_ : WeightEdit
        What ``fit`` has learned.
    seconds_ : float
        How long that took.
    """

    needs_retain: ClassVar[Literal["data", "importance", "nothing"]] = "importance"
    """What the method must know of the retain set."""

    finds_forget: ClassVar[bool] = False
    """Whether ``fit(model, data)`` means data of which the method finds out what is to be forgotten."""

    loss: Loss | None = None

    @overload
    def fit(self: Self, model: nn.Module, forget: Any, /, *, validation: Any = None) -> Self: ...
    @overload
    def fit(self: Self, model: nn.Module, retain: Any, forget: Any, /, *, validation: Any = None) -> Self: ...
    @overload
    def fit(
        self: Self, model: nn.Module, *, forget: Any, retain: Any = None, validation: Any = None
    ) -> Self: ...
    @overload
    def fit(self: Self, model: nn.Module, forget: Any, /, *, retain: Any, validation: Any = None) -> Self: ...
    def fit(
        self: Self,
        model: nn.Module,
        *data: Any,
        retain: Any = None,
        forget: Any = None,
        validation: Any = None,
    ) -> Self:
        """Learn how to make `model` forget; the model itself is left bit by bit as it was.

        Parameters
        ----------
        model : nn.Module
        *data : one or two of: DataLoader, Dataset, (X, y), Importance; or a Partition
            ``fit(model, forget)``, ``fit(model, retain, forget)`` or ``fit(model, partition)``.
        retain, forget : the same, by keyword
            Where retain is left out, it is the rest of the data set that forget is a ``Subset`` of.
            An :class:`~unlearnkit.Importance` in its place is that of the whole training set, the
            forget set included.
        validation : DataLoader, Dataset or (X, y), optional
            Held-out samples.

        Returns
        -------
        self

        Raises
        ------
        TypeError
            If the arguments are none of the forms above.
        DataError
            If data is empty, missing, or does not fit the model.
        UnsupportedModuleError
            If the model cannot be measured exactly.
        """
        self._prepare()
        if not isinstance(model, nn.Module):
            raise TypeError(
                f"the first argument of fit is the model, a torch.nn.Module; got {type(model).__name__}. To "
                "choose among parameters or methods, use unlearnkit.UnlearnSearch: scikit-learn's searches cut "
                "samples into folds, and forgetting has none."
            )
        inner = unwrap(model)
        with Timer() as finding:
            roles = self._roles(inner, data, retain, forget, validation)
        self._check(roles)
        with _apart(roles):
            with Timer() as timer:
                edit = self._fit(inner, roles, self._measure(inner, roles))
            self.edit_, self.seconds_ = edit, finding.seconds + timer.seconds
            try:
                self._warn_of_collapse(inner, roles)
            except DataError:
                self._forget_fit()  # an edit that ends in NaN is none
                raise
        return self

    def transform(self, model: M) -> M:
        """Return a copy of `model` that has forgotten.

        Raises
        ------
        NotFittedError
            Before ``fit``.
        EditMismatchError
            If it is not the model that was fitted.
        """
        check_is_fitted(self, "edit_")
        return self.edit_.apply(model)

    def fit_transform(self, model: M, *data: Any, **named: Any) -> M:
        """Fit, and return the copy that has forgotten: ``fit(...).transform(model)``."""
        return self.fit(model, *data, **named).transform(model)

    @hidden_from_sklearn
    def score(
        self,
        model: nn.Module,
        *,
        retain: Any,
        forget: Any,
        test: Any,
        oracle: nn.Module | Mapping[str, float],
    ) -> float:
        """Return how close `model` comes, once it has forgotten, to one that was retrained: the tug of war.

        Parameters
        ----------
        model : nn.Module
            The model that was fitted.
        retain, forget, test, oracle
            As of :func:`unlearnkit.metrics.evaluate`.

        Returns
        -------
        float
            In [0, 1]; 1 is what retraining gives. See :func:`unlearnkit.metrics.tow`.
        """
        return evaluate(self.transform(model), retain=retain, forget=forget, test=test, oracle=oracle)["tow"]

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "edit_")

    def _prepare(self) -> None:
        """Drop earlier results, and check the parameters."""
        self._forget_fit()
        if self.loss is not None and not callable(self.loss):
            raise DataError(
                "loss must be a function loss(model, batch) that returns one value a sample, got "
                f"{self.loss!r}."
            )
        self._validate()

    def _check(self, roles: ForgetRetain) -> None:
        """Refuse roles that this method cannot work with."""
        if self.needs_retain != "data":
            return
        if not _is_data(roles.retain):
            got = "nothing" if roles.retain is None else f"an {type(roles.retain).__name__}"
            raise DataError(
                f"{type(self).__name__} looks at the samples of the retain set, so it needs them "
                f"themselves, and got {got}: pass fit(model, retain, forget). ASSD and SSD can "
                "work from a stored importance."
            )
        if common := shared(roles.retain, roles.forget):
            warn(
                f"{common:,} samples of the forget set are in the retain set too, and {type(self).__name__} "
                "trains to keep them: leave them out of retain.",
                IneffectiveWarning,
            )

    def _measure_apart(self, model: nn.Module, roles: ForgetRetain) -> Any:
        """Return what every candidate of a search needs that agrees in :meth:`_shares`."""
        with _apart(roles):
            return self._measure(model, roles)

    def _fit_apart(self, model: nn.Module, roles: ForgetRetain, measured: Any) -> None:
        """Fit on what was measured before, as a search does with each of its candidates."""
        with _apart(roles), Timer() as timer:
            edit = self._fit(model, roles, measured)
        self.edit_, self.seconds_ = edit, timer.seconds

    def _shares(self) -> Hashable:
        """Say what :meth:`_measure` depends on, beside the model and the data.

        In a search, candidates that agree in it share one measurement. None: nothing is shared.
        """
        return None

    def _forget_fit(self) -> None:
        """Drop the results of an earlier fit: one that fails must not leave them standing."""
        parameters = self.get_params(deep=False)  # lambda_ is one of them
        for name in [name for name in vars(self) if name.endswith("_") and name not in parameters]:
            delattr(self, name)

    def _validate(self) -> None:
        """Check the parameters. Overridden where there are any."""

    def _roles(
        self, model: nn.Module, data: tuple[Any, ...], retain: Any, forget: Any, validation: Any
    ) -> ForgetRetain:
        """Return who is who among the arguments of ``fit``. Overridden where that is to be found out."""
        return ForgetRetain.resolve(data, retain, forget, validation)

    def _measure(self, model: nn.Module, roles: ForgetRetain) -> Any:
        """Return what serves every setting of the parameters. Overridden where something does."""
        return None

    @abstractmethod
    def _fit(self, model: nn.Module, roles: ForgetRetain, measured: Any) -> WeightEdit:
        """Return the edit; `model` must be left as it is."""

    def _warn_of_collapse(self, model: nn.Module, roles: ForgetRetain) -> None:
        kept, name = roles.retain, "retain"
        if not _is_data(kept):
            kept, name = roles.validation, "validation"
        if kept is None or len(self.edit_) == 0:
            return
        part = sample_of(kept, SAMPLES)  # type: ignore[arg-type]
        first = next(iter(part), None)
        if first is None:
            return
        is_accuracy = self.loss is None and _has_classes(first)
        measure = accuracy if is_accuracy else partial(_mean_loss, loss=self.loss or cross_entropy)
        try:
            before = measure(model, part)
        except DataError:
            if self.loss is not None:
                raise
            return  # a method without labels, on another task than classification: nothing to compare
        after = measure(self.edit_.apply(model), part)
        if is_accuracy:
            collapsed = after < before - COLLAPSE
            what = f"accuracy on {name} samples fell from {before:.1%} to {after:.1%}"
        else:
            collapsed = not after <= 2 * before + 0.1  # also where it is NaN
            what = f"the mean loss on {name} samples rose from {before:.3g} to {after:.3g}"
        if collapsed:
            warn(f"{what}: the edit damages what should be kept. {self._milder()}", CollapseWarning)

    def _milder(self) -> str:
        """Say which parameter makes the edit milder."""
        return "Choose a milder setting, or repair the model by fine-tuning on the retain set."


@contextmanager
def _apart(roles: ForgetRetain) -> Iterator[None]:
    """Keep the caller's random state and modes out of what is computed, and that out of them.

    The walk over a loader draws random numbers, even without shuffling; and a caller may have
    switched gradients off, which inference mode does beyond what enable_grad can mend.
    """
    with preserved_rng(roles.forget, roles.retain, roles.validation), torch.inference_mode(False):
        yield


def identity(value: Any) -> Hashable:
    """Return what tells settings apart: estimators by their parameters, all else by value, or as an object."""
    if isinstance(value, BaseEstimator):
        given = value.get_params(deep=False)
        return type(value), tuple((name, identity(given[name])) for name in sorted(given))
    try:
        hash(value)
    except TypeError:
        return id(value)
    return type(value), value


def _is_data(source: Any) -> bool:
    return source is not None and not isinstance(source, Measured)


def _has_classes(batch: Batch) -> bool:
    """Tell whether a sample has one class, so that there is an accuracy."""
    target = labels(batch)
    return target.dim() == 1 and not target.is_floating_point()


@torch.no_grad()
def _mean_loss(model: nn.Module, data: Any, loss: Loss) -> float:
    device = device_of(model)
    with evaluating(model):
        losses = [loss(model, to_device(batch, device)) for batch in data]
    return float(torch.cat(losses).double().mean())
