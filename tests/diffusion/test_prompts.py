# SPDX-License-Identifier: BSD-3-Clause
"""Data sets from a text-to-image pipeline, and forgetting with them from the prompt to the image."""

import copy
import json
import random
import string
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.data import default_collate

from unlearnkit import DataError, RandomLabel, SalUn, WeightEdit
from unlearnkit.diffusion import DiffusionLoss, PromptedSamples, concept, prompt_embeddings, prompted
from unlearnkit.diffusion._pipelines import _generator
from unlearnkit.importance import GradientSaliency
from unlearnkit.parameters import bits, named_tensors

CAT, DOG = "a photo of a cat", "a photo of a dog"
DRAW = {"steps": 2, "batch_size": 2}
LENGTH, WIDTH = 24, 16  # tokens of a prompt, and their width


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory):
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("tokenizer")
    letters = [*string.ascii_lowercase, *(f"{letter}</w>" for letter in string.ascii_lowercase)]
    words = [*letters, "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    files = str(folder / "vocab.json"), str(folder / "merges.txt")
    return transformers.CLIPTokenizer(*files, model_max_length=LENGTH)


@pytest.fixture
def pipe(tokenizer):
    """Return a pipeline in Stable Diffusion's layout, for 16 x 16 pixels; its U-Net has 201,000 weights."""
    diffusers = pytest.importorskip("diffusers")
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(1)
    unet = diffusers.UNet2DConditionModel(
        sample_size=8,
        block_out_channels=[16, 32],
        down_block_types=["CrossAttnDownBlock2D", "DownBlock2D"],
        up_block_types=["UpBlock2D", "CrossAttnUpBlock2D"],
        layers_per_block=1,
        cross_attention_dim=WIDTH,
        attention_head_dim=2,
        norm_num_groups=4,
    )
    start, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=LENGTH,
            bos_token_id=start,
            eos_token_id=end,
            pad_token_id=end,
        )
    )
    vae = diffusers.AutoencoderKL(
        block_out_channels=[8, 8],
        down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2,
        norm_num_groups=4,
        sample_size=16,
    )
    scheduler = diffusers.PNDMScheduler(  # which remembers its steps
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        skip_prk_steps=True,
        steps_offset=1,
    )
    return diffusers.StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def images(n):
    return 2 * torch.rand(n, 3, 16, 16, generator=torch.Generator().manual_seed(3)) - 1


def encoded(pipe, prompt):
    with torch.no_grad():
        return pipe.encode_prompt(prompt, "cpu", 1, False)[0][0]


def same_bits(first, second):
    return all(torch.equal(bits(first[name]), bits(second[name])) for name in first)


# what a sample is -------------------------------------------------------------------------------


def test_a_sample_is_what_the_loss_reads(pipe):
    data = prompted(pipe, [CAT, DOG], instead=[DOG, CAT], images=images(2))
    assert isinstance(data, PromptedSamples) and len(data) == 2
    batch = default_collate([data[0], data[1]])
    assert {name: list(value.shape) for name, value in batch.items()} == {
        "sample": [2, 4, 8, 8],
        "encoder_hidden_states": [2, 24, 16],
        "instead": [2, 24, 16],
    }
    assert torch.equal(batch["instead"], batch["encoder_hidden_states"].flip(0))
    losses = DiffusionLoss(pipe.scheduler)(pipe.unet.eval(), batch)
    assert losses.shape == (2,) and bool(losses.isfinite().all())
    assert repr(data) == "PromptedSamples(2 latents [4, 8, 8] of 2 prompts)"


def test_each_embedding_is_the_pipelines_own_and_stored_once(pipe):
    others = ["a horse", DOG, CAT]
    data = prompted(pipe, [CAT, DOG, CAT], instead=others, images=images(3), batch_size=2)
    assert data.prompts == [CAT, DOG, "a horse"] and data.embeddings.shape == (3, 24, 16)
    for number, (own, other) in enumerate(zip([CAT, DOG, CAT], others, strict=True)):
        sample = data[number]
        torch.testing.assert_close(sample["encoder_hidden_states"], encoded(pipe, own))
        torch.testing.assert_close(sample["instead"], encoded(pipe, other))
    assert len(prompted(pipe, CAT, images=images(3)).embeddings) == 1


