# SPDX-License-Identifier: BSD-3-Clause
"""The compiled kernels: whether there are any, whether they are wanted, whether they agree with torch.

This is the only file that names the compiled module. Where a kernel is missing, unwanted or wrong, the
operator computes the same numbers in torch.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch

from unlearnkit.exceptions import FallbackWarning, UnlearnError, warn

BACKENDS = ("auto", "torch", "native")

DTYPES = {torch.float32: 0, torch.float64: 1, torch.float16: 2, torch.bfloat16: 3}
"""The compiled module's numbers for dtypes."""


@functools.cache
def module() -> ModuleType | None:
    """Return the compiled module; None in a pure Python install."""
    try:
        from unlearnkit import _C
    except ImportError:
        return None
    return _C


def backend() -> str:
    """Return which kernels the environment asks for: ``UNLEARNKIT_BACKEND``, read once at import.

    Raises
    ------
    UnlearnError
        If it is none of ``auto``, ``torch`` and ``native``.
    """
    if _backend not in BACKENDS:
        raise UnlearnError(
            f"UNLEARNKIT_BACKEND={_backend!r} is not known: set it to auto (compiled kernels where they are "
            "built, else torch), torch (never the compiled kernels) or native (an error where they lack)."
        )
    return _backend


_backend = os.environ.get("UNLEARNKIT_BACKEND", "auto")


class Kernel:
    """One compiled function a device type, with the check that it must pass before it is used.

    Parameters
    ----------
    name : str
        The compiled module holds it as ``<name>_cpu`` and ``<name>_cuda``.
    check : callable
        ``check(run, device) -> bool``: whether the compiled function agrees with torch on a few numbers.
        Called once a device type: for the CPU when unlearnkit is imported, for a GPU at its first use, so
        that an import never starts CUDA.
    on_cuda : callable, optional
        ``on_cuda(compiled, *arguments)`` calls the compiled function for CUDA with the arguments of the
        one for the CPU.
    """

    registry: dict[str, Kernel] = {}  # noqa: RUF012  (of the class, and meant to be)

    def __init__(
        self,
        name: str,
        check: Callable[[Callable[..., Any], torch.device], bool],
        on_cuda: Callable[..., Any] | None = None,
    ) -> None:
        self.name, self._check, self._on_cuda = name, check, on_cuda
        self._found: dict[str, Callable[..., Any] | None] = {}
        Kernel.registry[name] = self

    def on(self, device: torch.device) -> Callable[..., Any] | None:
        """Return the compiled function for a device; None where torch is to compute.

        Raises
        ------
        UnlearnError
            If ``UNLEARNKIT_BACKEND=native`` and there is none.
        """
        try:
            return self._found[device.type]
        except KeyError:
            self._found[device.type] = found = self._find(device)
            return found

    def _find(self, device: torch.device) -> Callable[..., Any] | None:
        mode = backend()
        if mode == "torch":
            return None
        run = getattr(module(), f"{self.name}_{device.type}", None)
        trouble = "is not built" if run is None else None
        if run is not None and device.type == "cuda" and self._on_cuda is not None:
            run = functools.partial(self._on_cuda, run)
        if run is not None:
            try:
                agrees = self._check(run, device)
            except Exception as error:  # whatever it is, torch can do without the kernel
                agrees, trouble = False, f"fails ({error})"
            if not agrees:
                trouble = trouble or "disagrees with torch"
                run = None
        if trouble is None:
            return run
        if mode == "native":
            raise UnlearnError(
                f"UNLEARNKIT_BACKEND=native, but the kernel {self.name!r} {trouble} for {device.type}: see "
                "unlearnkit.show_config(), build the package anew, or set UNLEARNKIT_BACKEND=auto."
            )
        if trouble != "is not built":
            warn(
                f"the compiled kernel {self.name!r} {trouble} on {device.type}, so torch computes in its place, "
                "more slowly. Build unlearnkit anew on this machine; unlearnkit.show_config() belongs in a "
                "bug report.",
                FallbackWarning,
            )
        return None


def state(device: torch.device) -> dict[str, bool]:
    """Return of each kernel whether it is used on a device."""
    return {name: kernel.on(device) is not None for name, kernel in Kernel.registry.items()}


def build_info() -> dict[str, Any]:
    """Return how the compiled module was built; ``{"native": False}`` where there is none."""
    compiled = module()
    return {"native": False} if compiled is None else dict(compiled.build_info())
