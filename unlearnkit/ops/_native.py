# SPDX-License-Identifier: BSD-3-Clause
"""The compiled kernels: whether there are any, whether they are wanted, whether they agree with torch.

This is the only file that names the compiled module. Where a kernel is missing, unwanted or wrong, the
operator computes the same numbers in torch. ``UNLEARNKIT_BACKEND`` decides, and is read once, at import:

======  ===========================================================
auto    compiled kernels where they are built and correct, else torch
torch   never the compiled kernels; the module is not even loaded
native  the compiled kernels, and an error where one lacks
======  ===========================================================
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import torch

from unlearnkit.exceptions import FallbackWarning, UnlearnError, warn

DTYPES = {torch.float32: 0, torch.float64: 1, torch.float16: 2, torch.bfloat16: 3}
"""The compiled module's numbers for dtypes."""

CPU = torch.device("cpu")


def _asked() -> str:
    mode = os.environ.get("UNLEARNKIT_BACKEND", "auto")
    if mode not in ("auto", "torch", "native"):
        raise UnlearnError(
            f"UNLEARNKIT_BACKEND={mode!r} is not known: set it to auto (compiled kernels where they are "
            "built, else torch), torch (never the compiled kernels) or native (an error where they lack)."
        )
    return mode


_backend = _asked()


@functools.cache
def load() -> ModuleType | str:
    """Load the compiled module; where that fails, return why."""
    try:
        return importlib.import_module("unlearnkit._C")
    except ModuleNotFoundError:
        return "it was not built: the output of `pip install -v` says why (usually no C++ compiler)"
    except ImportError as error:  # built for another system, or by a compiler whose libraries lack here
        return f"it does not load: {error}"


def module() -> ModuleType | None:
    """Return the compiled module; None in a pure Python install."""
    found = load()
    return None if isinstance(found, str) else found


def backend() -> str:
    """Return which kernels are wanted: auto, torch or native."""
    return _backend


@contextlib.contextmanager
def using(mode: str) -> Iterator[None]:
    """Use another backend for a while: to compare the two in one process."""
    global _backend
    before, _backend = _backend, mode
    for kernel in Kernel.registry.values():
        kernel.forget()
    try:
        yield
    finally:
        _backend = before
        for kernel in Kernel.registry.values():
            kernel.forget()


class Kernel:
    """One compiled function a device type, with the check that it must pass before it is used.

    Parameters
    ----------
    name : str
        The compiled module holds it as ``<name>_cpu`` and ``<name>_cuda``.
    check : callable
        ``check(run, device) -> bool``: whether the compiled function agrees with torch on a few numbers.
        Called once a device type: for the CPU when unlearnkit is imported, for a GPU at its first use, so
        that an import never starts CUDA. It asks for one thread, and compares with a formula in torch that
        is cheap on small tensors.
    on_cuda : callable, optional
        ``on_cuda(compiled, *arguments)`` calls the compiled function for CUDA with the arguments of the
        one for the CPU.
    devices : tuple of str
        The device types that have a compiled function; on others torch's own is as good.
    """

    registry: dict[str, Kernel] = {}  # noqa: RUF012  (of the class, and meant to be)

    def __init__(
        self,
        name: str,
        check: Callable[[Callable[..., Any], torch.device], bool],
        on_cuda: Callable[..., Any] | None = None,
        devices: tuple[str, ...] = ("cpu", "cuda"),
    ) -> None:
        self.name, self.devices, self._check, self._on_cuda = name, devices, check, on_cuda
        self._found: dict[str, tuple[Callable[..., Any] | None, str]] = {}
        Kernel.registry[name] = self

    def on(self, device: torch.device) -> Callable[..., Any] | None:
        """Return the compiled function for a device; None where torch is to compute.

        Raises
        ------
        UnlearnError
            If ``UNLEARNKIT_BACKEND=native`` and there is none.
        """
        run, trouble = self._found.get(device.type) or self._examine(device)
        if run is None and _backend == "native" and device.type in self.devices:
            raise UnlearnError(
                f"UNLEARNKIT_BACKEND=native, but the kernel {self.name!r} {trouble} for {device.type}: build "
                "unlearnkit anew on this machine, with a compiler for it, or set UNLEARNKIT_BACKEND=auto. "
                "unlearnkit.show_config() says what was built."
            )
        return run

    def state(self, device: torch.device) -> str:
        """Return ``"in use"``, or why the kernel is not used on a device."""
        run, trouble = self._found.get(device.type) or self._examine(device)
        return trouble if run is None else "in use"

    def forget(self) -> None:
        """Decide anew, and check anew, at the next call of :meth:`on`."""
        self._found.clear()

    def _examine(self, device: torch.device) -> tuple[Callable[..., Any] | None, str]:
        """Find the compiled function and check it; say once if it fails."""
        run, trouble = None, "is switched off by UNLEARNKIT_BACKEND=torch"
        if _backend != "torch":
            run, trouble = getattr(module(), f"{self.name}_{device.type}", None), "is not built"
        if run is not None and device.type == "cuda" and self._on_cuda is not None:
            run = functools.partial(self._on_cuda, run)
        if run is not None:
            trouble = self._trouble(run, device)
            if trouble:
                run = None
            if trouble and _backend == "auto":
                warn(
                    f"the compiled kernel {self.name!r} {trouble} on {device.type}, so torch computes in its "
                    "place, more slowly. Build unlearnkit anew on this machine; unlearnkit.show_config() "
                    "belongs in a bug report.",
                    FallbackWarning,
                )
        self._found[device.type] = run, trouble
        return run, trouble

    def _trouble(self, run: Callable[..., Any], device: torch.device) -> str:
        """Return what is wrong with a compiled function, or nothing."""
        try:
            return "" if self._check(run, device) else "disagrees with torch"
        except Exception as error:  # whatever it is, torch can do without the kernel
            return f"fails ({error})"


def check_cpu() -> None:
    """Check every kernel for the CPU, which takes a millisecond or two and starts no thread.

    Raises
    ------
    UnlearnError
        If ``UNLEARNKIT_BACKEND=native`` and a kernel is missing or wrong.
    """
    if _backend == "native" and isinstance(trouble := load(), str):
        raise UnlearnError(
            f"UNLEARNKIT_BACKEND=native, but unlearnkit has no compiled module: {trouble}. Install a C++ "
            "compiler and install unlearnkit again, or set UNLEARNKIT_BACKEND=auto."
        )
    for kernel in Kernel.registry.values():
        kernel.on(CPU)


def kernel_states(device: torch.device) -> dict[str, str]:
    """Return of each kernel ``"in use"``, or why torch computes in its place on a device."""
    return {name: kernel.state(device) for name, kernel in Kernel.registry.items()}


def build_info() -> dict[str, Any]:
    """Return how the compiled module was built and for which instructions it has decided.

    Returns
    -------
    dict
        ``{"native": False, "reason": ...}`` where there is none, or none is wanted.
    """
    compiled = load() if _backend != "torch" else "it is switched off by UNLEARNKIT_BACKEND=torch"
    if isinstance(compiled, str):
        return {"native": False, "reason": compiled}
    return dict(compiled.build_info())
