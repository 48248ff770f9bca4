"""What is installed: pins that satisfy the ranges, a wheel that holds the package and its data, and nothing else."""

import ast
import re
import runpy
import sys
import tomllib
from fnmatch import fnmatch
from functools import cache, partial
from importlib import metadata
from pathlib import Path

import pytest
import setuptools
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from experiments import app

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "w4s_jax"
COMMANDS = ROOT / "experiments"
FLAG_FILES = COMMANDS / "flags"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS = PROJECT["project"]["optional-dependencies"]
CORE = PROJECT["project"]["dependencies"]
ACCELERATORS = {"cuda", "tpu"}
TRACKERS = {"wandb", "mlflow"}
DISTRIBUTION_OF = {"orbax": "orbax-checkpoint"}
COMES_WITH = {"httpx2": "openai", "pyarrow": "datasets"}
"""Imported where the package that brings it is spoken to: its transport, its file format."""


def requirements(lines):
    """Requirements by canonical name, extras of our own left out."""
    found = [Requirement(line) for line in lines]
    return {canonicalize_name(r.name): r for r in found if r.name != "w4s_jax"}


def pins():
    lines = [line.split("#")[0].strip() for line in (ROOT / "requirements.txt").read_text().splitlines()]
    return {canonicalize_name(name): pin for name, pin in (line.split("==") for line in lines if line)}


def declared():
    """Everything but the accelerators and the trackers, which the pinned environment does without."""
    kept = [lines for name, lines in EXTRAS.items() if name not in ACCELERATORS | TRACKERS]
    return requirements([*CORE, *(line for lines in kept for line in lines)])


def test_every_line_of_the_requirements_is_one_exact_pin_without_a_hash():
    lines = [line for line in (ROOT / "requirements.txt").read_text().splitlines() if line and line[0] != "#"]
    assert [line for line in lines if not re.fullmatch(r"[A-Za-z0-9_.-]+==[0-9][0-9a-z.]*", line)] == []
    assert len({canonicalize_name(line.split("==")[0]) for line in lines}) == len(lines)


def test_the_pins_satisfy_the_ranges_of_the_project():
    pinned = pins()
    wanted = declared()
    assert set(wanted) <= set(pinned)
    assert [str(r) for name, r in wanted.items() if not r.specifier.contains(pinned[name])] == []


def test_the_pins_are_complete():
    """Whatever a pinned package requires on this platform is pinned too, in a version that it accepts."""
    pinned, wrong = pins(), []
    extras = {name: {""} | set(r.extras) for name, r in declared().items()}
    for name in pinned:
        for line in metadata.distribution(name).requires or ():
            needed = Requirement(line)
            wanted = extras.get(name, {""})
            if needed.marker and not any(needed.marker.evaluate(default_environment() | {"extra": e}) for e in wanted):
                continue
            pin = pinned.get(canonicalize_name(needed.name))
            if pin is None or not needed.specifier.contains(pin, prereleases=True):
                wrong.append(f"{name} needs {line}, pinned is {pin}")
    assert wrong == []


def test_no_torch_is_asked_for():
    assert not {"torch", "tensorflow"} & (set(pins()) | set(declared()))


def test_the_accelerators_are_extras_of_their_own():
    assert set(EXTRAS) >= ACCELERATORS
    for name in ACCELERATORS:
        assert "w4s_jax[train]" in EXTRAS[name]


def imports_of(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module.split(".")[0]


@pytest.mark.parametrize(
    ("folders", "extra"),
    [(("policy", "training"), ["train"]), (("executor", "reports", "rollout", "sandbox", "tasks", "workflows"), [])],
)
def test_what_the_package_imports_is_declared(folders, extra):
    allowed = requirements(CORE + [line for name in extra for line in EXTRAS[name]])
    files = [p for folder in folders for p in (PACKAGE / folder).rglob("*.py") if "seeds" not in p.parts]
    foreign = {n for p in files for n in imports_of(p)} - sys.stdlib_module_names - {"w4s_jax"}
    missing = {n for n in foreign if canonicalize_name(DISTRIBUTION_OF.get(n, COMES_WITH.get(n, n))) not in allowed}
    assert missing == set()


# --- the wheel ------------------------------------------------------------------


@cache
def set_up():
    """What setup.py gives to setuptools."""
    given = {}
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(setuptools, "setup", given.update)
        patched.setattr(setuptools, "find_packages", partial(setuptools.find_packages, str(ROOT)))
        runpy.run_path(str(ROOT / "setup.py"))
    return given


def test_the_wheel_holds_the_package_and_the_commands_alone():
    """The commands lie outside the library in a checkout, and within it where it is installed."""
    assert {name.split(".")[0] for name in set_up()["packages"]} == {"w4s_jax"}
    assert set_up()["package_dir"] == {"w4s_jax.commands": "experiments"}
    assert not (PACKAGE / "commands").exists()


def test_every_folder_with_code_is_a_package():
    """A folder without `__init__.py` would be left out of the wheel."""
    folders = {".".join(path.parent.relative_to(ROOT).parts) for path in PACKAGE.rglob("*.py")}
    assert folders | {"w4s_jax.commands"} == set(set_up()["packages"])


def test_the_commands_find_each_other_wherever_they_lie():
    """By relative names: they are `experiments` in a checkout and `w4s_jax.commands` where they are installed."""
    foreign = {
        f"{path.name}: {name}"
        for path in COMMANDS.glob("*.py")
        for name in imports_of(path)
        if name in ("experiments", "benchmarks", "tests", "launch")
    }
    assert foreign == set()


def test_every_command_is_named_by_the_program():
    guarded = {path.stem for path in COMMANDS.glob("*.py") if "if __name__ ==" in path.read_text(encoding="utf-8")}
    assert guarded == set(app.COMMANDS)
    assert PROJECT["project"]["scripts"] == {app.PROGRAM: "w4s_jax.commands.app:w4s"}


def test_every_data_file_is_matched_by_the_package_data():
    patterns = PROJECT["tool"]["setuptools"]["package-data"]["w4s_jax"]
    names = [p.relative_to(PACKAGE).as_posix() for p in PACKAGE.rglob("*") if p.is_file()]
    data = [n for n in names if not n.endswith((".py", ".pyc")) and "__pycache__" not in n]
    flag_files = PROJECT["tool"]["setuptools"]["package-data"]["w4s_jax.commands"]
    assert all(p.is_dir() or fnmatch(p.relative_to(COMMANDS).as_posix(), flag_files[0]) for p in FLAG_FILES.iterdir())

    def matched(name):
        return any(fnmatch(name, pattern) or fnmatch(name, pattern.removeprefix("**/")) for pattern in patterns)

    assert "py.typed" in data
    assert [name for name in data if not matched(name)] == []


def test_the_licence_and_the_version_are_one():
    assert PROJECT["project"]["license"] == "Apache-2.0"
    assert "Apache License" in (ROOT / "LICENSE").read_text()
    assert metadata.version("w4s_jax") == PROJECT["project"]["version"]
