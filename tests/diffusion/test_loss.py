# SPDX-License-Identifier: BSD-3-Clause
"""The loss of a diffusion model: against the schedulers' own forward process, alone and in company, by hand."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.base import clone
from torch import nn

from unlearnkit import DataError, FisherDiagonal, GradientSaliency, SalUn
from unlearnkit.data import take
from unlearnkit.diffusion import DiffusionLoss
from unlearnkit.diffusion._draws import keys_of, mixed, normal, uniform
from unlearnkit.diffusion._noising import Noising
from unlearnkit.gradients.reference import looped, measured_parameters, vmapped

NULL = 4


def own(x, steps, seed=0, draw=0, draws=1):
    """Return the noise and steps that a sample draws in eval mode."""
    keys = keys_of(x, seed)
    eps = normal(keys, x.shape[1:], 2 * draw + 1).to(x)
    return eps, ((uniform(keys, 0) + draw / draws) % 1 * steps).long()


def never():
    """Stand in for the model before, of which no copy is to be made."""
    pytest.fail("the model before was asked for")


# draws ------------------------------------------------------------------------------------------


def test_splitmix_is_the_published_one():
    """The first outputs of SplitMix64 from the seed 1234567, as the reference code gives them."""
    state = 1234567 + 0x9E3779B97F4A7C15 * torch.arange(1).sum()
    found = mixed(state.reshape(1))
    assert int(found[0]) % 2**64 == 6457827717110365317


def test_draws_are_normal_uniform_and_independent():
    x = torch.rand(3000, 1, 6, 6)
    keys = keys_of(x, 0)
    eps, later, other = (normal(k, x.shape[1:], s) for k, s in ((keys, 1), (keys, 3), (keys_of(x, 1), 1)))
    assert stats.kstest(eps.flatten().numpy(), "norm").pvalue > 1e-3
    assert stats.kstest(uniform(keys, 0).numpy(), "uniform").pvalue > 1e-3
    near = x.clone()
    near[:, 0, 2, 2] = torch.nextafter(near[:, 0, 2, 2], torch.tensor(2.0))
    moved = normal(keys_of(near, 0), x.shape[1:], 1)
    bound = 5 / eps.numel() ** 0.5  # five standard errors of a mean of products
    for one in (later, other, moved, eps.roll(1, 0), eps.roll(1, -1), eps.roll(1, -2), eps.flip(0)):
        assert abs(float((eps * one).mean())) < bound
    assert abs(float((uniform(keys, 0)[:, None] - 0.5).mul(eps.flatten(1)).mean())) < bound


@given(st.integers(1, 9), st.integers(0, 2**40), st.integers(0, 8))
def test_draws_are_a_samples_own(n, seed, at):
    x = torch.randn(n, 3, 2)
    one = x[at % n : at % n + 1]
    assert torch.equal(
        normal(keys_of(x, seed), x.shape[1:], 1)[at % n], normal(keys_of(one, seed), x.shape[1:], 1)[0]
    )


@pytest.mark.cuda
def test_draws_are_the_same_on_a_gpu(denoiser, batch, alphas):
    """Integers to the bit, normal numbers to rounding; so is the loss."""
    x, c = batch
    keys, theirs = keys_of(x, 3), keys_of(x.cuda(), 3)
    assert torch.equal(keys, theirs.cpu()) and torch.equal(uniform(keys, 2), uniform(theirs, 2).cpu())
    torch.testing.assert_close(normal(theirs, x.shape[1:], 1).cpu(), normal(keys, x.shape[1:], 1))
    given = {"null": NULL, "guidance": 1.0, "condition_drop": 0.5, "classes": 4}
    loss = DiffusionLoss(alphas, instead="random", target="current", **given)
    mine = loss(denoiser.eval(), batch)
    on_gpu = denoiser.cuda(), (x.cuda(), c.cuda())
    torch.testing.assert_close(loss(*on_gpu).cpu(), mine, rtol=1e-3, atol=1e-4)
    for drawn in (loss(denoiser.train(), on_gpu[1]), loss.misaligned(*on_gpu, never, torch.Generator())):
        assert drawn.is_cuda and bool(drawn.isfinite().all())


def test_an_odd_number_of_values_is_drawn():
    assert normal(torch.arange(2), torch.Size([5]), 1).shape == (2, 5)


# the forward process ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize(
    "name", ["DDPMScheduler", "DDIMScheduler", "EulerDiscreteScheduler", "UniPCMultistepScheduler"]
)
def test_noising_is_the_schedulers_own(diffusers, batch, name, kind):
    """Against ``add_noise`` and ``get_velocity`` of DDPM with the same betas, whichever sampler is passed."""
    x, steps = batch[0].double(), torch.tensor([0, 3, 999, 500, 20, 7])
    eps = torch.randn_like(x)
    given = {"beta_schedule": "scaled_linear", "prediction_type": kind}
    scheduler, ddpm = getattr(diffusers, name)(**given), diffusers.DDPMScheduler(**given)
    noisy, times, target = Noising.of(scheduler).of_step(x, eps, steps)
    wanted = {"epsilon": eps, "v_prediction": ddpm.get_velocity(x, eps, steps), "sample": x}[kind]
    torch.testing.assert_close(noisy, ddpm.add_noise(x, eps, steps), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(target, wanted, rtol=1e-5, atol=1e-6)
    assert torch.equal(times, steps)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_matching_is_the_schedulers_own(diffusers, batch, shift):
    x, eps = batch[0], torch.randn_like(batch[0])
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
    steps = torch.tensor([0, 3, 999, 500, 20, 7])
    noisy, times, target = Noising.of(scheduler).of_step(x, eps, steps)
    torch.testing.assert_close(times, scheduler.timesteps.flip(0)[steps])
    torch.testing.assert_close(noisy, scheduler.scale_noise(x, scheduler.timesteps.flip(0)[steps], eps))
    torch.testing.assert_close(target, eps - x)


def test_a_setting_of_inference_steps_changes_nothing(diffusers, denoiser, batch):
    scheduler = diffusers.DDIMScheduler()
    before = DiffusionLoss(scheduler)(denoiser.eval(), batch)
    scheduler.set_timesteps(5)
    assert torch.equal(before, DiffusionLoss(scheduler)(denoiser, batch))


# the loss ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_loss_by_hand(denoiser, batch, alphas, reduction):
    x, c = batch
    eps, t = own(x, 50, seed=3)
    a = alphas[t].view(-1, 1, 1, 1)
    squares = (denoiser.eval()(a.sqrt() * x + (1 - a).sqrt() * eps, t, c) - eps).square().flatten(1)
    found = DiffusionLoss(alphas, reduction=reduction, seed=3)(denoiser, batch)
    torch.testing.assert_close(found, squares.mean(1) if reduction == "mean" else squares.sum(1))


def test_a_sample_alone_is_what_it_is_in_a_batch(denoiser, batch, alphas):
    loss = DiffusionLoss(alphas, draws=3)
    whole = loss(denoiser.eval().double(), (batch[0].double(), batch[1]))
    for at in range(6):
        alone = loss(denoiser, take((batch[0].double(), batch[1]), slice(at, at + 1)))
        torch.testing.assert_close(alone, whole[at : at + 1])
    assert torch.equal(whole, loss(denoiser, (batch[0].double(), batch[1])))


def test_training_draws_anew_from_torchs_state(denoiser, batch, alphas):
    loss = DiffusionLoss(alphas)
    first, second = loss(denoiser.train(), batch), loss(denoiser, batch)
    assert not torch.equal(first, second)
    torch.manual_seed(5)
    first = loss(denoiser, batch)
    torch.manual_seed(5)
    assert torch.equal(first, loss(denoiser, batch))


def test_the_mean_over_draws_converges_to_the_expectation(alphas):
    """Of a model that says zero, the mean over steps and noise is E eps^2 = 1, of one that copies its input another."""
    silent = nn.Linear(1, 1, bias=False).eval()
    x = torch.randn(400, 1, 2, 2)

    def zero(model, noisy, times, condition):
        return 0 * noisy

    def echo(model, noisy, times, condition):
        return noisy

    found = DiffusionLoss(alphas, draws=16, call=zero)(silent, (x, None)).mean()
    assert abs(float(found) - 1) < 5 * (2 / (400 * 4 * 16)) ** 0.5
    signal, noise = alphas.sqrt(), (1 - alphas).sqrt()
    expected = (signal**2 * x.square().mean() + (noise - 1) ** 2).mean()
    found = DiffusionLoss(alphas, draws=50, call=echo)(silent, (x, None)).mean()
    assert abs(float(found) - float(expected)) < 0.02


def test_draws_spread_their_steps_evenly(batch):
    x = batch[0]
    steps = (
        torch.stack([own(x, 1000, draw=draw, draws=10)[1] for draw in range(10)]).sort(0).values
    )  # [10, N]
    assert bool(((steps.diff(dim=0) - 100).abs() <= 1).all())


def test_guidance_by_hand(denoiser, batch, alphas):
    x, c = batch
    eps, t = own(x, 50)
    a = alphas[t].view(-1, 1, 1, 1)
    noisy = a.sqrt() * x + (1 - a).sqrt() * eps
    guided = 3 * denoiser.eval()(noisy, t, c) - 2 * denoiser(noisy, t, torch.full_like(c, NULL))
    found = DiffusionLoss(alphas, guidance=2.0, null=NULL)(denoiser, batch)
    torch.testing.assert_close(found, (guided - eps).square().flatten(1).mean(1))


def test_conditions_are_dropped_in_training_alone(denoiser, batch, alphas):
    x, c = batch
    denoiser.drop.p = 0.0
    plain, dropping = DiffusionLoss(alphas), DiffusionLoss(alphas, null=NULL, condition_drop=1.0)
    assert torch.equal(plain(denoiser.eval(), batch), dropping(denoiser, batch))
    denoiser.train()
    torch.manual_seed(0)
    torch.rand(6)  # which are dropped
    without = plain(denoiser, (x, torch.full_like(c, NULL)))
    torch.manual_seed(0)
    torch.testing.assert_close(dropping(denoiser, batch), without)
    seen = []

    def call(model, noisy, times, condition):
        seen.append(condition)
        return noisy

    half = DiffusionLoss(alphas, null=NULL, condition_drop=0.5, call=call)
    for _ in range(200):
        half(denoiser, batch)
    share = (torch.cat(seen) == NULL).double().mean()
    assert abs(float(share) - 0.5) < 5 * (0.25 / 1200) ** 0.5


# wrong conditions -------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["current", "original"])
def test_misaligned_by_hand(denoiser, batch, alphas, target):
    x, c = batch
    denoiser.drop.p = 0.0
    original = copy.deepcopy(denoiser).eval()
    with torch.no_grad():
        denoiser.enter.weight.mul_(1.5)
    torch.manual_seed(1)
    eps, t = torch.randn_like(x), torch.randint(50, (6,))
    a = alphas[t].view(-1, 1, 1, 1)
    noisy = a.sqrt() * x + (1 - a).sqrt() * eps
    teacher = denoiser if target == "current" else original
    wanted = teacher(noisy, t, (c + 1) % 4).detach()
    expected = (denoiser(noisy, t, c) - wanted).square().flatten(1).mean(1)
    torch.manual_seed(1)
    loss = DiffusionLoss(alphas, target=target, classes=4)
    before = never if target == "current" else lambda: original
    found = loss.misaligned(denoiser, batch, before, torch.Generator())
    torch.testing.assert_close(found, expected)
    mine, its = (torch.autograd.grad(one.sum(), denoiser.leave.weight)[0] for one in (found, expected))
    torch.testing.assert_close(mine, its)


@pytest.mark.parametrize(
    ("instead", "wrong"),
    [("next", [1, 2, 3, 0, 1, 2]), ("null", [NULL] * 6), ({0: 2, 1: 2, 2: 0, 3: 1}, [2, 2, 0, 1, 2, 2])],
)
def test_what_samples_are_to_look_like(denoiser, batch, alphas, instead, wrong):
    seen = []

    def call(model, noisy, times, condition):
        seen.append(condition.tolist())
        return model(noisy, times, condition)

    loss = DiffusionLoss(alphas, instead=instead, target="current", classes=4, null=NULL, call=call)
    loss.misaligned(denoiser, batch, never, torch.Generator())
    assert seen == [wrong, batch[1].tolist()]


def test_another_class_is_drawn_uniformly(denoiser, alphas):
    seen = []

    def call(model, noisy, times, condition):
        seen.append(condition)
        return noisy

    x, c = torch.zeros(6000, 2, 2, 2), torch.full((6000,), 1)
    loss = DiffusionLoss(alphas, instead="random", target="current", classes=4, call=call)
    loss.misaligned(denoiser, (x, c), never, torch.Generator().manual_seed(0))
    counts = torch.bincount(seen[0], minlength=4)
    assert counts[1] == 0 and bool(((counts[[0, 2, 3]] - 2000).abs() < 5 * (6000 * 2 / 9) ** 0.5).all())


def test_a_batch_says_itself_what_it_is_to_look_like(text_unet, alphas):
    x, told, instead = torch.randn(3, 2, 4, 4), torch.randn(3, 5, 8), torch.randn(3, 5, 8)
    seen = []

    def call(model, noisy, times, condition):
        seen.append(condition["encoder_hidden_states"])
        return model(noisy, times, **condition).sample

    batch = {"sample": x, "encoder_hidden_states": told, "instead": instead}
    loss = DiffusionLoss(alphas, target="current", call=call)
    loss.misaligned(text_unet, batch, never, torch.Generator())
    assert torch.equal(seen[0], instead) and torch.equal(seen[1], told)
    by_name = {**batch, "instead": {"encoder_hidden_states": instead}}
    loss.misaligned(text_unet, by_name, never, torch.Generator())
    assert torch.equal(seen[2], instead)
    assert loss(text_unet.eval(), batch).shape == (3,)  # where it does not count


def test_published_alpha_is_a_scale(denoiser, batch, alphas):
    """alpha=1e-3 on a sum is 1e-3 times the number of values on a mean."""
    denoiser.eval()
    summed = DiffusionLoss(alphas, reduction="sum", misaligned_reduction="mean", classes=4)
    mean = DiffusionLoss(alphas, classes=4)
    torch.testing.assert_close(1e-3 * summed(denoiser, batch), 1e-3 * 32 * mean(denoiser, batch))
    torch.manual_seed(0)
    first = summed.misaligned(denoiser, batch, lambda: denoiser, torch.Generator())
    torch.manual_seed(0)
    assert torch.equal(first, mean.misaligned(denoiser, batch, lambda: denoiser, torch.Generator()))


# models -----------------------------------------------------------------------------------------


def test_classes_of_diffusers_models(unet, transformer, batch, alphas):
    for model in (unet, transformer):
        loss = DiffusionLoss(alphas, null=NULL, guidance=1.0)
        found = loss(model.eval(), batch)
        assert found.shape == (6,) and bool(found.isfinite().all())
        assert loss.misaligned(model, batch, lambda model=model: model, torch.Generator()).shape == (6,)


def test_number_of_classes_is_the_models(unet, transformer, batch, alphas):
    """The null class of the U-Net is one of its embeddings; the transformer has it apart."""
    x, _ = batch
    for model in (unet, transformer):
        seen = []

        def call(model, noisy, times, condition, seen=seen):
            seen.append(condition)
            return noisy

        loss = DiffusionLoss(alphas, target="current", null=NULL, call=call)
        loss.misaligned(model, (x, torch.full((6,), 3)), never, torch.Generator())
        assert seen[0].tolist() == [0] * 6


def test_prompts_and_mappings_are_the_same(text_unet, alphas):
    x, told = torch.randn(3, 2, 4, 4), torch.randn(3, 5, 8)
    loss = DiffusionLoss(alphas, null=torch.zeros(5, 8), guidance=7.5)
    by_tuple = loss(text_unet.eval(), (x, told))
    assert torch.equal(by_tuple, loss(text_unet, {"sample": x, "encoder_hidden_states": told}))
    one = DiffusionLoss(alphas, null={"encoder_hidden_states": torch.zeros(1, 5, 8)}, guidance=7.5)
    assert torch.equal(by_tuple, one(text_unet, {"sample": x, "encoder_hidden_states": told}))


def test_no_condition_is_a_condition(diffusers, alphas):
    model = diffusers.UNet2DModel(
        sample_size=4, in_channels=1, out_channels=1, layers_per_block=1, block_out_channels=(8,), norm_num_groups=4,
        down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",),
    )  # fmt: skip
    x = torch.randn(3, 1, 4, 4)
    assert DiffusionLoss(alphas)(model.eval(), (x, None)).shape == (3,)
    assert torch.equal(DiffusionLoss(alphas)(model, {"sample": x}), DiffusionLoss(alphas)(model, [x, None]))


# importances ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["denoiser", "unet", "text_unet", "transformer"])
def test_fisher_is_exact(request, name, batch, alphas):
    model = request.getfixturevalue(name).double().eval()
    x = batch[0].double()
    data = (x, torch.randn(6, 5, 8).double()) if name == "text_unet" else (x, batch[1])
    loss = DiffusionLoss(alphas, draws=2)
    found = FisherDiagonal().measure(model, data, loss=loss)
    wanted = dict.fromkeys(found.sums, 0.0)
    for row in looped(model, loss, data, measured_parameters(model)):
        wanted = {key: wanted[key] + value.square() for key, value in row.items()}
    largest = max(float(value.max()) for value in wanted.values())
    for key, value in wanted.items():  # of a key's bias, which softmax does not see, rounding is all there is
        torch.testing.assert_close(found.sums[key], value, rtol=1e-7, atol=1e-12 * largest)


def test_draws_run_under_vmap(denoiser, batch, alphas):
    data = (batch[0].double(), batch[1])
    loss, parameters = DiffusionLoss(alphas), measured_parameters(denoiser.double().eval())
    [together] = vmapped(denoiser, loss, data, parameters)
    for at, row in enumerate(looped(denoiser, loss, data, parameters)):
        for key, value in row.items():
            torch.testing.assert_close(together[key][at], value)


def test_saliency_is_the_gradient_of_the_mean_loss(denoiser, batch, alphas):
    loss = DiffusionLoss(alphas, guidance=2.0, null=NULL, reduction="sum")
    denoiser.eval().double()
    data = (batch[0].double(), batch[1])
    gradients = torch.autograd.grad(loss(denoiser, data).mean(), list(denoiser.parameters()))
    norm = sum(float(g.square().sum()) for g in gradients) ** 0.5
    found = GradientSaliency(loss=loss, clip=0.5 * norm).measure(denoiser, data)
    for (name, _), gradient in zip(denoiser.named_parameters(), gradients, strict=True):
        torch.testing.assert_close(found.sums[name], 0.5 * gradient)


# parameters -------------------------------------------------------------------------------------


def test_it_is_cloned_and_searched_like_an_estimator(alphas):
    loss = DiffusionLoss(alphas, null=NULL)
    salun = clone(SalUn(loss=loss, order="paired")).set_params(loss__guidance=2.0)
    assert salun.loss.guidance == 2.0 and salun.loss.scheduler is alphas and loss.guidance == 0.0
    assert repr(DiffusionLoss(alphas)) == "DiffusionLoss(Tensor)"
    assert repr(salun.loss) == "DiffusionLoss(Tensor, guidance=2.0, null=4)"
    assert repr(DiffusionLoss(alphas, null=torch.zeros(2, 3))) == "DiffusionLoss(Tensor, null=Tensor [2, 3])"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"reduction": "max"}, ["reduction", "'sum'", "'max'"]),
        ({"target": "oracle"}, ["target", "'original'"]),
        ({"instead": "previous"}, ["instead", "'next'"]),
        ({"condition_drop": 2}, ["condition_drop", "2"]),
        ({"draws": 0}, ["draws", "0"]),
        ({"guidance": 1.0}, ["guidance", "null="]),
        ({"guidance": 1.0, "null": torch.zeros(3)}, ["null", "[3]", "[]"]),
        ({"scheduler": "ddpm"}, ["scheduler", "str", "trained"]),
        ({"scheduler": torch.tensor([2.0])}, ["alphas_cumprod", "between 0 and 1"]),
        ({"scheduler": torch.zeros(2, 2)}, ["alphas_cumprod", "[2, 2]"]),
    ],
)  # fmt: skip
def test_wrong_parameters_are_named(denoiser, batch, alphas, given, words):
    with pytest.raises(DataError) as caught:
        DiffusionLoss(**{"scheduler": alphas, **given})(denoiser.eval(), batch)
    assert all(word in str(caught.value) for word in words)


@pytest.mark.parametrize(
    ("instead", "condition", "words"),
    [
        ("next", torch.randn(6, 5, 8), ["instead='next'", "[6, 5, 8]", "'instead'"]),
        ("next", torch.tensor([0, 1, 2, 3, 0, 1]), ["classes="]),
        ({0: 1}, torch.tensor([0, 1, 2, 3, 0, 1]), ["says nothing", "class 1"]),
        (1, torch.tensor([0, 1, 2, 3, 0, 1]), ["instead=1", "as it is"]),
        ("null", torch.tensor([0, 1, 2, 3, 0, 1]), ["null="]),
    ],
)  # fmt: skip
def test_wrong_rules_are_named(denoiser, batch, alphas, instead, condition, words):
    with pytest.raises(DataError) as caught:
        DiffusionLoss(alphas, instead=instead).misaligned(
            denoiser, (batch[0], condition), never, torch.Generator()
        )
    assert all(word in str(caught.value) for word in words)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("images", ["str", "mapping"]),
        ({"images": torch.zeros(3, 2, 4, 4)}, ["'sample'", "NoneType"]),
        ((torch.zeros(3, dtype=torch.long), torch.zeros(3)), ["[3]", "floating"]),
    ],
)
def test_wrong_batches_are_named(denoiser, alphas, data, words):
    with pytest.raises(DataError) as caught:
        DiffusionLoss(alphas)(denoiser.eval(), data)
    assert all(word in str(caught.value) for word in words)


def test_an_output_of_another_shape_is_named(denoiser, batch, alphas):
    def call(model, noisy, times, condition):
        return noisy[:, :1]

    with pytest.raises(DataError, match=r"\[6, 1, 4, 4\].*call="):
        DiffusionLoss(alphas, call=call)(denoiser.eval(), batch)
    with pytest.raises(DataError, match="str"):
        DiffusionLoss(alphas, call=lambda *given: "")(denoiser.eval(), batch)


def test_conditions_must_agree(text_unet, alphas):
    two = {
        "sample": torch.zeros(2, 2, 4, 4),
        "a": torch.zeros(2, 3),
        "b": torch.zeros(2, 3),
        "instead": torch.zeros(2, 3),
    }
    loss = DiffusionLoss(alphas)
    for batch, words in (
        (two, ["'a'", "'b'"]),
        ({**two, "instead": {"c": torch.zeros(2, 3)}}, ["'c'", "'a'"]),
        ({**two, "instead": {"a": torch.zeros(2, 4)}}, ["[2, 3]", "[2, 4]"]),
    ):
        with pytest.raises(DataError) as caught:
            loss.misaligned(text_unet, batch, never, torch.Generator())
        assert all(word in str(caught.value) for word in words)
