# SPDX-License-Identifier: BSD-3-Clause
"""Every example of the README and of docs/ runs as it stands there.

The ``python`` blocks of a document are run in order in one namespace, in an empty folder. What they
take for granted (a trained ``model``, its data) is made here.
"""

import copy
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Subset, TensorDataset

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
CLASS = 3


def blocks(text: str) -> Iterator[tuple[int, str]]:
    """Yield each fenced ``python`` block, with the number of lines before it."""
    for found in re.finditer(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        yield text.count("\n", 0, found.start(1)), found[1]


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(256, 32),
        nn.ReLU(),
        nn.Linear(32, 10),
    )


def trained(X: torch.Tensor, y: torch.Tensor) -> nn.Module:
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(12):
        for chosen in torch.randperm(len(y)).split(64):
            optimizer.zero_grad()
            F.cross_entropy(model(X[chosen]), y[chosen]).backward()
            optimizer.step()
    return model.eval()


class Halved(nn.Module):
    """A classifier of images in [-1, 1]."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.model((x + 1) / 2)


def generator() -> dict:
    """An untrained diffusion model, and its scheduler."""
    diffusers = pytest.importorskip("diffusers")
    unet = diffusers.UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=(8,),
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
        num_class_embeds=10,
        norm_num_groups=4,
    )
    return {"unet": unet, "scheduler": diffusers.DDIMScheduler()}


@pytest.fixture(scope="module")
def prelude() -> dict:
    """Names that the documents use without making them."""
    torch.manual_seed(0)
    images, labels = load_digits(return_X_y=True)
    X = torch.tensor(images / 16, dtype=torch.float32).view(-1, 1, 8, 8)
    y = torch.tensor(labels)
    order = torch.randperm(len(y))
    own, held_out, unseen = order[:1000], order[1000:1400], order[1400:]
    train = TensorDataset(X[own], y[own])
    gone = y[own] == CLASS
    indices = gone.nonzero().flatten().tolist()
    targets = torch.randn(1000, 2)
    model = trained(X[own], y[own])
    return {
        **generator(),
        "classifier": Halved(model).eval(),
        "train_images": 2 * X[own] - 1,
        "train_classes": y[own],
        "kept_images": 2 * X[own][~gone] - 1,
        "kept_classes": y[own][~gone],
        "gone_images": 2 * X[own][gone] - 1,
        "gone_classes": y[own][gone],
        "train": train,
        "forget_indices": indices,
        "forget_loader": DataLoader(Subset(train, indices), batch_size=64),
        "forget": (X[own][gone], y[own][gone]),
        "retain": (X[own][~gone], y[own][~gone]),
        "scattered": (X[own][:50], y[own][:50]),
        "validation": (X[held_out], y[held_out]),
        "test": (X[unseen], y[unseen]),
        "model": model,
        "oracle": trained(X[own][~gone], y[own][~gone]),
        "regressor": nn.Sequential(nn.Flatten(), nn.Linear(64, 2)),
        "regression_forget": (X[own][:50], targets[:50]),
        "regression_retain": (X[own][50:], targets[50:]),
    }


@pytest.mark.filterwarnings("ignore::unlearnkit.UnlearnWarning")
@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_examples_run(path, prelude, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model, deployed = (copy.deepcopy(prelude["model"]) for _ in range(2))
    namespace = {**prelude, "model": model, "deployed": deployed}
    for before, code in blocks(path.read_text(encoding="utf-8")):
        # the empty lines make a traceback show the document's line
        exec(compile("\n" * before + code, str(path), "exec"), namespace)


def test_the_readme_has_examples():
    assert len(list(blocks((ROOT / "README.md").read_text(encoding="utf-8")))) >= 3


def test_only_python_blocks_are_examples():
    text = "a\n```python\nx = 1\n\ny = 2\n```\n```\nmake\n```\n```python\nz = 3\n```\n"
    assert list(blocks(text)) == [(2, "x = 1\n\ny = 2\n"), (10, "z = 3\n")]
