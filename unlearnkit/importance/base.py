# SPDX-License-Identifier: BSD-3-Clause
"""What was measured on data, in a form that adds up, subtracts and can be kept."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from unlearnkit._tensor_file import read_tensors, write_tensors
from unlearnkit.data import Batch, batch_size
from unlearnkit.exceptions import DataError
from unlearnkit.parameters import named_parameters

FORMAT, VERSION = "unlearnkit.Importance", 1

Batches: TypeAlias = Iterable[Batch]


class NoSamplesError(DataError):
    """The data holds no sample; whoever knows what the data is for can say more."""


class Importance:
    """How much each weight matters for a set of samples: sums, and a count.

    Because it is sums, what was measured on two sets adds up to what would be measured on both, and
    a set that was part of another is subtracted from it: all - forget = retain. It is accepted
    wherever the data that it was measured on is.

    Parameters
    ----------
    sums : dict of str to Tensor
        For every parameter, by canonical name and of its shape.
    count : int
        What to divide by for the mean: samples, or batches where batch gradients were squared.
    kind : str
        What was measured, such as ``"fisher/per_sample/true"``. Only the same kind adds up.
    samples : int, optional
        Samples seen; `count` where left out.

    Examples
    --------
    >>> import torch
    >>> from unlearnkit import Importance
    >>> everything = Importance({"w": torch.tensor([3.0, 5.0])}, count=4, kind="example")
    >>> forget = Importance({"w": torch.tensor([1.0, 1.0])}, count=2, kind="example")
    >>> (everything - forget).mean()
    {'w': tensor([1., 2.])}
    """

    def __init__(
        self, sums: dict[str, Tensor], count: int, kind: str = "unknown", samples: int | None = None
    ) -> None:
        self.sums = sums
        self.count = int(count)
        self.kind = kind
        self.samples = self.count if samples is None else int(samples)

    @property
    def is_signed(self) -> bool:
        """Whether entries may be below zero: sums of gradients as they are, or coefficients."""
        return self.kind.startswith(("gradient/", "sensitivity/"))

    def mean(self) -> dict[str, Tensor]:
        """Return sums / count, zeros where nothing was counted."""
        return {name: value / max(self.count, 1) for name, value in self.sums.items()}

    def __add__(self, other: Importance) -> Importance:
        """Return what would be measured on both sets of samples (if they have none in common)."""
        if not isinstance(other, Importance):
            return NotImplemented
        self._check(other)
        sums = {name: value + other.sums[name].to(value.device) for name, value in self.sums.items()}
        return Importance(sums, self.count + other.count, self.kind, self.samples + other.samples)

    def __sub__(self, other: Importance) -> Importance:
        """Return what would be measured without the samples of `other`.

        Raises
        ------
        DataError
            If they were not all among this one's, so that a sum would become negative (where it is
            not signed).
        """
        if not isinstance(other, Importance):
            return NotImplemented
        self._check(other)
        if other.count > self.count or other.samples > self.samples:
            raise DataError(
                f"cannot subtract an importance over {other.samples:,} samples from one over "
                f"{self.samples:,}: the first must have been measured on all samples, those of the "
                "second included. If it was measured on the others alone, nothing is to subtract."
            )
        sums = {}
        for name, value in self.sums.items():
            rest = value - other.sums[name].to(value.device)
            if self.is_signed:  # nothing bounds it
                sums[name] = rest
                continue
            # gradients and sums taken in another order differ by rounding
            allowed = 1e-4 * value + 1e-6 * value.mean()
            if bool((rest < -allowed).any()):
                raise DataError(
                    f"cannot subtract: at {name} the second importance is larger than the first, "
                    "so its samples were not all among the first's. If the first was measured on "
                    "the retain set alone, pass first + second; if the model was trained on since, "
                    "measure it again."
                )
            sums[name] = rest.clamp_(min=0)
        return Importance(sums, self.count - other.count, self.kind, self.samples - other.samples)

    def _check(self, other: Importance) -> None:
        if self.kind != other.kind:
            raise DataError(
                f"importances of different kinds do not add up: {self.kind!r} and {other.kind!r}. "
                "Measure both with the same settings."
            )
        for name in {**self.sums, **other.sums}:
            mine, its = (_shape(name, sums) for sums in (self.sums, other.sums))
            if mine != its:
                raise DataError(
                    f"importances of different models do not add up: {name} has {mine} in the "
                    f"first and {its} in the second. Measure both on one model, with the same "
                    "parameters frozen."
                )

    def check_model(self, model: nn.Module) -> None:
        """Check that every parameter here is one of the model's, of its shape.

        Raises
        ------
        DataError
            If not; it names the first that differs.
        """
        parameters = named_parameters(model)
        for name in self.sums:
            mine, its = _shape(name, self.sums), _shape(name, parameters)
            if mine != its:
                raise DataError(
                    f"the importance was not measured on this model: {name} has {mine} there and "
                    f"{its} in the model. Measure it on this model."
                )

    def to(self, device: torch.device | str) -> Importance:
        """Return a copy on another device."""
        sums = {name: value.to(device) for name, value in self.sums.items()}
        return Importance(sums, self.count, self.kind, self.samples)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it to a safetensors file, in the precision of its sums.

        Raises
        ------
        DataError
            If there can be no file at `path`.
        """
        about = {"count": self.count, "kind": self.kind, "samples": self.samples}
        tensors = {name: value.detach().cpu().contiguous() for name, value in self.sums.items()}
        write_tensors(path, FORMAT, VERSION, about, tensors)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Importance:
        """Read a file that :meth:`save` wrote, to the CPU.

        Raises
        ------
        DataError
            If it is missing, damaged, or holds something else.
        """
        about, sums = read_tensors(path, FORMAT, VERSION)
        return cls(sums, about["count"], about["kind"], about["samples"])

    def __sklearn_clone__(self) -> Importance:
        """Measured data is shared by clones of an estimator, not copied."""
        return self

    def __repr__(self) -> str:
        """Say what it is at a glance."""
        weights = sum(value.numel() for value in self.sums.values())
        return f"Importance: {self.kind} of {weights:,} weights over {self.samples:,} samples"


