# SPDX-License-Identifier: BSD-3-Clause
"""Moving the decision boundary over what is to be forgotten: Boundary Unlearning, both ways."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.hooks import RemovableHandle

from unlearnkit.data import Batch, labels
from unlearnkit.exceptions import DataError, UnsupportedModuleError
from unlearnkit.gradients.reference import plain_eager
from unlearnkit.methods._adversary import adversarial, inputs_of, likeliest
from unlearnkit.methods._checks import check_number
from unlearnkit.methods._labels import classes_of, with_labels
from unlearnkit.methods._run import Run, derived
from unlearnkit.methods._trained import Trained
from unlearnkit.structure.layers import last_layer

EXPANSION = 0xB0DE
"""Sets the seed of the extra class's weights apart."""


@dataclass(kw_only=True, eq=False, repr=False)
class BoundaryShrink(Trained):
    """Train each sample to the class nearest to it but its own ("BS"); needs no retain set.

    The nearest class is what the original model says of the sample after a step of ``eps`` up its
    loss, ``x + eps * sign(gradient)``. The step is found with the original model in eval mode, and
    every floating-point input of a batch takes it.

    Parameters
    ----------
    eps : float
        The step, in units of the inputs: 0.1 of [0, 1] in the authors' code, and to be scaled where
        the data is normalised.
    clamp : "data", "none" or (float, float)
        What the stepped inputs are kept within: each input's own range over the forget set, nothing,
        or these bounds.
    exclude_true_label : bool
        Take the second most likely class where the first is the sample's own: the paper's label is
        an incorrect one, while in the authors' code it may be the true one.

    Notes
    -----
    Chen et al., "Boundary Unlearning", arXiv 2303.11570, section 3.3; in the comparison of SalUn
    (arXiv 2310.12508) 10 epochs with lr between 1e-6 and 1e-4. The stepped inputs are not rounded
    to 8 bits, as that comparison's code does.
    """

    needs_retain: ClassVar[Literal["data", "importance", "nothing"]] = "nothing"

    lr: float = 1e-5
    weight_decay: float = 5e-4
    eps: float = 0.1
    clamp: Literal["data", "none"] | tuple[float, float] = "data"
    exclude_true_label: bool = True

    def _validate(self) -> None:
        super()._validate()
        check_number("eps", self.eps)
        if not isinstance(self.clamp, str) or self.clamp not in ("data", "none"):
            _check_bounds(self.clamp)

    def _begin(self, run: Run) -> None:
        run.seed_epoch(0)
        classes_of(run.original, next(run.forget.walk(run.generator)))
        run.state = self._bounds(run)

    def _length(self, run: Run) -> int:
        return len(run.forget)

    def _steps(self, run: Run) -> Iterator[Tensor]:
        for batch in run.forget.walk(run.generator):
            yield run.losses(with_labels(batch, self._nearest(run, batch))).mean()

    def _nearest(self, run: Run, batch: Batch) -> Tensor:
        """Return the classes [N, ...] that lie nearest to the samples."""
        with plain_eager(run.original):
            moved = adversarial(run.original, run.loss, batch, self.eps, run.state)
            return likeliest(run.original, moved, labels(batch) if self.exclude_true_label else None)

    def _bounds(self, run: Run) -> dict[Any, tuple[float, float]]:
        """Return what each input is clamped to, by its place in a batch."""
        bounds: dict[Any, tuple[float, float]] = {}
        if self.clamp == "none":
            return bounds
        for batch in run.forget.walk(run.generator):
            for place, value in inputs_of(batch).items():
                low, high = bounds.get(place, (float("inf"), float("-inf")))
                if not isinstance(self.clamp, str):
                    bounds[place] = self.clamp
                elif value.numel():
                    bounds[place] = min(low, float(value.min())), max(high, float(value.max()))
        return bounds


