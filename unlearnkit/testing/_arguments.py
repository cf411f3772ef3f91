# SPDX-License-Identifier: BSD-3-Clause
"""What ``fit`` is called with: its three forms, the search for the retain set, importances."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.data import DataLoader, Subset, SubsetRandomSampler, TensorDataset

from unlearnkit.data import Partition
from unlearnkit.exceptions import DataError
from unlearnkit.importance import FisherDiagonal, Importance, ImportanceEstimator, LogitNorm
from unlearnkit.testing._task import FORGET, N_FORGET, N_TOTAL, Recording, Task, loader
from unlearnkit.testing._tools import (
    Check,
    finds_forget,
    fresh,
    has_parameter,
    names_a_parameter,
    needs_retain,
    needs_samples,
    refused,
    require,
    require_close,
    require_same,
    takes_importance,
)

FORMS = ("fit(model, forget)", "fit(model, retain, forget)", "retain=", "forget=")


@Check
def check_forms_of_fit(estimator: Any) -> None:
    """All forms of ``fit`` mean the same."""
    task = Task()
    model, retain, forget = task.model, task.retain, task.forget
    wanted = task.fit(estimator).edit_
    forms: dict[str, Callable[[], Any]] = {
        "fit(model, forget)": lambda: estimator.fit(model, forget),
        "fit(model, partition)": lambda: estimator.fit(
            model, Partition.of(loader(task.train), range(N_FORGET))
        ),
        "fit(model, forget=)": lambda: estimator.fit(model, forget=forget),
        "fit(model, forget, retain=)": lambda: estimator.fit(model, forget, retain=retain),
        "fit(model, retain=, forget=)": lambda: estimator.fit(model, retain=retain, forget=forget),
    }
    if estimator.finds_forget:  # then one set is that in which it finds what to forget
        del forms["fit(model, forget)"]
    for form, fit in forms.items():
        require_same(wanted, fit().edit_, f"{form} and fit(model, retain, forget)")
    kept = estimator.fit_transform(model, retain, forget)
    require_close(kept, estimator.transform(model), "fit_transform")
    estimator.fit(model, retain, forget, validation=task.validation)


@Check
def check_wrong_forms_of_fit(estimator: Any) -> None:
    """Any other form of ``fit`` is a TypeError that shows the right ones."""
    task = Task()
    model, retain, forget = task.model, task.retain, task.forget
    forms: dict[str, Callable[[], Any]] = {
        "fit(model)": lambda: estimator.fit(model),
        "fit(model, None)": lambda: estimator.fit(model, None),
        "fit(model, retain=)": lambda: estimator.fit(model, retain=retain),
        "fit(model, retain, forget, test)": lambda: estimator.fit(model, retain, forget, retain),
        "fit(model, forget, forget=)": lambda: estimator.fit(model, forget, forget=forget),
        "fit(model, retain, forget, retain=)": lambda: estimator.fit(model, retain, forget, retain=retain),
        "fit(model, retain, forget, forget=)": lambda: estimator.fit(model, retain, forget, forget=forget),
    }
    for form, fit in forms.items():
        with refused(form, TypeError, naming=FORMS):
            fit()


@Check
def check_model_must_be_a_module(estimator: Any) -> None:
    """What is no module in the model's place is a TypeError that asks for one."""
    task = Task()
    for model in ("model.pt", None, task.model.state_dict(), type(task.model)):
        with refused(f"A {type(model).__name__} as the model", TypeError, naming=("Module",)):
            estimator.fit(model, task.retain, task.forget)
    with refused("fit(forget, model)", TypeError, naming=("Module",)):
        estimator.fit(task.forget, task.model)


