# SPDX-License-Identifier: BSD-3-Clause
"""The exact sum over samples of squared gradients, at about the price of one backward pass.

What the engine assumes of a model, it proves: on two samples of the first batch it observes which rows of
each activation belong to which sample, compares its result with plain autograd on each sample alone, and
sends every parameter that disagrees to the fallback (:mod:`unlearnkit.gradients.reference`), saying so.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from unlearnkit.data import Batch, Loss, batch_size, take
from unlearnkit.exceptions import UnsupportedModuleError
from unlearnkit.gradients._chain import Owner, is_dense
from unlearnkit.gradients._ledger import Ledger
from unlearnkit.gradients._proof import (
    announce,
    refuse_batch_statistics,
    refuse_company,
    refuse_mixing,
    refuse_random,
    squares,
    unproved,
    vmap_agrees,
)
from unlearnkit.gradients._use import Broadcast
from unlearnkit.gradients.capture import Capture, Key, Tap
from unlearnkit.gradients.layout import Layout, candidates, consistent
from unlearnkit.gradients.pairs import Contribution, Direct, Region, upcast
from unlearnkit.gradients.reference import (
    looped,
    loss_values,
    measured_parameters,
    per_sample_losses,
    plain_eager,
    vmapped,
    zeros,
)
from unlearnkit.ops.workspace import Workspace

COMPANY = 8
"""In the first batches so many, and in every so manieth after, a sample is run alone: its loss must not move."""

ATTEMPTS = 4
"""Samples of a batch that are looked at, one by one, where the proof left open whose rows are whose."""


class PlanChanged(Exception):  # noqa: N818  (a signal, not an error)
    """What was added up so far rests on an assumption that a later batch disproved: start again."""


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
        refuse_batch_statistics(model)
        self.model, self.loss = model, loss
        self.parameters = measured_parameters(model)
        self.fallback = {
            name: "its memory has gaps" for name, p in self.parameters.items() if not is_dense(p)
        }
        self._layouts: dict[Key, list[Layout]] = {}  # what is still possible, likeliest first
        # where a gradient was not zero, so that layouts are more than guesses
        self._observed: set[Key] = set()
        self._shared: set[Key] = set()  # uses whose result is the same for all samples
        self._workspace = Workspace()
        self._announced = self._vmap_works = self._proved = False
        self._batches = 0  # in the totals

    def zeros(self) -> dict[str, Tensor]:
        """Return totals to add to, float64: they stay accurate over millions of samples."""
        self._batches = 0
        return zeros(self.parameters)

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
        with plain_eager(self.model):
            if not self._proved:
                self._prove(batch)
            if len(self.fallback) < len(self.parameters):
                self._add_fast(batch, n, totals)
            if self.fallback:
                self._add_slowly(batch, totals)
        if not self._announced:  # once, and not before: a batch may show more, and begin again
            announce(self.fallback)
            self._announced = bool(self.fallback)
        self._batches += 1
        return n

    # the fast way: one forward and one backward pass ----------------------------------------------

    def _add_fast(self, batch: Batch, n: int, totals: dict[str, Tensor]) -> None:
        done: set[str] = set()
        for attempt in range(ATTEMPTS):
            capture, losses = self._known(batch, n)
            ledger = Ledger(self.parameters, totals, self._workspace, done)
            ledger.expect(capture.seen.taps)
            torn: list[tuple[Tap, Tensor]] = []
            if self._batches < COMPANY or self._batches % COMPANY == 0:
                refuse_company(self.model, self.loss, batch, losses)
            self._backward(capture, losses.sum(), partial(self._collect, ledger, torn, n))
            ledger.close(without={name for tap, _ in torn for name in tap.parameters})
            if not torn:
                return
            self._observe(*self._known(batch, n), *torn[0], attempt)
        why = "it could not be observed which of its rows belong to which sample"
        self._send({name: why for tap, _ in torn for name in tap.parameters})

    def _collect(
        self, ledger: Ledger, torn: list[tuple[Tap, Tensor]], n: int, tap: Tap, gradient: Tensor
    ) -> None:
        """Take the gradient of a tap, apart from those of which it is not known whose rows are whose."""
        known = n == 1 or (tap.key in self._observed and len(self._options(tap, n)) == 1)
        if not known and bool(gradient.any()):
            torn.append((tap, gradient))
            return
        for use in self._contributions(tap, gradient, n):
            ledger.enter(*use)

    def _known(self, batch: Batch, n: int) -> tuple[Capture, Tensor]:
        """Watch a forward pass in which every use of a weight is one that has been proved."""
        for _ in range(2):
            capture, losses = self._watch(batch, n)
            taps = capture.seen.taps
            if n == 1 or all(tap.key in self._layouts for tap in taps):
                break
            self._prove(batch)  # a way through the model that was not taken before
        self._send(capture.seen.unknown)
        self._send({name: "its rows vary with the data" for tap in taps for name in self._unfit(tap, n)})
        return capture, losses

    def _watch(self, batch: Batch, n: int) -> tuple[Capture, Tensor]:
        device = next(iter(self.parameters.values())).device
        root = torch.zeros((), device=device, requires_grad=True)
        capture = Capture(self.parameters, set(self.fallback), self._shared, n, root)
        with capture:
            losses = per_sample_losses(self.model, self.loss, batch)
        return capture, losses

    def _observe(self, capture: Capture, losses: Tensor, torn: Tap, gradient: Tensor, attempt: int) -> None:
        """Narrow the layouts that the proof's two samples left open, by what the loss of a third touches."""
        n = len(losses)
        options = self._options(torn, n)
        rows = options[attempt % len(options)].by_sample(gradient != 0, n)  # [N, m, ...]
        samples = rows.flatten(1).any(1).nonzero()[:, 0]
        sample = int(samples[attempt % len(samples)])
        touched: list[tuple[Tap, Tensor]] = []
        self._backward(capture, losses[sample], lambda *found: touched.append(found))
        for tap, own in touched:
            options = [layout for layout in self._layouts[tap.key] if layout.fits(tap.shape, n)]
            self._layouts[tap.key] = consistent(options, {sample: own != 0}, n)
            self._note(tap, own)
            self._send(dict.fromkeys(self._unfit(tap, n), "its rows belong to no one sample"))

    def _backward(
        self,
        capture: Capture,
        total: Tensor,
        receive: Callable[[Tap, Tensor], None],
        keep: bool = False,
    ) -> None:
        """Run the backward pass; a gradient that reaches a weight itself came by a way that was not seen."""
        if not total.requires_grad:
            return
        # every leaf is asked for: autograd visits only what leads to one, and the taps lie on the way
        leaves = [*self.parameters.values(), *capture.leaves.values()]
        capture.listener.receive = receive
        try:
            found = torch.autograd.grad(total, leaves, allow_unused=True, retain_graph=keep)
        finally:
            # it may hold activations, whose graph holds the listener
            capture.listener.receive = None
        leaked = [n for n, gradient in zip(self.parameters, found, strict=False) if gradient is not None]
        self._send({name: capture.origin(name) for name in leaked})

    @torch.no_grad()
    def _contributions(self, tap: Tap, gradient: Tensor, n: int) -> list[tuple[Owner, Region, Contribution]]:
        if not tap.intact():
            raise UnsupportedModuleError(
                f"the input of the layer with {tap.key[0]} was overwritten in place after it was used, so its "
                "gradient cannot be computed: use the out-of-place operation there."
            )
        found: list[Contribution]
        if n == 1 and not tap.dims:
            found = [Direct(upcast(gradient).reshape(1, *slot[1].size)) for slot in tap.slots if slot]
        else:
            layout = self._options(tap, n)[0]
            if isinstance(tap.use, Broadcast):
                found = [tap.use.contribute(gradient, layout, n)]
            else:
                found = tap.use.contribute(gradient, lambda t: layout.by_sample(t, n))
        return [(*slot, part) for slot, part in zip(tap.slots, found, strict=False) if slot is not None]

    def _options(self, tap: Tap, n: int) -> list[Layout]:
        """Return the layouts that a tap may have, none twice."""
        if n == 1:
            return [Layout(dim, flat=True) for dim in tap.dims[:1]]
        fitting = (layout for layout in self._layouts.get(tap.key, []) if layout.fits(tap.shape, n))
        return list(dict.fromkeys(layout.as_held(tap.shape, n) for layout in fitting))

    def _unfit(self, tap: Tap, n: int) -> list[str]:
        """Name the parameters of a tap that does not hold n samples where it should."""
        return [] if n == 1 or (self._options(tap, n) and not tap.routed) else tap.parameters

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
            sample.clear()

    def _send(self, names: dict[str, str], restart: bool = True) -> None:
        """Send parameters to the slower way."""
        new = {name: why for name, why in names.items() if name not in self.fallback}
        self.fallback.update(new)
        if new and restart:
            self._proved = False
            raise PlanChanged

    # the proof ------------------------------------------------------------------------------------

    def _prove(self, batch: Batch) -> None:
        """Observe layouts on two samples of large loss, and compare with autograd on each alone."""
        before = (dict(self.fallback), {key: found[:1] for key, found in self._layouts.items()})
        losses = loss_values(self.model, self.loss, batch)
        order = losses.argsort(descending=True)  # large losses: where gradients are not zero
        few = take(batch, order[:2])
        refuse_random(self.model, self.loss, few, self.parameters)
        if len(losses) > 1:
            refuse_mixing(self.model, self.loss, batch, losses, few)
        truth = squares(looped(self.model, self.loss, few, self.parameters))
        wrong = unproved(self.model, self.loss, few, self._observed_sums(few), truth, self.parameters)
        self._send(dict.fromkeys(wrong, "the fast way disagrees with autograd"), restart=False)
        own = {name: self.parameters[name] for name in self.fallback}
        self._vmap_works = bool(own) and vmap_agrees(self.model, self.loss, few, truth, own)
        self._proved = True
        now = {key: self._layouts[key][:1] for key in before[1]}
        if self._batches and (before[0].keys() != self.fallback.keys() or before[1] != now):
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

        totals = {name: torch.zeros_like(upcast(p.detach())) for name, p in self.parameters.items()}
        ledger = Ledger(self.parameters, totals, self._workspace, set())
        plan, lost = (len(self.fallback), len(self._shared)), {}
        try:
            capture, losses = self._watch(few, n)
            self._send(capture.seen.unknown, restart=False)
            for turn in range(n):
                self._backward(capture, losses[turn], collect, keep=turn < n - 1)
            for tap in capture.seen.taps:
                none = torch.zeros(tap.shape, dtype=tap.dtype, device=losses.device)
                parts = found.get(tap.key, [])
                parts = parts + [none] * (n - len(parts))
                if n == 1 or self._narrow(tap, parts):
                    for use in self._contributions(tap, sum(parts), n):  # type: ignore[arg-type]
                        ledger.enter(*use)
                elif not tap.mixed and not tap.routed:
                    self._shared.add(tap.key)
                else:
                    why = "are picked by data-dependent indices" if tap.routed else "belong to no one sample"
                    lost.update(dict.fromkeys(tap.parameters, f"its rows {why}"))
        except PlanChanged:
            return self._observed_sums(few)
        except RuntimeError as error:  # checkpointing, double backward, graph surgery
            why = f"the backward pass cannot be watched ({str(error).splitlines()[0][:80]})"
            self._send(dict.fromkeys(self.parameters, why), restart=False)
            return {}
        if plan[1] == len(self._shared):  # else they may be found among what is shared
            self._send(lost, restart=False)
        if plan != (len(self.fallback), len(self._shared)):  # look at the rest again
            return self._observed_sums(few)
        ledger.close()
        return {name: total for name, total in totals.items() if name not in self.fallback}

    def _narrow(self, tap: Tap, gradients: list[Tensor]) -> bool:
        """Keep those layouts of a tap that agree with where each sample's gradient is not zero."""
        n = len(gradients)
        options = self._layouts.get(tap.key) or candidates(tap.shape, n, tap.dims)
        options = [layout for layout in options if layout.fits(tap.shape, n)]
        touched = {sample: gradient != 0 for sample, gradient in enumerate(gradients)}
        options = [] if tap.routed else consistent(options, touched, n)
        self._layouts[tap.key] = options
        self._note(tap, *gradients)
        return bool(options)

    def _note(self, tap: Tap, *gradients: Tensor) -> None:
        if any(bool(gradient.any()) for gradient in gradients):
            self._observed.add(tap.key)
