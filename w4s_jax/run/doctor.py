"""What works on this machine, as records with a remedy each.

packages, devices, sandbox layers, keys, disk → **examine** → Check, … → format_checks → a table

The sandbox's back ends are started, the packaged meta-agent is loaded; keys are looked for
and never shown. It runs without the `train` extra and says that it is missing.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import importlib.metadata
import importlib.util
import io
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from w4s_jax.errors import first_line
from w4s_jax.sandbox import open_sandbox
from w4s_jax.types import Limits, RunStatus, SolverInput, W4sError, Workflow

ROOT = Path(__file__).resolve().parents[2]
"""The checkout, or the folder that the package is installed in."""
GIB = 2**30
MIN_PYTHON = (3, 11)
MIN_DISK, MIN_MEMORY = GIB // 2, GIB * 3 // 2
"""Bytes that the quickstart needs."""
KEYS = {
    "OPENAI_API_KEY": "for --executor=openai away from loopback",
    "OPENAI_BASE_URL": "for a server other than OpenAI's; --executor_base_url does the same",
    "META_AGENT_API_KEY": "for --meta_agent=api:MODEL at another address than the executor's",
    "HF_TOKEN": "for gated tasks and models of the Hugging Face hub",
}
TRAIN_REMEDY = "make setup, or: pip install -e '.[train]'"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Check:
    """One line of the table."""

    name: str
    ok: bool
    found: str
    """What there is, in a few words."""
    remedy: str = ""
    """What to do where it is missing."""
    needed: bool = False
    """Whether the quickstart needs it."""


# --- Python and packages --------------------------------------------------------


def check_python() -> Check:
    """The interpreter."""
    return Check(
        name="python",
        ok=sys.version_info >= MIN_PYTHON,
        found=f"{platform.python_version()} at {sys.executable}",
        remedy="install Python 3.11 or later, then make setup",
        needed=True,
    )


def check_packages() -> Iterator[Check]:
    """What the package asks for, a line an extra, with what is absent or does not fit."""
    source, requirements = package_requirements()
    for extra, name, remedy in (
        ("", "host packages", "make setup, or: pip install -e ."),
        ("train", "train packages", TRAIN_REMEDY),
        ("dev", "dev packages", "make setup, or: pip install -e '.[dev]'"),
    ):
        wanted = requirements.get(extra, [])
        wrong = [lack for requirement in wanted if (lack := unmet(requirement))]
        total = sum(not requirement.startswith("w4s_jax[") for requirement in wanted)
        yield Check(
            name=name,
            ok=not wrong,
            found=f"{total} of {total} fit {source}" if not wrong else "; ".join(wrong),
            remedy=remedy,
            needed=not name.startswith("dev"),
        )


def package_requirements(root: Path = ROOT) -> tuple[str, dict[str, list[str]]]:
    """What the package asks for: by the checkout's `pyproject.toml`, else as it is installed.

    Args:
        root: Where the checkout would be.

    Returns:
        Its source, and the requirements of each extra; those of none under the empty name.
    """
    file = root / "pyproject.toml"
    if file.exists():
        project = tomllib.loads(file.read_text(encoding="utf-8"))["project"]
        return file.name, {"": project["dependencies"], **project["optional-dependencies"]}
    found: dict[str, list[str]] = {}
    for line in importlib.metadata.requires("w4s_jax") or []:
        requirement, _, marker = line.partition(";")
        extra = re.search(r"extra == ['\"]([\w-]+)['\"]", marker)
        found.setdefault(extra[1] if extra else "", []).append(requirement.strip())
    return "what w4s_jax asks for", found


def unmet(requirement: str) -> str:
    """Why a requirement is not met; empty where it is.

    Example:
        >>> unmet("numpy>=1.0"), unmet("numpy>=99"), unmet("no-such-package[all]>=1")  # doctest: +ELLIPSIS
        ('', 'numpy ... is older than 99', 'no-such-package is not installed')
    """
    parts = re.match(r"([\w.-]+)(?:\[[\w,-]*\])?(?:>=([\d.]+))?", requirement)
    if parts is None:
        return f"{requirement} cannot be read"
    name, least = parts.groups()
    if name == "w4s_jax":  # an extra of our own, which has its own line
        return ""
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return f"{name} is not installed"
    return "" if least is None or _numbers(version) >= _numbers(least) else f"{name} {version} is older than {least}"


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version.split("+")[0])[:3])


# --- devices --------------------------------------------------------------------


def check_devices() -> Iterator[Check]:
    """JAX with its devices, and what compiles for chips that are not there."""
    try:
        import jax

        from w4s_jax.preflight.described import CUDA_PLUGINS
    except ImportError as error:
        yield Check(name="jax", ok=False, found=f"cannot be imported ({error})", remedy=TRAIN_REMEDY, needed=True)
        return
    try:
        devices = jax.devices()
    except RuntimeError as error:
        yield Check(
            name="jax",
            ok=False,
            found=first_line(error),
            remedy="JAX_PLATFORMS=cpu, or jax's runtime for this accelerator: make cuda, or make tpu",
            needed=True,
        )
        return
    kinds = ", ".join(dict.fromkeys(device.device_kind for device in devices))
    yield Check(name="jax", ok=True, found=f"{len(devices)} {devices[0].platform} device(s): {kinds}", needed=True)
    compilers = [("libtpu", ("libtpu",), "TPU", "tpu"), ("CUDA plugin", CUDA_PLUGINS, "GPU", "cuda")]
    for name, modules, chip, target in compilers:
        found = any(map(importlib.util.find_spec, modules))
        yield Check(
            name=name,
            ok=found,
            found="installed" if found else "not installed",
            remedy=f"with a {chip}: make {target}; without one only preflight for it needs this: make aot",
        )


# --- the sandbox ----------------------------------------------------------------


async def check_sandbox() -> list[Check]:
    """Every back end, started and asked to run a workflow."""
    tried = {name: await _tried(name) for name in ("bwrap", "guard", "process")}
    remedies = {
        "bwrap": "apt-get install -y bubblewrap, where the kernel allows namespaces",
        "guard": "a Linux kernel of 5.13 or later with Landlock and seccomp",
        "process": "",
    }
    adds = {"bwrap": "namespaces; in every child ", "guard": "in every child ", "process": "stops nothing hostile: "}
    chosen = next((name for name in ("bwrap", "guard") if not tried[name].fault), "none")
    return [
        *(
            Check(
                name=f"sandbox {name}",
                ok=not found.fault,
                found=found.fault or adds[name] + ", ".join(found.layers),
                remedy=remedies[name],
            )
            for name, found in tried.items()
        ),
        Check(
            name="sandbox auto",
            ok=chosen != "none",
            found=f"takes {chosen}",
            remedy="one of the two lines above; --sandbox=process only for code that you trust",
            needed=True,
        ),
    ]


class _Tried(NamedTuple):
    """What became of a back end that was asked to run a workflow."""

    fault: str
    """Empty where it worked."""
    layers: tuple[str, ...] = ()


async def _tried(name: str) -> _Tried:
    workflow = Workflow(name="doctor", code="def solver(agent, task):\n    return {'answer': task[::-1]}\n")
    limits = Limits(wall_seconds=30.0)

    async def ask(call: object) -> list[str]:
        return []

    try:
        with contextlib.redirect_stderr(io.StringIO()):
            async with open_sandbox(name, packages=(), workers=1, allow_unsafe=True) as sandbox:
                run = await sandbox.run_workflow(workflow, SolverInput(question="ok"), ask, limits)
    except W4sError as error:
        return _Tried(first_line(error))
    if (run.status, run.answer) != (RunStatus.OK, "ko"):
        return _Tried(f"a workflow ended with {run.status} {run.error}")
    return _Tried("", sandbox.layers)


# --- the machine ----------------------------------------------------------------


def check_machine() -> Iterator[Check]:
    """Cores, memory, disk, loopback."""
    yield Check(name="cores", ok=True, found=str(_cores()))
    memory = available_memory()
    yield Check(
        name="memory",
        ok=memory is None or memory >= MIN_MEMORY,
        found="unknown" if memory is None else f"{memory / GIB:.1f} GiB available",
        remedy=f"free {MIN_MEMORY / GIB:.1f} GiB",
        needed=True,
    )
    yield _check_disk("disk here", Path.cwd(), needed=True)
    yield _check_disk("disk of hub cache", _hub_cache(), needed=False)
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            socket.create_connection(server.getsockname(), timeout=5).close()
    except OSError as error:
        yield Check(
            name="loopback", ok=False, found=str(error), remedy="allow 127.0.0.1: simulate and the tests use it"
        )
    else:
        yield Check(name="loopback", ok=True, found="127.0.0.1 connects")


def _check_disk(name: str, folder: Path, *, needed: bool) -> Check:
    there = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(there).free
    return Check(
        name=name,
        ok=free >= MIN_DISK and os.access(there, os.W_OK),
        found=f"{free / GIB:.1f} GiB free at {there}" + ("" if os.access(there, os.W_OK) else ", not writable"),
        remedy=f"free {MIN_DISK / GIB:.1f} GiB there, or give another folder" + ("" if needed else " by HF_HOME"),
        needed=needed,
    )


def _hub_cache() -> Path:
    return Path(os.environ.get("HF_HUB_CACHE") or os.environ.get("HF_HOME") or "~/.cache/huggingface").expanduser()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def available_memory(
    meminfo: Path = Path("/proc/meminfo"), limit: Path = Path("/sys/fs/cgroup/memory.max")
) -> int | None:
    """Bytes that can be had: the machine's, or less where a control group says so.

    Args:
        meminfo: The kernel's account of the machine's memory.
        limit: The control group's limit, a number or `max`.

    Returns:
        None where `meminfo` is not there or does not say; older kernels and some containers leave the line out.
    """
    with contextlib.suppress(OSError):
        kibibytes = re.search(r"^MemAvailable:\s+(\d+)", meminfo.read_text(), re.MULTILINE)
        if kibibytes is not None:
            most = limit.read_text().strip() if limit.exists() else "max"
            return min(int(kibibytes[1]) * 1024, int(most) if most.isdigit() else sys.maxsize)
    return None


# --- keys, code, meta-agent -------------------------------------------------------


def check_keys() -> Iterator[Check]:
    """Whether keys are set; their values stay where they are."""
    for name, purpose in KEYS.items():
        found = bool(os.environ.get(name))
        yield Check(name=name, ok=found, found="set" if found else "not set", remedy=f"export {name}=…; {purpose}")


def check_commit() -> Check:
    """The commit that `versions.json` of a run will name."""
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, timeout=10, check=True
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        remedy = "clone with git, so that runs can name the code they ran"
        return Check(name="git commit", ok=False, found="unknown", remedy=remedy)
    return Check(name="git commit", ok=True, found=found)


def check_meta_agent() -> Check:
    """The packaged meta-agent, loaded as a run would."""
    try:
        import jax
        import jax.numpy as jnp

        from w4s_jax.policy.chat import Chat
        from w4s_jax.policy.hf import load_checkpoint
        from w4s_jax.policy.sharding import make_mesh
        from w4s_jax.run.models import TINY

        _, variables = load_checkpoint(TINY, make_mesh("", jax.devices()[:1]), jnp.float32)
        Chat.load(TINY)
    except ImportError as error:
        found = f"cannot be loaded ({first_line(error)})"
        return Check(name="tiny meta-agent", ok=False, found=found, remedy=TRAIN_REMEDY, needed=True)
    except (RuntimeError, OSError, ValueError) as error:
        remedy = "git checkout w4s_jax/policy/tiny, or: python -m experiments.warm_start --output_dir=DIR"
        return Check(name="tiny meta-agent", ok=False, found=first_line(error), remedy=remedy, needed=True)
    size = sum(leaf.size for leaf in jax.tree.leaves(variables))
    return Check(name="tiny meta-agent", ok=True, found=f"{size / 1e6:.2f} M parameters, loads", needed=True)


# --- the whole --------------------------------------------------------------------


def examine() -> list[Check]:
    """Every check, in the order of the table."""
    return [
        check_python(),
        *check_packages(),
        *check_devices(),
        check_meta_agent(),
        *asyncio.run(check_sandbox()),
        *check_machine(),
        *check_keys(),
        check_commit(),
    ]


def can_run(checks: Sequence[Check]) -> bool:
    """Whether the quickstart can run here."""
    return all(check.ok for check in checks if check.needed)


def to_json(checks: Sequence[Check]) -> dict[str, Any]:
    """The result for programs."""
    return {
        "schema_version": 1,
        "quickstart": can_run(checks),
        "checks": [dataclasses.asdict(check) for check in checks],
    }


def format_checks(checks: Sequence[Check]) -> str:
    """The table and its verdict."""
    width = max(len(check.name) for check in checks)
    lines = []
    for check in checks:
        lines.append(f"{'ok' if check.ok else 'missing':<8} {check.name:<{width}}  {check.found}")
        if not check.ok and check.remedy:
            lines.append(f"{'':<8} {'':<{width}}  → {check.remedy}")
    absent = [check.name for check in checks if check.needed and not check.ok]
    verdict = f"The quickstart cannot run here; it needs: {', '.join(absent)}." if absent else "The quickstart can run."
    return "\n".join([*lines, "", verdict])
