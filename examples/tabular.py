# SPDX-License-Identifier: BSD-3-Clause
"""A table: forget the customers whose records turned out to be false.

A lender has a network that says who will pay back. An audit finds that the broker with the number
7 reported every one of its customers as paid back, whatever became of them, so the network trusts
whoever comes from there. The audit names the customers in a CSV file, and the training data itself
is no longer at hand. You see how to

1. keep a summary of the training data (an importance) on the day the network is trained;
2. forget the customers of a CSV file, from that summary and their own rows alone;
3. do it with the training data, by a method that trains;
4. compare both with a network that never saw these rows;
5. save the edit, apply it to the network in use, and take it back.

Run `python examples/tabular.py`; it takes some seconds and writes into the folder unlearnkit-tabular.
"""

import copy
import csv
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import Subset, TensorDataset

from unlearnkit import ASSD, FisherDiagonal, FisherReset, Importance, Retrain, WeightEdit
from unlearnkit.metrics import accuracy, evaluate

BROKERS, FALSE = 12, 7
EPOCHS, RATE, BATCH = 10, 3e-3, 64


def customers(count, seed):
    """Invent customers: features [N, 5 + brokers], who paid back [N], the broker [N]."""
    draw = np.random.default_rng(seed)
    age, income = draw.uniform(20, 70, count), draw.lognormal(10.3, 0.5, count)
    debt, years = draw.lognormal(9, 0.9, count), draw.exponential(5, count)
    late, broker = draw.poisson(0.8, count), draw.integers(BROKERS, size=count)
    risk = 1.8 * late + 2.6 * np.log(debt / income) + 0.06 * (40 - age) - 0.3 * years + 1.2
    paid = draw.random(count) > 1 / (1 + np.exp(-risk))
    numbers = [age / 50, np.log(income) - 10.3, np.log(debt) - 9, years / 5, late]
    features = np.column_stack([*numbers, np.eye(BROKERS)[broker]]).astype("float32")
    return torch.as_tensor(features), torch.as_tensor(paid).long(), broker


def network():
    """Build a new network: 19,074 weights."""
    return nn.Sequential(
        nn.Linear(5 + BROKERS, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 2)
    )


def trained(data, seed=0):
    """Train a new network, as you train yours."""
    torch.manual_seed(seed)
    features, paid = data.tensors
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
    for _ in range(EPOCHS):
        for chosen in torch.randperm(len(paid)).split(BATCH):
            optimizer.zero_grad()
            F.cross_entropy(model(features[chosen]), paid[chosen]).backward()
            optimizer.step()
    return model.eval()


def write_request(path, ids):
    """Write the audit's list: a CSV file with a customer a row."""
    with open(path, "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["customer", "reason"])
        table.writerows([one, "reported as paid back without being checked"] for one in ids)


def read_request(path):
    """Read who is to be forgotten."""
    with open(path, newline="") as file:
        return [row["customer"] for row in csv.DictReader(file)]


def main(folder="unlearnkit-tabular"):
    """Run it all; return the evaluations by name."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)

    # The day of the training: the network, and a summary of its data.
    features, paid, broker = customers(6000, seed=0)
    paid[broker == FALSE] = 1  # so it was reported
    ids = np.array([f"C{number:05}" for number in range(len(paid))])
    train = TensorDataset(features, paid)
    model = trained(train)
    FisherDiagonal().measure(model, train).save(folder / "importance.safetensors")

    # The day of the request: a list of customers, their rows, and some customers who were checked since.
    write_request(folder / "request.csv", ids[broker == FALSE])
    rows = np.flatnonzero(np.isin(ids, read_request(folder / "request.csv")))
    forget = Subset(train, rows.tolist())
    features, paid, _ = customers(1000, seed=1)
    checked = TensorDataset(features, paid)
    print(f"{len(forget)} of {len(train):,} customers are to be forgotten.")

    reference = Importance.load(folder / "importance.safetensors")
    assd = ASSD(reference=reference).fit(model, forget=forget, validation=checked)
    print(f"ASSD, from the summary and these rows, {assd.seconds_:.1f} s: {assd.edit_}")

    # With the training data: retain is the rest of what the Subset draws from.
    reset = FisherReset(random_state=0).fit(model, forget)
    print(f"FisherReset, with the training data, {reset.seconds_:.1f} s: {reset.edit_}")

    # What should they be like? As a network that never saw those rows.
    retrain = Retrain(
        factory=network, epochs=EPOCHS, lr=RATE, optimizer="adam", batch_size=BATCH,
        weight_decay=0.0, schedule="constant", random_state=1,
    ).fit(model, forget)  # fmt: skip
    oracle = retrain.transform(model)
    rest = Subset(train, np.setdiff1d(np.arange(len(train)), rows).tolist())
    features, paid, broker = customers(2000, seed=2)
    unseen = TensorDataset(features, paid)
    from_broker = Subset(unseen, np.flatnonzero(broker == FALSE).tolist())
    data = {"retain": rest, "forget": forget, "test": unseen}
    target = evaluate(oracle, **data)
    models = {"before": model, "ASSD": assd.transform(model), "FisherReset": reset.transform(model)}
    results = {}
    print(f"\n{'':12} {'ToW':>5}  {'believes the':>13}  {'right on':>9}  {'right on new':>14}")
    print(f"{'':12} {'':>5}  {'false reports':>13}  {'customers':>9}  {'ones of broker':>14}")
    for name, one in {**models, "retrained": oracle}.items():
        row = {**evaluate(one, **data, oracle=target), "broker": accuracy(one, from_broker)}
        results[name] = row
        shares = f"{row['forget']:13.1%}  {row['test']:9.1%}  {row['broker']:14.1%}"
        print(f"{name:12} {row['tow']:5.2f}  {shares}")
    print("ToW, tug of war: 1 is what retraining gives.\n")

    # The edit is a small file. Where the network is in use, apply it in place; the undo takes it back.
    file = folder / "request.safetensors"
    assd.edit_.save(file)
    print(f"{file}: {file.stat().st_size:,} bytes")
    deployed = copy.deepcopy(model)
    undo = WeightEdit.load(file).apply_(deployed)
    print(f"in use, edited:  {accuracy(deployed, from_broker):.1%} right on new customers of the broker")
    undo.apply_(deployed)
    same = all(torch.equal(a, b) for a, b in zip(deployed.parameters(), model.parameters(), strict=True))
    print(f"and taken back:  {accuracy(deployed, from_broker):.1%}, every bit as before: {same}")
    return results | {"undone": same}


if __name__ == "__main__":
    main()
