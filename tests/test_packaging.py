# SPDX-License-Identifier: BSD-3-Clause
"""The package as users get it: what it asks for, what it ships, and that it builds anywhere."""

import ctypes
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
tomllib = pytest.importorskip("tomllib")  # Python 3.11

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
EXTRAS = [one for extra in PROJECT["optional-dependencies"].values() for one in extra]
BUILD = [Requirement(line).name for line in PYPROJECT["build-system"]["requires"]]


def test_build_needs_no_torch():
    assert sorted(BUILD) == ["ninja", "pybind11", "setuptools"]


def test_constraints_pin_all_that_is_asked_for():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    assert all(str(pin.specifier).startswith("==") for pin in pins)
    versions = {pin.name.lower().replace("_", "-"): str(pin.specifier)[2:] for pin in pins}
    assert versions["torch"] == "2.13.0"
    for wanted in map(Requirement, [*PYPROJECT["build-system"]["requires"], *EXTRAS,
                                    *PROJECT["dependencies"]]):  # fmt: skip
        if wanted.name != "unlearnkit":
            assert versions[wanted.name] in wanted.specifier


@pytest.fixture
def tree(tmp_path):
    """Copy the sources: a build leaves the checkout alone, and a space in a path is no trouble."""
    folder = tmp_path / "a folder"
    ignore = shutil.ignore_patterns("__pycache__", "*.so")
    for name in ("csrc", "unlearnkit"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignore)
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    return folder


def run(code, folder, **environment):
    """Run code in a fresh interpreter; return its status and all that it printed."""
    settings = {"CXXFLAGS": "-O0", "UNLEARNKIT_CUDA": "auto", **environment}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env=os.environ | settings,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return done.returncode, done.stdout


def build(folder, hook="build_wheel", **environment):
    """Call one of the hooks that pip calls; return the file it made, if any, and its output."""
    code = f"from setuptools import build_meta; build_meta.{hook}('dist')"
    status, output = run(code, folder, **environment)
    made = next(iter((folder / "dist").glob("*")), None)
    assert (status == 0) == (made is not None), output
    return made, output


def compiled(wheel):
    """Name of the compiled module in a wheel, or None."""
    names = zipfile.ZipFile(wheel).namelist()
    return next((name for name in names if re.match(r"unlearnkit/_C\..*so$", name)), None)


def build_info(wheel):
    """Unpack a wheel, load its compiled module without torch, and ask it."""
    zipfile.ZipFile(wheel).extractall(wheel.parent)
    code = f"""
import importlib.util, json, sys
spec = importlib.util.spec_from_file_location("unlearnkit._C", {compiled(wheel)!r})
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
assert "torch" not in sys.modules
print(json.dumps(module.build_info()))
"""
    status, output = run(code, wheel.parent)
    assert status == 0, output
    return json.loads(output)


def test_wheel_holds_the_package_and_its_kernels(tree):
    wheel, _ = build(tree, UNLEARNKIT_CUDA="0")  # which would take minutes; see below
    names = zipfile.ZipFile(wheel).namelist()
    ours = [path.relative_to(tree) for path in tree.glob("unlearnkit/**/*") if path.is_file()]
    assert {str(path) for path in ours} <= set(names)
    assert {name.split("/")[0].split("-")[0] for name in names} == {"unlearnkit"}
    info = build_info(wheel)
    assert (info["native"], info["cuda"], info["standard"]) == (True, False, "C++17")


def test_source_distribution_holds_all_that_a_build_needs(tree):
    (tree / "csrc" / "cuda").mkdir(exist_ok=True)
    headers = [tree / "csrc" / "some.h", tree / "csrc" / "cuda" / "some.cuh"]
    for header in headers:
        header.touch()
    made, _ = build(tree, "build_sdist")
    with tarfile.open(made) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = [tree / "setup.py", *headers, *tree.rglob("*.cpp"), *tree.glob("unlearnkit/**/*")]
    assert {str(path.relative_to(tree)) for path in wanted} <= names


@pytest.mark.parametrize("compiler", ["no-such-compiler", "false"])
def test_without_a_compiler_it_installs_as_pure_python(tree, compiler):
    wheel, output = build(tree, CXX=compiler)
    assert compiled(wheel) is None
    assert 'building extension "unlearnkit._C" failed' in output


@pytest.fixture
def small(tree):
    """Replace csrc/ by a module that compiles at once and only knows how it was built."""
    shutil.rmtree(tree / "csrc")
    for folder in ("cpu", "cuda"):
        (tree / "csrc" / folder).mkdir(parents=True)
    (tree / "csrc" / "module.cpp").write_text("""
#define VISIBLE extern "C" __attribute__((visibility("default")))
#define TEXT_OF(...) #__VA_ARGS__
#define TEXT(macro) TEXT_OF(macro)
#if !defined(_OPENMP)
#define _OPENMP 0
#endif
VISIBLE int cuda() { return UNLEARNKIT_CUDA; }
VISIBLE const char* cuda_build() { return TEXT(UNLEARNKIT_CUDA_BUILD); }
VISIBLE int openmp() { return _OPENMP != 0; }
VISIBLE int x86() { return UNLEARNKIT_X86; }
""")
    return tree


@pytest.fixture
def with_cuda(small):
    text = "__global__ void probe(float* x) { *x = 1; }"
    (small / "csrc" / "cuda" / "probe.cu").write_text(text)
    return small