def _shape(name: str, tensors: Mapping[str, Tensor]) -> str:
    return f"shape {list(tensors[name].shape)}" if name in tensors else "no such parameter"


def checked(stored: Any, model: nn.Module) -> Importance:
    """Return what stands in for data, once it is an importance of this model's weights.

    Raises
    ------
    DataError
        If it is not.
    """
    if not isinstance(stored, Importance):
        raise DataError(f"expected data or an Importance, got {type(stored).__name__}.")
    stored.check_model(model)
    return stored


def walk(loader: Batches, add: Callable[[Batch], object], progress: bool) -> tuple[int, int]:
    """Call `add` on every batch that is not empty; return the number of samples, and of batches.

    Raises
    ------
    NoSamplesError
        If there was no sample.
    """
    samples = batches = 0
    for batch in tqdm(loader, desc="importance", disable=not progress, leave=False):
        if n := batch_size(batch):
            add(batch)
            samples += n
            batches += 1
    if samples == 0:
        raise NoSamplesError(
            "the data is empty: it yielded no sample. Check the indices or the filter that made it."
        )
    return samples, batches


def refuse_bad_weights(model: nn.Module) -> None:
    """Refuse a model with NaN or infinite weights.

    Raises
    ------
    DataError
        It names the first.
    """
    for name, parameter in named_parameters(model).items():
        bad = ~torch.isfinite(parameter.detach())
        if bool(bad.any()):
            raise DataError(
                f"{name} holds {int(bad.sum())} values that are NaN or infinite: the model has "
                "diverged. Restore an earlier checkpoint."
            )
