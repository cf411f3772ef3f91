# SPDX-License-Identifier: BSD-3-Clause
"""What is asked of a text-to-image pipeline: prompts as embeddings, images as latents, latents it draws.

Legend: N samples, C latent channels, h x w latent pixels, H x W pixels, P prompts, L tokens, E their width.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor, nn
from tqdm.auto import tqdm

from unlearnkit.data import evaluating
from unlearnkit.exceptions import DataError

OWN = (
    "For another layout encode samples and prompts yourself, and give fit batches that are mappings: 'sample', the "
    "clean latents [N, C, h, w]; what the model takes by keyword, such as 'encoder_hidden_states' and "
    "'added_cond_kwargs'; and 'instead'."
)


def check_pipeline(pipe: Any) -> None:
    """Check that a pipeline is laid out as Stable Diffusion's, so that latents and embeddings are all it takes.

    Raises
    ------
    DataError
        If it is not; it says what is missing or what more the U-Net wants, and the way out.
    """
    kind = type(pipe).__name__
    parts = ("unet", "vae", "text_encoder", "encode_prompt")
    if missing := [name for name in parts if getattr(pipe, name, None) is None]:
        raise DataError(
            f"pipe must be a text-to-image pipeline in Stable Diffusion's layout, got a {kind} without "
            f"{', '.join(missing)}. {OWN}"
        )
    config = pipe.unet.config
    wanted = {
        "added_cond_kwargs": config.get("addition_embed_type") is not None
        or config.get("encoder_hid_dim_type") not in (None, "text_proj"),
        "class_labels": config.get("class_embed_type") is not None or bool(config.get("num_class_embeds")),
    }
    if more := [name for name, is_so in wanted.items() if is_so]:
        raise DataError(
            f"the U-Net of this {kind} wants {' and '.join(more)} beside the prompt, as that of Stable Diffusion XL "
            f"or one with an image prompt does. {OWN}"
        )
    taken, made = config.get("in_channels"), pipe.vae.config.get("latent_channels")
    if taken != made:
        raise DataError(
            f"the U-Net of this {kind} takes {taken} channels, and the VAE makes {made}: it wants an image beside "
            f"the latents, as for inpainting. {OWN}"
        )


@contextmanager
def at_work(pipe: Any) -> Iterator[Any]:
    """Yield a pipeline of the same modules that works in eval mode, without gradients and progress bars.

    What a call leaves behind, such as the scheduler's steps, stays with it: `pipe`, its modules' modes and
    the random state are at the end as they were.
    """
    mine = copy.copy(pipe)
    mine.scheduler = copy.deepcopy(pipe.scheduler)
    mine.set_progress_bar_config(disable=True)
    with ExitStack() as stack:
        for part in pipe.components.values():
            if isinstance(part, nn.Module):
                stack.enter_context(evaluating(part))
        stack.enter_context(torch.no_grad())
        yield mine


def embedded(pipe: Any, prompts: Sequence[str], batch_size: int) -> Tensor:
    """Return the embedding of each prompt [P, L, E], in the U-Net's dtype, on the CPU."""
    found = []
    for start in range(0, len(prompts), batch_size):
        part = list(prompts[start : start + batch_size])
        encoded = pipe.encode_prompt(
            prompt=part,
            device=_device(pipe),
            num_images_per_prompt=1,
            do_classifier_free_guidance=False,
        )
        found.append(_kept(pipe, encoded[0]))
    return torch.cat(found)


def drawn(
    pipe: Any,
    prompts: Sequence[str],
    negative_prompt: str | None,
    seed: int,
    batch_size: int,
    progress: bool,
    **settings: Any,
) -> Tensor:
    """Return latents [N, C, h, w] that the pipeline draws, one for each prompt, on the CPU.

    Sample n has a generator of its own, so it does not depend on which samples share its batch.

    Parameters
    ----------
    **settings
        As the pipeline is called with.
    """
    found = []
    for rows in _batches(len(prompts), batch_size, "draw", progress):
        output = pipe(
            [prompts[n] for n in rows],
            negative_prompt=None if negative_prompt is None else [negative_prompt] * len(rows),
            generator=[_generator(seed, n) for n in rows],
            output_type="latent",
            **settings,
        )
        found.append(_kept(pipe, output.images))
    return torch.cat(found)