@Check
def check_data_must_be_data(estimator: Any) -> None:
    """What is no data in its place is a DataError that names the role and what would do."""
    task = Task()
    for wrong in (3, "forget", object(), task.arrays(FORGET)[0], {"forget": task.forget}):
        what = f"A {type(wrong).__name__} as the forget set"
        with refused(what, DataError, naming=("forget", "DataLoader")):
            estimator.fit(task.model, task.retain, wrong)
        with refused(f"{what} (retain)", DataError, naming=("retain", "DataLoader")):
            estimator.fit(task.model, wrong, task.forget)
        with refused(f"{what} (validation)", DataError, naming=("validation", "DataLoader")):
            estimator.fit(task.model, task.retain, task.forget, validation=wrong)


@Check.where(needs_retain)
def check_complement_of_subset(estimator: Any) -> None:
    """Of a Subset in a Subset, what is retained is the rest of the inner one: no test sample."""
    task = Task()
    wanted = task.fit(estimator).edit_
    more = [torch.cat([own, own[:5].flip(0)]) for own in task.train.tensors]
    everything = Recording(TensorDataset(*more))
    train = Subset(everything, range(N_TOTAL))
    forget = Subset(train, range(N_FORGET))
    for data in (loader(forget), DataLoader(forget, batch_size=N_FORGET, shuffle=False)):
        found = estimator.fit(task.model, forget=data).edit_
        require_same(wanted, found, "The rest of a nested Subset, and the retain set itself")
    beyond = sorted(everything.read - set(range(N_TOTAL)))
    require(not beyond, f"samples {beyond} were read, which lie outside of the training set.")


@Check.where(needs_retain)
def check_complement_of_sampler(estimator: Any) -> None:
    """Of a SubsetRandomSampler, what is retained is the rest of its data set."""
    task = Task()
    train = Recording(task.train)
    sampler = SubsetRandomSampler(range(N_FORGET), generator=torch.Generator().manual_seed(0))
    estimator.fit(task.model, forget=DataLoader(train, batch_size=N_FORGET, sampler=sampler))
    rest = set(range(N_FORGET, N_TOTAL))
    # training may stop before it has seen all of them, measuring may not
    read = rest <= train.read if takes_importance(estimator) else bool(rest & train.read)
    require(read, f"of the {len(rest)} retained samples {len(rest & train.read)} were read.")


@Check.where(needs_retain)
def check_missing_retain(estimator: Any) -> None:
    """Where nothing is known of the retain set, a DataError says how to give it."""
    task = Task()
    with refused("A forget set alone", DataError, naming=("retain", "fit(model, retain, forget)")):
        estimator.fit(task.model, forget=task.arrays(FORGET))


@Check
def check_empty_forget(estimator: Any) -> None:
    """An empty forget set is a DataError that says so."""
    task = Task()
    nothing = task.arrays(slice(0, 0))
    forms: dict[str, Any] = {
        "a Subset of nothing": Subset(task.train, []),
        "a loader of nothing": loader(Subset(task.train, [])),
        "arrays of no rows": nothing,
        "a list of no batches": [],
        "a list of an empty batch": [nothing],
    }
    for what, forget in forms.items():
        with refused(f"{what} to forget".capitalize(), DataError, naming=("empty",)):
            estimator.fit(task.model, task.retain, forget)


@Check.where(needs_retain)
def check_total_forget(estimator: Any) -> None:
    """Where all is to be forgotten, a DataError says that nothing is left to keep."""
    task = Task()
    forms: dict[str, tuple[Any, ...]] = {
        "a Subset of all samples": (None, loader(Subset(task.train, range(N_TOTAL)))),
        "an empty retain loader": (loader(Subset(task.train, [])), loader(task.train)),
        "an empty retain list": ([], task.forget),
        "retain arrays of no rows": (task.arrays(slice(0, 0)), task.forget),
    }
    for what, (retain, forget) in forms.items():
        with refused(f"{what}".capitalize(), DataError, naming=("nothing to keep",)):
            estimator.fit(task.model, retain=retain, forget=forget)


