# SPDX-License-Identifier: BSD-3-Clause
"""The uses of every weight in one batch, squared and freed as soon as all of a parameter's are in."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection

import torch
from torch import Tensor, nn

from unlearnkit.gradients._chain import Chained, Owner
from unlearnkit.gradients.capture import Tap
from unlearnkit.gradients.pairs import (
    Contribution,
    Region,
    accumulation_dtype,
    add_square_sum,
)
from unlearnkit.ops.workspace import Workspace


class Ledger:
    """Adds sum_n g_n^2 of each parameter to its total.

    Parameters
    ----------
    parameters, totals : dict of str to Tensor
    workspace : Workspace
    done : set of str
        The parameters of which this batch has been added, kept up to date.
    """

    def __init__(
        self,
        parameters: dict[str, nn.Parameter],
        totals: dict[str, Tensor],
        workspace: Workspace,
        done: set[str],
    ) -> None:
        self._parameters, self._totals, self._workspace = parameters, totals, workspace
        self._uses: dict[str, list[tuple[Region, Contribution]]] = defaultdict(list)
        self._computed: dict[str, Owner] = {}  # owners that are not parameters themselves
        self._missing: Counter[str] = Counter()
        self._done = done

    def expect(self, taps: list[Tap]) -> None:
        """Note which uses will come."""
        for tap in taps:
            self._missing.update(tap.parameters)

    def enter(self, owner: Owner, region: Region, contribution: Contribution) -> None:
        """Take in one use."""
        if self._done.issuperset(owner.parameters):
            return
        self._uses[owner.name].append((region, contribution))
        if owner.name not in self._parameters:
            self._computed[owner.name] = owner
        for name in owner.parameters:
            self._missing[name] -= 1
            if self._missing[name] == 0:
                self._square(name)

    def close(self, without: Collection[str] = ()) -> None:
        """Square what is left: uses of which some had no part in the loss."""
        for name in self._parameters:
            if name not in without:
                self._square(name)

    @torch.no_grad()
    def _square(self, name: str) -> None:
        if name in self._done:
            return
        self._done.add(name)
        parameter, uses = self._parameters[name], self._uses.pop(name, [])
        whole = Region.of(parameter, parameter)
        dtype = accumulation_dtype(parameter.dtype)
        for key, owner in list(self._computed.items()):
            if name in owner.parameters:
                uses.append((whole, Chained(owner.tensor, parameter, self._uses[key], dtype)))
                if self._done.issuperset(owner.parameters):
                    del self._computed[key], self._uses[key]
        if uses:
            add_square_sum(self._totals[name], uses, self._workspace, dtype)
