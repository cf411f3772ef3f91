# SPDX-License-Identifier: BSD-3-Clause
"""How samples become noise, by the schedule of a scheduler: what is shown to a model, and what it should say.

Legend: N samples, T training steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from unlearnkit.exceptions import DataError

KINDS = ("epsilon", "v_prediction", "sample", "flow")


@dataclass(frozen=True)
class Noising:
    """A forward process: ``signal_t x + noise_t eps``.

    Attributes
    ----------
    signal, noise : Tensor [T]
        Factors of the sample and of the noise, float64.
    times : Tensor [T]
        What the model is told of each step.
    kind : {"epsilon", "v_prediction", "sample", "flow"}
        What it predicts: the noise, ``signal eps - noise x``, the sample, ``eps - x``.
    """

    signal: Tensor
    noise: Tensor
    times: Tensor
    kind: str

    @classmethod
    def of(cls, scheduler: Any) -> Noising:
        """Return the forward process that a model was trained on.

        Parameters
        ----------
        scheduler : scheduler of the diffusers library, or Tensor [T]
            One with ``alphas_cumprod``, or for flow matching; which sampler it is does not matter. Of a
            tensor: these very ``alphas_cumprod``, for a model that predicts the noise.

        Raises
        ------
        DataError
            If it is none of these.
        """
        if isinstance(scheduler, Tensor):
            return cls._of_alphas(scheduler, "epsilon")
        config = getattr(scheduler, "config", {})
        alphas = getattr(scheduler, "alphas_cumprod", None)
        if isinstance(alphas, Tensor):
            kind = config.get("prediction_type", "epsilon")
            if kind not in KINDS[:3]:
                raise DataError(
                    f"prediction_type={kind!r} of {type(scheduler).__name__} is unknown: it must be one of "
                    f"{', '.join(KINDS[:3])}."
                )
            return cls._of_alphas(alphas, kind)
        if "FlowMatch" in type(scheduler).__name__:
            return cls._of_flow(config)
        raise DataError(
            f"scheduler must be one of the diffusers library with alphas_cumprod or for flow matching, or a tensor "
            f"of alphas_cumprod [T]; got {type(scheduler).__name__}. Pass the scheduler that the model was trained "
            "with."
        )

    @classmethod
    def _of_alphas(cls, alphas: Tensor, kind: str) -> Noising:
        kept = alphas.detach().double()
        if kept.dim() != 1 or len(kept) == 0 or not bool(((kept >= 0) & (kept <= 1)).all()):
            raise DataError(
                f"alphas_cumprod must be [T] between 0 and 1, got a tensor {list(alphas.shape)}: it is the product "
                "of 1 - beta up to each step."
            )
        return cls(kept.sqrt(), (1 - kept).sqrt(), torch.arange(len(kept), device=kept.device), kind)

    @classmethod
    def _of_flow(cls, config: Any) -> Noising:
        steps = int(config.get("num_train_timesteps", 1000))
        shift = 1.0 if config.get("use_dynamic_shifting") else float(config.get("shift", 1.0))
        sigma = torch.arange(1, steps + 1, dtype=torch.float64) / steps
        sigma = shift * sigma / (1 + (shift - 1) * sigma)
        return cls(1 - sigma, sigma, (sigma * steps).float(), "flow")

    @property
    def steps(self) -> int:
        """T."""
        return len(self.signal)

    def of_step(self, x: Tensor, eps: Tensor, step: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the noisy samples, the model's time, and what it should predict.

        Parameters
        ----------
        x, eps : Tensor [N, ...]
            Samples and standard normal noise.
        step : Tensor [N]
            From 0 to T - 1.

        Returns
        -------
        noisy : Tensor [N, ...]
        times : Tensor [N]
        target : Tensor [N, ...]
        """
        signal, noise = (
            factor.to(x.device)[step].to(x).view(-1, *[1] * (x.dim() - 1))
            for factor in (self.signal, self.noise)
        )
        targets = {
            "epsilon": lambda: eps,
            "v_prediction": lambda: signal * eps - noise * x,
            "sample": lambda: x,
            "flow": lambda: eps - x,
        }
        return signal * x + noise * eps, self.times.to(x.device)[step], targets[self.kind]()
