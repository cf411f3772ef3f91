# SPDX-License-Identifier: BSD-3-Clause
"""The suite passes what is honest, and fails what is broken at the check that is meant for it."""

import numpy as np
import pytest
import torch

from unlearnkit import ASSD, RLAP, SSD, DataError, FisherDiagonal, WeightEdit
from unlearnkit.base import Unlearner
from unlearnkit.data import as_loader, batch_size, cross_entropy, device_of, to_device
from unlearnkit.importance.base import refuse_bad_weights
from unlearnkit.parameters import copy_of, named_parameters
from unlearnkit.testing import (
    CHECKS,
    CheckFailed,
    check_unlearner,
    checks_for,
    parametrize_with_checks,
)
from unlearnkit.testing._state import difference, random_state, surroundings

NAMES = {check.__name__ for check in CHECKS}


class Cut(Unlearner):
    """An honest method that needs no retain set: sets the weights that matter most to zero."""

    needs_retain = "nothing"

    def __init__(self, share=0.1):
        self.share = share

    def _validate(self):
        if not isinstance(self.share, float) or not 0 <= self.share <= 1:
            raise DataError(f"share must be a fraction from 0 to 1, got {self.share!r}.")

    def _measure(self, model, roles):
        return FisherDiagonal(gradient="batch").measure(model, roles.forget)

    def _fit(self, model, roles, measured):
        scores = torch.cat([value.flatten() for value in measured.sums.values()])
        limit = scores.sort(descending=True).values[int(self.share * (len(scores) - 1))]
        factors = {name: (value <= limit).double() for name, value in measured.sums.items()}
        return WeightEdit.from_factors(model, factors)


class Tuned(Unlearner):
    """An honest method that trains: up the loss of the forget set, down that of a random batch."""

    needs_retain = "data"

    def __init__(self, steps=3, rate=0.05, loss=None, random_state=None):
        self.steps = steps
        self.rate = rate
        self.loss = loss
        self.random_state = random_state

    def _validate(self):
        for name in ("steps", "rate"):
            value = getattr(self, name)
            if not isinstance(value, int | float) or not value > 0:
                raise DataError(f"{name} must be a number above 0, got {value!r}.")
        if self.random_state is not None and not isinstance(self.random_state, int):
            raise DataError(f"random_state must be a whole number, got {self.random_state!r}.")

    def _fit(self, model, roles, measured):
        refuse_bad_weights(model)
        if not named_parameters(model, trainable=True):
            raise DataError("no parameter can change: call model.requires_grad_(True).")
        if self.random_state is not None:
            torch.manual_seed(self.random_state)
        forget, retain = (self._batches(model, d) for d in (roles.forget, roles.retain))
        if not forget or not retain:
            raise DataError("the forget set is empty." if retain else "there is nothing to keep.")
        tuned = copy_of(model).train()
        optimizer = torch.optim.SGD([p for p in tuned.parameters() if p.requires_grad], self.rate)
        for _ in range(int(self.steps)):
            for sign, batches in ((-1, forget), (1, retain)):
                batch = batches[int(torch.randint(len(batches), ()))]
                optimizer.zero_grad()
                (sign * self._losses(tuned, batch).mean()).backward()
                optimizer.step()
        return WeightEdit.between(model, tuned)

    def _batches(self, model, data):
        batches = [b for b in as_loader(data) if batch_size(b) > 0]
        batches = [to_device(batch, device_of(model)) for batch in batches]
        with torch.no_grad():
            for batch in batches:
                self._losses(copy_of(model).eval(), batch)
        return batches

    def _losses(self, model, batch):
        losses = (self.loss or cross_entropy)(model, batch)
        if not isinstance(losses, torch.Tensor) or losses.dim() != 1:
            raise DataError("loss must return one value a sample.")
        if not losses.isfinite().all():
            raise DataError("the loss is NaN: look for NaN in the data.")
        return losses


def failing(estimator):
    failed = set()
    for check in checks_for(estimator):
        try:
            check(estimator)
        except CheckFailed:
            failed.add(check.__name__)
    return failed


