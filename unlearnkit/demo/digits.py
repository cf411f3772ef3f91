# SPDX-License-Identifier: BSD-3-Clause
"""What the demo works on: scikit-learn's handwritten digits, two requests, a small network.

The digits are 1,797 images of 8x8 pixels; they come with scikit-learn, so nothing is downloaded.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm.auto import tqdm

EPOCHS = 30
BATCH = 64
SCRATCH = 0.6  # how much darker the faulty scanner's first column of pixels is
FAULTY = 0.1  # share of images that come from the faulty scanner


class Data(NamedTuple):
    """Images [N, 1, 8, 8] with values in [0, 1], 1 being ink, and labels [N]."""

    images: Tensor
    labels: Tensor

    def where(self, chosen: Tensor) -> Data:
        """Return the samples of a mask [N]."""
        return Data(self.images[chosen], self.labels[chosen])


@dataclass(frozen=True)
class Request:
    """Something to be forgotten.

    Attributes
    ----------
    name, title, story : str
        A word for files, a heading, and what happened.
    train : Data
        What the network was trained on, labelled as it then was.
    shown, forget : Tensor
        Over `train`: which digits the images show, and a mask of those to forget.
    test : Data
        Unseen images of what the network is still wanted for, rightly labelled.
    probe : Data
        Unseen images that show the aim from another side.
    forget_name, probe_name : str
        What accuracy on the forget set, and on `probe`, means.
    target : float or None
        Which accuracy on the forget set `ASSD` is to reach; None lets it work that out.
    """

    name: str
    title: str
    story: str
    train: Data
    shown: Tensor
    forget: Tensor
    test: Data
    probe: Data
    forget_name: str
    probe_name: str
    target: float | None

    @property
    def forgotten(self) -> Data:
        """The forget set."""
        return self.train.where(self.forget)

    @property
    def retained(self) -> Data:
        """The rest of the training set."""
        return self.train.where(~self.forget)


def faulty_scanner(seed: int) -> Request:
    """One image in ten was scanned through a scratched glass, and labelled one too high."""
    train, test = _split(seed)
    draw = np.random.default_rng(seed)
    train, forget = _scratched(train, draw)
    test, scratched = _scratched(test, draw)
    wrong = torch.where(forget, (train.labels + 1) % 10, train.labels)
    count = f"{int(forget.sum())} of {len(forget):,} training images"
    return Request(
        name="scanner",
        title="Forget what a faulty scanner taught",
        story=f"{count} came from a scanner with a scratch on its glass, the grey bar at their "
        "left, and its software stored every digit one too high: a 3 as a 4, a 9 as a 0. The "
        "network learned that too: what shows the scratch, it reads one too high. These images "
        "and their labels are to be forgotten; nobody has to find the right labels.",
        train=Data(train.images, wrong),
        shown=train.labels,
        forget=forget,
        test=test,
        probe=test.where(scratched),
        forget_name="wrong labels still given",
        probe_name="scratched test images, read rightly",
        target=0.02,  # by chance, a retrained network gives a wrong label now and then too
    )


def whole_class(seed: int) -> Request:
    """All images of one digit go, and the network is to be as if it had never seen one."""
    train, test = _split(seed)
    digit = (3 + seed) % 10  # several seeds show several digits
    forget, unseen = train.labels == digit, test.labels == digit
    return Request(
        name="class",
        title=f"Forget a whole class: every {digit}",
        story=f"The consent to use the {int(forget.sum())} images of the digit {digit} was "
        "withdrawn. A network that learned all ten digits, rightly labelled, is to become one "
        f"that never saw a {digit}.",
        train=train,
        shown=train.labels,
        forget=forget,
        test=test.where(~unseen),
        probe=test.where(unseen),
        forget_name=f"forgotten images still read as {digit}",
        probe_name=f"test images of a {digit}, still read so",
        target=None,
    )


def network() -> nn.Sequential:
    """Build a small convolutional network with new weights."""
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(1, 32, 3, padding=1),
            gelu1=nn.GELU(),
            conv2=nn.Conv2d(32, 32, 3, stride=2, padding=1),
            gelu2=nn.GELU(),
            flat=nn.Flatten(),
            hidden=nn.Linear(32 * 4 * 4, 256),
            gelu3=nn.GELU(),
            output=nn.Linear(256, 10),
        )
    )


def trained(data: Data, seed: int, name: str, epochs: int = EPOCHS) -> nn.Sequential:
    """Train a new network until it knows its training set by heart.

    SGD with momentum and one cycle of the learning rate; the seed fixes weights and batches.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = network().train()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        steps = epochs * -(-len(data.labels) // BATCH)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=steps)
        for _ in tqdm(range(epochs), desc=f"  {name}", unit="epoch", leave=False):
            for chosen in torch.randperm(len(data.labels)).split(BATCH):
                optimizer.zero_grad()
                F.cross_entropy(model(data.images[chosen]), data.labels[chosen]).backward()
                optimizer.step()
                schedule.step()
    return model.eval()


def _split(seed: int) -> tuple[Data, Data]:
    digits = load_digits()
    images = (digits.images / 16).astype("float32")[:, None]  # [N, 1, 8, 8]
    parts = train_test_split(images, digits.target, test_size=0.25, random_state=seed, stratify=digits.target)
    train_images, test_images, train_labels, test_labels = map(torch.as_tensor, parts)
    return Data(train_images, train_labels), Data(test_images, test_labels)


def _scratched(data: Data, draw: np.random.Generator) -> tuple[Data, Tensor]:
    """Scratch some of the images; return the data and the mask of those that were chosen."""
    count = len(data.labels)
    chosen = torch.zeros(count, dtype=torch.bool)
    chosen[draw.choice(count, int(FAULTY * count), replace=False)] = True
    images = data.images.clone()
    images[chosen, :, :, 0] = (images[chosen, :, :, 0] + SCRATCH).clamp(max=1)
    return Data(images, data.labels), chosen
