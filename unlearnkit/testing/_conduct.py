# SPDX-License-Identifier: BSD-3-Clause
"""How ``fit`` behaves: it learns an edit, leaves all else as it was, and does the same again."""

from __future__ import annotations

import gc
import importlib
import pickle
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from typing import Any

import torch
from torch import nn

from unlearnkit.edit import WeightEdit
from unlearnkit.exceptions import DataError
from unlearnkit.testing._state import difference, model_state, random_state, surroundings
from unlearnkit.testing._task import (
    FORGET,
    RETAIN,
    Broken,
    FailingLoader,
    NotToBeRead,
    Task,
    convnet,
    mlp,
)
from unlearnkit.testing._tools import Check, CheckFailed, fresh, needs_retain, require, require_same


@Check  # before all others: what one of them has set already would not change again
def check_settings_untouched(estimator: Any) -> None:
    """``fit`` leaves the settings of the process alone (grad mode, threads, default dtype, ...)."""
    importlib.import_module("torch._dynamo")  # sets things as it is imported, whoever does that
    task = Task()
    before = surroundings()
    task.fit(estimator)
    _same(before, surroundings())
    with suppress(Broken):
        estimator.fit(task.model, task.retain, FailingLoader(task.arrays(slice(0, 4))))
    _same(before, surroundings())


@Check
def check_fit_learns_an_edit(estimator: Any) -> None:
    """``fit`` returns the estimator, which then holds what it learned under names that end in _."""
    before = set(vars(estimator))
    task = Task()
    require(task.fit(estimator) is estimator, "fit should return self.")
    edit = getattr(estimator, "edit_", None)
    require(isinstance(edit, WeightEdit), f"edit_ should be a WeightEdit, got {edit!r}.")
    seconds = getattr(estimator, "seconds_", None)
    require(isinstance(seconds, float) and seconds > 0, f"seconds_ is {seconds!r}.")
    learned = set(vars(estimator)) - before
    wrong = sorted(name for name in learned if not name.endswith("_") and name[0] != "_")
    require(not wrong, f"fit sets {wrong}: a name for what is learned ends in _.")
    early = sorted(n for n in before if n.endswith("_") and n not in estimator.get_params())
    require(not early, f"{early} exist before fit.")


@Check
def check_edit_changes_weights(estimator: Any) -> None:
    """The edit changes weights, so that the other checks have something to look at."""
    edit = Task().fit(estimator).edit_
    require(
        edit.n_changed > 0,
        f"{estimator!r} learned an edit that changes nothing, where a class of 8 in 96 samples is "
        "to be forgotten: give it parameters with which it does something on so small a problem.",
    )


@Check
def check_model_untouched(estimator: Any) -> None:
    """``fit`` leaves the model bit by bit as it was."""
    task = _well_used_task()
    _leaves_alone(task.model, lambda: task.fit(estimator))
    _leaves_alone(task.model, lambda: estimator.transform(task.model))


@Check
def check_model_untouched_when_data_fails(estimator: Any) -> None:
    """``fit`` leaves the model bit by bit as it was, even when the data cannot be read on."""
    task = _well_used_task()
    attempts: list[tuple[Any, Any]] = [(task.retain, FailingLoader(task.arrays(slice(0, 4))))]
    if needs_retain(estimator):
        attempts.append((FailingLoader(task.arrays(slice(90, 94))), task.forget))
    for retain, forget in attempts:

        def run(retain: Any = retain, forget: Any = forget) -> None:
            try:
                estimator.fit(task.model, retain, forget)
            except Exception as error:
                seen: BaseException | None = error
                while seen is not None and not isinstance(seen, Broken):
                    seen = seen.__cause__ or seen.__context__
                if seen is None:
                    raise
                return
            raise CheckFailed("fit should hand on the error of a loader that cannot be read.")

        _leaves_alone(task.model, run)


@Check
def check_model_untouched_when_data_is_nan(estimator: Any) -> None:
    """``fit`` leaves the model bit by bit as it was, even when the data turns out to be NaN."""
    task = _well_used_task()
    task.train.tensors[0][FORGET][-1] = torch.nan

    def run() -> None:
        try:
            task.fit(estimator)
        except DataError:
            return
        raise CheckFailed("a sample of NaN should be a DataError.")

    _leaves_alone(task.model, run)


@Check
def check_random_state_untouched(estimator: Any) -> None:
    """``fit`` and ``transform`` leave the random state of Python, NumPy and torch alone."""
    task = Task(convnet)
    before = random_state()
    task.fit(estimator).transform(task.model)
    _same(before, random_state())
    with suppress(Broken):
        estimator.fit(task.model, task.retain, FailingLoader(task.arrays(slice(0, 4))))
    _same(before, random_state())


