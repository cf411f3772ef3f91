# SPDX-License-Identifier: BSD-3-Clause
"""Retrained models and their logits on disk, for all who compare with them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from unlearnkit.data import Batch, in_order, preserved_rng
from unlearnkit.exceptions import DataError
from unlearnkit.methods import Retrain
from unlearnkit.metrics import Timer, predict_logits
from unlearnkit.oracles._fingerprint import digest_of, fingerprint, loader_of, samples_of
from unlearnkit.oracles._recipe import Factory, Train, recipe_of
from unlearnkit.oracles._slot import ORACLE, VERSION, Slot
from unlearnkit.oracles._status import rows, table

PAUSE = 0.2  # seconds until another look at what other processes are training


@dataclass(frozen=True)
class _Request:
    """Oracles of one data set: their key, and what their files say of them."""

    retain: Any
    key: str
    about: dict[str, Any]


class OracleBank:
    """Models trained on retain sets, each trained once and then kept in a folder.

    An oracle is named by the samples it is trained on, in order; the recipe; what the factory builds;
    and the seed. Whatever asks for it again, in this process or another, gets the same weights. Any
    number of processes may share the folder: none trains what another is training. One that is
    killed, kill -9 included, leaves nothing half done.

    Parameters
    ----------
    folder : path
        Made with the first oracle.
    train : Retrain, or callable ``train(data, seed) -> nn.Module``
        A :class:`~unlearnkit.Retrain` is described by its parameters; its ``random_state`` gives way to
        the seed. A function gets `retain` as it was given, and torch, NumPy and Python seeded.
    recipe : str, optional
        Describes the training, and is to change when it does. Needed with a function, and with a
        Retrain that holds one beside its factory (``loss``, ``optimizer``, ``schedule``, ``monitor``).
    data_key : callable, optional
        ``data_key(data) -> str``, for data that is another at each walk (augmentation), or takes long to
        read: a text that no other data has. Without it the samples are read twice and digested.
    factory : callable, optional
        ``factory() -> nn.Module`` builds the untrained model; needed with a function.
    progress : bool
        Show a bar over oracles.

    Notes
    -----
    What a factory builds is known by its modules' ``repr``, its tensors' names, shapes and dtypes, and the
    values of those that do not depend on the seed (pretrained weights). A change in ``forward``, in
    the scale of an initialisation, or in the version of torch is not seen: say it in `recipe`. The
    device and, where samples are read by index, the loader's batches do not count either; with
    ``Retrain(batch_size="loader")`` they do.

    Locks are those of the operating system, so a folder on a network needs one that knows ``flock``.

    Examples
    --------
    >>> import tempfile, torch
    >>> from unlearnkit import OracleBank, Retrain
    >>> retain = torch.randn(20, 3), torch.arange(20) % 2
    >>> train = Retrain(factory=lambda: torch.nn.Linear(3, 2), epochs=1)
    >>> bank = OracleBank(tempfile.mkdtemp(), train)
    >>> logits, labels = bank.logits(retain, on=retain, seeds=range(3))
    >>> list(logits.shape)
    [3, 20, 2]
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        train: Retrain | Train,
        recipe: str | None = None,
        data_key: Callable[[Any], str] | None = None,
        *,
        factory: Factory | None = None,
        progress: bool = False,
    ) -> None:
        if not isinstance(folder, str | os.PathLike):
            raise DataError(f"folder must be a path, got {folder!r}.")
        if data_key is not None and not callable(data_key):
            raise DataError(
                f"data_key must be a function data_key(data) that returns a text, got {data_key!r}: one text for all "
                "data would hand out one retain set's oracle as another's."
            )
        self.folder, self.data_key, self.progress = Path(folder), data_key, progress
        self._recipe = recipe_of(train, recipe, factory)

    def model(self, retain: Any, seed: int) -> nn.Module:
        """Return one oracle; see :meth:`models`."""
        return next(self.models(retain, [seed]))

    def models(self, retain: Any, seeds: Iterable[int]) -> Iterator[nn.Module]:
        """Return the oracles of some seeds, once those that are not there have been trained.

        Parameters
        ----------
        retain : DataLoader, Dataset or (X, y)
            What is trained on.
        seeds : iterable of int
            Each once.

        Returns
        -------
        iterator of nn.Module
            Newly built, in eval mode, on the device on which the factory builds. Each is read from its file
            when its turn comes, so one is in memory at a time, unless you keep them.

        Raises
        ------
        DataError
            If `retain` is empty or another at each walk, a seed is none, or a training fails so.
        OSError
            If the folder or a file cannot be written.
        """
        wanted, request = _checked(seeds), self._request(retain)
        self._fill(request, wanted)
        slots = [self._slot(request, seed) for seed in wanted]
        return (self._recipe.with_state(slot.read(ORACLE)) for slot in slots)

    def fill(self, retain: Any, seeds: Iterable[int]) -> None:
        """Train what is not there, and return nothing.

        As :meth:`models`. Call it in several processes at once, with the same seeds, and they share the work.
        """
        wanted, request = _checked(seeds), self._request(retain)
        self._fill(request, wanted)

    def logits(
        self, retain: Any, on: Any, seeds: Iterable[int], *, keep: bool = True
    ) -> tuple[Tensor, Tensor]:
        """Return what the oracles say of some samples.

        Parameters
        ----------
        retain : DataLoader, Dataset or (X, y)
            What the oracles are trained on.
        on : DataLoader, Dataset or (X, y)
            The samples, N of them; read in their data set's order, shuffled or not.
        seeds : iterable of int
            Of the oracles, S of them, each once.
        keep : bool, default=True
            Keep the logits too, so that they need not be computed again, even where the file of the
            model was removed. Without it nothing but missing models is written.

        Returns
        -------
        logits : Tensor [S, N, K]
            On the CPU; one model is in memory at a time.
        labels : Tensor [N]

        Raises
        ------
        DataError, OSError
            As :meth:`models`; and if `on` is empty or another at each walk.
        """
        wanted, request = _checked(seeds), self._request(retain)
        slots = [self._slot(request, seed) for seed in wanted]
        loader = loader_of(on, "on")
        if keep:
            data, _ = self._named(on, loader, "on")
            name = f"logits-{data}"

            def make(slot: Slot) -> None:
                state = slot.recall(ORACLE) or self._train(request, slot)
                slot.write(name, {"on": data}, self._said(state, loader))

            self._share(slots, name, make)
            found = [slot.read(name) for slot in slots]
        else:
            self._fill(request, wanted)
            found = [self._said(slot.read(ORACLE), loader) for slot in slots]
        return torch.stack([one["logits"] for one in found]), found[0]["labels"]

    def seconds(self, retain: Any, seeds: Iterable[int]) -> list[float]:
        """Return how long each oracle's training took, once those that are not there have been trained.

        What ``evaluate(retrain_seconds=...)`` is to be given, if the machine was the same.
        """
        wanted, request = _checked(seeds), self._request(retain)
        self._fill(request, wanted)
        return [float(self._slot(request, seed).manifest(ORACLE)["seconds"]) for seed in wanted]

    def status(self) -> list[dict[str, Any]]:
        """Return what is in the folder, a row for each data set and recipe.

        Returns
        -------
        list of dict
            ``recipe`` (text), ``samples`` and ``data`` (how many were trained on, and their digest), ``seeds``
            (list), ``seconds`` (that training took, in all), ``bytes`` (of weights and logits), ``damaged`` (files
            that cannot be read), ``key`` (the name of the folder). ``pandas.DataFrame`` takes it.
        """
        return rows(self.folder)

    def __repr__(self) -> str:
        return f"OracleBank({str(self.folder)!r}): {table(self.status())}"

    def _request(self, retain: Any) -> _Request:
        loader = loader_of(retain, "retain")
        data, samples = self._named(retain, loader, "retain", self._recipe.batched(loader))
        about = {"data": data, "samples": samples, "recipe": self._recipe.text, "form": self._recipe.form}
        key = digest_of([VERSION, *(about[name] for name in ("data", "recipe", "form"))])
        return _Request(retain, key, {**about, "torch": torch.__version__})

    def _named(
        self, data: Any, loader: Iterable[Batch], name: str, batched: bool = False
    ) -> tuple[str, int | None]:
        """Return what tells data from other data, and how many samples it has, where that is known."""
        if self.data_key is None:
            return fingerprint(loader, name, batched)
        said = self.data_key(data)
        if not isinstance(said, str) or not said:
            raise DataError(f"data_key must be a function that returns a text, and it returned {said!r}.")
        size = samples_of(loader)  # so that a text for all sets at least mixes up none of other sizes
        return digest_of([said, size]), size

    def _slot(self, request: _Request, seed: int) -> Slot:
        return Slot(self.folder, request.key, seed)

    def _fill(self, request: _Request, seeds: list[int]) -> None:
        slots = [self._slot(request, seed) for seed in seeds]
        self._share(slots, ORACLE, lambda slot: self._train(request, slot))

    def _share(self, slots: list[Slot], name: str, make: Callable[[Slot], Any]) -> None:
        """Make what is not there, but first of all what no other process is making."""
        left = slots
        with tqdm(total=len(slots), desc="oracles", disable=not self.progress, leave=False) as bar:
            while left:
                left = [slot for slot in left if not self._there(slot, name, make, bar)]
                if left:
                    time.sleep(PAUSE)

    def _there(self, slot: Slot, name: str, make: Callable[[Slot], Any], bar: Any) -> bool:
        """Tell whether something is there at last; False where another process holds its lock."""
        if not slot.has(name):
            with slot.claimed() as mine:
                if not mine:
                    return False
                if slot.recall(name) is None:  # nobody has made it since
                    make(slot)
        bar.update()
        return True

    def _train(self, request: _Request, slot: Slot) -> dict[str, Tensor]:
        with Timer() as timer:
            state = self._recipe.state(request.retain, slot.seed, slot.folder)
        slot.write(ORACLE, {**request.about, "seconds": timer.seconds}, state)
        return state

    def _said(self, state: dict[str, Tensor], loader: Iterable[Batch]) -> dict[str, Tensor]:
        with preserved_rng(loader):
            logits, labels = predict_logits(self._recipe.with_state(state), in_order(loader))
        return {"logits": logits, "labels": labels}


def _checked(seeds: Any) -> list[int]:
    """Return the seeds as a list of Python's own numbers."""
    if not isinstance(seeds, Iterable):
        raise DataError(f"seeds must be whole numbers, such as range(16) or [0, 1, 2]; got {seeds!r}.")
    found: list[int] = []
    for seed in seeds:
        if isinstance(seed, bool) or not isinstance(seed, Integral) or seed < 0:
            raise DataError(f"a seed must be a whole number from 0 on, got {seed!r}.")
        if seed in found:
            raise DataError(f"seeds names {seed} twice: one model would count as two.")
        found.append(int(seed))
    if not found:
        raise DataError("seeds names no seed: give one at least.")
    return found
