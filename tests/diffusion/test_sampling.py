# SPDX-License-Identifier: BSD-3-Clause
"""Sampling: right for every scheduler, the same noise for every model, and no trace left."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from unlearnkit.diffusion import generate
from unlearnkit.exceptions import DataError

MEANS = (-0.5, 0.75, 0.0)
SPREAD = 0.1
SHAPE = (1, 4, 4)
CLASSES = torch.arange(2).repeat_interleave(40)


class Plain:
    """DDIM as it stands in the paper, with the least that a scheduler has."""

    def __init__(self, trained=200):
        self.alphas_cumprod = torch.linspace(0.99, 0.06, trained).double() ** 4
        self.config = {"num_train_timesteps": trained}
        self.timesteps = []

    def set_timesteps(self, steps):
        self.timesteps = np.linspace(len(self.alphas_cumprod) - 1, 0, steps).round().astype(int).tolist()

    def step(self, eps, time, x):
        at = self.timesteps.index(time)
        later = self.timesteps[at + 1 :]
        here = self.alphas_cumprod[time]
        there = self.alphas_cumprod[later[0]] if later else torch.tensor(1.0)
        clean = (x - (1 - here).sqrt() * eps) / here.sqrt()
        return (there.sqrt() * clean + (1 - there).sqrt() * eps,)


class Exact(nn.Module):
    """The best prediction there is, for images that are normal around a mean of their class."""

    def __init__(self, scheduler, means=MEANS):
        super().__init__()
        self.means = nn.Parameter(torch.tensor(means))
        self.scheduler = copy.deepcopy(scheduler)
        self.kind = scheduler.config.get("prediction_type", "epsilon")
        self.seen = []

    def factors(self, times):
        times = times.double().cpu().numpy()
        if not hasattr(self.scheduler, "alphas_cumprod"):  # flow matching
            return 1 - times / 1000, times / 1000
        alphas = self.scheduler.alphas_cumprod.double().numpy()
        sigma = np.interp(times, np.arange(len(alphas)), ((1 - alphas) / alphas) ** 0.5)
        return 1 / (1 + sigma**2) ** 0.5, sigma / (1 + sigma**2) ** 0.5

    def forward(self, x, times, class_labels):
        self.seen.append(x)
        signal, noise = (
            torch.as_tensor(one, device=x.device).view(-1, 1, 1, 1) for one in self.factors(times)
        )
        mean = self.means[class_labels].view(-1, 1, 1, 1)
        rest = (x - signal * mean) / ((signal * SPREAD) ** 2 + noise**2)
        eps, clean = noise * rest, mean + signal * SPREAD**2 * rest
        if not hasattr(self.scheduler, "alphas_cumprod"):
            return (eps - clean).to(x)
        return {"epsilon": eps, "sample": clean, "v_prediction": signal * eps - noise * clean}[self.kind].to(
            x
        )


class Config(Exact):
    def __init__(self, **config):
        super().__init__(Plain())
        self.config = SimpleNamespace(**config)


def plain(state):
    """What a scheduler holds, as values that can be compared."""
    return {name: value.tolist() if hasattr(value, "tolist") else value for name, value in state.items()}


@pytest.fixture(scope="module")
def diffusers():
    return pytest.importorskip("diffusers")


KINDS = {
    "ddpm": ("DDPMScheduler", {"clip_sample": False}, 100),
    "ddim": ("DDIMScheduler", {"clip_sample": False}, None),
    "ddim-v": ("DDIMScheduler", {"clip_sample": False, "prediction_type": "v_prediction"}, None),
    "ddim-sample": ("DDIMScheduler", {"clip_sample": False, "prediction_type": "sample"}, None),
    "pndm": ("PNDMScheduler", {}, 20),
    "pndm-skip": ("PNDMScheduler", {"skip_prk_steps": True}, None),
    "euler": ("EulerDiscreteScheduler", {}, None),
    "ancestral": ("EulerAncestralDiscreteScheduler", {}, None),
    "dpm": ("DPMSolverMultistepScheduler", {}, 20),
    "dpm-sde": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}, 20),
    "heun": ("HeunDiscreteScheduler", {}, 20),
    "unipc": ("UniPCMultistepScheduler", {}, 20),
    "flow": ("FlowMatchEulerDiscreteScheduler", {}, None),
    "flow-noise": ("FlowMatchEulerDiscreteScheduler", {"stochastic_sampling": True}, 20),
}


@pytest.mark.parametrize("kind", KINDS)
def test_schedulers_of_diffusers(diffusers, kind):
    name, settings, steps = KINDS[kind]
    scheduler = getattr(diffusers, name)(**settings)
    before, model = plain(vars(scheduler)), Exact(scheduler)
    images = generate(model, scheduler, CLASSES, shape=SHAPE, steps=steps)
    for at, made in enumerate(images.split(40)):
        assert made.mean().item() == pytest.approx(MEANS[at], abs=0.02)
        assert 0.04 < made.std().item() < 0.15  # with few steps a sampler is not exact
    again = generate(model, scheduler, CLASSES, shape=SHAPE, steps=steps, batch_size=30)
    torch.testing.assert_close(images, again)  # the noise on the way is an image's own too
    assert plain(vars(scheduler)) == before


def test_the_same_as_a_pipeline(diffusers):
    unet = diffusers.UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        block_out_channels=(8, 8),
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        layers_per_block=1,
    )
    scheduler = diffusers.DDIMScheduler(num_train_timesteps=50)
    images = generate(unet, scheduler, 3, steps=5, random_state=7)
    start = int(np.random.SeedSequence(7).generate_state(1)[0])
    own = [torch.Generator().manual_seed((start + i) % 2**32) for i in range(3)]
    pipeline = diffusers.DDIMPipeline(unet, scheduler)
    pipeline.set_progress_bar_config(disable=True)
    wanted = pipeline(3, generator=own, num_inference_steps=5, output_type="np").images  # [N, H, W, C]
    shown = ((images + 1) / 2).clamp(0, 1).permute(0, 2, 3, 1)
    torch.testing.assert_close(shown, torch.from_numpy(wanted))


def test_the_same_as_the_formula():
    scheduler, model = Plain(), Exact(Plain())
    images = generate(model, scheduler, [0, 1], shape=SHAPE, steps=10)
    x = model.seen[0].double()
    sampler = Plain()
    sampler.set_timesteps(10)
    for time in sampler.timesteps:
        with torch.no_grad():
            eps = model(x, torch.tensor([time, time]), torch.tensor([0, 1]))
        x = sampler.step(eps, time, x)[0]
    torch.testing.assert_close(images, x.float())


def test_noise_is_an_images_own():
    one, other = Exact(Plain()), Exact(Plain(), (0.3, 0.1, -0.9))
    generate(one, Plain(), [0] * 5, shape=SHAPE, steps=2)
    generate(other, Plain(), [1] * 7, shape=SHAPE, steps=2, batch_size=3)
    starts = torch.cat(other.seen[::2])
    torch.testing.assert_close(one.seen[0], starts[:5], rtol=0, atol=0)
    assert len(starts.flatten(1).unique(dim=0)) == 7
    generate(one, Plain(), [0] * 5, shape=SHAPE, steps=1, random_state=1)
    assert not torch.equal(one.seen[-1], one.seen[0])
    assert starts.mean().abs() < 0.3 and starts.std() == pytest.approx(1, abs=0.2)


def test_guidance_goes_beyond_the_condition():
    model = Exact(Plain())  # the guided prediction is that for a mean of (1 + w) m_1 - w m_2
    images = generate(model, Plain(), [1] * 200, shape=SHAPE, steps=50, guidance=0.5, null=2)
    assert images.mean().item() == pytest.approx(1.5 * MEANS[1] - 0.5 * MEANS[2], abs=0.02)
    with pytest.raises(DataError, match="null"):
        generate(model, Plain(), [1], shape=SHAPE, guidance=0.5)


def test_nothing_is_left_behind():
    model = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm2d(1))
    before = copy.deepcopy(model.state_dict())
    torch.manual_seed(3)
    state = torch.get_rng_state()
    images = [
        generate(model, Plain(), 4, shape=SHAPE, steps=3, call=lambda net, x, times, given: net(x))
        for _ in range(2)
    ]
    torch.testing.assert_close(*images)
    assert model.training and torch.equal(torch.get_rng_state(), state)
    assert not images[0].requires_grad
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, before[name])


class Prompted(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.seen = []

    def forward(self, x, times, encoder_hidden_states, added=None):
        self.seen.append((encoder_hidden_states, added))
        return self.scale * x + encoder_hidden_states.mean((1, 2)).view(-1, 1, 1, 1)


def test_prompts_and_mappings():
    prompts, added = torch.randn(5, 2, 3), torch.arange(5)
    model = Prompted()
    one = generate(model, Plain(), prompts, shape=SHAPE, steps=2, batch_size=2)
    given = {"added": {"time_ids": added}, "encoder_hidden_states": prompts}
    two = generate(model, Plain(), given, shape=SHAPE, steps=2, batch_size=2)
    torch.testing.assert_close(one, two)
    torch.testing.assert_close(model.seen[-1][0], prompts[4:])
    assert model.seen[-1][1]["time_ids"].tolist() == [4]


def test_a_model_in_half_precision_gives_single():
    model = Prompted().bfloat16()
    images = generate(model, Plain(), torch.randn(2, 2, 3), shape=SHAPE, steps=2)
    assert images.dtype is torch.float32
    assert model.seen[0][0].dtype is torch.bfloat16


def test_shape_and_steps_of_configs():
    model = Config(in_channels=1, sample_size=6)
    assert generate(model, Plain(30), [0]).shape == (1, 1, 6, 6)
    assert len(model.seen) == 30  # no more than there were in training
    model = Config(in_channels=3, sample_size=(2, 5))
    assert generate(model, Plain(), [0, 1]).shape == (2, 3, 2, 5)
    assert len(model.seen) == 50

    class DDPMLike(Plain):
        pass

    model = Config(in_channels=1, sample_size=6)
    generate(model, DDPMLike(70), [0])
    assert len(model.seen) == 70


def test_errors_say_what_to_do(diffusers):
    model, settings = Exact(Plain()), {"shape": SHAPE, "steps": 2}
    with pytest.raises(DataError, match=r"pass shape=\(C, H, W\)"):
        generate(model, Plain(), [0])
    with pytest.raises(DataError, match="shape must be"):
        generate(model, Plain(), [0], shape=(1, 0, 4))
    with pytest.raises(DataError, match="at least one"):
        generate(model, Plain(), torch.zeros(0, dtype=torch.long), **settings)
    with pytest.raises(DataError, match="whole numbers"):
        generate(model, Plain(), [0.5], **settings)
    with pytest.raises(DataError, match="got object"):
        generate(model, Plain(), object(), **settings)
    with pytest.raises(DataError, match="steps must be"):
        generate(model, Plain(), [0], shape=SHAPE, steps=0)
    with pytest.raises(DataError, match="batch_size must be"):
        generate(model, Plain(), [0], batch_size=0, **settings)
    with pytest.raises(DataError, match="set_timesteps"):
        generate(model, torch.ones(3), [0], **settings)
    learned = diffusers.DDPMScheduler(variance_type="learned_range")
    with pytest.raises(DataError, match="fixed_small"):
        generate(model, learned, [0], **settings)
    shifting = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    with pytest.raises(DataError, match="shift="):
        generate(model, shifting, [0], **settings)
    few = Config(in_channels=1, sample_size=4, num_class_embeds=2)
    with pytest.raises(DataError, match="condition holds classes 0 to 2, and the model knows 0 to 1"):
        generate(few, Plain(), [0, 2])
    with pytest.raises(DataError, match="null holds"):
        generate(few, Plain(), [0], null=2, guidance=1.0)


def test_a_model_that_diverged_is_refused():
    model = Exact(Plain(), (0.0, float("nan")))
    with pytest.raises(DataError, match=r"1 of 1 images .* number 2: the model has diverged"):
        generate(model, Plain(), [0, 0, 1, 0], shape=SHAPE, steps=2, batch_size=1)


@pytest.mark.cuda
def test_a_gpu_is_shown_the_same_noise():
    model = Exact(Plain())
    images = generate(model, Plain(), [0, 1], shape=SHAPE, steps=10)
    there = generate(model.cuda(), Plain(), [0, 1], shape=SHAPE, steps=10)
    assert there.device.type == "cuda"
    torch.testing.assert_close(there.cpu(), images, rtol=1e-4, atol=1e-4)
