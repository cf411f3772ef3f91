# SPDX-License-Identifier: BSD-3-Clause
"""What a model is made of: its layers, the units of those, and what hangs on a unit."""

from unlearnkit.structure.activations import activations_of
from unlearnkit.structure.compact import compact
from unlearnkit.structure.units import Units, UnitsByLayer, closure, forward_pass, units_of

__all__ = ["Units", "UnitsByLayer", "activations_of", "closure", "compact", "forward_pass", "units_of"]
