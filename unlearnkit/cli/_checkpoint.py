# SPDX-License-Identifier: BSD-3-Clause
"""Checkpoints: safetensors files, whole or in shards; pickles where they are allowed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from unlearnkit.cli._errors import WrongUse
from unlearnkit.exceptions import DataError

PICKLES = (".pt", ".pth", ".bin", ".pkl", ".pickle", ".ckpt", ".tar")
INDEX = ".index.json"
ENTRY = "unlearnkit"  # in the metadata of the library's own files
NESTED = ("state_dict", "model_state_dict", "model")

_CONVERT = (
    'python -c "import torch; from safetensors.torch import save_file as s; '
    "s({{k: v.clone() for k, v in torch.load('{path}', map_location='cpu', weights_only=True).items()}}, '{target}')\""
)


@dataclass
class Checkpoint:
    """The tensors of a file, under the names that they have there.

    Attributes
    ----------
    path : str
    tensors : dict of str to Tensor
        On the CPU, in memory of their own.
    metadata : dict of str to str
        What else the file holds.
    """

    path: str
    tensors: dict[str, Tensor]
    metadata: dict[str, str] = field(default_factory=dict)

    @property
    def n_weights(self) -> int:
        """How many numbers it holds."""
        return sum(tensor.numel() for tensor in self.tensors.values())


def files_of(path: str, option: str, allow_pickle: bool = False) -> Path:
    """Return the file to read a checkpoint from; of a folder, the one that transformers would read.

    Raises
    ------
    WrongUse
        If there is none, or it is a pickle and pickles are not allowed.
    """
    found = Path(path)
    if found.is_dir():
        inside = [found / f"model.safetensors{end}" for end in ("", INDEX)]
        at_hand = [file for file in inside if file.is_file()]
        if not at_hand:
            raise WrongUse(
                f"{option} {path}: the folder holds neither {inside[0].name} nor {inside[1].name}."
            )
        return at_hand[0]
    if not found.is_file():
        raise WrongUse(f"{option} {path}: there is no such file.")
    if found.suffix.lower() in PICKLES and not allow_pickle:
        target = found.with_suffix(".safetensors")
        if target.exists():
            target = target.with_stem(f"{target.stem}-converted")
        convert = _CONVERT.format(path=path, target=target)
        raise WrongUse(
            f"{option} {path}: a {found.suffix} file is a pickle, which can run code as it is read. Convert its state "
            f"dict to safetensors ({convert}), or pass --allow-pickle, which reads tensors and plain values alone."
        )
    return found


def read(path: str, option: str, allow_pickle: bool = False) -> Checkpoint:
    """Read a checkpoint: ``.safetensors``, the index of a sharded one or the folder of either, or a pickle.

    Raises
    ------
    WrongUse
        As :func:`files_of`.
    DataError
        If the file is damaged, or holds something else than a state dict.
    """
    file = files_of(path, option, allow_pickle)
    if file.suffix.lower() in PICKLES:
        return Checkpoint(path, _of_pickle(file))
    if file.name.endswith(INDEX):
        return Checkpoint(path, _of_shards(file), {"format": "pt"})
    tensors, metadata = tensors_of(file)
    if ENTRY in metadata:
        kind = json.loads(metadata[ENTRY]).get("kind", "a file of unlearnkit")
        raise DataError(
            f"{option} {path} holds a {kind}, not a model's weights: give the model's checkpoint."
        )
    return Checkpoint(path, tensors, metadata)


def tensors_of(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors of a safetensors file, in memory of their own, and its metadata.

    Raises
    ------
    DataError
        If it is damaged, or no such file.
    """
    try:
        with safe_open(os.fspath(file), framework="pt") as content:
            names = content.keys()
            tensors = {name: content.get_tensor(name).clone() for name in names}
            return tensors, dict(content.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise DataError(f"{file} is no safetensors file, or it is cut short or damaged ({error}).") from error


def write(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file: each tensor on its own, tied ones as copies."""
    apart = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    content = safetensors.torch.save(apart, metadata=dict(metadata) or None)
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def stand_in(checkpoint: Checkpoint, rename: Callable[[str], str]) -> nn.Module:
    """Return a module that has the checkpoint's tensors under new names, and does nothing else.

    Raises
    ------
    DataError
        If a name cannot be an attribute of a module.
    """
    root = nn.Module()
    for name, tensor in checkpoint.tensors.items():
        *folders, last = rename(name).split(".")
        owner = root
        for folder in folders:
            if folder not in owner._modules:
                owner.add_module(folder, nn.Module())
            owner = owner.get_submodule(folder)
        try:
            owner.register_parameter(last, nn.Parameter(tensor, requires_grad=False))
        except (KeyError, AttributeError, TypeError) as error:
            raise DataError(
                f"{checkpoint.path}: {name!r} is no name of a tensor of a model ({error})."
            ) from error
    return root


def plain(name: str) -> str:
    """Return a tensor's name without what ``DistributedDataParallel`` and ``torch.compile`` put into it."""
    parts = [part for part in name.split(".") if part != "_orig_mod"]
    while len(parts) > 1 and parts[0] == "module":
        parts = parts[1:]
    return ".".join(parts)


def _of_shards(index: Path) -> dict[str, Tensor]:
    try:
        files = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{index} is no index of a sharded checkpoint ({error!r}).") from error
    lacking = [name for name in files if not (index.parent / name).is_file()]
    if lacking:
        raise DataError(f"{index} names {lacking[0]}, which is not beside it.")
    return {name: tensor for file in files for name, tensor in tensors_of(index.parent / file)[0].items()}


def _of_pickle(file: Path) -> dict[str, Tensor]:
    try:
        content: Any = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # it names neither all that it raises nor a base of it
        raise DataError(
            f"{file} holds more than tensors and plain values, and to read that would run its code: in the script "
            "that made it, save model.state_dict() with safetensors.torch.save_file."
        ) from error
    if isinstance(content, Mapping):
        for name in NESTED:
            content = content[name] if isinstance(content.get(name), Mapping) else content
        tensors = {str(name): one.clone() for name, one in content.items() if isinstance(one, Tensor)}
        if tensors:
            return tensors
    raise DataError(f"{file} holds a {type(content).__name__} without tensors, expected a state dict.")