@Check
def check_reproducible(estimator: Any) -> None:
    """One ``random_state`` gives one edit, bit by bit, whatever the state of the caller's."""
    task = Task(convnet)
    first = task.fit(estimator).edit_
    require_same(first, task.fit(estimator).edit_, "A second fit of the same estimator")
    torch.manual_seed(1)
    require_same(first, task.fit(fresh(estimator)).edit_, "A fit under another global seed")


@Check
def check_training_mode_does_not_matter(estimator: Any) -> None:
    """A model that was left in training mode is edited as one in eval mode."""
    task = Task(convnet)
    first = task.fit(estimator).edit_
    task.model.eval()
    require_same(first, task.fit(estimator).edit_, "model.train() and model.eval()")


@Check
def check_grad_mode_does_not_matter(estimator: Any) -> None:
    """``fit`` works where the caller has switched gradients off."""
    task = Task()
    first = task.fit(estimator).edit_
    modes: dict[str, Callable[[], AbstractContextManager[None]]] = {
        "torch.no_grad()": torch.no_grad,
        "torch.inference_mode()": torch.inference_mode,
    }
    for name, mode in modes.items():
        with mode():
            again = task.fit(estimator).edit_
        require_same(first, again, f"Under {name}")


@Check
def check_refit_starts_afresh(estimator: Any) -> None:
    """A second ``fit`` owes nothing to the first."""
    task, other = Task(), Task(convnet)
    alone = sorted(vars(task.fit(fresh(estimator))))
    direct = task.fit(fresh(estimator)).edit_
    again = task.fit(other.fit(estimator)).edit_
    require_same(direct, again, "After a fit to another model")
    require(
        sorted(vars(estimator)) == alone,
        f"attributes of the first fit are left: {sorted(set(vars(estimator)) - set(alone))}.",
    )


@Check
def check_failed_refit_leaves_no_edit(estimator: Any) -> None:
    """After a ``fit`` that failed there is no edit, not even that of an earlier one."""
    task = Task()
    attempts: dict[str, tuple[Any, ...]] = {
        "no model": ("model.pt", task.retain, task.forget),
        "no data": (task.model,),
        "data of the wrong kind": (task.model, task.retain, 3),
        "an empty forget set": (task.model, task.retain, task.arrays(slice(0, 0))),
        "data that cannot be read": (task.model, task.retain, NotToBeRead()),
    }
    for what, arguments in attempts.items():
        task.fit(estimator)
        try:
            estimator.fit(*arguments)
        except Exception:
            left = sorted(name for name in ("edit_", "seconds_") if hasattr(estimator, name))
            require(not left, f"With {what}, {left} of the earlier fit are left.")
        else:
            raise CheckFailed(f"fit should fail with {what}.")


@Check
def check_keeps_no_model_and_no_data(estimator: Any) -> None:
    """A fitted estimator keeps neither the model nor the data alive, nor a copy of a sample."""
    task = Task(mlp)
    sample = task.arrays(FORGET)[0][0].numpy().tobytes()
    kept = task.arrays(RETAIN)[0][0].numpy().tobytes()
    task.fit(estimator)
    owned = {
        "the model": weakref.ref(task.model),
        "a module of the model": weakref.ref(task.model[1]),  # type: ignore[index]
        "the data set": weakref.ref(task.train),
        "the forget loader": weakref.ref(task.forget),
    }
    del task
    gc.collect()
    alive = [what for what, reference in owned.items() if reference() is not None]
    require(not alive, f"{alive} cannot be freed after fit: the estimator holds on to them.")
    stored = pickle.dumps(estimator)
    for what, found in (("forget", sample), ("retain", kept)):
        require(found not in stored, f"a pickle of the estimator holds a {what} sample.")


def _well_used_task() -> Task:
    """Return a task whose model has gradients, hooks, a frozen weight, mixed flags and buffers."""
    task = Task(convnet)
    model: Any = task.model
    model.register_buffer("scratch", torch.arange(3.0), persistent=False)
    model.register_buffer("unset", None)
    model[1].eval()
    model[0].bias.requires_grad_(False)
    for parameter in model[5].parameters():
        parameter.grad = torch.full_like(parameter, 7.0)
    model[5].weight.register_hook(lambda gradient: None)
    model[0].register_forward_hook(lambda module, given, output: None)
    model[0].register_forward_pre_hook(lambda module, given: None)
    model[3].register_full_backward_hook(lambda module, given, output: None)
    return task


def _leaves_alone(model: nn.Module, act: Callable[[], object]) -> None:
    before = model_state(model)
    act()
    _same(before, model_state(model))


def _same(before: dict[str, Any], after: dict[str, Any]) -> None:
    what = difference(before, after)
    require(what is None, f"What is not as it was: {what}.")
