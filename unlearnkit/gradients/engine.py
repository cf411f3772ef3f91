# SPDX-License-Identifier: BSD-3-Clause
"""The exact sum over samples of squared gradients, at about the price of one backward pass.

What the engine assumes of a model, it proves: on two samples of the first batch it observes which rows of
each activation belong to which sample, compares its result with plain autograd on each sample alone, and
sends every parameter that disagrees to the fallback (:mod:`unlearnkit.gradients.reference`), saying so.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from unlearnkit.data import Batch, Loss, batch_size, take
from unlearnkit.exceptions import UnsupportedModuleError
from unlearnkit.gradients._proof import announce, disagreeing, refuse_mixing, refuse_random, vmap_agrees
from unlearnkit.gradients._use import Broadcast
from unlearnkit.gradients.capture import Capture, Key, Seen, Tap
from unlearnkit.gradients.layout import Layout, candidates, consistent
from unlearnkit.gradients.pairs import (
    Contribution,
    Direct,
    Region,
    Workspace,
    accumulation_dtype,
    add_square_sum,
    upcast,
)
from unlearnkit.gradients.reference import looped, per_sample_losses, vmapped
from unlearnkit.parameters import named_parameters

Uses = dict[str, list[tuple[Region, Contribution]]]


class PlanChanged(Exception):  # noqa: N818  (a signal, not an error)
    """What was added up so far rests on an assumption that a later batch disproved: start again."""


class _Unproved(Exception):  # noqa: N818
    """A batch uses a weight in a way that the proof has not seen."""


class SquareSums:
    """Adds up squared per-sample gradients, batch by batch.

    Parameters
    ----------
    model : nn.Module
        In eval mode (see :func:`unlearnkit.data.evaluating`).
    loss : callable
        ``loss(model, batch) -> Tensor [N]``.

    Attributes
    ----------
    parameters : dict of str to Parameter
        Those measured: all that require a gradient.
    fallback : dict of str to str
        Those measured sample by sample, and why.

    Raises
    ------
    UnsupportedModuleError
        If no parameter requires a gradient, or one is complex.
    """

    def __init__(self, model: nn.Module, loss: Loss) -> None:
        for path, module in model.named_modules():
            if isinstance(module, _BatchNorm) and module.running_mean is None:
                raise UnsupportedModuleError(
                    f"{path or 'the model'} is a BatchNorm without running statistics: in eval mode too it mixes "
                    "the samples of a batch, so the gradient of one sample is not defined. Replace it (GroupNorm "
                    "normalises sample by sample)."
                )
        self.model, self.loss = model, loss
        self.parameters = named_parameters(model, trainable=True)
        if not self.parameters:
            raise UnsupportedModuleError(
                "no parameter of the model requires a gradient, so there is nothing to measure: call "
                "model.requires_grad_(True), or set it for those that may be edited."
            )
        for name, parameter in self.parameters.items():
            if parameter.is_complex():
                raise UnsupportedModuleError(
                    f"parameter {name} is complex, and squared gradients are defined for real ones only: "
                    "exclude it with requires_grad_(False)."
                )
        self.fallback: dict[str, str] = {}
        self._layouts: dict[Key, list[Layout]] = {}  # what is still possible, likeliest first
        self._workspace = Workspace()
        self._announced: set[str] = set()
        self._vmap_works = False
        self._proved = False
        self._started = False

    def zeros(self) -> dict[str, Tensor]:
        """Return totals to add to, float64: they stay accurate over millions of samples."""
        self._started = False
        return {name: _zeros_like(parameter) for name, parameter in self.parameters.items()}

    def add(self, batch: Batch, totals: dict[str, Tensor]) -> int:
        """Add sum_n g_n^2 of a batch to `totals`.

        Returns
        -------
        int
            N, the samples in the batch.

        Raises
        ------
        PlanChanged
            If the totals of earlier batches are void: begin again with :meth:`zeros`.
        UnsupportedModuleError
            If the model mixes samples, or is random.
        DataError
            If the loss is not one finite value a sample.
        """
        n = batch_size(batch)
        if n == 0:
            return 0
        with _plain_eager(self.model):
            if not self._proved or (n > 1 and self._undecided()):
                self._prove(batch)
            if len(self.fallback) < len(self.parameters):
                self._add_fast(batch, n, totals)
            if self.fallback:
                self._add_slowly(batch, totals)
        self._started = True
        return n

    # the fast way: one forward and one backward pass ----------------------------------------------

    def _add_fast(self, batch: Batch, n: int, totals: dict[str, Tensor]) -> None:
        uses: Uses = defaultdict(list)
        missing: Counter[str] = Counter()

        def collect(tap: Tap, gradient: Tensor) -> None:
            for name, region, contribution in self._contributions(tap, gradient, n):
                uses[name].append((region, contribution))
                missing[name] -= 1
                if missing[name] == 0:  # all its uses are in: square, and free what they held
                    self._square(name, uses.pop(name), totals)

        for _ in range(2):
            seen, losses = self._watch(batch, n, collect)
            if n == 1 or all(tap.key in self._layouts for tap in seen.taps):
                break
            self._prove(batch)  # a way through the model that was not taken before
        self._send(seen.unknown)
        self._send({name: "its rows vary with the data" for tap in seen.taps for name in self._unfit(tap, n)})
        missing.update(slot[0] for tap in seen.taps for slot in tap.slots if slot is not None)
        self._backward(losses.sum())
        for name, left in uses.items():  # some of its uses had no part in the loss
            self._square(name, left, totals)

    def _watch(self, batch: Batch, n: int, collect: Callable[[Tap, Tensor], None]) -> tuple[Seen, Tensor]:
        device = next(iter(self.parameters.values())).device
        self._root = torch.zeros((), device=device, requires_grad=True)
        capture = Capture(self.parameters, set(self.fallback), n, self._root, collect)
        with capture:
            losses = per_sample_losses(self.model, self.loss, batch)
        return capture.seen, losses

    def _backward(self, total: Tensor, keep: bool = False) -> None:
        """Run the backward pass; a gradient that reaches a weight itself came by a way that was not seen."""
        if not total.requires_grad:
            return
        # every leaf is asked for: autograd visits only what leads to one, and the taps lie on the way
        leaves = [self._root, *self.parameters.values()]
        found = torch.autograd.grad(total, leaves, allow_unused=True, retain_graph=keep)[1:]
        leaked = [n for n, gradient in zip(self.parameters, found, strict=True) if gradient is not None]
        self._send(dict.fromkeys(leaked, "it is used where torch's functions cannot be watched"))

    @torch.no_grad()
    def _contributions(
        self, tap: Tap, gradient: Tensor, n: int
    ) -> list[tuple[str, Region, Contribution]]:
        if not tap.intact():
            raise UnsupportedModuleError(
                f"the input of the layer with {tap.key[0]} was overwritten in place after it was used, so its "
                "gradient cannot be computed: use the out-of-place operation there."
            )
        if all(slot is None or slot[0] in self.fallback for slot in tap.slots):
            return []
        found: list[Contribution]
        if n == 1 and not tap.dims:
            slot = tap.slots[0]
            found = [Direct(upcast(gradient).reshape(1, *slot[1].size))] if slot else []
        else:
            layout = self._layouts[tap.key][0] if n > 1 else Layout(tap.dims[0], flat=True)
            if isinstance(tap.use, Broadcast):
                found = [tap.use.contribute(gradient, layout, n)]
            else:
                found = tap.use.contribute(gradient, lambda t: layout.by_sample(t, n))
        return [
            (*slot, contribution)
            for slot, contribution in zip(tap.slots, found, strict=False)
            if slot is not None and slot[0] not in self.fallback
        ]

    def _square(self, name: str, uses: list[tuple[Region, Contribution]], totals: dict[str, Tensor]) -> None:
        dtype = accumulation_dtype(self.parameters[name].dtype)
        add_square_sum(totals[name], uses, self._workspace, dtype)

    def _unfit(self, tap: Tap, n: int) -> list[str]:
        """Name the parameters of a tap that does not hold n samples where it should."""
        if n == 1:
            return []
        layouts = self._layouts.get(tap.key)
        if layouts and layouts[0].fits(tap.shape, n) and not tap.routed:
            return []
        return [slot[0] for slot in tap.slots if slot is not None]

    # the exact, slower way ------------------------------------------------------------------------

    def _add_slowly(self, batch: Batch, totals: dict[str, Tensor]) -> None:
        own = {name: self.parameters[name] for name in self.fallback}
        if self._vmap_works:
            for part in vmapped(self.model, self.loss, batch, own):
                for name, gradients in part.items():
                    totals[name].add_(upcast(gradients).square().sum(0))
            return
        for sample in looped(self.model, self.loss, batch, own):
            for name, gradient in sample.items():
                totals[name].add_(upcast(gradient).square_())

    def _send(self, names: dict[str, str], restart: bool = True) -> None:
        """Send parameters to the slower way."""
        new = {name: why for name, why in names.items() if name not in self.fallback}
        self.fallback.update(new)
        if new and restart:
            self._proved = False
            raise PlanChanged

    # the proof ------------------------------------------------------------------------------------

    def _undecided(self) -> bool:
        return any(len(layouts) > 1 for layouts in self._layouts.values())

    def _prove(self, batch: Batch) -> None:
        """Observe layouts on two samples of large loss, and compare with autograd on each alone."""
        before = (dict(self.fallback), {key: found[:1] for key, found in self._layouts.items()})
        with torch.no_grad():
            losses = per_sample_losses(self.model, self.loss, batch)
        few = take(batch, losses.topk(min(2, len(losses))).indices)  # where gradients are not zero
        refuse_random(self.model, self.loss, few)
        if len(losses) > 1:
            refuse_mixing(self.model, self.loss, few)
        alone = list(looped(self.model, self.loss, few, self.parameters))
        totals = self._observed_sums(few)
        wrong = disagreeing(totals, alone, self.parameters)
        self._send(dict.fromkeys(wrong, "the fast way disagrees with autograd"), restart=False)
        own = {name: self.parameters[name] for name in self.fallback}
        self._vmap_works = bool(own) and vmap_agrees(self.model, self.loss, few, alone, own)
        announce({name: why for name, why in self.fallback.items() if name not in self._announced})
        self._announced |= self.fallback.keys()
        self._proved = True
        now = {key: self._layouts[key][:1] for key in before[1]}
        if self._started and (before[0].keys() != self.fallback.keys() or before[1] != now):
            raise PlanChanged

    def _observed_sums(self, few: Batch) -> dict[str, Tensor]:
        """Return the sums of squares over a few samples, the layouts being observed on the way."""
        n = batch_size(few)
        found: dict[Key, list[Tensor]] = defaultdict(list)
        turn = 0

        def collect(tap: Tap, gradient: Tensor) -> None:
            parts = found[tap.key]
            parts += [torch.zeros_like(gradient)] * (turn - len(parts))
            parts.append(gradient)

        try:
            seen, losses = self._watch(few, n, collect)
            self._send(seen.unknown, restart=False)
            for turn in range(n):  # noqa: B007  (collect reads it)
                self._backward(losses[turn], keep=turn < n - 1)
            uses: Uses = defaultdict(list)
            for tap in seen.taps:
                parts = found.get(tap.key, [torch.zeros(tap.shape, dtype=tap.dtype, device=losses.device)])
                if n > 1:
                    self._narrow(tap, parts + [torch.zeros_like(parts[0])] * (n - len(parts)))
                for name, region, contribution in self._contributions(tap, sum(parts), n):  # type: ignore[arg-type]
                    uses[name].append((region, contribution))
        except PlanChanged:  # a weight was used unseen: it is in self.fallback now, look at the rest again
            return self._observed_sums(few)
        except RuntimeError as error:  # checkpointing, double backward, graph surgery
            why = f"the backward pass cannot be watched ({str(error).splitlines()[0][:80]})"
            self._send(dict.fromkeys(self.parameters, why), restart=False)
            return {}
        totals = {name: _zeros_like(parameter) for name, parameter in self.parameters.items()}
        for name, left in uses.items():
            if name not in self.fallback:
                self._square(name, left, totals)
        return {name: total for name, total in totals.items() if name not in self.fallback}

    def _narrow(self, tap: Tap, gradients: list[Tensor]) -> None:
        """Keep those layouts of a tap that agree with where each sample's gradient is not zero."""
        n = len(gradients)
        options = self._layouts.get(tap.key) or candidates(tap.shape, n, tap.dims)
        options = [layout for layout in options if layout.fits(tap.shape, n)]
        options = [] if tap.routed else consistent(options, [gradient != 0 for gradient in gradients])
        if not options:
            why = "rows are picked by data-dependent indices" if tap.routed else "its rows belong to no one sample"
            self._send({slot[0]: why for slot in tap.slots if slot is not None}, restart=False)
        self._layouts[tap.key] = options or [Layout()]


def _zeros_like(parameter: Tensor) -> Tensor:
    """Return zeros in float64 with the parameter's strides; on the CPU where the device has no float64."""
    device = "cpu" if parameter.device.type == "mps" else parameter.device
    return torch.zeros_like(parameter, dtype=torch.float64, device=device, requires_grad=False)


@contextmanager
def _plain_eager(model: nn.Module) -> Iterator[None]:
    """No autocast (squares underflow in half precision), no compiled graphs (they cannot be watched)."""
    with ExitStack() as stack:
        stack.enter_context(torch.enable_grad())
        for device in ("cpu", "cuda"):
            stack.enter_context(torch.autocast(device, enabled=False))
        stack.enter_context(torch.compiler.set_stance("force_eager"))
        if any(isinstance(module, nn.RNNBase) for module in model.modules()):
            # cuDNN has no backward pass of an RNN in eval mode
            stack.enter_context(torch.backends.cudnn.flags(enabled=False))
        yield
