# SPDX-License-Identifier: BSD-3-Clause
"""A language model of GPT-2's size: forget what it has learned by heart about one person.

Eight people's telephone numbers and mail addresses were in the training texts, and the model
completes each from the name. One of the eight asks to be forgotten. The model is the transformers
library's GPT-2 (124 million weights, random at first) and texts are bytes, so nothing is
downloaded. You see how to

1. shape texts for this library: dicts of input_ids and labels, the labels one step ahead;
2. forget one record by training a third of the blocks for a few steps, the rest staying bit by bit;
3. do it in place, without a second copy of a large model, and take it back.

Run `python examples/language_model.py`: under a minute on one core, with 4 GB of memory;
`--small` takes a model of 4 narrow blocks for a quick look.
"""

import resource
import sys
import time

import torch
from torch.nn.functional import cross_entropy
from torch.utils.data import Dataset, Subset, default_collate
from transformers import GPT2Config, GPT2LMHeadModel

from unlearnkit import RandomLabel

RECORDS = {
    "Ann Lee": "415 5528", "Bo Diaz": "bd@post.io", "Cy Wood": "234 8173", "Di Khan": "dk@mail.ch",
    "Ed Moss": "977 1203", "Flo Orr": "orr@ub.net", "Gus Hale": "609 7316", "Ida Berg": "ib@mx.se",
}  # fmt: skip
GONE = "Ann Lee"
IGNORED = -100  # as a label: this position does not count


class Records(Dataset):
    """Texts such as "Ann Lee: 415 5528", whose loss is that of what follows the name."""

    def __init__(self, records):
        self.names = list(records)
        self.texts = [(f"{name}: ".encode(), f"{value}\n".encode()) for name, value in records.items()]
        self.length = max(len(prompt + value) for prompt, value in self.texts)

    def __len__(self):
        return len(self.texts)

    def __getitem__(self, at):
        prompt, value = self.texts[at]
        padding = self.length - len(prompt + value)
        ids = torch.tensor([*prompt, *value, *[0] * padding])
        target = torch.tensor([*[IGNORED] * len(prompt), *value, *[IGNORED] * padding])
        # Logits and labels are compared place by place, so labels are the next ids. (transformers
        # shifts them itself where a model is called with labels; here it is called without.)
        return {"input_ids": ids[:-1], "labels": target[1:]}


def network(small=False):
    """Build a GPT-2 with new weights; without dropout, so that few steps do."""
    size = {"n_layer": 4, "n_embd": 128, "n_head": 4} if small else {}
    return GPT2LMHeadModel(GPT2Config(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, **size))


def trained(data, small=False):
    """Train a new model until it knows the texts by heart, as too long a fine-tuning does."""
    torch.manual_seed(0)
    model, batch = network(small).train(), default_collate(list(data))
    target = batch["labels"]
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3 if small else 3e-4, fused=True)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 0.2, total_iters=5)
    for _ in range(100):
        optimizer.zero_grad()
        logits = model(input_ids=batch["input_ids"]).logits  # [N, T, 50257]
        loss = cross_entropy(logits.movedim(-1, 1), target, ignore_index=IGNORED)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if loss < 0.03:
            break
    optimizer.zero_grad()
    return model.eval()


def completed(model, names):
    """Return what the model says after each name, the likeliest byte at a time."""
    prompts = [f"{name}: ".encode() for name in names]
    length = max(map(len, prompts))
    ids = torch.tensor(
        [[*[0] * (length - len(prompt)), *prompt] for prompt in prompts]
    )  # [N, T], filled at left
    said = model.generate(
        ids, attention_mask=(ids > 0).long(), do_sample=False, max_new_tokens=12, eos_token_id=ord("\n"), pad_token_id=0
    )  # fmt: skip
    texts = [
        "".join(chr(one) if 32 <= one < 127 else "?" for one in row if one not in (0, 10))
        for row in said[:, length:]
    ]
    return dict(zip(names, texts, strict=True))


def main(small=False):
    """Run it all; return the completions before, after and taken back, and the edit."""
    data = Records(RECORDS)
    began = time.perf_counter()
    model = trained(data, small)
    size = sum(weights.numel() for weights in model.parameters())
    print(f"trained {size:,} weights, {time.perf_counter() - began:.0f} s")

    forget = Subset(data, [data.names.index(GONE)])  # the other records are kept
    blocks = [f"transformer.h.{number}.*" for number in range(*((2, 4) if small else (8, 12)))]
    forgetter = RandomLabel(
        include=blocks, optimizer="adam", lr=1e-3 if small else 3e-4, epochs=8, random_state=0
    )
    forgetter.fit(model, forget)
    print(f"{forgetter.edit_}, {forgetter.seconds_:.0f} s")

    said = {"before": completed(model, data.names)}
    undo = forgetter.edit_.apply_(model)  # in place: no second model in memory
    said["after"] = completed(model, data.names)
    undo.apply_(model)
    said["taken back"] = completed(model, data.names)

    print(f"\n{'':10} {'learned':12} {'before':12} {'after':12}")
    for name, value in RECORDS.items():
        note = "<- to be forgotten" if name == GONE else ""
        print(f"{name:10} {value:12} {said['before'][name]:12} {said['after'][name]:12} {note}".rstrip())
    print(f"\ntaken back, it says again: {said['taken back'][GONE]}")
    unit = 2**30 if sys.platform == "darwin" else 2**20  # bytes on a Mac, else kilobytes
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit:.1f} GiB")
    return said | {"edit": forgetter.edit_}


if __name__ == "__main__":
    main(small="--small" in sys.argv[1:])
