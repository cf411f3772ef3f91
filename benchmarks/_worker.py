# SPDX-License-Identifier: BSD-3-Clause
"""A process that measures one way on one model, when it is told to.

``python benchmarks/_worker.py '{"way": ..., "model": ..., "scale": ..., "batch": ..., "device": ...}'``

It answers a line of JSON to each line on its standard input: ``ready`` (all is imported), ``start`` (its first
calls, its memory, and whether its numbers are right) and ``time K`` (the seconds of K calls). So its peak
memory is its own, and :mod:`fisher` lets the ways take turns.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
import warnings
from pathlib import Path
from statistics import median
from typing import Any

import torch

from _tasks import find
from _ways import LIBRARIES, WAYS, Refused, exact_squares, in_double, relative_errors

CHECKED = 3
"""Samples whose squares are compared with the oracle's."""

EXACT = 1e-5
"""Largest relative error in float64 up to which a way counts as exact; that of a wrong formula is about 1.

NNGeometry adds up in float32 even so.
"""

ROUNDED = 1e-3
"""Relative error in float32, the median over all tensors, up to which that is rounding.

It is no bound for every tensor: where rounding turns the sign of an activation, a ReLU passes another
gradient, and a batch is not rounded as its samples are alone.
"""

MIB = 2**20


def process_mib() -> float:
    """Peak of this process's own memory so far.

    ``ru_maxrss`` would not do on Linux: there it begins with the memory of the process that started this one.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    import resource  # not on Windows, which has no figure to give either

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (MIB if sys.platform == "darwin" else 1024)


class Worker:
    """One way on one model."""

    def __init__(self, way: str, model: str, scale: str, batch: int | None, device: str) -> None:
        self.way, self.device = way, device
        self.task = find(scale, model, batch)
        self.gpu = device != "cpu"
        if self.gpu:
            # all ways in plain float32: by default torch rounds the inputs of convolutions to TF32
            torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
            torch.cuda.init()
        if way in LIBRARIES:
            importlib.import_module(LIBRARIES[way])
        # what is loaded at first use is no memory of the measurement either
        tiny = find("tiny", model.partition("/")[0])
        WAYS[way](tiny.model(device), tiny.loss)(tiny.draw(device))

    def ready(self) -> dict[str, Any]:
        """Say that the imports are done, and disturb no other way any more."""
        return {}

    def start(self) -> dict[str, Any]:
        """Call twice, then read the memory, then compare a few samples with the oracle."""
        libraries = process_mib()
        if self.gpu:
            torch.cuda.reset_peak_memory_stats()
        model = self.task.model(self.device)
        parameters = sum(p.numel() for p in model.parameters())
        self.batch = self.task.draw(self.device)
        begin = time.perf_counter()
        self.run = WAYS[self.way](model, self.task.loss)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            self.run(self.batch)
            self._wait()
            first = time.perf_counter() - begin
            self.run(self.batch)
            self._wait()
        peak = torch.cuda.max_memory_allocated() / MIB if self.gpu else process_mib() - libraries
        answer = {
            "parameters": parameters,
            "peak_mib": peak,
            "process_mib": process_mib(),
            "first_call_seconds": first,
        }
        if self.way.startswith("unlearnkit"):
            from unlearnkit import ops

            answer["kernels"] = ops.kernel_states(self.batch[0].device)
            answer["warnings"] = sorted({str(one.message).splitlines()[0][:300] for one in said})
        return answer | self.check()

    def check(self) -> dict[str, Any]:
        """Compare with the oracle, on new models and few samples, in float32 and float64."""
        if self.way == "plain":
            return {}
        few = self.task.draw(self.device, CHECKED)
        exact = exact_squares(self.task.model(self.device), self.task.loss, few)
        found = WAYS[self.way](self.task.model(self.device), self.task.loss)(few)
        single = relative_errors(found, exact).values()
        found = WAYS[self.way](self.task.model(self.device).double(), self.task.loss)(in_double(few))
        double = max(relative_errors(found, exact).values())
        return {
            "exact": double < EXACT and median(single) < ROUNDED,
            "relative_error": double,
            "float32_median_error": median(single),
            "float32_largest_error": max(single),
        }

    def time(self, calls: int) -> dict[str, Any]:
        """Time some calls; on a GPU after one that is not timed, since its memory is handed back in between."""
        if self.gpu:
            self.run(self.batch)
        seconds = []
        for _ in range(calls):
            self._wait()
            begin = time.perf_counter()
            self.run(self.batch)
            self._wait()
            seconds.append(time.perf_counter() - begin)
        return {"seconds": seconds}

    def _wait(self) -> None:
        if self.gpu:
            torch.cuda.synchronize()


def serve() -> None:
    """Answer until the input ends. What a library prints goes to the standard error."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    try:
        worker, trouble = Worker(**json.loads(sys.argv[1])), None
    except Exception as error:
        worker, trouble = None, error
    for line in sys.stdin:
        verb, *arguments = line.split()
        try:
            if worker is None:
                raise trouble
            answer = getattr(worker, verb)(*map(int, arguments))
        except ImportError as error:
            answer = {"missing": str(error)}
        except Refused as error:
            answer = {"refused": str(error)}
        except Exception as error:
            answer = {"refused": f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"}
        if worker is not None and worker.gpu:
            torch.cuda.empty_cache()  # it is the next one's turn
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    serve()
