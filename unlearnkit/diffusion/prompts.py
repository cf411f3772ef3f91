# SPDX-License-Identifier: BSD-3-Clause
"""Data sets for forgetting in text-to-image models: latents and embeddings, made once with the pipeline.

Training then needs neither the text encoder nor the VAE.

Legend: N samples, C latent channels, h x w latent pixels, H x W pixels, P prompts, L tokens, E their width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from unlearnkit.diffusion._given import check_numbers, count_of, replacements, texts
from unlearnkit.diffusion._pipelines import at_work, check_pipeline, drawn, embedded, latents_of
from unlearnkit.exceptions import DataError

Prompts = str | Sequence[str]
Instead = str | Sequence[str] | Mapping[str, str]


class PromptedSamples(Dataset[dict[str, Tensor]]):
    """Latents with the prompt that each belongs to, and the one whose look it is to get instead.

    What :func:`prompted` makes. A sample is a dict of ``"sample"`` [C, h, w], ``"encoder_hidden_states"``
    [L, E] and, where there is one, ``"instead"`` [L, E], as :class:`~unlearnkit.diffusion.DiffusionLoss`
    reads them. An embedding is stored once, however many samples have it.

    Parameters
    ----------
    latents : Tensor [N, C, h, w]
        Clean and scaled: what noise is added to.
    prompts : sequence of str
        The distinct ones.
    embeddings : Tensor [P, L, E]
        One of each.
    number : Tensor [N]
        Which of them is a sample's own.
    instead : Tensor [N], optional
        Which is the one that replaces it.

    Attributes
    ----------
    latents, prompts, embeddings, number, instead
        As above.

    Raises
    ------
    DataError
        If their lengths do not agree.
    """

    def __init__(
        self,
        latents: Tensor,
        prompts: Sequence[str],
        embeddings: Tensor,
        number: Tensor,
        instead: Tensor | None = None,
    ) -> None:
        self.latents, self.prompts, self.embeddings = latents, list(prompts), embeddings
        self.number, self.instead = number, instead
        lengths = [len(part) for part in (latents, number, instead) if part is not None]
        if len(set(lengths)) > 1 or len(embeddings) != len(self.prompts):
            raise DataError(
                f"latents, number and instead must be of one length, and so prompts and embeddings; got {lengths} "
                f"and {[len(self.prompts), len(embeddings)]}."
            )

    def __len__(self) -> int:
        return len(self.latents)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        found = {
            "sample": self.latents[index],
            "encoder_hidden_states": self.embeddings[self.number[index]],
        }
        if self.instead is not None:
            found["instead"] = self.embeddings[self.instead[index]]
        return found

    def __repr__(self) -> str:
        shape, own = list(self.latents.shape[1:]), len(self.number.unique())
        return f"PromptedSamples({len(self)} latents {shape} of {own} prompt{'s' * (own != 1)})"


def prompted(
    pipe: Any,
    prompts: Prompts,
    *,
    instead: Instead | None = None,
    images: Any = None,
    samples: int | None = None,
    steps: int = 50,
    guidance_scale: float = 7.5,
    negative_prompt: str | None = None,
    height: int | None = None,
    width: int | None = None,
    batch_size: int = 8,
    random_state: int | None = 0,
    progress: bool = False,
) -> PromptedSamples:
    """Return images of prompts as a data set to train the pipeline's U-Net on: given ones, or such as it draws.

    Parameters
    ----------
    pipe : StableDiffusionPipeline
        Or one of its layout: a U-Net that takes latents and the embedding of a prompt. It stays as it was,
        with its modules' modes, and so does the random state.
    prompts : str or sequence of str
    instead : str, sequence of str or mapping from str to str, optional
        What the samples are to look like instead, for a forget set: one prompt for all, one for each of
        `prompts`, or by prompt.
    images : Tensor [N, 3, H, W], or sequence of PIL images or tensors [3, H, W], optional
        In [-1, 1]. `prompts` is then one for all or one for each. Where left out, the pipeline draws from
        the prompts.
    samples : int, optional
        How many to draw, over the prompts in turn; one of each where left out.
    steps, guidance_scale, negative_prompt
        How they are drawn: the pipeline's ``num_inference_steps``, and its own names.
    height, width : int, optional
        Pixels of what is drawn, and of PIL images, which are scaled to it. The U-Net's own size, and the
        images', where left out.
    batch_size : int, default=8
        Images that are drawn or encoded at once.
    random_state : int or None, default=0
        Each sample draws from its own generator: sample n depends on this and on n alone. None draws anew
        each time.
    progress : bool, default=False
        Show progress bars.

    Returns
    -------
    PromptedSamples
        On the CPU, in the U-Net's dtype. An image's latents are drawn from what the VAE makes of it, and
        scaled as the U-Net was trained on them.

    Raises
    ------
    DataError
        If the pipeline is of another layout (the message says what to do then), or prompts, images and
        numbers do not fit together.

    Notes
    -----
    The safety checker looks at images, and here latents are kept: what is drawn of a prompt to be forgotten
    is not blackened. `pipe` keeps its checker.

    Examples
    --------
    >>> # names = ["tench", "church"]
    >>> # prompts = [f"an image of a {names[label]}" for label in labels]
    >>> # retain = prompted(pipe, prompts, images=images)
    """
    check_pipeline(pipe)
    check_numbers(1, samples=samples, steps=steps, height=height, width=width, batch_size=batch_size)
    check_numbers(0, random_state=random_state)
    seed = int(np.random.SeedSequence().generate_state(1)[0]) if random_state is None else int(random_state)
    given = texts("prompts", prompts)
    others = replacements(instead, given)
    if images is not None:
        count = count_of(images, samples, given)
        turns = torch.arange(count) if len(given) > 1 else torch.zeros(count, dtype=torch.long)  # [N]
    else:
        count = len(given) if samples is None else samples
        turns = torch.arange(count) % len(given)
    distinct = list(dict.fromkeys([*given, *(others or [])]))
    at = {prompt: number for number, prompt in enumerate(distinct)}
    with at_work(pipe) as working:
        embeddings = embedded(working, distinct, batch_size)  # [P, L, E]
        if images is not None:
            latents = latents_of(working, images, seed, batch_size, progress, height, width)
        else:
            latents = drawn(
                working,
                [given[turn] for turn in turns],
                negative_prompt,
                seed,
                batch_size,
                progress,
                num_inference_steps=steps,
                guidance_scale=guidance_scale,
                height=height,
                width=width,
            )
    own = torch.tensor([at[prompt] for prompt in given])[turns]
    other = None if others is None else torch.tensor([at[prompt] for prompt in others])[turns]
    return PromptedSamples(latents, distinct, embeddings, own, other)


def concept(
    pipe: Any,
    forget: Prompts,
    instead: Instead,
    retain: Prompts | None = None,
    *,
    forget_images: Any = None,
    retain_images: Any = None,
    samples: int = 800,
    batch_size: int = 8,
    random_state: int | None = 0,
    **settings: Any,
) -> tuple[DataLoader[dict[str, Tensor]], DataLoader[dict[str, Tensor]]]:
    """Return the retain and the forget set of a concept, for ``fit(pipe.unet, retain, forget)``.

    As the paper forgets nudity: images that the model itself makes of "a photo of a nude person", to look
    like "a photo of a person wearing clothes", and images of the latter to keep.

    Parameters
    ----------
    pipe : StableDiffusionPipeline
    forget : str or sequence of str
        Prompts of what is to be forgotten.
    instead : str, sequence of str or mapping from str to str
        What it is to look like instead: one prompt for all, one for each, or by prompt.
    retain : str or sequence of str, optional
        Prompts of what is to be kept; those of `instead` where left out.
    forget_images, retain_images : Tensor [N, 3, H, W] or sequence of images, optional
        In place of images that the pipeline draws; the prompts are then one for all or one for each.
    samples : int, default=800
        Images to draw for each set that is not given, over its prompts in turn.
    batch_size : int, default=8
        Images that are drawn or encoded at once; and samples a batch of the loaders, on which importances
        are measured, and ``batch_size="loader"`` trains.
    random_state : int or None, default=0
        Of the forget set; that of the retain set is the next.
    **settings
        More parameters of :func:`prompted`, for both sets.

    Returns
    -------
    retain, forget : DataLoader
        Their ``dataset`` is a :class:`PromptedSamples`. Both have the same entries, so that they can share
        batches; what a sample of the retain set is to look like instead is its own prompt.

    Raises
    ------
    DataError
        As :func:`prompted` does, and if a prompt to be forgotten is its own replacement.

    Examples
    --------
    >>> from unlearnkit import SalUn
    >>> from unlearnkit.diffusion import DiffusionLoss, concept
    >>> nude, dressed = "a photo of a nude person", "a photo of a person wearing clothes"
    >>> # retain, forget = concept(pipe, nude, dressed)
    >>> # loss = DiffusionLoss(pipe.scheduler)
    >>> adam = {"optimizer": "adam", "lr": 1e-5, "weight_decay": 0.0, "epochs": 1, "batch_size": 8}
    >>> # salun = SalUn(loss=loss, order="paired", alpha=0.1, **adam)
    >>> # edit = salun.fit(pipe.unet, retain, forget).edit_
    >>> # undo = edit.apply_(pipe.unet)
    """
    lost, others = texts("forget", forget), replacements(instead, texts("forget", forget))
    if others is None:
        raise DataError("instead must be a prompt, what the concept is to look like instead; got None.")
    if same := [prompt for prompt, other in zip(lost, others, strict=True) if prompt == other]:
        raise DataError(
            f"instead leaves the prompt {same[0]!r} of the forget set as it is: name another one."
        )
    kept = list(dict.fromkeys(others)) if retain is None else texts("retain", retain)
    check_numbers(0, random_state=random_state)
    following = None if random_state is None else random_state + 1
    sides = ((kept, kept, retain_images, following), (lost, others, forget_images, random_state))
    sets = []
    for prompts, looks, images, seed in sides:
        made = prompted(
            pipe,
            prompts,
            instead=looks,
            images=images,
            samples=samples if images is None else None,
            batch_size=batch_size,
            random_state=seed,
            **settings,
        )
        sets.append(DataLoader(made, batch_size=batch_size))
    return sets[0], sets[1]


def prompt_embeddings(pipe: Any, prompts: Prompts, *, batch_size: int = 8) -> Tensor:
    """Return the embedding of each prompt, as the pipeline's U-Net gets it.

    Parameters
    ----------
    pipe : StableDiffusionPipeline
        It stays as it was.
    prompts : str or sequence of str
        ``""`` is the empty prompt, for ``DiffusionLoss(null=)``.
    batch_size : int, default=8
        Prompts that are encoded at once.

    Returns
    -------
    Tensor [P, L, E]
        On the CPU, in the U-Net's dtype.

    Raises
    ------
    DataError
        If the pipeline is of another layout.

    Examples
    --------
    >>> # DiffusionLoss(pipe.scheduler, guidance=7.5, null=prompt_embeddings(pipe, ""))
    """
    check_pipeline(pipe)
    check_numbers(1, batch_size=batch_size)
    with at_work(pipe) as working:
        return embedded(working, texts("prompts", prompts), batch_size)
