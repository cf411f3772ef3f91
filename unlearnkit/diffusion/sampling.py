# SPDX-License-Identifier: BSD-3-Clause
"""Images from a diffusion model, each with noise of its own, so that two models can be compared image by image.

Legend: N images, C channels, H x W pixels, L tokens of a prompt, E their width.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.random import RandomState
from sklearn.utils import check_random_state
from torch import Generator, Tensor, nn
from tqdm.auto import tqdm

from unlearnkit.data import batch_size as size_of
from unlearnkit.data import device_of, evaluating, seed_rng, take, tree_map
from unlearnkit.diffusion._calls import Call, Condition, guided, null_like
from unlearnkit.exceptions import DataError
from unlearnkit.parameters import unwrap

__all__ = ["generate"]

STEPS = 50  # what pipelines of the diffusers library take, but for DDPM


def generate(
    model: nn.Module,
    scheduler: Any,
    condition: Any,
    *,
    shape: Sequence[int] | None = None,
    steps: int | None = None,
    guidance: float = 0.0,
    null: Any = None,
    call: Call | None = None,
    batch_size: int = 128,
    random_state: int | RandomState | None = 0,
    progress: bool = False,
) -> Tensor:
    """Sample images from a diffusion model.

    The noise that image i starts from, and what is added on the way, follows from `random_state` and i
    alone: neither from the model, nor from `batch_size`, nor from the device. With the same
    `random_state` two models are shown the same noise, and their images can be compared one by one.

    Parameters
    ----------
    model : nn.Module
        Called as :func:`unlearnkit.diffusion.DiffusionLoss` calls it, in eval mode and without gradients;
        it is left as it was found.
    scheduler : scheduler of the diffusers library
        Any that has ``set_timesteps``, ``timesteps`` and ``step``: DDPM, DDIM, PNDM, Euler, DPM-Solver,
        Heun, UniPC, flow matching. Copied for each batch, since some keep a history; the caller's own is
        left as it is.
    condition : array_like [N], Tensor [N, L, E], mapping or int
        The class of each image; its prompt's embedding; or what the model takes by keyword. A number is
        that of images of a model without a condition.
    shape : (C, H, W), optional
        Of an image; where left out, what the model's ``config`` says.
    steps : int, optional
        Of the scheduler; where left out, as many as in training for DDPM, else 50. Few steps make worse
        images of any model: compare models at the same number.
    guidance : float
        w of classifier-free guidance, ``(1 + w) eps(c) - w eps(null)``; the diffusers library's
        ``guidance_scale`` is 1 + w.
    null : int, Tensor or mapping, optional
        The empty condition, for guidance: the class that stands for none, or an empty prompt's embedding.
    call : callable, optional
        ``call(model, noisy, times, condition) -> prediction``, for a model that is called otherwise.
    batch_size : int
        Images at a time.
    random_state : int, RandomState or None
    progress : bool
        Show a bar.

    Returns
    -------
    Tensor [N, C, H, W]
        float32, on the model's device, in the range that the model was trained on; nothing is clipped
        that the scheduler does not clip.

    Raises
    ------
    DataError
        If a parameter or the model's output does not fit, the images' shape is not known, or one came
        out with NaN or infinity.

    Examples
    --------
    >>> import torch
    >>> from unlearnkit.diffusion import generate
    >>> # images = generate(unet, DDIMScheduler(), torch.arange(10).repeat_interleave(8), steps=50)
    """
    n, given = _condition(condition, model)
    if isinstance(null, int | np.integer):
        _check_classes(model, "null", torch.as_tensor(null))
    size = _shape(model, shape)
    _check_number("batch_size", batch_size)
    steps = steps_of(scheduler, steps)
    seed = _seed(random_state)
    made = []
    with evaluating(model), torch.no_grad(), tqdm(total=n, desc="images", disable=not progress) as bar:
        for at in range(0, n, batch_size):
            until = min(at + batch_size, n)
            part = None if given is None else take(given, slice(at, until))
            own = [Generator().manual_seed((seed + i) % 2**32) for i in range(at, until)]
            seed_rng(seed + at)  # for a scheduler or model that draws from the global state
            empty = null_like(null, part) if guidance else None
            made.append(_batch(model, scheduler, part, empty, own, size, steps, guidance, call))
            _check_finite(made[-1], at)
            bar.update(until - at)
    return torch.cat(made)


def _batch(
    model: nn.Module,
    scheduler: Any,
    condition: Condition,
    empty: Condition,
    own: list[Generator],
    size: torch.Size,
    steps: int,
    guidance: float,
    call: Call | None,
) -> Tensor:
    """Return the images [N, C, H, W] of the generators, which draw on the CPU."""
    device, dtype = device_of(model), _dtype(model)
    sampler = copy.deepcopy(scheduler)
    placed = {"device": device} if "device" in _parameters(sampler.set_timesteps) else {}
    sampler.set_timesteps(steps, **placed)
    drawing = {"generator": own} if "generator" in _parameters(sampler.step) else {}
    x = torch.stack([torch.randn(size, generator=one, dtype=torch.float32) for one in own])  # [N, C, H, W]
    x = x.to(device) * getattr(sampler, "init_noise_sigma", 1.0)
    condition, empty = (_moved(one, device, dtype) for one in (condition, empty))
    for time in sampler.timesteps:
        noisy = sampler.scale_model_input(x, time) if hasattr(sampler, "scale_model_input") else x
        times = torch.as_tensor(time, device=device).expand(len(x))
        found = guided(model, noisy.to(dtype), times, condition, empty, guidance, call).float()
        done = sampler.step(found, time, x, **drawing)
        x = done[0] if isinstance(done, tuple) else done.prev_sample
    return x.float()


def _moved(condition: Condition, device: torch.device, dtype: torch.dtype) -> Condition:
    """Return the condition on the device, with embeddings of the model's dtype."""
    return tree_map(lambda t: t.to(device, dtype if t.is_floating_point() else t.dtype), condition)


