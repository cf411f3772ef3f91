# SPDX-License-Identifier: BSD-3-Clause
"""What was achieved: the metrics, the bars that they must reach, and the audit report."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from unlearnkit.cli import _options as shared
from unlearnkit.cli._bars import Bar
from unlearnkit.cli._errors import WrongUse, near
from unlearnkit.cli._files import PAGES, Outputs
from unlearnkit.cli._fit import loss_of
from unlearnkit.cli._oracles import check_oracles, oracle_option, oracles_of
from unlearnkit.cli._request import Request
from unlearnkit.edit import WeightEdit
from unlearnkit.exceptions import DataError, UnlearnWarning, warn
from unlearnkit.metrics import Evaluation, evaluate
from unlearnkit.report import audit, check_installed

LATE = ("seconds", "rte")
"""Metrics of the work, which the model before has not."""


@dataclass
class Found:
    """What is to be told.

    Attributes
    ----------
    facts : dict
        For a program.
    rows, table
        For a person.
    unmet : list of str
        The bars that were missed.
    """

    facts: dict[str, Any] = field(default_factory=dict)
    rows: dict[str, str] = field(default_factory=dict)
    table: list[str] = field(default_factory=list)
    unmet: list[str] = field(default_factory=list)


def evidence_options(parser: argparse.ArgumentParser, report: bool = True) -> None:
    """Add what is measured of the outcome, and where the report goes."""
    group = parser.add_argument_group("evidence")
    if report:
        group.add_argument(
            "--report", action="append", default=[], metavar="FILE", help="the audit report, .html or .json; or both"
        )  # fmt: skip
    group.add_argument(
        "--test", metavar=shared.NAME, help="samples that no model was trained on, for the metrics"
    )
    oracle_option(group)
    group.add_argument(
        "--retrain-seconds",
        type=float,
        metavar="S",
        help="what retraining takes, to say how many times faster this was",
    )
    group.add_argument(
        "--metrics",
        default="default",
        metavar="WHICH",
        help="default, full, or names such as forget,tow,lr_mia",
    )
    group.add_argument(
        "--require", action="append", default=[], metavar="BAR",
        help="a value that a metric must reach, or the exit code is 3: --require 'tow>=0.95'",
    )  # fmt: skip


class Evidence:
    """The evidence that a command line asks for.

    Parameters
    ----------
    options : argparse.Namespace
        Of `evidence_options`, the model's and the request's.

    Raises
    ------
    WrongUse
        If something that it needs is not given.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.bars = [Bar.parse(text) for text in options.require]
        self.pages: list[str] = getattr(options, "report", [])
        self.is_wanted = bool(self.bars or self.pages or getattr(options, "always", False))
        self.metrics: str | list[str] = options.metrics
        if options.metrics not in ("default", "full"):
            self.metrics = [name.strip() for name in options.metrics.split(",")]
        check_oracles(options)
        if not self.is_wanted:
            return
        if options.loss is not None and (self.bars or not self.pages):
            raise WrongUse(
                "with --loss there are no metrics, which are those of a classification: ask for a --report."
            )
        if options.test is None and options.validation is None:
            raise WrongUse("the metrics need samples that no model was trained on: give --test.")
        if any(path.lower().endswith(".html") for path in self.pages):
            check_installed()

    @property
    def files(self) -> list[str]:
        """What is read for it."""
        return list(self.options.oracle)

    def announce(self, outputs: Outputs) -> None:
        """Announce the report's files."""
        outputs.add("--report", self.pages, PAGES)

    def begin(self, base: nn.Module, request: Request) -> None:
        """Measure the model as it was: what is unknown or lacking is found out before the long work.

        Raises
        ------
        DataError
            If data or an oracle does not fit, or what is to be kept is not known.
        WrongUse
            If a bar is of a metric that is not measured.
        """
        if not self.is_wanted:
            return
        if request.retain is None:
            raise DataError(
                "the metrics look at what is kept too: give --data with --forget, or --retain-data."
            )
        if request.test is None:
            warn(
                "no --test: the metrics rest on the samples of --validation, which the method may have been calibrated "
                "on.",
                UnlearnWarning,
            )
        self.oracle = oracles_of(self.options)
        self.loss = loss_of(self.options)
        named = self.metrics
        if isinstance(named, list):
            named = [name for name in named if name not in LATE]
        self.before = self._measured(base, request, metrics=named, original=base)
        known = [*(self.before or ()), *self._late()]
        for bar in self.bars:
            if bar.metric not in known:
                raise WrongUse(
                    f"--require {bar.text}: {bar.metric!r} is not measured{near(bar.metric, known)}. There are "
                    f"{', '.join(known)}{'' if self.oracle else '; with --oracle also tow and avg_gap'}."
                )

    def gather(
        self,
        outputs: Outputs,
        base: nn.Module,
        result: nn.Module,
        request: Request,
        edit: WeightEdit,
        method: Any,
        notes: Mapping[str, str],
    ) -> Found:
        """Measure the result, write the report, and compare with the bars.

        Raises
        ------
        DataError
            As :meth:`begin`.
        """
        if not self.is_wanted:
            return Found()
        seconds, retrain_seconds = getattr(method, "seconds_", None), self.options.retrain_seconds
        times = {"seconds": seconds, "retrain_seconds": retrain_seconds}
        after = self._measured(result, request, metrics=self.metrics, original=base, **times)
        found = Found(
            {"required": self.options.require}, {}, repr(after).splitlines() if after is not None else []
        )
        if after is not None and self.before is not None:
            found.facts |= {"before": self.before.to_dict(), "after": after.to_dict()}
            found.unmet = [said for bar in self.bars if (said := bar.unmet(after)) is not None]
        if self.pages:
            page = audit(
                base,
                result,
                retain=request.retain,
                forget=request.forget,
                test=self._test(request),
                oracle=self.oracle,
                edit=edit,
                method=method,
                request={**request.said, **notes},
                before=self.before,
                evaluation=after,
                loss=self.loss,
                retrain_seconds=retrain_seconds,
                command=self.options.command,
                random_state=self.options.seed,
            )
            for path in self.pages:
                (page.save if path.lower().endswith(".html") else page.save_json)(outputs.at(path))
            found.rows = {
                "verdict": page.verdict,
                "salt": f"{page.salt}: keep it apart from the report, to check it by",
            }
            found.facts["report"] = {"verdict": page.verdict, "digest": page.digest, "salt": page.salt}
        return found

    def _measured(self, model: nn.Module, request: Request, **more: Any) -> Evaluation | None:
        if self.loss is not None:  # there may be no classes; the report compares losses
            return None
        return evaluate(
            model,
            retain=request.retain,
            forget=request.forget,
            test=self._test(request),
            oracle=self.oracle,
            random_state=self.options.seed,
            **more,
        )

    def _late(self) -> list[str]:
        """Return the metrics of the work that will be measured."""
        if getattr(self.options, "always", False):
            return []
        known = {"seconds": self.metrics == "full", "rte": self.options.retrain_seconds is not None}
        return [name for name in LATE if known[name] or name in self.metrics]

    @staticmethod
    def _test(request: Request) -> Any:
        return request.validation if request.test is None else request.test