def test_embeddings_alone(pipe):
    found = prompt_embeddings(pipe, ["", CAT])
    assert found.shape == (2, 24, 16) and not found.requires_grad
    torch.testing.assert_close(found[1], encoded(pipe, CAT))
    assert prompt_embeddings(pipe, "").shape == (1, 24, 16)


@pytest.mark.parametrize("instead", ["x", ["x", "x"], {CAT: "x", DOG: "x", "more": "y"}])
def test_forms_of_instead(pipe, instead):
    data = prompted(pipe, [CAT, DOG], instead=instead, images=images(2))
    assert [data.prompts[number] for number in data.instead] == ["x", "x"]


def test_no_replacement_no_entry(pipe):
    assert set(prompted(pipe, CAT, images=images(1))[0]) == {"sample", "encoder_hidden_states"}


def test_the_parts_of_a_data_set_agree():
    latents, embeddings, number = torch.zeros(2, 4, 8, 8), torch.zeros(1, 24, 16), torch.zeros(2).long()
    for given in (
        (latents, [CAT], embeddings, number[:1]),
        (latents, [CAT], embeddings, number, number[:1]),
        (latents, [CAT, DOG], embeddings, number),
    ):
        with pytest.raises(DataError, match="must be of one length, and so prompts and embeddings; got"):
            PromptedSamples(*given)


# latents of images ------------------------------------------------------------------------------


@pytest.mark.parametrize("shift", [None, 0.3])
def test_images_are_encoded_as_the_unet_was_trained_on_them(pipe, shift):
    pipe.vae.register_to_config(shift_factor=shift)
    X = images(3)
    data = prompted(pipe, CAT, images=X, batch_size=2, random_state=4)
    with torch.no_grad():
        for n in range(3):
            drawn = pipe.vae.encode(X[n : n + 1]).latent_dist.sample(_generator(4, n))
            expected = (drawn[0] - (shift or 0)) * pipe.vae.config.scaling_factor
            torch.testing.assert_close(data.latents[n], expected)
    again = prompted(pipe, CAT, images=list(X), batch_size=2, random_state=4)
    assert torch.equal(bits(data.latents), bits(again.latents))
    other = prompted(pipe, CAT, images=X, random_state=5)
    assert not torch.allclose(data.latents, other.latents)
    fresh = [prompted(pipe, CAT, images=X, random_state=None).latents for _ in range(2)]
    assert not torch.equal(*fresh)


def test_pil_images(pipe):
    Image = pytest.importorskip("PIL.Image")
    levels = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    X = torch.from_numpy(levels).permute(0, 3, 1, 2) / 127.5 - 1
    pictures = [Image.fromarray(one) for one in levels]
    expected = prompted(pipe, CAT, images=X).latents
    torch.testing.assert_close(prompted(pipe, CAT, images=pictures).latents, expected)
    grey = [pictures[0].convert("L"), pictures[1].resize((32, 16))]
    assert prompted(pipe, CAT, images=grey, height=16, width=32).latents.shape == (2, 4, 8, 16)
    with pytest.raises(DataError, match=r"of one size, got 16 x 16 and 16 x 32: pass height="):
        prompted(pipe, CAT, images=grey)


def test_a_vae_that_draws_nothing(pipe):
    import diffusers

    pipe.vae = diffusers.AutoencoderTiny(
        encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8), num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1), latent_channels=4,
    )  # fmt: skip
    found = prompted(pipe, CAT, images=images(2)).latents
    with torch.no_grad():
        torch.testing.assert_close(found, pipe.vae.encode(images(2)).latents * pipe.vae.config.scaling_factor)


