# SPDX-License-Identifier: BSD-3-Clause
"""The base of every method: one public verb checks, one private hook computes."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from typing import Any, ClassVar, Literal, TypeVar, overload

import torch
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted
from torch import nn

from unlearnkit.data import ForgetRetain, Loss, Measured, device_of, evaluating, sample_of, to_device
from unlearnkit.edit import WeightEdit
from unlearnkit.exceptions import CollapseWarning, DataError
from unlearnkit.metrics import Timer, accuracy_from_logits, predict_logits
from unlearnkit.parameters import unwrap

M = TypeVar("M", bound=nn.Module)
Self = TypeVar("Self", bound="Unlearner")

COLLAPSE = 0.1
"""A loss of accuracy on what should be kept of which a user must know."""


class Unlearner(BaseEstimator):  # type: ignore[misc]
    """Base of the methods: learns a :class:`~unlearnkit.WeightEdit` from a model and its data.

    A method implements :meth:`_fit`, and :meth:`_measure` where part of the work serves every setting of its
    parameters, as in a search. Everything else is done here, once: the arguments of ``fit`` are resolved,
    the model is kept as it was, and an edit that ruins what should be kept is reported.

    Attributes
    ----------
    edit_ : WeightEdit
        What ``fit`` has learned.
    seconds_ : float
        How long that took.
    """

    needs_retain: ClassVar[Literal["data", "importance", "nothing"]] = "importance"
    """What the method must know of the retain set."""

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
    def fit(
        self: Self, model: nn.Module, forget: Any, /, *, retain: Any, validation: Any = None
    ) -> Self: ...
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
        *data : one or two of: DataLoader, Dataset, (X, y), Importance
            ``fit(model, forget)`` or ``fit(model, retain, forget)``.
        retain, forget : the same, by keyword
            Where retain is left out, it is the rest of the ``Subset`` that forget draws from. An
            :class:`~unlearnkit.Importance` in its place is that of the whole training set, the forget set
            included.
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
        if not isinstance(model, nn.Module):
            raise TypeError(
                f"the first argument of fit is the model, a torch.nn.Module; got {type(model).__name__}."
            )
        for name in [name for name in vars(self) if name.endswith("_") and name != "lambda_"]:
            delattr(self, name)  # a fit that fails must not leave the result of an earlier one
        self._validate()
        roles = ForgetRetain.resolve(data, retain, forget, validation)
        if self.needs_retain == "data" and (roles.retain is None or isinstance(roles.retain, Measured)):
            raise DataError(
                f"{type(self).__name__} trains on the retain set, so it needs the samples themselves: pass "
                "fit(model, retain, forget). ASSD and SSD can work from a stored importance."
            )
        inner = unwrap(model)
        with Timer() as timer:
            measured = self._measure(inner, roles)
            self.edit_ = self._fit(inner, roles, measured)
        self.seconds_ = timer.seconds
        self._warn_of_collapse(inner, roles)
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

    def _validate(self) -> None:
        """Check the parameters. Overridden where there are any."""

    def _measure(self, model: nn.Module, roles: ForgetRetain) -> Any:
        """Return what serves every setting of the method's parameters. Overridden where something does."""
        return None

    @abstractmethod
    def _fit(self, model: nn.Module, roles: ForgetRetain, measured: Any) -> WeightEdit:
        """Return the edit; `model` must be left as it is."""

    def _warn_of_collapse(self, model: nn.Module, roles: ForgetRetain) -> None:
        kept, name = roles.retain, "retain"
        if kept is None or isinstance(kept, Measured):
            kept, name = roles.validation, "validation"
        if kept is None or len(self.edit_) == 0:
            return
        part = sample_of(kept, 1024)
        edited = self.edit_.apply(model)
        if self.loss is not None:
            before, after = (_mean_loss(m, part, self.loss) for m in (model, edited))
            if not after <= 2 * before + 0.1:
                self._say_collapse(f"the mean loss on {name} samples rose from {before:.3g} to {after:.3g}")
            return
        before, after = (accuracy_from_logits(*predict_logits(m, part)) for m in (model, edited))
        if after < before - COLLAPSE:
            self._say_collapse(f"accuracy on {name} samples fell from {before:.1%} to {after:.1%}")

    def _say_collapse(self, what: str) -> None:
        warnings.warn(
            f"{what}: the edit damages what should be kept. {self._milder()}", CollapseWarning, stacklevel=4
        )

    def _milder(self) -> str:
        """Say which parameter makes the edit milder."""
        return "Choose a milder setting, or repair the model by fine-tuning on the retain set."


@torch.no_grad()
def _mean_loss(model: nn.Module, data: Any, loss: Loss) -> float:
    device = device_of(model)
    with evaluating(model):
        losses = [loss(model, to_device(batch, device)) for batch in data]
    return float(torch.cat(losses).double().mean())
