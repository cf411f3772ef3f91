# SPDX-License-Identifier: BSD-3-Clause
"""How an oracle comes about: what the key holds of it, and the training."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from itertools import islice
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import torch
from sklearn.base import clone
from torch import Tensor, nn

from unlearnkit.data import Batch, as_loader, in_order, preserved_rng, seed_rng
from unlearnkit.edit.sources import check_same_form
from unlearnkit.exceptions import DataError, EditMismatchError
from unlearnkit.methods import Retrain, Trainer
from unlearnkit.oracles._fingerprint import form_of, is_indexed
from unlearnkit.parameters import named_tensors, unwrap

Train = Callable[[Any, int], nn.Module]
Factory = Callable[[], nn.Module]

NO_SETTINGS = ("factory", "progress", "random_state", "trainer")
CHECKPOINT = "checkpoint.pt"


def recipe_of(train: Any, text: str | None, factory: Factory | None) -> Recipe:
    """Return the recipe of what a bank was given.

    Raises
    ------
    DataError
        If something is missing by which its models could be told from others, or built again.
    """
    if text is not None and not (isinstance(text, str) and text.strip()):
        raise DataError(f"recipe must be a text that describes the training, got {text!r}.")
    if isinstance(train, Retrain):
        if factory is not None:
            raise DataError("Retrain has a factory of its own: leave out the bank's factory=.")
        return ByRetrain(train, text)
    if isinstance(train, type) or not callable(train):
        raise DataError(
            f"train must be Retrain(...) or a function train(data, seed) that returns a model, got {train!r}."
        )
    if text is None:
        raise DataError(
            "a function needs recipe=, a text that changes whenever the training does, such as 'sgd 0.1, 30 epochs, "
            "v2': neither its name nor its source tells what it reads and calls."
        )
    if not callable(factory):
        raise DataError(
            "a function needs factory=, which builds the untrained model, so that kept weights find a model again; "
            f"got {factory!r}."
        )
    return ByFunction(train, text, factory)


class Recipe(ABC):
    """A training, and what it is told from others by.

    Attributes
    ----------
    text : str
        What counts of the settings, in words.
    """

    text: str
    factory: Factory

    def build(self, seed: int = 0) -> nn.Module:
        """Return what the factory makes with random generators so seeded; the caller's stay as they are.

        Raises
        ------
        DataError
            If it makes no model.
        """
        with preserved_rng(), torch.inference_mode(False):
            seed_rng(seed)
            made = self.factory()
        if not isinstance(made, nn.Module):
            raise DataError(f"factory must return a newly built model, got {type(made).__name__}.")
        return made

    @cached_property
    def form(self) -> str:
        """The digest of what the factory builds."""
        return form_of(self.build)

    def with_state(self, state: Mapping[str, Tensor]) -> nn.Module:
        """Return a model with these tensors, in eval mode."""
        model = self.build()
        with torch.no_grad():
            for name, tensor in named_tensors(model).items():
                tensor.copy_(state[name])
        return model.eval()

    def state(self, data: Any, seed: int, folder: Path) -> dict[str, Tensor]:
        """Train, and return parameters and buffers by name; `folder` is for what the training keeps meanwhile.

        Raises
        ------
        DataError
            If there comes out no model, one of another form, or one with NaN or infinite weights.
        """
        loader = as_loader(data, name="retain")
        with preserved_rng(loader), torch.inference_mode(False), torch.enable_grad():
            trained = self._trained(data, seed, folder)
        if not isinstance(trained, nn.Module):
            raise DataError(f"train must return a model, got {type(trained).__name__}.")
        state = named_tensors(unwrap(trained))
        try:
            check_same_form(named_tensors(self.build()), state)
        except EditMismatchError as error:
            raise DataError(f"train returns a model of another form than factory builds: {error}") from error
        for name, tensor in state.items():
            if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
                raise DataError(f"{name} holds NaN or infinite values after training: it has diverged.")
        return state

    @abstractmethod
    def batched(self, loader: Iterable[Batch]) -> bool:
        """Tell whether the sizes of the data's batches make a difference to the training."""

    @abstractmethod
    def _trained(self, data: Any, seed: int, folder: Path) -> Any:
        """Return the trained model."""


class ByFunction(Recipe):
    """A function of the user's, described by a text of the user's."""

    def __init__(self, train: Train, text: str, factory: Factory) -> None:
        self.train, self.text, self.factory = train, text, factory

    def batched(self, loader: Iterable[Batch]) -> bool:
        """Tell whether the batches are what was given."""
        return not is_indexed(loader)

    def _trained(self, data: Any, seed: int, folder: Path) -> Any:
        seed_rng(seed, data)
        return self.train(data, seed)


class ByRetrain(Recipe):
    """The estimator, described by its parameters."""

    def __init__(self, estimator: Retrain, text: str | None) -> None:
        if not callable(estimator.factory):
            raise DataError(
                f"Retrain needs factory=, a function that builds your model anew; got {estimator.factory!r}."
            )
        self.estimator, self.factory = clone(estimator), estimator.factory
        settings = {k: v for k, v in estimator.get_params(deep=False).items() if k not in NO_SETTINGS}
        trainer = (estimator.trainer or Trainer()).get_params(deep=False)
        del trainer["checkpoint"]  # it does not change what comes out
        unknown = [name for name, value in {**settings, **trainer}.items() if not _is_plain(value)]
        if unknown and text is None:
            raise DataError(
                f"{type(estimator).__name__}({unknown[0]}=...) is a function, of which the bank cannot tell what it "
                "does: add recipe=, a text that changes whenever the function, or what it reads and calls, does."
            )
        said = [f"{type(estimator).__name__}({_listed(settings)})", f"Trainer({_listed(trainer)})"]
        self.text = "; ".join([text, *said] if text else said)

    def batched(self, loader: Iterable[Batch]) -> bool:
        """Tell whether training takes the batches as they come."""
        return self.estimator.batch_size == "loader" or not is_indexed(loader)

    def _trained(self, data: Any, seed: int, folder: Path) -> Any:
        estimator = clone(self.estimator).set_params(random_state=seed)
        if estimator.trainer is not None and estimator.trainer.checkpoint is not None:
            estimator.trainer.set_params(checkpoint=folder / CHECKPOINT)  # a file for each seed
        model = self.build(seed)
        # some batch in the place of a forget set, which Retrain does not train on
        batches = list(islice(in_order(data), 1))
        if not batches:
            raise DataError("retain is empty: it yielded no sample. Check its indices or filter.")
        return estimator.fit(model, retain=data, forget=batches).transform(model)


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, str | Real)


def _listed(settings: Mapping[str, Any]) -> str:
    given = {name: value for name, value in sorted(settings.items()) if value is not None}
    return ", ".join(f"{name}={_shown(value)}" for name, value in given.items())


def _shown(value: Any) -> str:
    if isinstance(value, bool | str):
        return repr(value)
    if isinstance(value, Integral):
        return str(int(value))
    if isinstance(value, Real):  # a number of NumPy's shows its class
        return repr(float(value))
    return f"<{getattr(value, '__qualname__', type(value).__qualname__)}>"
