# SPDX-License-Identifier: BSD-3-Clause
"""Who is who in ``fit(model, ...)``: the forget set, the retain set, the validation set."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from unlearnkit.data.batches import Batch
from unlearnkit.data.loaders import as_loader, complement
from unlearnkit.data.partition import Partition
from unlearnkit.exceptions import DataError

USAGE = (
    "fit takes one of three forms:\n"
    "    fit(model, forget)    # retain is the rest of the data set that forget is a Subset of\n"
    "    fit(model, retain, forget)\n"
    "    fit(model, retain=..., forget=..., validation=...)\n"
    "and in place of the first two a Partition, which holds both"
)


@runtime_checkable
class Measured(Protocol):
    """What was measured on data, and stands in for it: an ``Importance``."""

    sums: dict[str, Tensor]
    count: int


@dataclass(frozen=True)
class ForgetRetain:
    """The data of one unlearning request.

    Attributes
    ----------
    forget : iterable of batches, or an importance measured on the forget set
    retain : iterable of batches; or an importance, which is that of the whole training set, forget
        set included (the one that can be stored before a request comes); None where nothing is
        known of it
    validation : iterable of batches, or None
        Held-out samples.
    partition : Partition or None
        Where the two come from, if they were found.
    """

    forget: Iterable[Batch] | Measured
    retain: Iterable[Batch] | Measured | None = None
    validation: Iterable[Batch] | None = None
    partition: Partition | None = None

    @classmethod
    def resolve(
        cls, data: tuple[Any, ...], retain: Any = None, forget: Any = None, validation: Any = None
    ) -> ForgetRetain:
        """Read the arguments of ``fit`` as ``range`` reads its own.

        Raises
        ------
        TypeError
            If the arguments are none of the three forms, which the message shows.
        DataError
            If a role is filled with something that is not data.
        """
        partition = None
        if len(data) == 1 and isinstance(data[0], Partition) and forget is None and retain is None:
            partition = data[0]
            retain, forget = partition
        elif len(data) == 1 and forget is None:
            forget = data[0]
        elif len(data) == 2 and forget is None and retain is None:
            retain, forget = data
        elif data:
            named = {"retain": retain, "forget": forget}
            given = [f"{name}=" for name, value in named.items() if value is not None]
            beside = f" beside {' and '.join(given)}" if given else ""
            raise TypeError(f"got {len(data)} positional data argument(s){beside}. {USAGE}")
        if forget is None:
            raise TypeError(f"the forget set is missing. {USAGE}")
        forget = _source(forget, "forget")
        if retain is not None:
            retain = _source(retain, "retain")
        elif not isinstance(forget, Measured):
            retain = complement(forget)
        if validation is not None:
            validation = as_loader(validation, name="validation")
        return cls(forget, retain, validation, partition)


def _source(data: Any, name: str) -> Iterable[Batch] | Measured:
    if isinstance(data, Partition):
        raise DataError(
            f"{name} must be data, got a Partition, which holds both sets: pass fit(model, partition) alone, or "
            f"partition.{name} as {name}."
        )
    return data if isinstance(data, Measured) else as_loader(data, name=name)