@Check.where(finds_forget)
def check_found_forget_set(estimator: Any) -> None:
    """What is found in data given whole is a Partition of it, and serves as if it had been given."""
    task = Task()
    labels = task.train.tensors[1]
    labels[N_FORGET::5] = 3 - labels[N_FORGET::5]  # classes 1 and 2, the wrong way round
    whole = {"a data set": task.train, "arrays": tuple(task.train.tensors), "a loader": loader(task.train)}
    for what, data in whole.items():
        estimator.fit(task.model, data, validation=task.validation)
        partition = estimator.partition_
        count = len(partition.indices)
        require(0 < count < N_TOTAL, f"of {what} {count} of {N_TOTAL} samples were found.")
        said = torch.equal(partition.is_noisy.nonzero()[:, 0], partition.indices)
        require(said and len(partition.noise) == N_TOTAL, f"of {what}: the partition contradicts itself.")
        found, forget = estimator.edit_, partition.indices
        rest = [i for i in range(N_TOTAL) if i not in set(forget.tolist())]
        parts = [tuple(t[part] for t in task.train.tensors) for part in (rest, forget)]
        given = fresh(estimator).fit(task.model, partition).edit_
        require_same(found, given, f"{what}, and the partition found in it")
        if what != "a loader":  # else its batches are of 8
            require_same(found, fresh(estimator).fit(task.model, *parts).edit_, f"{what}, and its parts")


@Check.where(takes_importance)
def check_importance_in_place_of_retain(estimator: Any) -> None:
    """A stored importance serves as the retain samples do, or is refused with a way out."""
    task = Task()
    options = {"validation": task.validation}
    wanted = estimator.fit(task.model, task.retain, task.forget, **options).transform(task.model)
    accepted, errors = _try_kinds(
        task,
        estimator,
        lambda stored: fresh(estimator).fit(task.model, stored, task.forget, **options),
    )
    _judge(estimator, task, wanted, accepted, errors, "the retain set")
    _try_kinds(
        task,
        estimator,
        lambda stored: estimator.fit(task.model, task.retain, stored, **options),
    )


@Check.where(has_parameter("reference"))
def check_reference(estimator: Any) -> None:
    """``reference=`` serves as the retain samples do, once the training data is gone."""
    task = Task()
    options = {"validation": task.validation}
    wanted = estimator.fit(task.model, task.retain, task.forget, **options).transform(task.model)
    accepted, errors = _try_kinds(
        task,
        estimator,
        lambda stored: (
            fresh(estimator).set_params(reference=stored).fit(task.model, task.arrays(FORGET), **options)
        ),
    )
    _judge(estimator, task, wanted, accepted, errors, "reference=")


@Check.where(needs_samples)
def check_importance_is_refused(estimator: Any) -> None:
    """A method that trains asks for the retain samples where it is given their importance."""
    task = Task()
    stored = FisherDiagonal().measure(task.model, task.train)
    with refused("An importance as the retain set", DataError, naming=("retain", "samples")):
        estimator.fit(task.model, stored, task.forget)


def _try_kinds(
    task: Task, estimator: Any, fit: Callable[[Importance], Any]
) -> tuple[dict[str, Any], dict[str, DataError]]:
    """Fit with each kind of importance; return what was fitted, and the errors of the others."""
    accepted: dict[str, Any] = {}
    errors: dict[str, DataError] = {}
    own = [p for p in estimator.get_params().values() if isinstance(p, ImportanceEstimator)]
    for kind in (*own, FisherDiagonal(), FisherDiagonal(gradient="batch"), LogitNorm()):
        stored = kind.measure(task.model, loader(task.train))
        try:
            accepted[repr(kind)] = fit(stored)
        except DataError as error:
            errors[repr(kind)] = error
    return accepted, errors


def _judge(
    estimator: Any,
    task: Task,
    wanted: Any,
    accepted: dict[str, Any],
    errors: dict[str, DataError],
    what: str,
) -> None:
    for kind, fitted in accepted.items():
        require_close(wanted, fitted.transform(task.model), f"{kind} as {what}")
    helpful = any(names_a_parameter(estimator, error) for error in errors.values())
    require(
        bool(accepted) or helpful,
        f"no importance is accepted as {what}, and no error names a parameter that would help; "
        f"they say: {[str(error) for error in errors.values()]}",
    )