def latents_of(
    pipe: Any,
    images: Any,
    seed: int,
    batch_size: int,
    progress: bool,
    height: int | None = None,
    width: int | None = None,
) -> Tensor:
    """Return the scaled latents [N, C, h, w] of images, drawn from what the VAE makes of each, on the CPU.

    Parameters
    ----------
    images : Tensor [N, 3, H, W], or sequence of PIL images or of tensors [3, H, W]
    height, width : int, optional
        Of PIL images, which are scaled to it.

    Raises
    ------
    DataError
        If they are not in [-1, 1] or of several sizes.
    """
    config, found = pipe.vae.config, []
    shift, scale = config.get("shift_factor") or 0.0, config.get("scaling_factor", 1.0)
    for rows in _batches(len(images), batch_size, "encode", progress):
        X = torch.stack(
            _same_size([_pixels(pipe, images[n], n, height, width) for n in rows])
        )  # [n, 3, H, W]
        encoded = pipe.vae.encode(X.to(_device(pipe), pipe.vae.dtype))
        if hasattr(encoded, "latent_dist"):
            latents = encoded.latent_dist.sample([_generator(seed, n) for n in rows])
        else:
            latents = encoded.latents  # of a VAE that draws nothing
        found.append(_kept(pipe, (latents - shift) * scale))
    return torch.cat(_same_size(found))


def _pixels(pipe: Any, image: Any, number: int, height: int | None, width: int | None) -> Tensor:
    """Return an image as a tensor [3, H, W] in [-1, 1]."""
    if not isinstance(image, Tensor):
        if not hasattr(image, "convert"):
            raise DataError(
                f"images must be a tensor [N, 3, H, W] in [-1, 1] or a sequence of PIL images, got "
                f"{type(image).__name__} as image {number}."
            )
        return pipe.image_processor.preprocess(image.convert("RGB"), height=height, width=width)[0]
    channels = pipe.vae.config.get("in_channels", 3)
    if image.dim() != 3 or len(image) != channels or not image.is_floating_point():
        raise DataError(
            f"image {number} must be floating point [{channels}, H, W], got {list(image.shape)} of {image.dtype}: "
            "put the channels first, and numbers from 0 to 255 into [-1, 1] by x / 127.5 - 1."
        )
    if not bool((image.abs() <= 1.01).all()):  # rounding may leave [-1, 1]; NaN is no number in it
        raise DataError(
            f"image {number} must lie in [-1, 1], got {float(image.min()):.3g} to {float(image.max()):.3g}: "
            "numbers from 0 to 255 are put there by x / 127.5 - 1, those from 0 to 1 by 2 * x - 1."
        )
    return image


def _same_size(parts: list[Tensor]) -> list[Tensor]:
    sizes = {tuple(part.shape[-2:]) for part in parts}
    if len(sizes) > 1:
        raise DataError(
            f"images must be of one size, got {' and '.join(f'{h} x {w}' for h, w in sorted(sizes))}: pass height= "
            "and width= for PIL images, or scale tensors."
        )
    return parts


def _batches(n: int, size: int, what: str, progress: bool) -> Iterator[range]:
    starts = range(0, n, size)
    for start in tqdm(starts, desc=what, disable=not progress, leave=False):
        yield range(start, min(start + size, n))


def _generator(seed: int, number: int) -> Generator:
    """Return the generator of a sample: on the CPU, so that every device draws the same."""
    own = np.random.SeedSequence([seed, number]).generate_state(1, np.uint64)[0]
    return Generator().manual_seed(int(own >> 1))


def _device(pipe: Any) -> torch.device:
    """Return where the pipeline works; its modules may lie elsewhere until they are called."""
    return getattr(pipe, "_execution_device", pipe.device)


def _kept(pipe: Any, found: Tensor) -> Tensor:
    return found.detach().to("cpu", pipe.unet.dtype)