def test_in_the_unets_dtype(pipe):
    pipe.unet.to(torch.bfloat16)
    data = prompted(pipe, CAT, images=images(1))
    assert data.latents.dtype == data.embeddings.dtype == torch.bfloat16


# latents that the pipeline draws ----------------------------------------------------------------


def test_the_pipeline_draws(pipe):
    data = prompted(pipe, [CAT, DOG], samples=3, guidance_scale=3, negative_prompt="a tree", **DRAW)
    assert [data.prompts[number] for number in data.number] == [CAT, DOG, CAT]
    pipe.set_progress_bar_config(disable=True)
    for n, prompt in enumerate([CAT, DOG, CAT]):
        expected = pipe(
            prompt,
            negative_prompt="a tree",
            num_inference_steps=2,
            guidance_scale=3,
            generator=_generator(0, n),
            output_type="latent",
        ).images[0]
        torch.testing.assert_close(data.latents[n], expected, atol=1e-4, rtol=1e-4)


def test_drawn_latents_are_reproducible(pipe):
    first, second = (prompted(pipe, CAT, samples=3, **DRAW) for _ in range(2))
    assert torch.equal(bits(first.latents), bits(second.latents))
    alone = prompted(pipe, CAT, samples=2, steps=2, batch_size=1)  # the same samples in other batches
    torch.testing.assert_close(first.latents[:2], alone.latents, atol=1e-4, rtol=1e-4)
    other = prompted(pipe, CAT, samples=3, random_state=1, **DRAW)
    assert not torch.allclose(first.latents, other.latents)
    assert prompted(pipe, [CAT, DOG], height=16, width=32, **DRAW).latents.shape == (2, 4, 8, 16)


def state_of(pipe):
    weights = {
        f"{name}.{key}": value.clone()
        for name, module in modules_of(pipe)
        for key, value in named_tensors(module).items()
    }
    modes = [part.training for _, module in modules_of(pipe) for part in module.modules()]
    kept = {name: value for name, value in vars(pipe).items() if name != "scheduler"}
    return weights, modes, kept, copy.deepcopy(vars(pipe.scheduler))


def modules_of(pipe):
    return [(name, part) for name, part in pipe.components.items() if isinstance(part, torch.nn.Module)]


@pytest.mark.parametrize("fails", [False, True])
def test_the_pipeline_stays_as_it_was(pipe, fails, capsys):
    pipe.unet.train()
    pipe.vae.decoder.train()
    pipe.scheduler.set_timesteps(7)
    weights, modes, kept, scheduled = state_of(pipe)
    draws = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()
    if fails:
        pipe.unet.register_forward_hook(lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            prompted(pipe, CAT, **DRAW)
    else:
        prompted(pipe, CAT, **DRAW)
        prompted(pipe, CAT, images=images(1))
    after, modes_after, kept_after, scheduled_after = state_of(pipe)
    assert same_bits(weights, after) and modes == modes_after
    assert kept.keys() == kept_after.keys() and all(kept[name] is kept_after[name] for name in kept)
    assert str(scheduled) == str(scheduled_after)
    assert random.getstate() == draws[0] and np.array_equal(np.random.get_state()[1], draws[1])
    assert torch.equal(torch.get_rng_state(), draws[2])
    assert all(p.requires_grad and p.grad is None for p in pipe.unet.parameters())
    shown = capsys.readouterr()
    assert not shown.out and "it/s" not in shown.err


def test_the_safety_checker_does_not_look_at_latents(pipe):
    def look(*_, **__):
        raise RuntimeError("it looked")

    pipe.safety_checker = look
    assert len(prompted(pipe, CAT, **DRAW)) == 1 and pipe.safety_checker is look


# refused ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("missing", "said"),
    [("unet", "without unet"), ("vae", "without vae"), ("text_encoder", "without text_encoder")],
)
def test_pipelines_of_another_layout(pipe, missing, said):
    setattr(pipe, missing, None)
    for call in (prompted, prompt_embeddings):
        with pytest.raises(DataError, match=rf"got a StableDiffusionPipeline {said}.*mappings: 'sample'"):
            call(pipe, CAT)


