# SPDX-License-Identifier: BSD-3-Clause
"""A conditional VAE and a conditional GAN of the digits, and the losses by which methods train them.

Both losses are of the kind that anyone may write: ``loss(model, batch) -> Tensor [N]``, and for the forget set
``misaligned(model, batch, original, generator) -> Tensor [N]``, in which the forgotten class is to look like the
next one. They use nothing of unlearnkit.

Legend: N samples, P = 64 pixels, Z latent numbers, K = 10 classes.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Literal

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from _data import Data

PIXELS, CLASSES, WIDTH = 64, 10, 128
VAE_LATENT, GAN_LATENT = 8, 16

Where = Literal["prior", "posterior"]


class VAE(nn.Module):
    """Encoder and decoder that both get the class."""

    latent = VAE_LATENT

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Linear(PIXELS + CLASSES, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 2 * VAE_LATENT)
        )
        self.decoder = layers(VAE_LATENT + CLASSES, PIXELS)

    def encode(self, x: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and logarithm of the variance of the posterior, each [N, Z]."""
        mean, log_variance = self.encoder(with_class(x.flatten(1), c)).chunk(2, 1)
        return mean, log_variance

    def decode(self, z: Tensor, c: Tensor) -> Tensor:
        """Return logits of the pixels [N, P]."""
        return self.decoder(with_class(z, c))

    def images(self, z: Tensor, c: Tensor) -> Tensor:
        """Return images [N, 1, 8, 8] in [0, 1]."""
        return self.decode(z, c).sigmoid().view(-1, 1, 8, 8)


class GAN(nn.Module):
    """The generator of a conditional GAN."""

    latent = GAN_LATENT

    def __init__(self) -> None:
        super().__init__()
        self.body = layers(GAN_LATENT + CLASSES, PIXELS)

    def forward(self, z: Tensor, c: Tensor) -> Tensor:
        """Return pixels [N, P] in [0, 1]."""
        return self.body(with_class(z, c)).sigmoid()

    def images(self, z: Tensor, c: Tensor) -> Tensor:
        """Return images [N, 1, 8, 8] in [0, 1]."""
        return self(z, c).view(-1, 1, 8, 8)


def layers(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, outputs)
    )


def with_class(x: Tensor, c: Tensor) -> Tensor:
    return torch.cat([x, F.one_hot(c, CLASSES).to(x)], 1)


def following(c: Tensor) -> Tensor:
    """Return the classes that others are to look like, as in the paper's code."""
    return (c + 1) % CLASSES


class ElboLoss:
    """Negative evidence lower bound, in nats; a batch is (images, classes).

    In training mode z is drawn from the posterior, in eval mode it is its mean, so that an importance is the same
    at each measurement.

    Parameters
    ----------
    where : {"prior", "posterior"}
        Where the z come from at which the forgotten class is to look like the next one: from the prior, as when
        images are made, and then of the forget set nothing but the class is read; or from the posterior of its images.
    """

    def __init__(self, where: Where = "prior") -> None:
        self.where = where

    def __call__(self, model: VAE, batch: Data) -> Tensor:
        x, c = batch
        mean, log_variance = model.encode(x, c)
        z = mean + torch.randn_like(mean) * (log_variance / 2).exp() if model.training else mean  # [N, Z]
        divergence = (mean.square() + log_variance.exp() - 1 - log_variance).sum(1) / 2  # [N]
        return cross_entropy(model.decode(z, c), x.flatten(1)) + divergence

    def misaligned(
        self, model: VAE, batch: Data, original: Callable[[], VAE], generator: Generator
    ) -> Tensor:
        x, c = batch
        z = torch.randn(len(x), VAE_LATENT, generator=generator).to(x)  # [N, Z]
        with torch.no_grad():
            if self.where == "posterior":
                mean, log_variance = original().encode(x, c)
                z = mean + z * (log_variance / 2).exp()
            wanted = original().decode(z, following(c)).sigmoid()  # [N, P]
        return cross_entropy(model.decode(z, c), wanted)


