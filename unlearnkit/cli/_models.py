# SPDX-License-Identifier: BSD-3-Clause
"""Models by name, and the weights that a checkpoint puts into them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from unlearnkit.cli._checkpoint import Checkpoint, plain, read, write
from unlearnkit.cli._errors import near
from unlearnkit.cli._names import Name
from unlearnkit.exceptions import DataError, UnlearnWarning, warn
from unlearnkit.parameters import digest, named_parameters, named_tensors, unwrap

SHOWN = 4


@dataclass
class Subject:
    """A model with a checkpoint's weights in it.

    Attributes
    ----------
    model : nn.Module
    checkpoint : Checkpoint or None
        None where the model came with its weights.
    names : dict of str to str, or None
        The model's name of each of the checkpoint's tensors.
    """

    model: nn.Module
    checkpoint: Checkpoint | None = None
    names: dict[str, str] | None = None

    @property
    def metadata(self) -> dict[str, str]:
        """What else the checkpoint's file holds."""
        return {"format": "pt"} if self.checkpoint is None else self.checkpoint.metadata

    def save(self, path: Path, model: nn.Module | None = None) -> None:
        """Write the weights of this model, or of another of its form, as a checkpoint like its own."""
        write(path, contents(model or self.model, self.names), self.metadata)

    def described(self, name: str) -> str:
        """Return a line about it."""
        size = sum(parameter.numel() for parameter in named_parameters(self.model).values())
        source = "" if self.checkpoint is None else f" from {self.checkpoint.path}"
        return f"{name}, {size:,} weights{source}"


def subject(
    name: Name, weights: str | None, option: str, allow_pickle: bool, device: str | None, seed: int
) -> Subject:
    """Build a model and load its weights, where a file is given.

    Raises
    ------
    WrongUse, UserCodeError, DataError
        As :func:`build`, `read` and :func:`load`.
    """
    model = build(name, device, seed)
    if weights is None:
        return Subject(model)
    checkpoint = read(weights, option, allow_pickle)
    return Subject(model, checkpoint, load(model, checkpoint))


def build(name: Name, device: str | None = None, seed: int = 0) -> nn.Module:
    """Return the model that a name stands for, on its device.

    Raises
    ------
    WrongUse
        If there is nothing of that name.
    UserCodeError
        If it cannot be built.
    DataError
        If it is no model, or there is no such device.
    """
    torch.manual_seed(seed)
    model = name.make(ready=nn.Module)
    if not isinstance(model, nn.Module):
        raise DataError(f"--model {name.text} gave a {type(model).__name__}, expected a torch.nn.Module.")
    if device is not None:
        try:
            model = model.to(device)
        except (RuntimeError, AssertionError) as error:
            raise DataError(f"the model cannot be put on --device {device}: {error}") from error
    return model


def load(model: nn.Module, checkpoint: Checkpoint) -> dict[str, str]:
    """Put a checkpoint's tensors into a model.

    Returns
    -------
    dict of str to str
        For each of the checkpoint's names, that of the model's tensor.

    Raises
    ------
    DataError
        If a tensor lacks, is too many, or is of another shape or of a dtype that does not fit in.
    """
    own = _state(model)
    names = matched(checkpoint, own)
    _check(checkpoint, own, names, model)
    with torch.no_grad():
        for its, mine in names.items():
            own[mine].copy_(checkpoint.tensors[its])
    _check_tied(checkpoint, own, names, model)
    return names


def _check_tied(
    checkpoint: Checkpoint, own: dict[str, Tensor], names: dict[str, str], model: nn.Module
) -> None:
    """Refuse two tensors of which the model, which ties them, could hold one alone."""
    first: dict[int, str] = {}
    for its, mine in names.items():
        other = first.setdefault(id(own[mine]), its)
        if other != its and digest(checkpoint.tensors[its]) != digest(checkpoint.tensors[other]):
            raise DataError(
                f"{checkpoint.path}: {other} and {its} differ there, and are one tensor in the "
                f"{type(unwrap(model)).__name__}, so one would be lost: build the model without tying them."
            )


def matched(checkpoint: Checkpoint, own: dict[str, Tensor]) -> dict[str, str]:
    """Return the model's name for each of a checkpoint's, where there is one; wrappers' segments aside."""
    by_plain = {plain(name): name for name in own}
    found = {}
    for name in checkpoint.tensors:
        if name in own:
            found[name] = name
        elif plain(name) in by_plain:
            found[name] = by_plain[plain(name)]
    return found


def contents(model: nn.Module, names: dict[str, str] | None) -> dict[str, Tensor]:
    """Return a model's tensors under the names that its checkpoint had; under canonical ones without one."""
    if names is None:
        return dict(named_tensors(model))
    own = _state(model)
    return {its: own[mine] for its, mine in names.items()}


def _state(model: nn.Module) -> dict[str, Tensor]:
    """Return the tensors themselves by every name that they have in the model's ``state_dict``."""
    state = unwrap(model).state_dict(keep_vars=True)
    return {name: value for name, value in state.items() if isinstance(value, Tensor)}


def _check(checkpoint: Checkpoint, own: dict[str, Tensor], names: dict[str, str], model: nn.Module) -> None:
    covered = {id(own[mine]) for mine in names.values()}
    missing = [name for name, tensor in own.items() if id(tensor) not in covered]
    extra = [name for name in checkpoint.tensors if name not in names]
    kind, said = type(unwrap(model)).__name__, []
    if missing:
        said.append(f"it lacks {_some(missing)}{near(missing[0], extra)}")
    if extra:
        said.append(f"the model has no {_some(extra)}")
    if not said:
        said = [
            f"{its} has shape {list(checkpoint.tensors[its].shape)} there and {list(own[mine].shape)} in the model"
            for its, mine in names.items()
            if checkpoint.tensors[its].shape != own[mine].shape
        ]
    if said:
        more = f", and {len(said) - SHOWN} more" if len(said) > SHOWN else ""
        raise DataError(
            f"{checkpoint.path} does not fit the {kind}: {'; '.join(said[:SHOWN])}{more}. Build the model as it was "
            "when these weights were saved."
        )
    wider = []
    for its, mine in names.items():
        there, here = checkpoint.tensors[its].dtype, own[mine].dtype
        if there != here:
            wider.append(f"{its} is {there} there and {here} in the model")
        if there != here and torch.promote_types(there, here) != here:
            raise DataError(
                f"{checkpoint.path}: {its} is {there}, which does not fit into the model's {here} without rounding: "
                "build the model in the checkpoint's dtype, as in model.double() or model.bfloat16()."
            )
    if wider:
        warn(f"{checkpoint.path}: {wider[0]}, and so it will be in what is written.", UnlearnWarning)


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
