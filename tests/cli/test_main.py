# SPDX-License-Identifier: BSD-3-Clause
"""The frame of all commands: exit codes, stdout and stderr, interrupts, what is left as it was."""

import json
import os
import random
import runpy
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

import unlearnkit
from unlearnkit.cli import _main, main

FORGET = [
    "forget",
    "--model",
    "train.py:build",
    "--weights",
    "model.safetensors",
    "--data",
    "train.py:train_set",
]


COMMAND = [sys.executable, "-m", "unlearnkit"]


@pytest.fixture(autouse=True)
def _importable_from_anywhere(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(unlearnkit.__file__).parents[1]))


def another_process(*command):
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_version(run):
    ran = run("--version")
    assert (ran.code, ran.out) == (0, f"unlearnkit {unlearnkit.__version__}\n")


@pytest.mark.parametrize(
    "arguments", [["forget"], ["nonsense"], [*FORGET, "--seed", "abc"], [*FORGET, "--no-such-option"]]
)
def test_wrong_arguments_are_json_too(arguments):
    ran = another_process(*COMMAND, *arguments, "--json")
    found = json.loads(ran.stdout)
    assert found["exit_code"] == ran.returncode == 2
    assert found["error"].startswith("error: ")
    assert " ".join(ran.stderr.split()).endswith(found["error"])


@pytest.mark.parametrize(
    "command", ["forget", "measure", "apply", "revert", "audit", "search", "info", "demo"]
)
def test_help_has_examples_and_exit_codes(run, command):
    ran = run(command, "--help")
    assert ran.code == 0
    assert "interrupted; nothing was written" in ran.out
    assert (f"unlearnkit {command} " in ran.out.partition("examples:")[2]) != (command == "demo")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "COMMAND"),
        (["forgot"], "invalid choice: 'forgot'"),
        (["forget"], "required: --model"),
        (["apply", "--weights", "model.safetensors"], "required: --edit, --out"),
        ([*FORGET, "--forget", "3", "--forget-class", "1"], "not allowed with argument"),
        ([*FORGET, "--forget", "3", "--seed", "-1"], "'-1' is not a whole number from 0 on"),
        ([*FORGET, "--forget", "3", "--batch-size", "0"], "'0' is not a whole number from 1 on"),
        ([*FORGET, "--forg", "3"], "unrecognized arguments: --forg"),
    ],
)
def test_misuse_is_explained(run, folder, arguments, message):
    ran = run(*arguments)
    assert (ran.code, ran.out) == (2, "")
    assert message in ran.err


def test_wrong_use_is_one_line_and_where_to_read_on(forget):
    ran = forget("--forget", "3")
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.splitlines() == [
        "unlearnkit forget: error: nothing would be written: name --out, --edit or --report.",
        "(see unlearnkit forget --help)",
    ]


def test_an_error_is_one_line_on_stderr_and_json_on_stdout(forget):
    ran = forget("--forget", "90", "--out", "new.safetensors")
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.splitlines()[1:] == [  # after what the script prints
        "unlearnkit forget: --forget 90: 90 is out of range: the data has 90 samples, with positions 0 to 89."
    ]
    ran = forget("--forget", "90", "--out", "new.safetensors", "--json")
    assert ran.json["exit_code"] == ran.code == 1
    assert "out of range" in ran.json["error"]


def test_an_error_of_the_users_code_is_one_line_that_names_it(run, folder):
    arguments = [
        "forget",
        "--model",
        "train.py:broken",
        "--data",
        "train.py:train_set",
        "--forget",
        "1",
        "--out",
        "a.safetensors",
    ]
    ran = run(*arguments)
    assert ran.code == 1
    last = ran.err.splitlines()[-1]
    assert last == "unlearnkit forget: train.py:broken failed: RuntimeError: no such GPU (train.py, line 57)"
    assert "Traceback" not in ran.err
    assert 'raise RuntimeError("no such\\nGPU")' in run(*arguments, "--traceback").err