@parametrize_with_checks([Cut(), Tuned()])
def test_honest_methods_pass(estimator, check):
    check(estimator)


# what breaks a promise, and the check that says so ---------------------------------------------


class Acting(Cut):
    """Does something more in the middle of ``fit``."""

    def act(self, model, roles):
        """Replaced by each case."""

    def _fit(self, model, roles, measured):
        self.act(model, roles)
        return super()._fit(model, roles, measured)


def leave_gradients(self, model, roles):
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)


def note_on_parameters(self, model, roles):
    for parameter in model.parameters():
        parameter.score = 0.0


def move_a_buffer(self, model, roles):
    for name, buffer in model.named_buffers():
        if "scratch" in name:
            buffer.add_(1)


def leave_a_hook(self, model, roles):
    next(model.children()).register_forward_hook(lambda *_: None)


ACTS = {
    leave_gradients: "check_model_untouched",
    note_on_parameters: "check_model_untouched",
    move_a_buffer: "check_model_untouched",
    leave_a_hook: "check_model_untouched",
    lambda self, model, roles: model.eval(): "check_model_untouched",
    lambda self, model, roles: np.seterr(under="raise"): "check_settings_untouched",
    lambda self, model, roles: setattr(self, "count", 3): "check_fit_learns_an_edit",
    lambda self, model, roles: setattr(self, "share", float("0.1")): "check_fit_keeps_parameters",
    lambda self, model, roles: setattr(self, "model_", model): "check_keeps_no_model_and_no_data",
    lambda self, model, roles: setattr(
        self, "forget_", [batch for batch in roles.forget]
    ): "check_keeps_no_model_and_no_data",
}
ACT_IDS = [
    "gradients", "note", "buffer", "hook", "eval", "settings", "name", "parameter", "model", "data"
]  # fmt: skip


@pytest.mark.parametrize(("act", "check"), ACTS.items(), ids=ACT_IDS)
def test_fit_that_does_more_fails_one_check(act, check, monkeypatch):
    monkeypatch.setattr(Acting, "act", act)
    with np.errstate():
        assert failing(Acting()) == {check}


class LeavesTracesOfErrors(Cut):
    def _measure(self, model, roles):
        flags = [(module, module.training) for module in model.modules()]
        model.eval()
        measured = super()._measure(model, roles)
        for module, training in flags:
            module.training = training
        return measured


class LeavesEvalModeInTransform(Cut):
    def transform(self, model):
        return super().transform(model.eval())


class DrawsNumbers(Cut):
    def fit(self, *data, **named):
        np.random.rand()
        return super().fit(*data, **named)


class FollowsTheGlobalSeed(Cut):
    def _fit(self, model, roles, measured):
        more = torch.initial_seed() / 100
        return Cut(self.share + more)._fit(model, roles, measured)


class ConvertsInInit(Cut):
    def __init__(self, share=0.1):
        self.share = float(share)


class ChecksNothing(Cut):
    def _validate(self):
        pass


class KeepsTheOldEdit(Cut):
    def _forget_fit(self):
        pass


class MeasuresOnce(Cut):
    def _measure(self, model, roles):
        if not hasattr(self, "_measured"):
            self._measured = super()._measure(model, roles)
        return self._measured


class ThawsWhatIsFrozen(Cut):
    def _fit(self, model, roles, measured):
        cut = super()._fit(model, roles, measured).apply(model)
        with torch.no_grad():
            for parameter in cut.parameters():
                parameter.mul_(float(parameter.requires_grad))
        return WeightEdit.between(model, cut)


class TakesAnything(Cut):
    def fit(self, model, *data, **named):
        data = data or (named.pop("forget"),)
        return super().fit(model, data[-1])


class HidesItsParameters(Cut):
    def __repr__(self):
        return f"{type(self).__name__}()"


class LosesItsEditInAPickle(Cut):
    def __getstate__(self):
        return {"share": self.share}


