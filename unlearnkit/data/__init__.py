# SPDX-License-Identifier: BSD-3-Clause
"""Data: batches, loaders, the roles they play in unlearning, and how to look without touching."""

from unlearnkit.data.batches import (
    Batch,
    Loss,
    batch_size,
    cross_entropy,
    cross_entropy_of,
    forward,
    join_batches,
    joinable,
    labels,
    next_token_loss,
    take,
    tensors_of,
    to_device,
    tree_map,
)
from unlearnkit.data.epochs import EmptyError, Epochs, Mixed
from unlearnkit.data.guard import aside, device_of, evaluating, preserved_rng, seed_rng
from unlearnkit.data.loaders import (
    as_loader,
    complement,
    in_order,
    refuse_random,
    sample_of,
    shared,
    warn_if_random,
)
from unlearnkit.data.partition import Partition
from unlearnkit.data.roles import ForgetRetain, Measured

__all__ = [
    "Batch",
    "EmptyError",
    "Epochs",
    "ForgetRetain",
    "Loss",
    "Measured",
    "Mixed",
    "Partition",
    "as_loader",
    "aside",
    "batch_size",
    "complement",
    "cross_entropy",
    "cross_entropy_of",
    "device_of",
    "evaluating",
    "forward",
    "in_order",
    "join_batches",
    "joinable",
    "labels",
    "next_token_loss",
    "preserved_rng",
    "refuse_random",
    "sample_of",
    "seed_rng",
    "shared",
    "take",
    "tensors_of",
    "to_device",
    "tree_map",
    "warn_if_random",
]