def facts(wheel):
    """Unpack a wheel of `small` and read what its module was told."""
    folder = Path(tempfile.mkdtemp(dir=wheel.parent.parent))  # never again a path that was loaded from
    zipfile.ZipFile(wheel).extractall(folder)
    module = ctypes.CDLL(folder / compiled(wheel))
    module.cuda_build.restype = ctypes.c_char_p
    found = {name: getattr(module, name)() for name in ("cuda", "cuda_build", "openmp", "x86")}
    return found | {"cuda_build": found["cuda_build"].decode()}


def refusing(flag, folder):
    """Make a C++ compiler that does not know a flag."""
    script = folder / "refusing"
    script.write_text(
        f'#!/bin/sh\ncase "$*" in *{flag}*) exit 1;; esac\nexec {os.environ.get("CXX", "c++")} "$@"\n'
    )
    script.chmod(0o755)
    return str(script)


def is_gcc():
    version = [os.environ.get("CXX", "c++"), "--version"]
    return "Free Software Foundation" in subprocess.run(version, capture_output=True, text=True).stdout


@pytest.mark.skipif(platform.machine() != "x86_64" or not is_gcc(), reason="needs GCC on x86-64")
def test_kernels_are_compiled_once_for_each_instruction_set(small):
    isas = small / "csrc" / "cpu" / "isa"
    isas.mkdir()
    (isas / "kernel.cpp").write_text("namespace UNLEARNKIT_ISA { int vector_bytes() { return 0; } }")
    wheel, output = build(small)
    assert facts(wheel)["x86"] == facts(wheel)["openmp"] == 1
    flags = [line.partition("-DUNLEARNKIT_ISA=")[2].split(" -MMD")[0] for line in output.splitlines()
             if "kernel.cpp" in line and " -c " in line]  # fmt: skip
    assert sorted(flags) == [
        "portable", "v3 -march=x86-64-v3", "v4 -march=x86-64-v4 -mprefer-vector-width=512"
    ]  # fmt: skip


@pytest.mark.parametrize(("flag", "lacks"), [("-fopenmp", "openmp"), ("-march=", "x86")])
def test_a_compiler_that_lacks_something_builds_without_it(small, tmp_path, flag, lacks):
    whole = facts(build(small)[0])
    shutil.rmtree(small / "dist")
    assert facts(build(small, CXX=refusing(flag, tmp_path))[0]) == whole | {lacks: 0}


def test_openmp_can_be_switched_off(small):
    assert facts(build(small, UNLEARNKIT_OPENMP="0")[0])["openmp"] == 0


def test_a_second_build_compiles_what_has_changed(small):
    (small / "csrc" / "one.h").write_text("int one();")
    (small / "csrc" / "cpu" / "one.cpp").write_text("#include <one.h>")
    first, second = build(small)[1], build(small)[1]
    (small / "csrc" / "one.h").write_text("int two();")
    third = build(small)[1]
    assert "[3/3]" in first
    assert "no work to do" in second
    assert "[2/2]" in third  # one.cpp and the link


def broken_nvcc(folder):
    """Make a CUDA toolkit whose compiler always fails."""
    (folder / "bin").mkdir()
    (folder / "bin" / "nvcc").symlink_to(shutil.which("false"))
    return str(folder)


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc")
def test_cuda_sources_are_built_where_nvcc_is(with_cuda):
    found = facts(build(with_cuda, UNLEARNKIT_CUDA="1", UNLEARNKIT_CUDA_ARCHS="80")[0])
    assert (found["cuda"], found["cuda_build"]) == (1, "sm_80, PTX for newer ones")


def test_a_failing_nvcc_leaves_a_build_for_the_cpu(with_cuda, tmp_path):
    wheel, output = build(with_cuda, CUDA_HOME=broken_nvcc(tmp_path))
    assert "the CUDA build failed" in output
    found = facts(wheel)
    assert (found["cuda"], found["cuda_build"]) == (0, "nvcc failed")


def test_cuda_can_be_switched_off(with_cuda):
    found = facts(build(with_cuda, UNLEARNKIT_CUDA="0")[0])
    assert (found["cuda"], found["cuda_build"]) == (0, "switched off")


def test_cuda_that_is_insisted_on_fails_loudly(with_cuda, tmp_path):
    settings = {"UNLEARNKIT_CUDA": "1", "CUDA_HOME": broken_nvcc(tmp_path)}
    made, output = build(with_cuda, **settings)
    assert made is None
    assert "ninja failed" in output


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"UNLEARNKIT_CUDA": "yes"}, "UNLEARNKIT_CUDA='yes' is not known: set it to auto, 0 or 1"),
        ({"UNLEARNKIT_CUDA": "1"}, "UNLEARNKIT_CUDA=1, but csrc/cuda/ holds nothing to compile"),
        ({"UNLEARNKIT_CUDA_ARCHS": "80,90"}, "UNLEARNKIT_CUDA_ARCHS='80,90' is not known: set it to numbers"),
    ],
)
def test_a_switch_for_cuda_that_cannot_be_met_is_an_error(small, settings, message):
    made, output = build(small, **settings)
    assert made is None
    assert message in output


def test_nvcc_is_looked_for_where_the_user_says_first(monkeypatch):
    spec = importlib.util.spec_from_file_location("setup", ROOT / "setup.py")
    setup = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(setup)
    monkeypatch.setenv("CUDA_HOME", "/home")
    monkeypatch.setenv("CUDA_PATH", "/path")
    tried = []
    monkeypatch.setattr(shutil, "which", tried.append)
    assert setup.find_nvcc() is None
    assert tried == ["/home/bin/nvcc", "/path/bin/nvcc", "nvcc", "/usr/local/cuda/bin/nvcc"]