BROKEN = {
    LeavesTracesOfErrors: {
        "check_model_untouched_when_data_fails",
        "check_model_untouched_when_data_is_nan",
    },
    LeavesEvalModeInTransform: {"check_model_untouched", "check_another_model_is_refused"},
    DrawsNumbers: {"check_random_state_untouched"},
    FollowsTheGlobalSeed: {"check_reproducible"},
    ConvertsInInit: {"check_init_stores_parameters"},
    ChecksNothing: {"check_wrong_parameters_are_named"},
    KeepsTheOldEdit: {"check_failed_refit_leaves_no_edit"},
    MeasuresOnce: {"check_refit_starts_afresh", "check_failed_refit_leaves_no_edit"},
    ThawsWhatIsFrozen: {"check_frozen_parameters"},
    TakesAnything: {
        "check_wrong_forms_of_fit",
        "check_data_must_be_data",
        "check_one_shot_iterator",
        "check_failed_refit_leaves_no_edit",
    },
    HidesItsParameters: {"check_repr"},
    LosesItsEditInAPickle: {"check_pickle"},
}


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.__name__)
def test_broken_method_fails_what_it_breaks(broken):
    assert failing(broken()) == BROKEN[broken]


def test_an_edit_of_nothing_is_no_proof():
    assert failing(Cut(share=0.0)) == {"check_edit_changes_weights"}


# the suite itself ------------------------------------------------------------------------------


def test_every_check_has_a_name_and_a_promise():
    assert len(NAMES) == len(CHECKS)
    for check in CHECKS:
        assert check.__name__.startswith("check_")
        assert check.promise.endswith(".")


def test_checks_follow_from_the_class():
    data, importance, nothing, finding = (
        {check.__name__ for check in checks_for(one)} for one in (Tuned(), SSD(), Cut(), RLAP())
    )
    assert importance - data == {
        "check_importance_in_place_of_retain",
        "check_reference",
        "check_buffers_untouched",
    }
    assert data - importance == {"check_importance_is_refused"}
    assert "check_missing_retain" in data & importance
    assert "check_missing_retain" not in nothing
    assert finding - data == {"check_found_forget_set"}
    assert data | importance | nothing | finding == NAMES


@pytest.mark.parametrize("wrong", [SSD, "SSD", torch.nn.ReLU()], ids=["class", "str", "model"])
def test_only_instances_are_checked(wrong):
    with pytest.raises(TypeError, match="expected an instance of"):
        check_unlearner(wrong)


def test_all_failures_are_told(monkeypatch):
    names = ("check_model_untouched", "check_fit_learns_an_edit", "check_not_fitted")
    few = tuple(check for check in CHECKS if check.__name__ in names)
    monkeypatch.setattr("unlearnkit.testing._suite.CHECKS", few)
    check_unlearner(Cut())

    def act(self, model, roles):
        self.count = 3
        leave_a_hook(self, model, roles)

    monkeypatch.setattr(Acting, "act", act)
    with pytest.raises(CheckFailed, match=r"Acting\(\) fails 2 of 3 checks") as caught:
        check_unlearner(Acting())
    told = str(caught.value)
    assert "check_model_untouched: ``fit`` leaves the model bit by bit as it was." in told
    assert "forward hooks of" in told
    assert "fit sets ['count']" in told
    assert isinstance(caught.value.__cause__, CheckFailed)


def test_ids_name_estimator_and_check():
    mark = parametrize_with_checks([ASSD(percentile=95.0)]).mark
    ids = [pair.id for pair in mark.args[1]]
    assert "ASSD(percentile=95.0)-check_clone" in ids


def test_checks_work_on_clones_and_leave_no_trace():
    estimator = Tuned()
    before, settings = random_state(), surroundings()
    for check in CHECKS:
        if check.__name__ in ("check_reproducible", "check_failed_refit_leaves_no_edit"):
            check(estimator)
    assert difference(before, random_state()) is None
    assert difference(settings, surroundings()) is None
    assert vars(estimator) == vars(Tuned())
