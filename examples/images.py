# SPDX-License-Identifier: BSD-3-Clause
"""Images: forget what one annotator labelled wrongly, and find out how best to.

Eight annotators labelled scikit-learn's handwritten digits. In the table of one of them the column
of labels had slipped by a row, so that each image bears the label of the next. The network has
learned those labels by heart, and reads other digits worse for it. You see how to

1. say which samples are to be forgotten: all that come from this annotator;
2. search over methods and their parameters for what comes closest to retraining;
3. judge the winner on images that neither training nor search has seen;
4. write it all down in a report that stands on its own.

Run `python examples/images.py`; it takes some seconds and writes into the folder unlearnkit-images.
"""

from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from unlearnkit import ASSD, FisherReset, SalUn, UnlearnSearch
from unlearnkit.metrics import accuracy, evaluate
from unlearnkit.report import audit

ANNOTATORS, SLIPPED = 8, 5
EPOCHS, RATE, BATCH = 30, 2e-3, 64


def digits():
    """Return images [N, 1, 8, 8] and right labels [N]: to train on, to search with, to judge by."""
    images, labels = load_digits(return_X_y=True)
    images = (images / 16).astype("float32").reshape(-1, 1, 8, 8)
    rest = train_test_split(images, labels, test_size=0.4, random_state=0, stratify=labels)
    train, rest = (rest[0], rest[2]), (rest[1], rest[3])
    search, judge, *y = train_test_split(*rest, test_size=0.5, random_state=0, stratify=rest[1])
    return [tuple(map(torch.as_tensor, part)) for part in (train, (search, y[0]), (judge, y[1]))]


def network():
    """Build a new convolutional network: 143,466 weights."""
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


def trained(data, seed):
    """Train a new network, as you train yours."""
    torch.manual_seed(seed)
    images, labels = data.tensors
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
    for _ in range(EPOCHS):
        for chosen in torch.randperm(len(labels)).split(BATCH):
            optimizer.zero_grad()
            F.cross_entropy(model(images[chosen]), labels[chosen]).backward()
            optimizer.step()
    return model.eval()


def main(folder="unlearnkit-images"):
    """Run it all; return what was found, by name."""
    (images, digit), validation, test = digits()
    annotator = torch.as_tensor(np.random.default_rng(0).integers(ANNOTATORS, size=len(digit)))
    hers = annotator == SLIPPED
    labels = digit.clone()
    labels[hers] = digit[hers].roll(-1)

    model = trained(TensorDataset(images, labels), seed=0)
    forget = TensorDataset(images[hers], labels[hers])
    retain = TensorDataset(images[~hers], labels[~hers])
    oracle = trained(retain, seed=1)  # what the result should be like
    print(f"{len(forget)} of {len(images):,} images are from annotator {SLIPPED}, and to be forgotten.")

    search = UnlearnSearch(
        {"ASSD": ASSD(), "SalUn": SalUn(epochs=5, batch_size=BATCH), "FisherReset": FisherReset()},
        {"ASSD": {"target": [0.0]}, "SalUn": {"lr": [0.01, 0.03], "budget": [0.1, 0.5]}},
        random_state=0,
    )
    search.fit(model, retain, forget, validation=validation, oracle=oracle)
    print("\n  ToW  candidate")
    table = search.cv_results_
    for at in np.argsort(table["rank_test_score"]):
        settings = ", ".join(f"{key}={value}" for key, value in table["params"][at].items())
        print(f"{table['mean_test_score'][at]:5.2f}  {table['estimator'][at]}({settings})")
    print("ToW, tug of war: 1 is what retraining gives.")

    # The search has chosen by these scores, so they flatter. Judge by other images.
    clean = search.transform(model)
    before, after = (
        evaluate(one, retain=retain, forget=forget, test=test, oracle=oracle) for one in (model, clean)
    )
    reads = {
        name: accuracy(one, (images[hers], digit[hers]))
        for name, one in (("before", model), ("after", clean))
    }
    print(f"\n{'':46} before   after")
    print(f"{'ToW on images that the search has not seen':45} {before['tow']:7.2f} {after['tow']:7.2f}")
    print(f"{'unseen images read rightly':45} {before['test']:7.1%} {after['test']:7.1%}")
    print(f"{'slipped labels still given':45} {before['forget']:7.1%} {after['forget']:7.1%}")
    print(f"{'the same images read rightly':45} {reads['before']:7.1%} {reads['after']:7.1%}")

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    page = audit(
        model, clean, retain=retain, forget=forget, test=test, oracle=oracle, method=search.best_estimator_,
        before=before, evaluation=after, request={"id": "17", "reason": "annotator 5: labels slipped by a row"},
    )  # fmt: skip
    page.save(folder / "audit.html")
    print(f"\nThe report: {folder / 'audit.html'}")
    return {"search": search, "before": before, "after": after, "reads": reads}


if __name__ == "__main__":
    main()
