# SPDX-License-Identifier: BSD-3-Clause
"""A vision transformer of the transformers library: forget a whole class.

Think of a network that recognises people, each person a class. One of them withdraws consent, so
the class must go, and the others must be recognised as before. Here the classes are scikit-learn's
handwritten digits, so that nothing is downloaded, and the network is a small ViT with random
weights, trained on the spot. You see how to

1. hand over data whose batches are dicts, as `model(**batch)` takes them;
2. forget a class without any training (ASSD);
3. forget it by training no more than a fifth of the channels (SalUn), the rest staying bit by bit;
4. compare both with a network that never saw the class.

ASSD costs next to nothing, and how far it comes depends on the network: of seven trainings of this
one with other seeds it stopped short in two, and said so in a warning. SalUn served them all.

Run `python examples/vision_transformer.py`; it takes some seconds.
"""

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch.utils.data import DataLoader, Dataset, Subset
from transformers import ViTConfig, ViTForImageClassification

from unlearnkit import ASSD, Retrain, SalUn
from unlearnkit.metrics import accuracy, evaluate

GONE = 3
EPOCHS, RATE, BATCH = 10, 3e-3, 64


class Images(Dataset):
    """Digits whose items are dicts; a loader stacks them to batches that are dicts too."""

    def __init__(self, images, labels):
        self.images, self.labels = torch.as_tensor(images), torch.as_tensor(labels)

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, at):
        return {"pixel_values": self.images[at], "labels": self.labels[at]}

    def of(self, chosen):
        """Return the images of a mask [N]."""
        return Subset(self, chosen.nonzero()[:, 0].tolist())


def digits():
    """Return training and test images [N, 1, 8, 8]."""
    images, labels = load_digits(return_X_y=True)
    images = (images / 16).astype("float32").reshape(-1, 1, 8, 8)
    parts = train_test_split(images, labels, test_size=0.25, random_state=0, stratify=labels)
    return Images(parts[0], parts[2]), Images(parts[1], parts[3])


def network():
    """Build a new ViT: patches of 2 x 2, so 16 of them; 69,194 weights."""
    config = ViTConfig(
        image_size=8, patch_size=2, num_channels=1, num_labels=10,
        hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128,
        initializer_range=0.1,  # so small a network learns faster so
    )  # fmt: skip
    return ViTForImageClassification(config)


def trained(data, seed=0):
    """Train a new network, as you train yours."""
    torch.manual_seed(seed)
    model = network()
    loader = DataLoader(data, BATCH, shuffle=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=EPOCHS * len(loader))
    for _ in range(EPOCHS):
        for batch in loader:
            optimizer.zero_grad()
            model(**batch).loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def main():
    """Run it all; return the evaluations by name."""
    train, test = digits()
    model = trained(train)
    forget = train.of(train.labels == GONE)
    print(f"{len(forget)} of {len(train):,} images are to be forgotten, all of the class {GONE}.")

    # The rest of what the Subset draws from is kept.
    assd = ASSD().fit(model, forget)
    salun = SalUn(
        granularity="channel",
        budget=0.2,
        epochs=5,
        lr=1e-3,
        optimizer="adamw",
        batch_size=BATCH,
        random_state=0,
    ).fit(model, forget)
    print(f"ASSD,  {assd.seconds_:.1f} s: {assd.edit_}")
    print(f"SalUn, {salun.seconds_:.1f} s: {salun.edit_}")

    retrain = Retrain(
        factory=network, epochs=EPOCHS, lr=RATE, optimizer="adamw", batch_size=BATCH,
        weight_decay=0.01, schedule="warmup", random_state=1,
    ).fit(model, forget)  # fmt: skip
    oracle = retrain.transform(model)
    kept, unseen = train.of(train.labels != GONE), test.of(test.labels != GONE)
    data = {"retain": kept, "forget": forget, "test": unseen}
    target = evaluate(oracle, **data)
    results = {}
    print(f"\n{'':10} {'ToW':>5}  {'still given':>12}  {'right on unseen':>16}  {'unseen of class':>16}")
    print(
        f"{'':10} {'':>5}  {f'the class {GONE}':>12}  {'images of others':>16}  {f'{GONE}, read as such':>16}"
    )
    models = {"before": model, "ASSD": assd.transform(model), "SalUn": salun.transform(model)}
    for name, one in {**models, "retrained": oracle}.items():
        row = {**evaluate(one, **data, oracle=target), "unseen": accuracy(one, test.of(test.labels == GONE))}
        results[name] = row
        shares = f"{row['forget']:12.1%}  {row['test']:16.1%}  {row['unseen']:16.1%}"
        print(f"{name:10} {row['tow']:5.2f}  {shares}")
    print("ToW, tug of war: 1 is what retraining gives.")
    return results | {"assd": assd, "salun": salun}


if __name__ == "__main__":
    main()