def test_an_error_deep_in_the_computation_is_one_line_too(run, folder):
    arguments = [
        "--weights",
        "model.safetensors",
        "--data",
        "shapes.npz",
        "--forget",
        "1",
        "--out",
        "a.safetensors",
    ]
    np.savez("shapes.npz", X=np.zeros((4, 5), "float32"), y=np.zeros(4, int))
    ran = run("forget", "--model", "train.py:build", *arguments, "--method", "GradientAscent")
    assert ran.code == 1
    assert "mat1 and mat2 shapes cannot be multiplied" in ran.err.splitlines()[-1]
    assert "Traceback" not in ran.err


def test_interrupted_nothing_is_written(forget, folder, monkeypatch):
    before = sorted(os.listdir())

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(unlearnkit.WeightEdit, "save", interrupted)
    ran = forget("--forget", "1,2", "--out", "new.safetensors", "--edit", "edit.safetensors")
    assert ran.code == 130
    assert ran.err.splitlines()[-1] == "unlearnkit forget: interrupted; nothing was written"
    assert [name for name in sorted(os.listdir()) if name != "__pycache__"] == before


def test_warnings_are_a_line_each_said_once_and_kept_in_json(forget, folder):
    (folder / "loud.py").write_text(
        "import warnings\nfrom train import *\n\n\ndef quiet_build():\n"
        "    for _ in range(2):\n        warnings.warn('old\\nweights')\n    return build()\n"
    )
    ran = forget("--forget", "1,2", "--out", "new.safetensors", "--model", "loud.py:quiet_build", "--json")
    assert ran.err.splitlines().count("warning: old weights") == 1
    assert ran.json["warnings"][0] == "old weights"


def test_quiet_says_nothing(forget):
    ran = forget("--forget-class", "2", "--out", "new.safetensors", "-q")
    assert (ran.code, ran.out) == (0, "")


def test_the_process_is_left_as_it_was(forget, monkeypatch):
    torch.manual_seed(3), random.seed(3), np.random.seed(3)
    before = (
        torch.get_rng_state(),
        random.getstate(),
        sys.path[:],
        torch.get_num_threads(),
        warnings.showwarning,
    )
    assert (
        forget("--forget-class", "2", "--out", "new.safetensors", "--seed", "8", "--threads", "2").code == 0
    )
    after = (
        torch.get_rng_state(),
        random.getstate(),
        sys.path[:],
        torch.get_num_threads(),
        warnings.showwarning,
    )
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]


def test_every_command_has_its_program_name():
    for action in _main.parser()._actions:
        for name, command in (getattr(action, "choices", None) or {}).items():
            assert command.get_default("program") == f"unlearnkit {name}"


@pytest.mark.parametrize("module", ["unlearnkit", "unlearnkit.cli"])
def test_module_can_be_run(module, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [module, "--version"])
    with pytest.raises(SystemExit) as end:
        runpy.run_module(module, run_name="__main__")
    assert (end.value.code, capsys.readouterr().out) == (0, f"unlearnkit {unlearnkit.__version__}\n")


def test_json_is_all_that_a_process_prints_on_stdout(folder):
    done = another_process(*COMMAND, *FORGET, "--forget-class", "2", "--out", "new.safetensors", "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout)["files"] == {"--out": ["new.safetensors"]}
    assert "imported" in done.stderr


def test_ctrl_c_ends_a_process_with_one_line_and_no_file(folder):
    (folder / "slow.py").write_text(
        "import time\nfrom train import build\n\n\ndef data():\n    open('started', 'w').close()\n    time.sleep(60)\n"
    )
    before = sorted(os.listdir())
    arguments = [
        "--model",
        "slow.py:build",
        "--data",
        "slow.py:data",
        "--forget",
        "1",
        "--out",
        "new.safetensors",
    ]
    process = subprocess.Popen(
        [*COMMAND, "forget", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # jobs in the background ignore the signal, and their children would too
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    try:
        while not os.path.exists("started") and process.poll() is None:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    finally:
        process.kill()
    assert (process.returncode, out) == (130, "")
    assert err.splitlines()[-1] == "unlearnkit forget: interrupted; nothing was written"
    assert "Traceback" not in err
    assert [name for name in sorted(os.listdir()) if name not in ("__pycache__", "started")] == before


def test_main_reads_the_processs_arguments(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["unlearnkit", "info", "SSD", "-q"])
    assert main() == 0