def test_anything_else_is_no_pipeline():
    with pytest.raises(DataError, match="without unet, vae, text_encoder, encode_prompt"):
        concept(SimpleNamespace(), CAT, DOG)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"addition_embed_type": "text_time"}, "wants added_cond_kwargs beside the prompt"),
        ({"encoder_hid_dim_type": "ip_image_proj"}, "wants added_cond_kwargs beside"),
        ({"num_class_embeds": 10}, "wants class_labels beside the prompt"),
        ({"in_channels": 9}, "takes 9 channels, and the VAE makes 4"),
    ],
)
def test_unets_that_want_more(pipe, config, said):
    pipe.unet.register_to_config(**config)
    with pytest.raises(DataError, match=f"{said}.*'added_cond_kwargs'"):
        prompted(pipe, CAT)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"prompts": []}, "prompts must be a prompt or a list of prompts, got nothing"),
        ({"prompts": 3}, "got 3"),
        ({"prompts": [CAT, 3]}, "prompts must be a prompt or a list"),
        ({"instead": [DOG, DOG]}, "one for each of 1 prompts, got 2"),
        ({"instead": {DOG: CAT}}, "instead says nothing of the prompt 'a photo of a cat'"),
        ({"instead": {CAT: 3}}, "instead must be a prompt"),
        ({"samples": 0}, "samples must be a whole number, 1 or more, got 0"),
        ({"steps": 1.5}, "steps must be a whole number"),
        ({"batch_size": True}, "batch_size must be a whole number"),
        ({"random_state": -1}, "random_state must be a whole number, 0 or more"),
        ({"images": images(2), "samples": 2}, "samples=2 is for images that are drawn, and 2 are given"),
        ({"images": images(3), "prompts": [CAT, DOG]}, "3 images have one prompt for all or one for each"),
        ({"images": []}, "sequence of PIL images, got none"),
        ({"images": iter([])}, "sequence of PIL images, got list_iterator"),
        ({"images": ["cat.png"]}, "got str as image 0"),
        ({"images": 255 * images(1)}, r"must lie in \[-1, 1\], got -25.*x / 127.5 - 1"),
        ({"images": torch.full((1, 3, 16, 16), float("nan"))}, r"must lie in \[-1, 1\], got nan"),
        ({"images": images(1).permute(0, 2, 3, 1)}, r"floating point \[3, H, W\], got \[16, 16, 3\]"),
        ({"images": images(1).byte()}, "of torch.uint8: put the channels first, and"),
        ({"images": [images(1)[0], images(1)[0, :, :8]]}, "of one size, got 8 x 16 and 16 x 16"),
    ],
)
def test_what_does_not_fit_is_named(pipe, given, said):
    with pytest.raises(DataError, match=said):
        prompted(pipe, **{"prompts": CAT, **given})


# concepts ---------------------------------------------------------------------------------------


def test_a_concept_is_two_sets_of_one_form(pipe):
    retain, forget = concept(pipe, CAT, DOG, samples=3, **DRAW)
    assert retain.batch_size == forget.batch_size == 2
    kept, lost = retain.dataset, forget.dataset
    assert len(kept) == len(lost) == 3
    assert kept.prompts == [DOG] and lost.prompts == [CAT, DOG]
    assert set(kept[0]) == set(lost[0]) == {"sample", "encoder_hidden_states", "instead"}
    assert torch.equal(kept[0]["instead"], kept[0]["encoder_hidden_states"])
    by_hand = prompted(pipe, CAT, instead=DOG, samples=3, **DRAW)
    assert torch.equal(bits(lost.latents), bits(by_hand.latents))
    by_hand = prompted(pipe, DOG, samples=3, random_state=1, **DRAW)
    assert torch.equal(bits(kept.latents), bits(by_hand.latents))


