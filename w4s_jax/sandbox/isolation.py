"""How a zygote is started under each back end, and which back end works here.

open_sandbox(name) ─ Recipe(command, config) ─ zygote (link.py)

`process` and `guard` start the interpreter as it is; `bwrap` starts it in namespaces of
its own with a read-only root that holds system libraries, the interpreter and the named
packages. The guard itself is put on by each child (`child/guard.py`).
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.machinery
import importlib.metadata
import importlib.util
import os
import re
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from w4s_jax.types import InputError

CHILD = Path(__file__).parent / "child"
_START = "import sys; sys.path.insert(0, {folder!r}); from child import zygote; sys.path.pop(0); zygote.main({fd})"
_ENVIRONMENT = {
    "LC_ALL": "C.UTF-8",
    "PATH": "",
    "PYTHONHASHSEED": "0",
    "MALLOC_ARENA_MAX": "2",
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
}
"""All that a zygote's environment holds: equal hashes in every run, one thread for linear algebra, and few
malloc arenas, since each reserves 64 MiB of the address space that a child's memory limit counts."""
_HIGH_UIDS = (0x70000000, (1 << 28) - 1)
_LOW_UIDS = (60_000, 1_000)
_NOBODY = (65_534, 1)
_SECRET = re.compile(r"API_KEY|SECRET_ACCESS_KEY|^(HF|HUGGING_FACE_HUB|GITHUB)_TOKEN$")
SCRATCH = "/scratch"
"""The folder that may be written to, where a task asks for one."""
INSTALL_BWRAP = "apt-get install -y bubblewrap"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to start one zygote."""

    name: str
    """`bwrap`, `guard` or `process`."""
    config: Mapping[str, Any]
    """The first frame that the zygote reads."""
    wrapper: tuple[str, ...] = ()
    """Command line in front of the interpreter."""
    named: tuple[str, ...] = ()
    """Modules that are worth importing once, because importing them takes long."""

    def command(self, fd: int) -> list[str]:
        """The command line of a zygote that is reached on `fd`.

        -I would ignore PYTHONHASHSEED; -s, -P and an environment of our own are the rest of what it does.
        """
        start = _START.format(folder=str(CHILD.parent), fd=fd)
        return [*self.wrapper, interpreter(), "-s", "-S", "-P", "-B", "-c", start]

    def preloaded(self) -> Recipe:
        """The recipe of a zygote that imports the named packages once, for all its children."""
        return dataclasses.replace(self, config={**self.config, "preload": list(self.named)})

    def with_scratch(self, size: int) -> Recipe:
        """The recipe of a zygote for one item, with a folder of `size` bytes that its children may write to.

        Raises:
            InputError: This back end cannot bound what is written.
        """
        if self.name != "bwrap":
            raise InputError(
                f"this task asks for a folder to write to ({size} bytes), which sandbox {self.name!r} cannot give; "
                f"use --sandbox=bwrap ({INSTALL_BWRAP})"
            )
        before = self.wrapper.index("--remount-ro")
        mount = ["--perms", "0777", "--size", str(size), "--tmpfs", SCRATCH]
        if os.geteuid() == 0:
            mount += ["--cap-add", "CAP_SYS_ADMIN"]  # to bound the number of files; given up before the first fork
        return dataclasses.replace(
            self,
            config={**self.config, "scratch": [SCRATCH, size]},
            wrapper=(*self.wrapper[:before], *mount, *self.wrapper[before:]),
        )

    def mentions(self) -> re.Pattern[str]:
        """Matches code that names one of the packages."""
        return re.compile(rf"\b(?:{'|'.join(map(re.escape, self.named))})\b" if self.named else r"(?!)")

    @property
    def environment(self) -> dict[str, str]:
        """The zygote's whole environment."""
        return dict(_ENVIRONMENT) | ({"TMPDIR": SCRATCH, "HOME": SCRATCH} if self.config["scratch"] else {})


def recipe(name: str, packages: Sequence[str]) -> Recipe:
    """The recipe of a back end.

    Args:
        name: `bwrap`, `guard` or `process`.
        packages: Distributions that user code may import.

    Raises:
        InputError: A package is not installed, or bwrap is missing.
    """
    paths = package_paths(packages)
    uid_base, uid_count = _own_uids()
    guarded = name != "process"
    config = {
        "guarded": guarded,
        "stdlib": stdlib_folders(),
        "packages": paths.modules,
        "preload": [],
        "read_only": [*_stdlib_entries(), *paths.modules.values(), *paths.libraries, *library_folders()],
        "uid_base": uid_base if guarded else None,
        "uid_count": uid_count,
        "scratch": None,
        "forbidden": [str(CHILD / "guard.py"), "/etc/passwd"] if name == "guard" else [],
    }
    wrapper = _bwrap_command(paths.modules.values(), paths.libraries) if name == "bwrap" else ()
    named = tuple(name for name in packages if name in paths.modules)
    return Recipe(name=name, config=config, wrapper=wrapper, named=named)


def interpreter() -> str:
    """The real interpreter behind a virtual environment."""
    return os.path.realpath(getattr(sys, "_base_executable", sys.executable))


def stdlib_folders() -> list[str]:
    """Folders on the path of a bare interpreter."""
    stdlib = os.path.dirname(os.path.realpath(os.__file__))
    return [stdlib, os.path.join(stdlib, "lib-dynload")]


