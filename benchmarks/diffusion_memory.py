# SPDX-License-Identifier: BSD-3-Clause
"""Memory and time of SalUn on a text-to-image U-Net, with and without gradient checkpointing.

    python benchmarks/diffusion_memory.py [--size moderate] [--threads 1] \\
        [--out benchmarks/results/cpu/diffusion_memory.json]

A `UNet2DConditionModel` of the diffusers library with random weights learns to see one prompt as another:
16 latents a side, batches of 8, one epoch of pairs (two steps) with Adam on the half of the weights that matter
most, all of them ("full") or those of the attention to prompts ("attention", the paper's xattn). Checkpointing
is `unet.enable_gradient_checkpointing()`: a block's activations are computed again in the backward pass. Every
fit is a process of its own. Its memory is the peak of the resident set beyond what it was before the fit, when
the libraries, the U-Net and the data were there and a tiny fit had loaded what is loaded late. The edits are
compared bit by bit. Where other programs run (`load` is the number of them that wait for a core, at the end of
the fit), seconds say little, and those of the processor not much more; memory does not depend on it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from _environment import environment
from unlearnkit import SalUn, WeightEdit
from unlearnkit.diffusion import DiffusionLoss, PromptedSamples
from unlearnkit.metrics.timing import PeakMemory, Timer

SIZES: dict[str, dict[str, Any]] = {
    "moderate": {"blocks": (128, 256, 384), "latent": 32, "prompt": (77, 256), "batch": 8, "samples": 16},
    "tiny": {"blocks": (32, 32, 64), "latent": 8, "prompt": (7, 16), "batch": 2, "samples": 4},
}
INCLUDES = {"full": None, "attention": "*attn2*"}
MIB = 2**20


def unet_of(size: dict[str, Any]) -> nn.Module:
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=size["latent"],
        block_out_channels=size["blocks"],
        down_block_types=["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
        up_block_types=["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
        layers_per_block=1,
        cross_attention_dim=size["prompt"][1],
        attention_head_dim=8,
    )


def data_of(size: dict[str, Any], seed: int) -> DataLoader[Any]:
    draw = torch.Generator().manual_seed(seed)
    n = size["samples"]
    latents = torch.randn(n, 4, size["latent"], size["latent"], generator=draw)
    embeddings = torch.randn(2, *size["prompt"], generator=draw)
    number = torch.zeros(n, dtype=torch.long)
    samples = PromptedSamples(latents, ["forget", "instead"], embeddings, number, number + 1)
    return DataLoader(samples, batch_size=size["batch"])


def fitted(unet: nn.Module, size: dict[str, Any], include: str | None) -> WeightEdit:
    schedule = (1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2).cumprod(0)
    salun = SalUn(
        loss=DiffusionLoss(schedule),
        order="paired",
        optimizer="adam",
        lr=1e-5,
        epochs=1,
        batch_size=size["batch"],
        alpha=0.1,
        weight_decay=0.0,
        include=include,
        random_state=0,
    )
    return salun.fit(unet, data_of(size, 1), data_of(size, 2)).edit_


def measure(name: str, include: str, is_checkpointed: bool, edit_file: Path) -> dict[str, Any]:
    """Fit once and return what it cost; the edit goes into a file."""
    fitted(unet_of(SIZES["tiny"]), SIZES["tiny"], INCLUDES[include])
    size = SIZES[name]
    unet = unet_of(size)
    if is_checkpointed:
        unet.enable_gradient_checkpointing()
    cpu = time.process_time()
    with PeakMemory() as memory, Timer() as timer:
        edit = fitted(unet, size, INCLUDES[include])
    cpu = time.process_time() - cpu
    edit.save(edit_file)
    weights = sum(p.numel() for p in unet.parameters())
    return {
        "trained": include,
        "checkpointing": is_checkpointed,
        "weights": weights,
        "changed": edit.n_changed,
        "peak_mib": memory.bytes / MIB,
        "weights_mib": 4 * weights / MIB,
        "seconds": timer.seconds,
        "cpu_seconds": cpu,
        "load": os.getloadavg()[0],
    }


def in_a_process(name: str, include: str, is_checkpointed: bool, threads: int, file: Path) -> dict[str, Any]:
    given = json.dumps([name, include, is_checkpointed, str(file)])
    command = [sys.executable, __file__, "--threads", str(threads), "--one", given]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=list(SIZES), default="moderate")
    parser.add_argument("--trained", choices=list(INCLUDES), nargs="+", default=list(INCLUDES))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--one", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.one:
        name, include, is_checkpointed, file = options.one
        print(json.dumps(measure(name, include, is_checkpointed, Path(file))))
        return
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for include, is_checkpointed in product(options.trained, (False, True)):
            file = Path(folder) / f"{include} {is_checkpointed}.safetensors"
            row = in_a_process(options.size, include, is_checkpointed, options.threads, file)
            if is_checkpointed:
                plain = WeightEdit.load(Path(folder) / f"{include} False.safetensors")
                row["same_edit"] = WeightEdit.load(file) == plain
            rows.append(row)
            shown = (
                f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
                for key, value in row.items()
            )
            print("  ".join(shown), flush=True)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        about = {"what": "SalUn on a U-Net with and without gradient checkpointing", **SIZES[options.size]}
        found = {**about, "environment": environment() | versions(), "rows": rows}
        options.out.write_text(json.dumps(found, indent=2) + "\n")


def versions() -> dict[str, str]:
    import diffusers

    return {"diffusers": diffusers.__version__}


if __name__ == "__main__":
    main()