def test_a_concept_of_given_images(pipe):
    retain, forget = concept(
        pipe, CAT, DOG, ["a horse", "a tree"], forget_images=images(3), samples=4, random_state=None, **DRAW
    )
    assert len(forget.dataset) == 3 and len(retain.dataset) == 4
    assert retain.dataset.prompts == ["a horse", "a tree"]


def test_a_concept_is_not_its_own_replacement(pipe):
    with pytest.raises(DataError, match="leaves the prompt 'a photo of a dog' of the forget set as it is"):
        concept(pipe, [CAT, DOG], DOG)
    with pytest.raises(DataError, match="instead must be a prompt"):
        concept(pipe, CAT, None)


# from the prompt to the image -------------------------------------------------------------------


SETTINGS = {
    "order": "paired",
    "optimizer": "adam",
    "lr": 1e-3,
    "epochs": 1,
    "batch_size": 2,
    "alpha": 0.1,
    "weight_decay": 0.0,
    "random_state": 0,
}


@pytest.mark.parametrize("include", [None, "*attn2*"])
def test_a_concept_is_forgotten_and_comes_back(pipe, include, tmp_path):
    retain, forget = concept(pipe, CAT, DOG, samples=4, **DRAW)
    before = {name: tensor.clone() for name, tensor in named_tensors(pipe.unet).items()}
    null = prompt_embeddings(pipe, "")
    guided = GradientSaliency(loss=DiffusionLoss(pipe.scheduler, guidance=7.5, null=null))
    method = SalUn(loss=DiffusionLoss(pipe.scheduler), importance=guided, include=include, **SETTINGS)
    method.fit(pipe.unet, retain, forget)
    assert same_bits(before, named_tensors(pipe.unet))
    edit = method.edit_
    assert edit.n_changed > 0 and len(method.history_) == 1
    if include:
        assert all(".attn2." in name for name in edit)
    picture = draw(pipe)
    edit.save(tmp_path / "concept.safetensors")
    undo = WeightEdit.load(tmp_path / "concept.safetensors").apply_(pipe.unet)
    edited = named_tensors(pipe.unet)
    assert same_bits({name: value for name, value in before.items() if name not in edit}, edited)
    for name, value in before.items():
        outside = ~method.mask_[name] if name in method.mask_ else torch.ones_like(value, dtype=torch.bool)
        assert torch.equal(bits(value[outside]), bits(edited[name][outside]))
    assert not np.array_equal(picture, draw(pipe))
    undo.apply_(pipe.unet)
    assert same_bits(before, named_tensors(pipe.unet)) and np.array_equal(picture, draw(pipe))


def draw(pipe):
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    return pipe(CAT, num_inference_steps=2, generator=generator, output_type="np").images


@pytest.mark.parametrize("order", ["mixed", "sequential"])
def test_both_sets_share_batches(pipe, order):
    retain, forget = concept(pipe, CAT, DOG, forget_images=images(3), retain_images=images(5))
    method = RandomLabel(loss=DiffusionLoss(pipe.scheduler), **{**SETTINGS, "order": order})
    assert method.fit(pipe.unet, retain, forget).edit_.n_changed > 0


@pytest.mark.parametrize(
    "given",
    [{}, {"granularity": "channel"}, {"importance": None, "budget": 1.0}, {"include": "*attn2*"}],
    ids=["weights", "channels", "all", "attention"],
)
def test_the_edit_does_not_depend_on_gradient_checkpointing(pipe, given):
    """The model recomputes what it does not keep, in the same order of sums."""
    retain, forget = concept(pipe, CAT, DOG, forget_images=images(4), retain_images=images(4))
    method = SalUn(loss=DiffusionLoss(pipe.scheduler), **{**SETTINGS, **given})
    plain = method.fit(pipe.unet, retain, forget).edit_
    pipe.unet.enable_gradient_checkpointing()
    assert pipe.unet.is_gradient_checkpointing
    assert method.fit(pipe.unet, retain, forget).edit_ == plain
