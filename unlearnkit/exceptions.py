# SPDX-License-Identifier: BSD-3-Clause
"""Every error and warning of the library, under one root each.

An error says what was expected, what was found and what to do about it. Catch
`UnlearnError` for all of them; silence or promote `UnlearnWarning` for all warnings.
"""

from __future__ import annotations

import os
import sys
import types
import warnings

PACKAGE = os.path.dirname(__file__) + os.sep


class UnlearnError(Exception):
    """Root of every error that the library raises on purpose."""


class DataError(UnlearnError, ValueError):
    """The data given to an estimator or a metric cannot serve.

    Raised for an empty forget set, batches of an unknown form, a retain set that can
    neither be found nor be replaced, and labels or losses of the wrong shape. It is a
    `ValueError` too, so code written for scikit-learn catches it.
    """


class EditMismatchError(UnlearnError):
    """A weight edit meets a model whose values it was not made for.

    The message names the first tensor that differs and how: missing, of another shape,
    of another dtype, or of other values. Nothing has been written when it is raised.
    """


class UnsupportedModuleError(UnlearnError):
    """A module cannot be handled exactly, and an approximation would go unnoticed."""


class DriftError(UnlearnError):
    """A request would take a model further from its training than its budget allows."""


class UnlearnWarning(UserWarning):
    """Root of every warning that the library emits."""


class FallbackWarning(UnlearnWarning):
    """A slower route is taken; the numbers are the same."""


class CollapseWarning(UnlearnWarning):
    """The edited model lost what it should have kept, such as its accuracy on retain."""


class NondeterminismWarning(UnlearnWarning):
    """Two passes over one loader gave different samples, so counts and sums may not match."""


class IneffectiveWarning(UnlearnWarning):
    """The edit changed nothing, or too little for the forget set to have been forgotten."""


class SmallSampleWarning(UnlearnWarning):
    """A metric rests on so few samples or models that its value is mostly chance."""


class SeparationWarning(UnlearnWarning):
    """The noisy part that was found in a data set is hardly to be told from the rest."""


class DriftWarning(UnlearnWarning):
    """Requests have taken a model further from its training than its budget allows: retrain it."""


def warn(message: str, category: type[UnlearnWarning]) -> None:
    """Warn at the line of the user's code that called the library, however deep this call lies.

    Parameters
    ----------
    message : str
    category : subclass of UnlearnWarning
    """
    frame: types.FrameType | None = sys._getframe()
    level = 0
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith(PACKAGE):
            level += 1
        elif "importlib" not in name or "_bootstrap" not in name:
            break  # what lies between two modules in an import counts for nothing, as in warnings.warn
        frame = frame.f_back
    warnings.warn(message, category, stacklevel=level + 1)
