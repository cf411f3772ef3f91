# SPDX-License-Identifier: BSD-3-Clause
"""The published settings: one training by hand, as the authors' code has it."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from unlearnkit import DataError
from unlearnkit.diffusion import DiffusionLoss, published_salun
from unlearnkit.methods._run import derived
from unlearnkit.parameters import bits

NULL = 4


@pytest.fixture
def data():
    """Retain and forget sets of classes 1 to 3 and of class 0."""
    x, c = torch.randn(30, 2, 4, 4), torch.cat([torch.zeros(6), 1 + torch.arange(24) % 3]).long()
    return (x[6:], c[6:]), (x[:6], c[:6])


def mask_by_hand(model, data, alphas):
    """|sum over batches of the clipped gradient of the guided, summed loss|, the largest half of it."""
    guided = DiffusionLoss(alphas, null=NULL, guidance=2.0, reduction="sum")
    model = copy.deepcopy(model).eval()
    total = 0
    for batch in DataLoader(TensorDataset(*data), batch_size=3):
        model.zero_grad()
        guided(model, batch).mean().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        total = total + torch.cat([p.grad.double().flatten() for p in model.parameters()])
    chosen = torch.zeros(len(total), dtype=torch.bool)
    chosen[total.abs().argsort(descending=True, stable=True)[: len(total) // 2]] = True
    return chosen


def test_ddpm_by_hand(denoiser, data, alphas):
    """Adam on MSE(eps(x_t, c), eps(x_t, c + 1)) + 1e-3 sum of squares of the retain set, clipped, then masked."""
    denoiser.drop.p = 0.0
    salun = published_salun(alphas, NULL, epochs=2, batch_size=3, random_state=0, loss__classes=4)
    salun.fit(denoiser, data[0], DataLoader(TensorDataset(*data[1]), batch_size=3))
    chosen = mask_by_hand(denoiser, data[1], alphas)
    assert torch.equal(
        torch.cat([salun.mask_[name].flatten() for name, _ in denoiser.named_parameters()]), chosen
    )

    model = copy.deepcopy(denoiser).train()
    parameters = list(model.parameters())
    optimizer = torch.optim.Adam(parameters, 1e-4)
    masks = [
        part.view_as(p)
        for p, part in zip(parameters, chosen.split([p.numel() for p in parameters]), strict=True)
    ]

    def drawn(x, c):
        """Noise and steps, then which conditions are dropped, as the loss draws them."""
        eps, t = torch.randn_like(x), torch.randint(50, (len(x),))
        a = alphas[t].view(-1, 1, 1, 1)
        return eps, t, a.sqrt() * x + (1 - a).sqrt() * eps

    def dropped(c):
        return torch.where(torch.rand(len(c)) < 0.1, NULL, c)

    for epoch in range(2):
        generator = torch.Generator().manual_seed(derived(0, epoch))
        torch.manual_seed(derived(0, epoch, 1))
        kept = None
        for rows in torch.randperm(6, generator=generator).split(3):
            x, c = data[1][0][rows], data[1][1][rows]
            _, t, noisy = drawn(x, c)
            with torch.no_grad():
                wanted = model(noisy, t, dropped((c + 1) % 4))
            loss = (model(noisy, t, dropped(c)) - wanted).square().mean()
            kept = kept or iter(torch.randperm(24, generator=generator).split(3))
            rows = next(kept)
            x, c = data[0][0][rows], dropped(data[0][1][rows])
            eps, t, noisy = drawn(x, c)
            loss = loss + 1e-3 * (model(noisy, t, c) - eps).square().flatten(1).sum(1).mean()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            for p, mask in zip(parameters, masks, strict=True):
                p.grad *= mask
            optimizer.step()
    found = salun.transform(denoiser)
    for mine, its, before, mask in zip(
        found.parameters(), parameters, denoiser.parameters(), masks, strict=True
    ):
        torch.testing.assert_close(mine, its, rtol=1e-5, atol=1e-7)
        assert torch.equal(bits(mine)[~mask.flatten()], bits(before)[~mask.flatten()])


def test_stable_diffusions_settings(text_unet, alphas):
    null = torch.zeros(5, 8)
    salun = published_salun(alphas, null, "stable-diffusion", include="*attn2*", alpha=0.1, epochs=1)
    assert (salun.lr, salun.batch_size, salun.alpha, salun.weight_decay, salun.order) == (
        1e-5,
        8,
        0.1,
        0.0,
        "paired",
    )
    assert (
        salun.importance.loss.guidance == 7.5 and salun.importance.clip is None and salun.loss.guidance == 0
    )
    x, told = torch.randn(6, 2, 4, 4), torch.randn(6, 5, 8)
    forget = [{"sample": x[:3], "encoder_hidden_states": told[:3], "instead": told[3:]}]
    salun.fit(text_unet, [{"sample": x[3:], "encoder_hidden_states": told[3:]}], forget)
    assert salun.edit_.names and all("attn2" in name for name in salun.edit_.names)
    assert "guidance=7.5" in salun.edit_.info["method"]


def test_an_unknown_setting_is_named(alphas):
    with pytest.raises(DataError, match="'sdxl'"):
        published_salun(alphas, 0, "sdxl")
