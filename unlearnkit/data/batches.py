# SPDX-License-Identifier: BSD-3-Clause
"""What a loader yields, and the default per-sample loss.

Legend: N samples, K classes.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unlearnkit.exceptions import DataError

Batch = Any
"""``(x, y)``, ``(x1, x2, ..., y)``, a mapping with the key ``"labels"``; with a ``loss`` of your
own, any nesting of tuples, lists and mappings of tensors whose first dimension is the samples."""

Loss = Callable[[nn.Module, Batch], Tensor]
"""``loss(model, batch) -> Tensor [N]``: one value a sample, not their mean."""

FORMS = (
    "a batch is (x, y), (x1, x2, ..., y) or a dict with the key 'labels'; for anything else pass "
    "loss=, a function loss(model, batch) that returns one value a sample"
)


def tree_map(function: Callable[[Tensor], Any], batch: Batch) -> Batch:
    """Apply `function` to every tensor of a batch; tuples and lists keep their type."""
    if isinstance(batch, Tensor):
        return function(batch)
    if isinstance(batch, Mapping):
        return {key: tree_map(function, value) for key, value in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(tree_map(function, value) for value in batch))
    if isinstance(batch, tuple | list):
        return type(batch)(tree_map(function, value) for value in batch)
    return batch


def tensors_of(batch: Batch) -> list[Tensor]:
    """All tensors of a batch, in order."""
    found: list[Tensor] = []
    tree_map(found.append, batch)
    return found


def batch_size(batch: Batch) -> int:
    """Return the number of samples N of a batch: the first dimension of its labels.

    Where a batch has no labels, the first dimension of its last tensor.

    Raises
    ------
    DataError
        If the batch holds no tensor with a first dimension.
    """
    tensors = tensors_of(batch)
    if isinstance(batch, Mapping):  # in which labels need not come last
        tensors += tensors_of(batch.get("labels"))
    tensors = [tensor for tensor in tensors if tensor.dim() > 0]
    if not tensors:
        raise DataError(f"a batch holds no tensor of samples, got {_described(batch)}: {FORMS}.")
    return len(tensors[-1])


def take(batch: Batch, index: slice | Tensor) -> Batch:
    """Return the samples `index` of a batch; what has no sample dimension is passed through."""
    size = batch_size(batch)
    return tree_map(lambda t: t[index] if t.dim() > 0 and len(t) == size else t, batch)


def joinable(first: Batch, second: Batch) -> bool:
    """Tell whether two batches are of one form: the same structure, and samples of the same shapes."""
    return bool(_form(first) == _form(second))


def _form(batch: Batch) -> Any:
    """Return what batches must agree in to be joined."""
    if isinstance(batch, Tensor):
        return (tuple(batch.shape[1:]), batch.dtype)
    if isinstance(batch, Mapping):
        return {key: _form(value) for key, value in batch.items()}
    if isinstance(batch, tuple | list):
        return [_form(value) for value in batch]
    return batch


def join_batches(first: Batch, second: Batch) -> Batch:
    """Return the samples of two :func:`joinable` batches as one."""
    if isinstance(first, Tensor):
        return torch.cat([first, second]) if first.dim() else first
    if isinstance(first, Mapping):
        return {key: join_batches(value, second[key]) for key, value in first.items()}
    if isinstance(first, tuple | list):
        return type(first)(map(join_batches, first, second))
    return first


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Return the batch on `device`, detached from any graph."""
    return tree_map(lambda t: t.detach().to(device, non_blocking=True), batch)


def labels(batch: Batch) -> Tensor:
    """Return the labels of a batch: its last element, or ``batch["labels"]``.

    Raises
    ------
    DataError
        If the batch has none.
    """
    if isinstance(batch, Mapping) and isinstance(batch.get("labels"), Tensor):
        found: Tensor = batch["labels"]
        return found
    if isinstance(batch, tuple | list) and len(batch) > 1 and isinstance(batch[-1], Tensor):
        return batch[-1]
    raise DataError(f"a batch without labels, got {_described(batch)}: {FORMS}.")


def _described(batch: Batch) -> str:
    if isinstance(batch, Mapping):
        return f"a mapping with the keys {[str(key) for key in batch]}"
    if isinstance(batch, tuple | list):
        return f"a {type(batch).__name__} of ({', '.join(type(part).__name__ for part in batch)})"
    return type(batch).__name__


def forward(model: nn.Module, batch: Batch) -> Tensor:
    """Return the model's output for a batch: logits [N, K, ...] (mappings: [N, ..., K]).

    A mapping is passed by keyword without its labels; of an output object the ``logits`` are taken.

    Raises
    ------
    DataError
        If the batch has no labels to set apart, the model does not take its inputs, or the output is
        not a tensor.
    """
    positional, named = (), {}
    if isinstance(batch, Mapping):
        named = {key: value for key, value in batch.items() if key != "labels"}
    else:
        labels(batch)
        positional = batch[:-1]
    try:
        output = model(*positional, **named)
    except TypeError as error:
        if _takes(model, positional, named):
            raise
        raise DataError(
            f"the model does not take the inputs of a batch, {_described(batch)}: {error}. "
            f"{FORMS[0].upper()}{FORMS[1:]}."
        ) from error
    if isinstance(output, Tensor):
        return output
    logits = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    if not isinstance(logits, Tensor):
        raise DataError(
            f"the model returned {_described(output)}, neither a tensor of logits nor an object "
            "that holds one as logits: pass loss=, a function loss(model, batch) that returns one "
            "value a sample."
        )
    return logits