def _condition(condition: Any, model: nn.Module) -> tuple[int, Condition]:
    """Return the number of images, and the condition of all of them."""
    if isinstance(condition, int | np.integer) and not isinstance(condition, bool):
        _check_number("condition, as a number of images,", condition)
        return int(condition), None
    if isinstance(condition, Mapping):
        n = size_of(condition)
        _check_number("the number of images in condition", n)
        return n, condition
    try:
        found = torch.as_tensor(condition)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(
            "condition is the class of each image [N], embeddings [N, L, E], or a mapping of what the model takes by "
            f"keyword; got {type(condition).__name__}."
        ) from error
    if found.dim() == 0 or len(found) == 0:
        raise DataError(
            f"condition is of shape {list(found.shape)}: pass one class or embedding for each image, at least one."
        )
    if found.dim() == 1:
        if found.is_floating_point() or found.is_complex() or found.dtype is torch.bool:
            raise DataError(f"condition [N] holds classes, got {found.dtype}: pass whole numbers.")
        found = found.long()
        _check_classes(model, "condition", found)
    return len(found), found


def _check_classes(model: nn.Module, name: str, classes: Tensor) -> None:
    """Refuse classes for which the model has no embedding: on a GPU they would end the process."""
    count = getattr(getattr(unwrap(model), "config", None), "num_class_embeds", None)
    low, high = int(classes.min()), int(classes.max())
    if low < 0 or (isinstance(count, int) and high >= count):
        known = f"0 to {count - 1}" if isinstance(count, int) else "from 0 on"
        raise DataError(f"{name} holds classes {low} to {high}, and the model knows {known}: pass those.")


def _shape(model: nn.Module, shape: Sequence[int] | None) -> torch.Size:
    if shape is None:
        config = getattr(unwrap(model), "config", None)
        channels, size = getattr(config, "in_channels", None), getattr(config, "sample_size", None)
        if channels is None or size is None:
            raise DataError(
                f"{type(unwrap(model)).__name__} has no config that says in_channels and sample_size, so the images' "
                "shape is not known: pass shape=(C, H, W)."
            )
        sides = (size, size) if isinstance(size, int) else tuple(size)
        shape = (channels, *sides)
    found = tuple(shape)
    if not found or not all(isinstance(side, int | np.integer) and side > 0 for side in found):
        raise DataError(f"shape must be that of one image, (C, H, W), got {shape!r}.")
    return torch.Size(found)


def steps_of(scheduler: Any, steps: int | None) -> int:
    """Return the number of steps, and refuse a scheduler that cannot be walked."""
    name = type(scheduler).__name__
    if not all(hasattr(scheduler, one) for one in ("set_timesteps", "timesteps", "step")):
        raise DataError(
            f"scheduler must have set_timesteps, timesteps and step, as those of the diffusers library, got {name}."
        )
    config = getattr(scheduler, "config", {})
    if "DDPM" in name and str(config.get("variance_type", "")).startswith("learned"):
        raise DataError(
            f"{name} with variance_type={config['variance_type']!r} needs the model's variance, which is left out "
            f"here: pass {name}.from_config(scheduler.config, variance_type='fixed_small')."
        )
    if config.get("use_dynamic_shifting"):
        raise DataError(
            f"{name} with use_dynamic_shifting=True needs the shift of this resolution: pass "
            f"{name}.from_config(scheduler.config, use_dynamic_shifting=False, shift=...)."
        )
    if steps is None:
        trained = int(config.get("num_train_timesteps", STEPS))
        return trained if "DDPM" in name else min(STEPS, trained)
    _check_number("steps", steps)
    return int(steps)


def _seed(random_state: int | RandomState | None) -> int:
    """Return where the images' seeds begin: of 32 bits, which are all that torch's CPU generator reads."""
    given = random_state if isinstance(random_state, int) else check_random_state(random_state).randint(2**31)
    return int(np.random.SeedSequence(int(given) % 2**64).generate_state(1)[0])


def _check_number(name: str, value: Any) -> None:
    if not isinstance(value, int | np.integer) or value < 1:
        raise DataError(f"{name} must be a whole number of 1 or more, got {value!r}.")


def _check_finite(images: Tensor, start: int) -> None:
    bad = (~images.isfinite()).flatten(1).any(1).nonzero()[:, 0]
    if len(bad):
        raise DataError(
            f"{len(bad)} of {len(images)} images came out with NaN or infinity, the first of them number "
            f"{start + int(bad[0])}: the model has diverged, or the scheduler is not the one that it was trained with "
            "(its betas, its prediction_type), or guidance is too strong."
        )


def _dtype(model: nn.Module) -> torch.dtype:
    floating: Iterator[torch.dtype] = (p.dtype for p in model.parameters() if p.is_floating_point())
    return next(floating, torch.float32)


def _parameters(function: Any) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(function).parameters
