# SPDX-License-Identifier: BSD-3-Clause
"""Looking through a model that has begun to learn: wrong labels show before they are memorised."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from sklearn.base import clone
from torch import nn

from unlearnkit.data import Batch, Loss, Partition, as_loader, preserved_rng
from unlearnkit.exceptions import DataError, SeparationWarning, UnsupportedModuleError, warn
from unlearnkit.finding import Finder, MixtureFinder
from unlearnkit.gradients.reference import measured_parameters
from unlearnkit.methods._checks import check_choice, check_count, check_number, check_seed
from unlearnkit.methods._fresh import Factory, check_factory
from unlearnkit.methods._run import Run, derived
from unlearnkit.methods._trainer import Optimizers
from unlearnkit.methods._training import OPTIMIZER
from unlearnkit.methods._witness import WitnessTraining
from unlearnkit.parameters import copy_of, unwrap
from unlearnkit.selection import ParameterMask

WARM_UP = 0xAB1E
"""Sets the seed of this training apart from those of others."""

STEPS, LEAST = 150, 4
"""How many steps, and how many epochs, teach a model what most of the data says, and not yet each sample."""

PLAIN = 2.0
"""From which separation on the model's own view is enough. Labels known by heart in part may be told from the
others at 1, and much better by a copy."""


class WarmUpFinder(Finder):
    """Look through the model, and where it hides the noise, through a copy that has begun to learn.

    A model that was trained for long knows its wrong labels by heart: their losses are as small as
    any. One of the same form, newly initialised and trained on the same data for a few epochs,
    has learned what most samples say, and the others stand out.

    Parameters
    ----------
    finder : Finder, optional
        What divides; :class:`MixtureFinder` where left out.
    epochs : int, optional
        How long the copy is trained; where left out 150 steps, and 4 epochs at least.
    when : {"hidden", "always"}, default="hidden"
        Whether a copy is trained only where the parts do not lie plainly apart for the model itself:
        twice as far as :attr:`Partition.separation` must be to count.
    lr : float, default=0.001
    batch_size : int or "loader", default=64
    optimizer : {"sgd", "adam", "adamw"} or callable, default="adam"
        As of the methods that train.
    factory : callable, optional
        ``factory() -> model`` builds your model anew, or loads the pretrained one: where the copy
        begins. Without it new weights come from each module's ``reset_parameters``.
    random_state : int, optional
        Fixes all that is drawn.

    Attributes
    ----------
    looked_at_ : {"model", "copy"}
        What the partition comes from: the view that separates the parts, of two the one in which
        they lie farther apart.

    Notes
    -----
    That networks fit correct labels first: Arpit et al., "A Closer Look at Memorization in Deep
    Networks", arXiv 1706.05394.

    Examples
    --------
    >>> from unlearnkit import RLAP, MixtureFinder, WarmUpFinder
    >>> RLAP(finder=WarmUpFinder(MixtureFinder("loss"), epochs=5))
    RLAP(finder=WarmUpFinder(epochs=5, finder=MixtureFinder(features='loss')))
    """

    def __init__(
        self,
        finder: Finder | None = None,
        epochs: int | None = None,
        when: Literal["hidden", "always"] = "hidden",
        lr: float = 0.001,
        batch_size: int | Literal["loader"] = 64,
        optimizer: Optimizers = "adam",
        factory: Factory | None = None,
        random_state: int | None = None,
    ) -> None:
        self.finder = finder
        self.epochs = epochs
        self.when = when
        self.lr = lr
        self.batch_size = batch_size
        self.optimizer = optimizer
        self.factory = factory
        self.random_state = random_state

    def find(
        self, model: nn.Module, data: Any, loss: Loss | None = None, progress: bool = False
    ) -> Partition:
        """Divide `data` into a clean and a noisy part; the model is left as it was.

        Parameters
        ----------
        model : nn.Module
            Trained on `data`.
        data : DataLoader, Dataset or (X, y)
        loss : callable, optional
            ``loss(model, batch) -> Tensor [N]``, cross-entropy where left out.
        progress : bool
            Show progress bars.

        Returns
        -------
        Partition

        Raises
        ------
        DataError
            If a parameter is none of those it can be, the copy's training diverges; and as the finder.
        UnsupportedModuleError
            If ``when="always"`` and no new initial weights can be had; and as the finder.

        Warns
        -----
        SeparationWarning
            If the two parts are hardly to be told from each other.
        """
        self._validate()
        source, finder = as_loader(data), with_seed(self.finder or MixtureFinder(), self.random_state)
        views: list[View] = []
        if self.when == "hidden":
            views.append(View("model", *_quietly(finder, model, source, loss, progress)))
        if not views or not _is_plain(views[0].found):
            try:
                copy = self._trained(unwrap(model), source, loss, progress)
                views.append(View("copy", *_quietly(finder, copy, source, loss, progress)))
            except (UnsupportedModuleError, DataError) as error:
                if not views:
                    raise
                if not views[0].found.is_separated:
                    warn(
                        f"no copy could be trained, through which more might show: {error}", SeparationWarning
                    )
        clearest = max(views, key=lambda view: (view.found.is_separated, view.found.separation or 0.0))
        self.looked_at_ = clearest.of
        for warning in clearest.told:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
        return clearest.found

    def _trained(
        self, model: nn.Module, data: Iterable[Batch], loss: Loss | None, progress: bool
    ) -> nn.Module:
        """Return a newly initialised copy of the model, trained a little on all of the data.

        Parameters that do not require a gradient keep their values, and so do the statistics of
        BatchNorm to begin with.
        """
        measured_parameters(model)
        with preserved_rng(data), torch.inference_mode(False):
            training = WarmUp(
                lr=self.lr,
                batch_size=self.batch_size,
                optimizer=self.optimizer,
                weight_decay=0.0,
                factory=self.factory,
                progress=progress,
                random_state=self.random_state,
            )
            training.mask_ = ParameterMask.everything(model)
            size = None if self.batch_size == "loader" else self.batch_size
            seed = derived(training._seed(), WARM_UP)
            run = Run(copy_of(model), model, None, data, size, loss, seed)
            training.epochs = self.epochs or max(LEAST, -(-STEPS // len(run.retain)))
            training._train(run, training.mask_)
        return run.model.eval()

    def _validate(self) -> None:
        if self.finder is not None and not isinstance(self.finder, Finder):
            raise DataError(f"finder must be a Finder such as MixtureFinder(), got {self.finder!r}.")
        check_choice("when", self.when, ("hidden", "always"))
        if self.epochs is not None:
            check_count("epochs", self.epochs)
        check_number("lr", self.lr)
        if self.batch_size != "loader":
            check_count("batch_size", self.batch_size, 1, "'loader' or a whole number")
        if not callable(self.optimizer) or isinstance(self.optimizer, type):
            check_choice("optimizer", self.optimizer, ("sgd", "adam", "adamw"), OPTIMIZER)
        check_factory(self.factory)
        check_seed("random_state", self.random_state)


@dataclass(kw_only=True, eq=False, repr=False)
class WarmUp(WitnessTraining):
    """Resets all that can be, and trains it on data given as the retain set; there is no forget set to look at."""

    _bar: ClassVar[str] = "warm-up"

    def _begin(self, run: Run) -> None:
        self._reset(run)


def with_seed(finder: Finder, seed: int | None) -> Finder:
    """Return a finder that draws by a seed, if it has none of its own."""
    if seed is None or finder.get_params(deep=False).get("random_state", 0) is not None:
        return finder
    return clone(finder).set_params(random_state=seed)


def _is_plain(found: Partition) -> bool:
    """Tell whether the parts lie so far apart that no other view is needed."""
    return found.is_separated and (found.separation is None or found.separation >= PLAIN)


class View(NamedTuple):
    """What was found through one model, and what is to be told if that is the result."""

    of: Literal["model", "copy"]
    found: Partition
    told: list[warnings.WarningMessage]


def _quietly(
    finder: Finder, model: nn.Module, data: Any, loss: Loss | None, progress: bool
) -> tuple[Partition, list[warnings.WarningMessage]]:
    """Return what is found, and what is to be told if that is the result; other warnings are given at once."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", SeparationWarning)  # others as the caller has set it
        found = finder.find(model, data, loss, progress)
    held = [warning for warning in caught if issubclass(warning.category, SeparationWarning)]
    for warning in caught:
        if warning not in held:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    return found, held
