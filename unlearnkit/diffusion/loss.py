# SPDX-License-Identifier: BSD-3-Clause
"""The loss of a diffusion model, and what a wrong label is for it.

Legend: N samples, C channels, H x W pixels, T training steps, L tokens of a prompt, E their width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from sklearn.base import BaseEstimator
from torch import Generator, Tensor, nn

from unlearnkit.data import Batch
from unlearnkit.diffusion._calls import Call, Condition, guided, null_like, predict, replaced
from unlearnkit.diffusion._draws import keys_of, normal, uniform
from unlearnkit.diffusion._noising import Noising
from unlearnkit.diffusion._wrong import Instead, wrong_condition
from unlearnkit.exceptions import DataError

Reduction = Literal["mean", "sum"]


class DiffusionLoss(BaseEstimator):
    """How well a model predicts the noise in samples: the ``loss=`` of any method, for diffusion models.

    A batch is ``(x, condition)`` with samples x [N, C, H, W], images in [-1, 1] or scaled latents, and
    classes [N] or prompt embeddings [N, L, E]; or a mapping with the samples as ``"sample"``, whatever the
    model takes by keyword, and ``"instead"``, what a sample of the forget set is to look like instead.

    **In training mode noise and time steps are drawn anew at each call; in eval mode they are a sample's
    own**, fixed by its values and `seed`, so that importances, losses before and after, and a sample alone
    and in a batch can be compared. It is as with dropout.

    :class:`~unlearnkit.SalUn` and :class:`~unlearnkit.RandomLabel` train on :meth:`misaligned` for the
    forget set: under its own condition the model is to predict what it does under another one.

    Parameters
    ----------
    scheduler : scheduler of the diffusers library, or Tensor [T]
        Of the forward process that the model was trained on; see the pipeline's. Any with
        ``alphas_cumprod``, whichever sampler it is and whether the model predicts noise, velocity or sample,
        or one for flow matching. Or ``alphas_cumprod`` alone.
    instead : "next", "random", "null", int, mapping or callable, default="next"
        What samples of the forget set are to look like, where the batch does not say: the next class, as in
        the paper's code; another one at random; nothing in particular; this class; by a mapping from class
        to class; or ``instead(condition, generator) -> condition``.
    target : {"original", "current"}, default="original"
        Whose prediction it is: the one's from before, of which a copy is kept, or the model's as it is being
        trained, as in the paper's code. The target that stays where it is did better: docs/generation.md.
    guidance : float, default=0.0
        w of classifier-free guidance, ``(1 + w) eps(c) - w eps(null)``, in the loss of the true condition.
        The paper's code measures saliency with 2.0 (7.5 for Stable Diffusion) and trains with 0.
    null : int, Tensor or mapping, optional
        The empty condition: the class that stands for none, or an empty prompt's embedding [L, E].
    condition_drop : float, default=0.0
        In training mode, the share of samples whose condition is replaced by `null`, as when a model for
        guidance was trained. Leave it out where the model does that itself.
    reduction : {"mean", "sum"}, default="mean"
        Over the C x H x W values of a sample. The paper's code for DDPM has a sum here and a mean in the
        misaligned term, so its ``alpha=1e-3`` is 3.07 times the mean on CIFAR's 3,072 values.
    misaligned_reduction : {"mean", "sum"}, optional
        That of :meth:`misaligned`; as `reduction` where left out.
    draws : int, default=1
        In eval mode, over how many draws of noise and time step a sample's loss is averaged; the steps of
        one sample are spread evenly over T.
    seed : int, default=0
        Of the draws in eval mode.
    classes : int, optional
        How many there are, for ``instead="next"`` and ``"random"``; where left out, as many as the model's
        ``config`` says.
    call : callable, optional
        ``call(model, noisy, times, condition) -> prediction``, for a model that is not called as those of
        the diffusers library are.

    Notes
    -----
    The objective of Fan et al., "SalUn", arXiv 2310.12508, equation 6 and the authors' code. `guidance` is in
    the convention of the paper and of Ho and Salimans; the diffusers library's ``guidance_scale`` is 1 + w.

    Examples
    --------
    >>> import torch
    >>> from unlearnkit import SalUn
    >>> from unlearnkit.diffusion import DiffusionLoss
    >>> schedule = torch.linspace(0.999, 0.01, 100)
    >>> salun = SalUn(loss=DiffusionLoss(schedule), order="paired", optimizer="adam", lr=1e-4)
    >>> # salun.fit(unet, (x_retain, classes_retain), (x_forget, classes_forget))
    """

    def __init__(
        self,
        scheduler: Any,
        instead: Instead = "next",
        target: Literal["original", "current"] = "original",
        guidance: float = 0.0,
        null: Any = None,
        condition_drop: float = 0.0,
        reduction: Reduction = "mean",
        misaligned_reduction: Reduction | None = None,
        draws: int = 1,
        seed: int = 0,
        classes: int | None = None,
        call: Call | None = None,
    ) -> None:
        self.scheduler = scheduler
        self.instead = instead
        self.target = target
        self.guidance = guidance
        self.null = null
        self.condition_drop = condition_drop
        self.reduction = reduction
        self.misaligned_reduction = misaligned_reduction
        self.draws = draws
        self.seed = seed
        self.classes = classes
        self.call = call

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the squared error of the prediction for each sample.

        Parameters
        ----------
        model : nn.Module
        batch : (x, condition) or mapping

        Returns
        -------
        Tensor [N]

        Raises
        ------
        DataError
            If a parameter, the batch or the model's output does not fit.
        """
        noising, x, condition, _ = self._read(batch)
        if model.training:
            return self._error(model, noising, x, self._dropped(condition, len(x)), *_anew(x, noising.steps))
        keys = keys_of(x, self.seed)  # [N]
        found = [
            self._error(model, noising, x, condition, *_own(x, keys, noising.steps, draw, self.draws))
            for draw in range(self.draws)
        ]
        return found[0] if self.draws == 1 else torch.stack(found).mean(0)

    def misaligned(
        self, model: nn.Module, batch: Batch, original: Callable[[], nn.Module], generator: Generator
    ) -> Tensor:
        """Return how far the prediction is from that under another condition, for each sample.

        Noise and time steps are drawn anew, whichever mode the model is in.

        Parameters
        ----------
        model : nn.Module
            Gets a gradient through the sample's own condition alone.
        batch : (x, condition) or mapping
            Of the forget set.
        original : callable
            ``original()`` is the model before, for ``target="original"``; nothing else asks for it.
        generator : torch.Generator
            Draws what `instead` leaves to chance.

        Returns
        -------
        Tensor [N]

        Raises
        ------
        DataError
            As the loss itself, and if `instead` does not fit the condition.
        """
        noising, x, condition, given = self._read(batch)
        if given is None:
            wrong = wrong_condition(self.instead, condition, self.null, self.classes, model, generator)
        else:
            wrong = replaced(condition, given)
        noisy, times, _ = noising.of_step(x, *_anew(x, noising.steps))
        teacher = original() if self.target == "original" else model
        with torch.no_grad():
            wanted = predict(teacher, noisy, times, self._dropped(wrong, len(x)), self.call)
        found = predict(model, noisy, times, self._dropped(condition, len(x)), self.call)
        return _reduced(found - wanted, self.misaligned_reduction or self.reduction)

    def _error(
        self, model: nn.Module, noising: Noising, x: Tensor, condition: Condition, eps: Tensor, step: Tensor
    ) -> Tensor:
        noisy, times, target = noising.of_step(x, eps, step)
        null = null_like(self.null, condition) if self.guidance else None
        found = guided(model, noisy, times, condition, null, self.guidance, self.call)
        return _reduced(found - target, self.reduction)

    def _dropped(self, condition: Condition, n: int) -> Condition:
        """Replace the condition of some samples by the empty one."""
        if not self.condition_drop or condition is None:
            return condition
        null = null_like(self.null, condition)
        gone = torch.rand(n) < self.condition_drop  # [N]
        if isinstance(condition, Mapping) and isinstance(null, Mapping):
            return {name: _where(gone, null[name], value) for name, value in condition.items()}
        return _where(gone, null, condition)

    def _read(self, batch: Batch) -> tuple[Noising, Tensor, Condition, Any]:
        """Return the schedule, samples, their condition, and what they are to look like instead."""
        self._validate()
        x: Any
        condition: Any
        given = None
        if isinstance(batch, Mapping):
            x = batch.get("sample")
            condition = {name: value for name, value in batch.items() if name not in ("sample", "instead")}
            given = batch.get("instead")
        else:
            x, condition = (*batch, None)[:2] if isinstance(batch, tuple | list) else (batch, None)
        if not isinstance(x, Tensor) or x.dim() < 2 or not x.is_floating_point():
            got = f"{list(x.shape)} of {x.dtype}" if isinstance(x, Tensor) else type(x).__name__
            raise DataError(
                "a batch for a diffusion model is (x, condition) or a mapping with the samples as 'sample', floating "
                f"point and [N, C, H, W]; got samples {got}."
            )
        return Noising.of(self.scheduler), x, condition, given

    def _validate(self) -> None:
        for name, kinds in (("reduction", ("mean", "sum")), ("misaligned_reduction", ("mean", "sum", None))):
            _check_choice(name, getattr(self, name), kinds)
        _check_choice("target", self.target, ("original", "current"))
        if isinstance(self.instead, str):
            _check_choice("instead", self.instead, ("next", "random", "null"))
        if not 0 <= self.condition_drop <= 1:
            raise DataError(f"condition_drop must be a share, 0 to 1, got {self.condition_drop!r}.")
        if not isinstance(self.draws, int) or self.draws < 1:
            raise DataError(f"draws must be a whole number of 1 or more, got {self.draws!r}.")

    def __sklearn_clone__(self) -> DiffusionLoss:
        return type(self)(
            **self.get_params(deep=False)
        )  # a scheduler is only read: copies of one need no own

    def __repr__(self) -> str:
        shown = [f"{type(self.scheduler).__name__}"]
        fresh = type(self)(self.scheduler)
        for name, value in self.get_params(deep=False).items():
            if isinstance(value, Tensor):
                value = f"Tensor {list(value.shape)}"
            if name != "scheduler" and value != getattr(fresh, name):
                shown.append(f"{name}={value if name == 'null' else repr(value)}")
        return f"DiffusionLoss({', '.join(shown)})"


def _anew(x: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Draw noise [N, ...] and steps [N] from torch's random state."""
    return torch.randn_like(x), torch.randint(steps, (len(x),), device=x.device)


def _own(x: Tensor, keys: Tensor, steps: int, draw: int, draws: int) -> tuple[Tensor, Tensor]:
    """Return the noise [N, ...] and the steps [N] that follow from the samples."""
    eps = normal(keys, x.shape[1:], 2 * draw + 1).to(x)
    at = (uniform(keys, 0) + draw / draws) % 1
    return eps, (at * steps).long().clamp(max=steps - 1)


def _reduced(error: Tensor, reduction: Reduction) -> Tensor:
    squares = error.square().flatten(1)  # [N, D]
    return squares.mean(1) if reduction == "mean" else squares.sum(1)


def _where(chosen: Tensor, new: Any, old: Any) -> Any:
    if not isinstance(old, Tensor) or new is old:
        return old
    return torch.where(chosen.to(old.device).view(-1, *[1] * (old.dim() - 1)), new, old)


def _check_choice(name: str, value: object, choices: tuple[object, ...]) -> None:
    if value not in choices:
        raise DataError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}.")