def _takes(model: nn.Module, positional: Sequence[Any], named: Mapping[str, Any]) -> bool:
    """Tell whether a model's ``forward`` has the parameters for some inputs."""
    try:
        inspect.signature(model.forward).bind(*positional, **named)
    except TypeError:
        return False
    except ValueError:  # it has no signature, as compiled ones: nothing is known
        pass
    return True


def cross_entropy(model: nn.Module, batch: Batch) -> Tensor:
    """Cross-entropy of every sample, the loss where none is given.

    Where a sample has several targets (pixels, tokens), the mean over those that are not -100.

    Returns
    -------
    Tensor [N]
        In nats.

    Labels and logits are compared place by place. A causal language model whose labels are its
    `input_ids`, as the transformers library has them, needs :func:`next_token_loss`.

    Raises
    ------
    DataError
        If labels and logits do not fit together, or labels only repeat the input.
    """
    if _repeats_input(batch):
        raise DataError(
            "labels equal input_ids, so the model would be taught to copy its input: transformers shifts such labels "
            "inside the model, and here it is called without labels. Pass loss=unlearnkit.next_token_loss, or labels "
            "that are one step ahead."
        )
    return cross_entropy_of(forward(model, batch), labels(batch), isinstance(batch, Mapping))


def next_token_loss(model: nn.Module, batch: Batch) -> Tensor:
    """Loss of a causal language model, for ``loss=``: each place predicts the label of the next.

    What a transformers model with a language modelling head computes from the same batch, but a value a
    sample: its mean over the labels that are not -100.

    Parameters
    ----------
    model : nn.Module
        Called with the batch's entries but the labels; logits [N, T, K].
    batch : mapping
        With ``labels`` [N, T] that stand where the tokens stand, such as a copy of ``input_ids`` in which
        -100 marks what does not count.

    Returns
    -------
    Tensor [N]
        In nats.

    Raises
    ------
    DataError
        If the labels are not [N, T] with T of 2 or more, or do not fit the logits.

    Examples
    --------
    >>> # FisherReset(loss=next_token_loss).fit(model, retain, forget)
    """
    target = labels(batch)
    if not isinstance(batch, Mapping) or target.dim() != 2 or target.shape[1] < 2:
        raise DataError(
            "next_token_loss takes dicts with labels [N, T], T tokens a text and at least 2, got "
            f"{_described(batch)} with labels {list(target.shape)}."
        )
    logits = forward(model, batch)  # [N, T, K]
    if logits.shape[:2] != target.shape:
        raise DataError(
            f"labels {list(target.shape)} do not fit logits {list(logits.shape)}: a causal language model has a row of "
            "logits for every token."
        )
    return cross_entropy_of(logits[:, :-1], target[:, 1:], classes_last=True)


def _repeats_input(batch: Batch) -> bool:
    """Tell whether the labels of all texts are their own tokens, place by place."""
    if not isinstance(batch, Mapping):
        return False
    ids, target = batch.get("input_ids"), batch.get("labels")
    if not isinstance(ids, Tensor) or not isinstance(target, Tensor):
        return False
    if target.dim() != 2 or ids.shape != target.shape or target.shape[1] < 2:
        return False
    counted = target != -100
    return bool(counted.any()) and bool(((ids == target) | ~counted).all())


def cross_entropy_of(logits: Tensor, target: Tensor, classes_last: bool = False) -> Tensor:
    """Cross-entropy [N] of logits [N, K, ...] ([N, ..., K] if `classes_last`), targets [N, ...]."""
    if classes_last and logits.dim() > 2:
        logits = logits.movedim(-1, 1)
    soft = target.is_floating_point() and target.shape == logits.shape
    fits = soft or logits.shape[:1] + logits.shape[2:] == target.shape
    if logits.dim() < 2 or not fits or (target.is_floating_point() and not soft):
        raise DataError(
            f"labels {list(target.shape)} ({target.dtype}) do not fit logits {list(logits.shape)}: "
            "class labels are integers [N] for logits [N, K]. For regression or another task pass "
            "loss=, a function loss(model, batch) that returns one value a sample."
        )
    if not soft:
        target = target.long()
    try:
        losses = F.cross_entropy(logits, target, reduction="none")  # [N, ...]
    except IndexError as error:
        remedy = "Encode labels as class indices, or give the model's last layer more outputs"
        if logits.shape[1] == 1:
            remedy = "For a model with one output pass loss=, such as a binary cross-entropy of each sample"
        raise DataError(
            f"a label lies outside the model's {logits.shape[1]} classes (0 to "
            f"{logits.shape[1] - 1}): {error} {remedy}."
        ) from error
    if losses.dim() == 1:
        return losses
    counted = (target != -100) if not soft else torch.ones_like(losses)
    return losses.flatten(1).sum(1) / counted.flatten(1).sum(1).clamp(min=1)
