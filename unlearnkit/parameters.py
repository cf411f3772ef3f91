# SPDX-License-Identifier: BSD-3-Clause
"""A model's tensors under names that do not depend on how the model is wrapped.

``DataParallel``, ``DistributedDataParallel`` and ``torch.compile`` put their own segments into
PyTorch's names (``module.``, ``_orig_mod.``), so one weight has many names. Here it has one: each
module is unwrapped where it stands, and a tied weight goes by its first name. What is learned on a
compiled model therefore fits the plain one, and the other way round.
"""

from __future__ import annotations

import copy
import hashlib
import sys
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.nn.parameter import is_lazy

from unlearnkit.exceptions import UnsupportedModuleError

_Module = TypeVar("_Module", bound=nn.Module)
_Tensor = TypeVar("_Tensor", bound=Tensor)

# complex128 is two words; every other dtype is one.
_WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64, 16: torch.int64}


def unwrap(model: nn.Module) -> nn.Module:
    """Return the module inside any nesting of parallel and compile wrappers.

    Parameters
    ----------
    model : torch.nn.Module
        A plain model, or one in ``DataParallel``, ``DistributedDataParallel`` or the
        ``OptimizedModule`` that ``torch.compile`` returns, in any order.

    Returns
    -------
    torch.nn.Module
        The innermost module itself, not a copy; a plain model is returned as it is. A submodule
        that merely bears a wrapper's attribute name (``self.module``) is no wrapper.
    """
    while True:
        if isinstance(model, (DataParallel, DistributedDataParallel)):
            model = model.module
        elif _is_compiled(model):
            model = model.get_submodule("_orig_mod")
        else:
            return model


def named_parameters(model: nn.Module, trainable: bool = False) -> dict[str, nn.Parameter]:
    """Return a model's parameters by canonical name, in the order of ``model.parameters()``.

    Parameters
    ----------
    model : torch.nn.Module
        Plain or wrapped; wrappers inside the model are looked through as well.
    trainable : bool, default=False
        Leave out parameters whose ``requires_grad`` is False.

    Returns
    -------
    dict of str to torch.nn.Parameter
        The parameters themselves. A tied weight appears once, under its first name.

    Raises
    ------
    UnsupportedModuleError
        If a lazy parameter has no shape yet.
    """
    found = _first_names(
        (prefix + name, parameter)
        for prefix, module in _modules(model)
        for name, parameter in module.named_parameters(recurse=False)
    )
    return {name: p for name, p in found.items() if p.requires_grad or not trainable}