def _stdlib_entries() -> list[str]:
    """What lies in the standard library's folder, without third-party packages."""
    folder = stdlib_folders()[0]
    return [os.path.join(folder, e) for e in sorted(os.listdir(folder)) if e not in ("site-packages", "dist-packages")]


@functools.cache
def library_folders() -> tuple[str, ...]:
    """Folders of the system libraries that extension modules link to (libc's and its neighbours')."""
    folders = {"/usr/lib64", "/lib64"}
    folders |= {f"/usr/lib/{os.uname().machine}-linux-gnu", f"/lib/{os.uname().machine}-linux-gnu"}
    return tuple(sorted({os.path.realpath(f) for f in folders if os.path.isdir(f)} | {"/etc/ld.so.cache"}))


@dataclasses.dataclass(frozen=True, kw_only=True)
class PackagePaths:
    """Where named packages lie."""

    modules: dict[str, str]
    """Import name → folder of the package, or file of the module."""
    libraries: list[str]
    """Folders of bundled shared libraries (`numpy.libs`)."""


def package_paths(packages: Sequence[str]) -> PackagePaths:
    """Finds distributions and what they require, by their metadata.

    Raises:
        InputError: A distribution is not installed.
    """
    modules: dict[str, str] = {}
    libraries: list[str] = []
    waiting, seen = list(packages), set()
    while waiting:
        name = waiting.pop()
        if (key := re.sub(r"[-_.]+", "-", name).lower()) in seen:
            continue
        seen.add(key)
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            raise InputError(
                f"sandbox package {name!r} is not installed; allowed: installed distributions; "
                f"pip install {name}, or drop it from --sandbox_packages"
            ) from None
        _add_entries(distribution, modules, libraries)
        waiting += _requirements(distribution)
    return PackagePaths(modules=modules, libraries=libraries)


def _add_entries(distribution: importlib.metadata.Distribution, modules: dict[str, str], libraries: list[str]) -> None:
    """Adds a distribution's top-level packages, modules and library folders."""
    tops = {f.parts[0] for f in distribution.files or () if not f.parts[0].startswith((".", "__"))}
    for top in sorted(tops):
        where = os.path.realpath(str(distribution.locate_file(top)))
        if os.path.isfile(os.path.join(where, "__init__.py")):
            modules[top] = where
        elif top.endswith(".libs") and os.path.isdir(where):
            libraries.append(where)
        elif os.path.isfile(where) and top.endswith((".py", *importlib.machinery.EXTENSION_SUFFIXES)):
            modules[top.split(".")[0]] = where


def _requirements(distribution: importlib.metadata.Distribution) -> list[str]:
    """Names of unconditional requirements that are installed (extras and other platforms' are left out)."""
    names = []
    for line in distribution.requires or ():
        requirement, _, marker = line.partition(";")
        found = re.match(r"[A-Za-z0-9._-]+", requirement.strip())
        if found and not marker.strip():
            names.append(found[0])
    return names


def _own_uids() -> tuple[int | None, int]:
    """(first id, count) of user ids for children where we are root and they are mapped, else (None, 1)."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0 or sys.platform != "linux":
        return None, 1
    spans = [tuple(map(int, line.split())) for line in Path("/proc/self/uid_map").read_text().splitlines()]
    for first, count in (_HIGH_UIDS, _LOW_UIDS, _NOBODY):
        if any(inside <= first and first + count <= inside + size for inside, _, size in spans):
            return first, count
    return None, 1


def _bwrap_command(packages: Iterable[str], libraries: Iterable[str]) -> tuple[str, ...]:
    """Puts bubblewrap around a zygote: all namespaces, a minimal read-only root, no capability but to drop rights.

    As root, the zygote keeps SETUID, SETGID and KILL, so that each child gets a user id of its own and
    can still be killed; children lose them with the user id. Without root there is a user namespace.

    Raises:
        InputError: Bwrap is not installed.
    """
    bwrap = shutil.which("bwrap")
    if bwrap is None:
        raise InputError(f"sandbox='bwrap' needs bubblewrap, which is not installed; run: {INSTALL_BWRAP}")
    stdlib = stdlib_folders()[0]
    command = [bwrap, "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"]
    if os.geteuid() == 0:
        for capability in ("CAP_SETUID", "CAP_SETGID", "CAP_KILL"):
            command += ["--cap-add", capability]
    else:
        command += ["--unshare-user"]
    for folder in ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache"):
        command += ["--ro-bind-try", folder, folder]
    libpython = (Path(interpreter()).parent.parent / "lib").glob("libpython*.so*")
    bound = [interpreter(), *map(str, sorted(libpython)), stdlib, str(CHILD), *packages, *libraries]
    for folder in sorted({str(parent) for path in bound for parent in Path(path).parents} - {"/"}):
        command += ["--perms", "0755", "--dir", folder]
    for path in bound:
        command += ["--ro-bind", path, path]
    for third_party in ("site-packages", "dist-packages"):
        if os.path.isdir(os.path.join(stdlib, third_party)):
            command += ["--tmpfs", os.path.join(stdlib, third_party)]
    command += ["--dev", "/dev", "--remount-ro", "/dev", "--remount-ro", "/", "--chdir", "/", "--new-session", "--"]
    return tuple(command)


def secrets_in(environment: Mapping[str, str]) -> list[str]:
    """Names of variables that hold keys."""
    return sorted(name for name, value in environment.items() if value and _SECRET.search(name))
