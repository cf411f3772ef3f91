# SPDX-License-Identifier: BSD-3-Clause
"""A data set divided into what is clean and what is noisy."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unlearnkit.data.batches import Batch, batch_size
from unlearnkit.data.guard import aside
from unlearnkit.data.loaders import as_loader, part_of, read_indices, refuse_random
from unlearnkit.exceptions import DataError

SAMPLES = ("retain", "forget")


class Partition:
    """A data set divided into a clean part, to keep, and a noisy part, to forget.

    What a finder returns (:func:`unlearnkit.find_forget_set`), and what every estimator takes in
    place of the two sets: ``ASSD().fit(model, partition)``. It unpacks into them, too:
    ``retain, forget = partition``. :meth:`of` makes one of what is known already.

    Attributes
    ----------
    retain, forget : iterable of batches
        The clean and the noisy samples, unshuffled. Loaders, where samples are read by index.
    noise : Tensor, shape [N], float
        Each sample's probability of being noisy, in the order in which the data is read unshuffled.
    is_noisy : Tensor, shape [N], bool
        Which samples the noisy part holds.
    indices : Tensor, shape [M], int
        The noisy samples' indices in the data set that was given, or in that of the loader, in
        ascending order.
    losses : Tensor, shape [N], or None
        Each sample's loss under the model that was looked at, in nats, where it is known.
    separation : float or None
        How far apart the two parts lie, where that is known; what finds them says in which unit.
    is_separated : bool
        Whether they lie far enough apart to be told from each other.

    Notes
    -----
    A pickle of it, and of an estimator that holds it, has no samples: ``retain`` and ``forget`` are
    left out, and :meth:`of` makes them again of the data and the ``indices``.
    """

    def __init__(
        self,
        retain: Iterable[Batch],
        forget: Iterable[Batch],
        noise: Tensor,
        is_noisy: Tensor,
        indices: Tensor,
        losses: Tensor | None = None,
        separation: float | None = None,
        is_separated: bool = True,
    ) -> None:
        self.retain, self.forget = retain, forget
        self.noise, self.is_noisy, self.indices = noise, is_noisy, indices
        self.losses, self.separation, self.is_separated = losses, separation, is_separated

    @classmethod
    def of(
        cls,
        data: Any,
        noise: Any,
        threshold: float = 0.5,
        *,
        losses: Tensor | None = None,
        separation: float | None = None,
        is_separated: bool = True,
    ) -> Partition:
        """Return the partition of `data` that is said by which samples are noisy.

        Parameters
        ----------
        data : DataLoader, Dataset, or tuple (X, y)
        noise : array of bool or float, shape [N], or of int, shape [M]
            Which samples are noisy; how probable that is, from 0 to 1; or their indices in the data
            set. A mask and probabilities are in the order in which the data is read unshuffled.
        threshold : float
            From which probability on a sample is noisy.
        losses, separation, is_separated
            See the attributes.

        Raises
        ------
        DataError
            If `data` is no data, or a loader that draws its samples at random and so does not give
            them a number; if `noise` does not fit it, or a probability is none.

        Examples
        --------
        >>> import torch
        >>> from unlearnkit import Partition
        >>> X, y = torch.zeros(4, 2), torch.tensor([0, 1, 0, 1])
        >>> Partition.of((X, y), [1, 3])
        Partition: 2 of 4 samples noisy (50.0 %)
        """
        loader = as_loader(data)
        refuse_random(loader)
        # without it a loader's indices are those of batches
        has_batches = getattr(loader, "batch_sampler", None) is not None
        drawn = read_indices(loader) if has_batches else None
        samples = len(drawn) if drawn is not None else sum(map(batch_size, aside(loader)))
        own = torch.arange(samples) if drawn is None else torch.as_tensor(list(drawn), dtype=torch.long)
        probability = _probabilities(noise, own)  # [N]
        if not isinstance(threshold, float | int) or not 0 < threshold <= 1:
            raise DataError(f"threshold must be a probability above 0, got {threshold!r}.")
        is_noisy = probability >= threshold
        return cls(
            part_of(loader, ~is_noisy),
            part_of(loader, is_noisy),
            probability,
            is_noisy,
            own[is_noisy].sort().values,
            losses,
            separation,
            is_separated,
        )

    def __getstate__(self) -> dict[str, Any]:
        """Return all but the samples, which are not to go where a pickle goes."""
        return {name: value for name, value in vars(self).items() if name not in SAMPLES}

    def __getattr__(self, name: str) -> Any:
        if name in SAMPLES:
            raise DataError(
                "a Partition that was pickled or copied has no samples: make it again with "
                "Partition.of(data, partition.indices)."
            )
        raise AttributeError(f"a Partition has no attribute {name!r}.")

    def __iter__(self) -> Iterator[Iterable[Batch]]:
        """Yield the clean part and the noisy part."""
        return iter((self.retain, self.forget))

    def __repr__(self) -> str:
        found, total = int(self.is_noisy.sum()), len(self.is_noisy)
        said = f"Partition: {found:,} of {total:,} samples noisy ({100 * found / max(total, 1):.1f} %)"
        return said if self.is_separated else f"{said}, hardly to be told from the rest"


def _probabilities(given: Any, own: Tensor) -> Tensor:
    """Return the probability [N] of each sample that it is noisy; `own` are their indices [N]."""
    try:
        array = given.detach().cpu() if isinstance(given, Tensor) else torch.from_numpy(np.array(given))
    except (TypeError, ValueError) as error:
        raise DataError(
            f"noise must be a mask, probabilities or indices of samples, got {type(given).__name__}."
        ) from error
    total = len(own)
    if array.dim() != 1:
        raise DataError(f"noise must have one dimension, the samples, got shape {list(array.shape)}.")
    if array.dtype is torch.bool or array.is_floating_point():
        if len(array) != total and len(array):
            raise DataError(
                f"noise has {len(array):,} values, and the data {total:,} samples: give one a sample, or the "
                "indices of the noisy ones as whole numbers."
            )
        values = array.float() if len(array) else torch.zeros(total)
        if not bool(((values >= 0) & (values <= 1)).all()):
            raise DataError("a probability in noise is below 0, above 1 or NaN.")
        return values
    if len(array.unique()) < len(array):
        raise DataError(
            "noise holds the same index twice: indices name each noisy sample once; a mask must be of bools, "
            "as in mask.astype(bool)."
        )
    chosen = torch.isin(own, array.long())
    if len(unknown := array[~torch.isin(array.long(), own)]):
        raise DataError(
            f"noise holds the index {int(unknown[0])}, which the data does not read: its {total:,} samples "
            f"have indices from {int(own.min()) if total else 0} to {int(own.max()) if total else 0}. Of a Subset, "
            "give positions within it."
        )
    return chosen.float()
