# SPDX-License-Identifier: BSD-3-Clause
"""WeightEdit: new values for a model's weights, to be applied, saved and taken back.

An edit holds values, never differences: ``(w + d) - d`` misses ``w`` for a tenth of float32
numbers, while a value put back is the value that was there. Both ways it is exact to the bit.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

from torch import Tensor, nn

from unlearnkit._tensor_file import read_tensors, write_tensors
from unlearnkit.edit.binding import bound_tensors, write_all
from unlearnkit.edit.change import Change
from unlearnkit.edit.sources import check_same_form, edited, scaled, state_of, with_values
from unlearnkit.exceptions import DataError, UnlearnError
from unlearnkit.parameters import copy_of, named_tensors

_Model = TypeVar("_Model", bound=nn.Module)

_KIND = "unlearnkit.WeightEdit"
_VERSION = 1


class ChangedTensor(NamedTuple):
    """A row of `WeightEdit.summary`: a tensor's canonical name and how much of it changes."""

    name: str
    changed: int
    total: int
    share: float


class WeightEdit(Mapping[str, Change]):
    """New values for some of a model's weights and buffers.

    Make one with `between`, `from_values` or `from_factors`; estimators hold theirs in ``edit_``.
    An edit is a read-only mapping from canonical tensor names (`unlearnkit.parameters`) to
    `Change`, in the model's order; one that changes nothing is empty. It is bound to the tensors
    it touches: a model in which one of them differs by a bit is refused. It lives on the CPU, and
    fits its model on any device and in any wrapper.

    Two edits are equal where they turn the same tensors into the same tensors, bit by bit; their
    `info` does not count.

    Parameters
    ----------
    changes : mapping of str to Change
        What happens to each tensor.
    n_total : int
        Number of weights (elements of parameters) of the whole model; buffers do not count.
    info : mapping of str to str, optional
        Free notes, such as a ticket's number. They are kept in the saved file.
    is_undo : bool, default=False
        Whether the values are those that an edit has replaced. An undo cannot be saved.

    Attributes
    ----------
    n_total, info, is_undo
        As above; `info` is a dict of its own.

    Examples
    --------
    >>> import torch
    >>> from unlearnkit.edit import WeightEdit
    >>> model = torch.nn.Linear(3, 2)
    >>> edit = WeightEdit.from_values(model, {"bias": (torch.tensor([1]), torch.tensor([7.0]))})
    >>> edit
    WeightEdit: 1 of 8 weights (12.50 %), most in bias
    >>> undo = edit.apply_(model)
    >>> model.bias[1].item()
    7.0
    >>> undo.apply_(model) == edit
    True
    """

    def __init__(
        self,
        changes: Mapping[str, Change],
        n_total: int,
        info: Mapping[str, str] | None = None,
        is_undo: bool = False,
    ) -> None:
        self._changes = dict(changes)
        self.n_total = n_total
        self.info = _text_only(info or {})
        self.is_undo = is_undo

    @classmethod
    def between(
        cls,
        before: nn.Module | Mapping[str, Tensor],
        after: nn.Module | Mapping[str, Tensor],
        info: Mapping[str, str] | None = None,
    ) -> WeightEdit:
        """Return the edit that turns one state of a model into another, bound to the first.

        Parameters
        ----------
        before, after : torch.nn.Module or mapping of str to torch.Tensor
            Two models, or tensors by canonical name: clones of
            `unlearnkit.parameters.named_tensors`. Bits are compared, so -0.0 differs from 0.0.
            Where both are mappings, every tensor counts as a parameter.
        info : mapping of str to str, optional
            Notes to keep with the edit.

        Returns
        -------
        WeightEdit
            ``edit.apply(before)`` has every bit of `after`.

        Raises
        ------
        EditMismatchError
            If the states differ in names, shapes or dtypes; the first difference is named.
        """
        (old, old_buffers), (new, new_buffers) = state_of(before), state_of(after)
        check_same_form(old, new)
        state = old, old_buffers | new_buffers
        return cls(*edited(state, new, lambda _name, _old, tensor: tensor), info)

    @classmethod
    def from_values(
        cls,
        model: nn.Module,
        values: Mapping[str, tuple[Tensor, Tensor]],
        info: Mapping[str, str] | None = None,
    ) -> WeightEdit:
        """Return the edit that writes given values at given positions of a model's tensors.

        Parameters
        ----------
        model : torch.nn.Module
            The model that the edit is bound to; it is only read.
        values : mapping of str to (torch.Tensor, torch.Tensor)
            By canonical name: flat positions in C order (integers, shape [k], in any order) and
            new values (shape [k], cast to the tensor's dtype). What is there already is left out.
        info : mapping of str to str, optional
            Notes to keep with the edit.

        Raises
        ------
        EditMismatchError
            If the model has no tensor of that name.
        DataError
            If positions are out of range or occur twice, or the values do not fit them.
        """
        return cls(*edited(state_of(model), values, with_values), info)

    @classmethod
    def from_factors(
        cls,
        model: nn.Module,
        factors: Mapping[str, Tensor],
        info: Mapping[str, str] | None = None,
    ) -> WeightEdit:
        """Return the edit that multiplies weights, as dampening and pruning do.

        Parameters
        ----------
        model : torch.nn.Module
            The model that the edit is bound to; it is only read.
        factors : mapping of str to torch.Tensor
            By canonical name: a finite factor for each weight, in the weight's shape. Products are
            rounded once, to the weight's dtype. A weight whose factor is 1 keeps its bits.
        info : mapping of str to str, optional
            Notes to keep with the edit.

        Raises
        ------
        EditMismatchError
            If the model has no tensor of that name.
        DataError
            If factors are of another shape, are not finite, or cannot scale a tensor's dtype.
        """
        return cls(*edited(state_of(model), factors, scaled), info)

    def apply(self, model: _Model) -> _Model:
        """Return an edited copy of a model, and leave the model as it is.

        Parameters, checks and errors are those of `apply_`; what is returned is of the class of
        `model` (see `unlearnkit.parameters.copy_of`).
        """
        bound_tensors(self._changes, model)  # refused before a copy is made
        copy = copy_of(model)
        write_all(self._changes, named_tensors(copy))
        return copy

    def apply_(self, model: nn.Module) -> WeightEdit:
        """Edit a model in place, wholly or not at all, and return the way back.

        Every check precedes the first write. Parameters keep their memory, so optimizers and tied
        modules see the new values.

        Parameters
        ----------
        model : torch.nn.Module
            The model that the edit was made from, or an exact copy; wrapped or not, anywhere.

        Returns
        -------
        WeightEdit
            The undo: ``undo.apply_(model)`` restores every bit and returns the edit again. It
            holds what was to be forgotten, so keep it no longer than you need it.

        Raises
        ------
        EditMismatchError
            If the model is not the one that the edit was made from: the first tensor that differs
            is named, and how. Also if the edit is applied already.
        UnsupportedModuleError
            If a tensor cannot be written by itself. The model is then as it was.
        """
        back = write_all(self._changes, bound_tensors(self._changes, model))
        return WeightEdit(back, self.n_total, self.info, is_undo=not self.is_undo)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the edit to a safetensors file: positions, new values and notes.

        The file appears whole or not at all; one edit with the same notes makes the same bytes.

        Parameters
        ----------
        path : str or path-like
            File to make or replace, in a folder that exists.

        Raises
        ------
        UnlearnError
            If this is an undo.
        DataError
            If `path` cannot be a file.

        Notes
        -----
        No replaced value is stored, but a digest of each touched tensor as it was. Where an edit
        changes very few weights of a tensor, whoever has the edited model too could find their
        old values by trying; beyond some 80 bits of changed weights that is out of reach.
        """
        if self.is_undo:
            raise UnlearnError(
                "an undo cannot be saved: it holds the values that unlearning took away, so the "
                "file would be the forgotten knowledge. Save the edit instead; for a way back, "
                "keep the original model where the data it was trained on may be kept"
            )
        rows: dict[str, dict[str, Any]] = {}
        tensors: dict[str, Tensor] = {}
        for name, change in self.items():
            rows[name], parts = change.to_parts(name)
            tensors.update(parts)
        manifest = {"n_total": self.n_total, "info": _text_only(self.info), "changes": rows}
        write_tensors(path, _KIND, _VERSION, manifest, tensors)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> WeightEdit:
        """Read an edit that `save` wrote.

        Parameters
        ----------
        path : str or path-like
            The file.

        Raises
        ------
        DataError
            If the file is missing, damaged, of another kind or of a newer unlearnkit.
        """
        manifest, tensors = read_tensors(path, _KIND, _VERSION)
        try:
            rows = manifest["changes"].items()
            changes = {name: Change.from_parts(name, row, tensors) for name, row in rows}
            return cls(changes, int(manifest["n_total"]), manifest["info"])
        except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise DataError(
                f"cannot load {os.fspath(path)!r}: its content is not an edit ({error}); save the edit anew"
            ) from error

    def summary(self) -> list[ChangedTensor]:
        """Return ``(name, changed, total, share)`` of each touched tensor, most changed first.

        Buffers are included; ``share`` is ``changed / total``. Ties stand in the model's order.
        """
        rows = (
            ChangedTensor(name, change.n_changed, change.numel, change.n_changed / change.numel)
            for name, change in self.items()
        )
        return sorted(rows, key=lambda row: -row.changed)

    @property
    def names(self) -> list[str]:
        """Canonical names of the tensors that the edit touches, in the model's order."""
        return list(self)

    @property
    def n_changed(self) -> int:
        """Number of weights that get other bits; buffers do not count."""
        return sum(change.n_changed for change in self.values() if not change.is_buffer)

    @property
    def n_changed_in_buffers(self) -> int:
        """Number of buffer elements, such as BatchNorm statistics, that get other bits."""
        return sum(change.n_changed for change in self.values() if change.is_buffer)

    @property
    def density(self) -> float:
        """``n_changed / n_total``, in [0, 1]; 0 for a model without weights."""
        return self.n_changed / self.n_total if self.n_total else 0.0

    def __getitem__(self, name: str) -> Change:
        return self._changes[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._changes)

    def __len__(self) -> int:
        return len(self._changes)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, WeightEdit):
            return NotImplemented
        # The digests of a tensor before and after say all that happens to it.
        ends = [{n: (c.before, c.after) for n, c in edit.items()} for edit in (self, other)]
        return ends[0] == ends[1] and self.is_undo == other.is_undo

    def __repr__(self) -> str:
        kind = "WeightEdit (undo)" if self.is_undo else "WeightEdit"
        head = f"{kind}: {self.n_changed:,} of {self.n_total:,} weights"
        if not self:
            return f"{head} (nothing to change)"
        share = "< 0.01" if 0 < self.density < 5e-5 else f"{100 * self.density:.2f}"
        buffers = f" and {n:,} buffer values" if (n := self.n_changed_in_buffers) else ""
        most = self.summary()[0].name
        return f"{head} ({share} %){buffers}, most in {most.rpartition('.')[0] or most}"


def _text_only(info: Mapping[str, str]) -> dict[str, str]:
    for key, value in info.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise TypeError(f"info holds text by text, got {key!r}: {value!r}; use str(...)")
    return dict(info)