class DistilLoss:
    """Squared distance to what the generator made before, for the same z; a batch is (z, classes).

    No image and no discriminator is needed. In training mode z is drawn anew, in eval mode it is the batch's own.

    Parameters
    ----------
    original : GAN
        The generator before.
    """

    def __init__(self, original: GAN) -> None:
        self.original = copy.deepcopy(original).eval().requires_grad_(False)

    def __call__(self, model: GAN, batch: Data) -> Tensor:
        z, c = batch
        if model.training:
            z = torch.randn_like(z)  # [N, Z]
        return distance(model(z, c), self.original(z, c))

    def misaligned(
        self, model: GAN, batch: Data, original: Callable[[], GAN], generator: Generator
    ) -> Tensor:
        z, c = batch
        z = torch.randn(z.shape, generator=generator).to(z)  # [N, Z]
        with torch.no_grad():
            wanted = original()(z, following(c))  # [N, P]
        return distance(model(z, c), wanted)

    def saliency(self, model: GAN, batch: Data) -> Tensor:
        """Return how far a class is from the next one, [N]: the loss itself has no gradient at the original."""
        z, c = batch
        return distance(model(z, c), self.original(z, following(c)))


def cross_entropy(logits: Tensor, wanted: Tensor) -> Tensor:
    """Return the sum over pixels [N] of Bernoulli distributions' cross-entropy."""
    return F.binary_cross_entropy_with_logits(logits, wanted, reduction="none").sum(1)


def distance(found: Tensor, wanted: Tensor) -> Tensor:
    """Return the squared distance [N] of pixels [N, P]."""
    return (found - wanted).square().sum(1)


def train_vae(data: Data, epochs: int) -> VAE:
    model, loss = VAE(), ElboLoss()
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    for batch in walked(data, epochs):
        optimizer.zero_grad()
        loss(model, batch).mean().backward()
        optimizer.step()
    return model.eval()


def train_gan(data: Data, epochs: int) -> GAN:
    """Train with the loss that does not saturate (Goodfellow et al., 2014); return the running mean of the generator.

    Without the mean its samples are of the right class in 90 to 96 % of cases and change from epoch to epoch.
    """
    model, judge = GAN(), discriminator()
    mean = copy.deepcopy(model)
    ours, theirs = (torch.optim.Adam(one.parameters(), 1e-3, betas=(0.5, 0.99)) for one in (model, judge))
    for x, c in walked(data, epochs):
        made = model(torch.randn(len(c), GAN_LATENT), c)  # [N, P]
        theirs.zero_grad()
        right, wrong = judge(with_class(x.flatten(1), c)), judge(with_class(made.detach(), c))  # [N, 1]
        (F.softplus(-right) + F.softplus(wrong)).mean().backward()
        theirs.step()
        ours.zero_grad()
        F.softplus(-judge(with_class(made, c))).mean().backward()
        ours.step()
        with torch.no_grad():
            for old, new in zip(mean.parameters(), model.parameters(), strict=True):
                old.lerp_(new, 0.002)
    return mean.eval()


def discriminator() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(PIXELS + CLASSES, WIDTH), nn.LeakyReLU(0.2), nn.Dropout(0.3),
        nn.Linear(WIDTH, WIDTH), nn.LeakyReLU(0.2), nn.Dropout(0.3),
        nn.Linear(WIDTH, 1),
    )  # fmt: skip


def train_classifier(data: Data, epochs: int) -> nn.Module:
    """Train a small CNN; 32 features, so that a Fréchet distance needs few images."""
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(512, 32), nn.ReLU(), nn.Linear(32, CLASSES),
    )  # fmt: skip
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    for x, y in walked(data, epochs):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model.eval()


def walked(data: Data, epochs: int) -> Iterator[Data]:
    """Yield batches of 64, shuffled anew each epoch."""
    x, y = data
    for _ in range(epochs):
        for chosen in torch.randperm(len(y)).split(64):
            yield x[chosen], y[chosen]
