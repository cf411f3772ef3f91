# SPDX-License-Identifier: BSD-3-Clause
"""The architecture, held by a test: floors, cycles, sizes, mirrored tests, optional parts."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "unlearnkit"

# The floors stand in the table of CONTRIBUTING.md: {"exceptions": 0, "parameters": 1, ...}.
FLOORS = {
    name: int(floor)
    for floor, row in re.findall(
        r"^\| (\d+) \| (.+) \|$", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE
    )
    for name in re.findall(r"`(\w+)`", row)
}
MAX_LINES = 350
COMPILED = "unlearnkit.ops._native"  # the one module that names unlearnkit._C


def module_name(path: Path) -> str:
    """``unlearnkit/metrics/__init__.py`` -> ``unlearnkit.metrics``."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}
TREES = {name: ast.parse(path.read_text()) for name, path in MODULES.items()}
by_module = pytest.mark.parametrize("name", MODULES)


def imports(name: str) -> Iterator[str]:
    """Yield our modules that a module imports, anywhere in its file."""
    package = name if MODULES[name].name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1]
            base = ".".join([*above * bool(node.level), *filter(None, [node.module])])
            whole = [f"{base}.{alias.name}" for alias in node.names]
            found = [one if one in MODULES or one == "unlearnkit._C" else base for one in whole]
        else:
            continue
        yield from (one for one in found if one.split(".")[0] == "unlearnkit")


def part(name: str) -> str:
    """Return the file or folder right under unlearnkit/ that a module belongs to."""
    return name.split(".")[1]


@by_module
def test_imports_only_from_lower_floors(name):
    if name == "unlearnkit":
        return  # it exports what the others make
    assert part(name) in FLOORS, f"give {part(name)} its floor in CONTRIBUTING.md"
    for other in imports(name):
        if other == "unlearnkit._C":
            assert name == COMPILED, f"{name} names _C; only ops/_native.py does"
            continue
        assert other in MODULES, f"{name} imports {other}, which is not a module of ours"
        assert other != "unlearnkit", f"{name} imports from the top: import the module itself"
        if part(other) == part(name):
            continue
        mine, its = FLOORS[part(name)], FLOORS[part(other)]
        assert its + (not part(other).startswith("_")) <= mine, (
            f"{name} (floor {mine}) imports {other} (floor {its})"
        )
        folder, private, _ = other.partition("._")
        assert not private or name.startswith(f"{folder}."), f"{name}: {other} is private"


def test_no_import_cycle():
    graph = {name: set(imports(name)) - {name} for name in MODULES}
    TopologicalSorter(graph).prepare()  # CycleError names the cycle


def test_only_ops_names_the_compiled_module():
    users = [name for name, path in MODULES.items() if re.search(r"\b_C\b", path.read_text())]
    assert set(users) <= {COMPILED}


@pytest.mark.parametrize(
    "path",
    [*MODULES.values(), *(path for path in (ROOT / "csrc").rglob("*") if path.is_file())],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_file_is_short_and_names_its_licence(path):
    lines = path.read_text().splitlines()
    assert len(lines) <= MAX_LINES
    assert lines[0].endswith("SPDX-License-Identifier: BSD-3-Clause")


@by_module
def test_user_input_is_never_asserted(name):
    asserts = [node.lineno for node in ast.walk(TREES[name]) if isinstance(node, ast.Assert)]
    assert not asserts, f"lines {asserts}: raise an error that says what, got and remedy"


@by_module
def test_module_has_its_test(name):
    path = MODULES[name].relative_to(PACKAGE)
    if not path.stem.startswith("_"):
        test = Path("tests", path.parent, f"test_{path.name}")
        assert (ROOT / test).is_file(), f"{path} has no {test}"


def run(code: str) -> str:
    """Run code in a fresh interpreter; return what it printed."""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_imports_without_compiled_module_and_extras():
    blocked = ["unlearnkit._C", "matplotlib", "jinja2", "pandas", "transformers", "diffusers"]
    code = f"""
import sys
sys.modules |= dict.fromkeys({blocked})
import unlearnkit
import unlearnkit.diffusion
from unlearnkit import ops
print(ops.build_info()["native"])
"""
    assert run(code) == "False"