@dataclass(kw_only=True, eq=False, repr=False)
class BoundaryExpanding(Trained):
    """Train all samples into a class of their own, then drop it ("BE"); needs no retain set.

    While it trains, the last layer has one output more than the model has classes K, newly
    initialised, and every sample's label is K. That output is no part of the result: the edited
    model has the form of the original, and tells K classes apart. The code of SalUn's comparison
    keeps it, and counts samples that fall into it as forgotten.

    Parameters
    ----------
    head : str, optional
        Name of the ``Linear`` that makes the logits, where it is not the layer that is run last.

    Notes
    -----
    Chen et al., "Boundary Unlearning", arXiv 2303.11570, section 3.4; in the comparison of SalUn
    (arXiv 2310.12508) 10 epochs with lr between 1e-6 and 1e-4. The extra output is there in the
    training mode only, so a trainer's ``monitor`` sees K classes.
    """

    needs_retain: ClassVar[Literal["data", "importance", "nothing"]] = "nothing"

    lr: float = 1e-5
    weight_decay: float = 5e-4
    head: str | None = None

    def _validate(self) -> None:
        super()._validate()
        if self.head is not None and not isinstance(self.head, str):
            raise DataError(f"head must be the name of a Linear layer of the model, got {self.head!r}.")
        if self.loss is not None:
            raise DataError(
                "BoundaryExpanding trains on a class that a loss of your own knows nothing of: leave loss "
                "out, and it is cross-entropy; or use GradientAscent(loss=...)."
            )

    def _begin(self, run: Run) -> None:
        run.seed_epoch(0)
        first = next(run.forget.walk(run.generator))
        layer = self._head(run, first)
        torch.manual_seed(derived(run.seed, EXPANSION))
        extra = nn.Linear(layer.in_features, 1, layer.bias is not None).to(layer.weight)
        run.extra += extra.parameters()
        run.state = _Expansion(classes_of(run.original, first), _widen(run.model, layer, extra))

    def _length(self, run: Run) -> int:
        return len(run.forget)

    def _steps(self, run: Run) -> Iterator[Tensor]:
        for batch in run.forget.walk(run.generator):
            extra = torch.full_like(labels(batch), run.state.classes)
            yield run.losses(with_labels(batch, extra)).mean()

    def _finish(self, run: Run) -> None:
        if run.state is not None:
            run.state.hook.remove()

    def _check_names(self, model: nn.Module) -> None:
        super()._check_names(model)
        if self.head is not None and self.head not in dict(model.named_modules()):
            known = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
            raise DataError(f"head={self.head!r} is no layer of the model; Linear layers are {known[-3:]}.")

    def _head(self, run: Run, batch: Batch) -> nn.Linear:
        """Return the layer that makes the logits."""
        if self.head is None:
            layer = last_layer(run.model, batch, "name the Linear that makes the logits with head=")
        else:
            layer = run.model.get_submodule(self.head)
        if not isinstance(layer, nn.Linear):
            raise UnsupportedModuleError(
                f"a class can be added to a Linear alone, and what makes the logits is taken to be a "
                f"{type(layer).__name__}: name the Linear with head=, or use BoundaryShrink."
            )
        return layer


@dataclass
class _Expansion:
    """The extra class, as long as it lasts."""

    classes: int  # K, and so its label
    hook: RemovableHandle


def _widen(model: nn.Module, layer: nn.Linear, extra: nn.Linear) -> RemovableHandle:
    """Let a layer have the outputs of another beside its own, while the model is in training mode."""

    def widened(module: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> Tensor:
        if not model.training:
            return output
        # [..., K + 1]
        return torch.cat([output, F.linear(given[0], extra.weight, extra.bias)], -1)

    return layer.register_forward_hook(widened)


def _check_bounds(given: Any) -> None:
    pair = isinstance(given, tuple | list) and len(given) == 2
    if not pair or not all(isinstance(one, int | float) for one in given) or not given[0] < given[1]:
        raise DataError(f"clamp must be 'data', 'none' or (low, high), got {given!r}.")