def named_buffers(model: nn.Module) -> dict[str, Tensor]:
    """Return a model's buffers by canonical name, those outside its ``state_dict`` included.

    Parameters
    ----------
    model : torch.nn.Module
        Plain or wrapped.

    Returns
    -------
    dict of str to torch.Tensor
        The buffers themselves; a shared buffer appears once, under its first name.

    Raises
    ------
    UnsupportedModuleError
        If a lazy buffer has no shape yet.
    """
    return _first_names(
        (prefix + name, buffer)
        for prefix, module in _modules(model)
        for name, buffer in module.named_buffers(recurse=False)
    )


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return what a model has learned: its parameters, then its persistent buffers.

    Parameters
    ----------
    model : torch.nn.Module
        Plain or wrapped.

    Returns
    -------
    dict of str to torch.Tensor
        The tensors themselves under canonical names. They change with the model: clone them to
        keep a state, or take `copy_of` the model.

    Raises
    ------
    UnsupportedModuleError
        If a lazy tensor has no shape yet.
    """
    persistent = _first_names(
        (prefix + name, buffer)
        for prefix, module in _modules(model)
        for name, buffer in module.named_buffers(recurse=False)
        if name not in module._non_persistent_buffers_set
    )
    return {**named_parameters(model), **persistent}


def named_modules(model: nn.Module) -> dict[str, nn.Module]:
    """Return a model's modules by canonical name, wrappers looked through; the model itself is "".

    Parameters
    ----------
    model : torch.nn.Module
        Plain or wrapped.

    Returns
    -------
    dict of str to torch.nn.Module
        The modules themselves. One that stands in two places appears once, under its first name.
    """
    return {prefix.removesuffix("."): module for prefix, module in _modules(model)}


def bits(tensor: Tensor) -> Tensor:
    """Return a tensor's elements as integer words, in C order.

    Words compare as floats do not: -0.0 differs from 0.0, and a NaN equals itself.

    Parameters
    ----------
    tensor : torch.Tensor, shape [...]
        Of any dtype and any strides.

    Returns
    -------
    torch.Tensor, shape [numel]
        On the tensor's device, an integer as wide as an element; shape [numel, 2] for complex128.
        It shares the tensor's memory where that is contiguous: read it, do not write it.

    Raises
    ------
    UnsupportedModuleError
        If the tensor is on the meta device, so has no values.
    """
    if tensor.is_meta:
        raise UnsupportedModuleError(
            f"a tensor of shape {list(tensor.shape)} is on the meta device, so it has no values: "
            "load the model's weights onto a real device first (model.to_empty, load_state_dict)"
        )
    flat = tensor.detach().resolve_conj().resolve_neg().reshape(-1).contiguous()
    words = flat.view(_WORDS[flat.element_size()])
    return words.view(-1, 2) if flat.dtype is torch.complex128 else words


def digest(tensor: Tensor) -> str:
    """Return a fingerprint of a tensor's dtype, shape and bits.

    Strides, device, ``requires_grad`` and wrappers do not count, so a model on a GPU in
    channels-last order has the digests of its copy on the CPU.

    Parameters
    ----------
    tensor : torch.Tensor
        Dense, or of a sparse layout.

    Returns
    -------
    str
        BLAKE2b of 16 bytes (RFC 7693), as 32 hexadecimal digits.

    Raises
    ------
    UnsupportedModuleError
        If the tensor is on the meta device, so has no values.
    """
    parts = [tensor]
    if tensor.layout is not torch.strided:
        entries = tensor.detach().to_sparse().coalesce()
        parts = [entries.indices(), entries.values()]
    state = hashlib.blake2b(f"{tensor.dtype} {list(tensor.shape)}".encode(), digest_size=16)
    for part in parts:
        state.update(bits(part).view(-1).cpu().numpy().data)
    return state.hexdigest()


def copy_of(model: _Module) -> _Module:
    """Return a deep copy of a model that shares no tensor with it.

    Wrappers are kept: the copy of a ``DataParallel`` is a ``DataParallel``, and a compiled model's
    copy is compiled with the same options (at its first call). A model compiled in place
    (``model.compile()``) comes back uncompiled, as PyTorch copies it. Gradients are not copied;
    results that modules keep (an activation, the weight under a weight norm) are, as constants.

    Parameters
    ----------
    model : torch.nn.Module
        Plain or wrapped.

    Returns
    -------
    torch.nn.Module
        Of the same class, on the same devices; tied weights stay tied.

    Raises
    ------
    UnsupportedModuleError
        If a part of the model cannot be copied, such as a lock or a list of results.
    """
    # PyTorch refuses to copy a tensor with a graph behind it; what needs one computes it anew.
    known: dict[int, Any] = {
        id(value): value.detach().clone()
        for module in model.modules()
        for value in vars(module).values()
        if isinstance(value, Tensor) and not value.is_leaf
    }
    try:
        return copy.deepcopy(model, known)
    except (RuntimeError, TypeError) as error:
        raise UnsupportedModuleError(
            f"this {type(model).__name__} cannot be copied: {error}\n"
            "Edit it in place with edit.apply_(model), or take out of the model what is not a "
            "parameter, a buffer or plain data"
        ) from error


def _is_compiled(module: nn.Module) -> bool:
    # Importing torch._dynamo takes over a second; before it is loaded nothing can be compiled.
    dynamo = sys.modules.get("torch._dynamo.eval_frame")
    return dynamo is not None and isinstance(module, dynamo.OptimizedModule)


def _modules(
    model: nn.Module, prefix: str = "", seen: set[nn.Module] | None = None
) -> Iterator[tuple[str, nn.Module]]:
    """Yield each distinct module, unwrapped, with the prefix of its tensors' names."""
    # no closure that calls itself: that is a cycle, which would keep the model alive
    seen, module = set() if seen is None else seen, unwrap(model)
    if module in seen:
        return
    seen.add(module)
    yield prefix, module
    for name, child in module.named_children():
        yield from _modules(child, f"{prefix}{name}.", seen)


def _first_names(named: Iterable[tuple[str, _Tensor]]) -> dict[str, _Tensor]:
    """Keep the first name of each tensor, and refuse tensors that do not exist yet."""
    first: dict[int, tuple[str, _Tensor]] = {}
    for name, tensor in named:
        if is_lazy(tensor):
            raise UnsupportedModuleError(
                f"tensor {name!r} of a lazy module has no shape yet: run the model once on a "
                "batch of data, then use it here"
            )
        first.setdefault(id(tensor), (name, tensor))
    return dict(first.values())
