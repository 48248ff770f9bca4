"""A run directory: what a run is, what it did, and whether this command may go on with it.

flags → **run directory** → resume, report
"""

from __future__ import annotations

import fcntl
import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from absl import flags

from experiments.flags import MAY_CHANGE_ON_RESUME
from w4s_jax.types import InputError, StoreError, W4sError

PACKAGES = ("w4s_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "transformers", "numpy", "openai")


class RunDirectory:
    """Paths and small files of one run."""

    def __init__(self, root: Path):
        """Names the files below `root`; touches nothing."""
        self.root = root
        self.flags = root / "run.flags"
        self.trajectories = root / "trajectories.jsonl"
        self.segments = root / "segments"
        self.commands = root / "commands"
        self.metrics = root / "metrics.jsonl"
        self.calls = root / "calls.sqlite"
        self.outcomes = root / "outcomes.sqlite"
        self.checkpoints = root / "checkpoints"
        self.workflows = root / "workflows"
        self.hf = root / "hf"
        self.summary = root / "summary.json"
        self.report = root / "report.html"
        self.tensorboard = root / "tensorboard"
        self.versions = root / "versions.json"

    @contextmanager
    def opened(
        self, serialized: Mapping[str, str], may_change: Collection[str] = MAY_CHANGE_ON_RESUME
    ) -> Iterator[bool]:
        """Claims the directory for this process; yields whether it holds an earlier part of this run.

        Args:
            serialized: every key flag by name, as `--name=value`.
            may_change: names of flags that may have another value than before.

        Raises:
            InputError: another process is running here, or a flag that decides results differs.
            StoreError: the folder cannot be written.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            lock = open(self.root / ".lock", "w")  # noqa: SIM115 - held for the whole run
        except OSError as error:
            raise StoreError(f"run directory {self.root}: {error.strerror}; give another --run_dir") from None
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise InputError(
                    f"--run_dir={self.root} is in use by another process; wait for it or give another"
                ) from None
            resumed = self.flags.exists()
            if resumed:
                self._refuse_other_flags(serialized, may_change)
            self.write(self.flags, "".join(f"{line}\n" for line in serialized.values()))
            try:
                yield resumed
            except W4sError:
                if not resumed and not self._begun():
                    self.flags.unlink(missing_ok=True)  # the command may be corrected; what it bought is kept
                raise

    def _begun(self) -> bool:
        """Whether a turn or a checkpoint was made, which other flags would not have made."""
        turns = self.trajectories.exists() and self.trajectories.stat().st_size > 0
        return turns or (self.checkpoints.is_dir() and any(self.checkpoints.iterdir()))

    def _refuse_other_flags(self, serialized: Mapping[str, str], may_change: Collection[str]) -> None:
        before = dict(_name_and_line(line) for line in self.flags.read_text().splitlines() if line.startswith("--"))
        differing = sorted(
            name
            for name in before.keys() | serialized.keys()
            if name not in may_change and before.get(name) != serialized.get(name)
        )
        if differing:
            shown = "; ".join(
                f"{before.get(n, f'no --{n}')} became {serialized.get(n, f'no --{n}')}" for n in differing
            )
            raise InputError(
                f"--run_dir={self.root} holds a run with other flags: {shown}; give those, or another --run_dir"
            )

    @staticmethod
    def write(path: Path, text: str) -> None:
        """Writes a whole file or nothing.

        Raises:
            StoreError: no space, no permission.
        """
        partial = path.with_name(path.name + ".partial")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(partial, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise StoreError(f"cannot write {path}: {error.strerror}; free space or give another path") from None

    def write_json(self, path: Path, value: Mapping[str, Any]) -> None:
        """Writes a JSON object with `schema_version`."""
        self.write(path, _as_text(value))

    def holds(self, path: Path) -> bool:
        """Whether a path is a file of the run itself, or lies in a folder of it."""
        own = {file.resolve() for file in vars(self).values()} - {self.root.resolve()}
        return bool(own & {path, *path.parents})


def write_out(value: Mapping[str, Any], run: RunDirectory | None = None) -> None:
    """Writes what `--json_out` asks for, if it does; a pipe or a device is written to as it is.

    Args:
        value: the result.
        run: whose files it must not name.

    Raises:
        InputError: it names one of them.
        StoreError: it cannot be written.
    """
    if not flags.FLAGS.json_out:
        return
    given = Path(flags.FLAGS.json_out)
    if run is not None and run.holds(given.resolve()):
        raise InputError(f"--json_out={given} is a file of the run itself; give another")
    if not given.is_relative_to("/dev") and (given.is_file() or not given.exists()):
        RunDirectory.write(given.resolve(), _as_text(value))
        return
    try:
        with open(given, "a", encoding="utf-8") as file:
            file.write(_as_text(value))
    except OSError as error:
        raise StoreError(f"--json_out={given} cannot be written: {error.strerror}; give another") from None


def _as_text(value: Mapping[str, Any]) -> str:
    return json.dumps({"schema_version": 1, **value}, indent=1, allow_nan=False) + "\n"


def _name_and_line(line: str) -> tuple[str, str]:
    name = line.removeprefix("--").split("=", 1)[0]
    return name.removeprefix("no") if "=" not in line and name.startswith("no") else name, line


def flags_of(root: Path) -> dict[str, str]:
    """The values, by name, of the flags that a run directory was made with; switches are left out."""
    lines = RunDirectory(root).flags.read_text().splitlines()
    return dict(line.removeprefix("--").split("=", 1) for line in lines if "=" in line)


def serialized_flags(modules: Sequence[str]) -> dict[str, str]:
    """Every key flag of the given modules by name, as a line that sets it again."""
    found: dict[str, str] = {}
    for module in modules:
        for flag in flags.FLAGS.get_key_flags_for_module(module):
            if flag.name not in ("run_dir", "flagfile", "dry_run") and (line := flag_line(flag)):
                found[flag.name] = line
    return dict(sorted(found.items()))


def flag_line(flag: flags.Flag) -> str:
    """The line of a flag file that sets a flag again; empty where it has no value."""
    if flag.value is None:
        return ""
    return " ".join((flag.serialize() or f"--{flag.name}=").splitlines())  # a flag file holds a flag a line


def versions() -> dict[str, Any]:
    """What code runs here."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": found,
        "commit": _commit(),
    }


def _commit() -> str:
    here = Path(__file__).resolve().parent
    try:
        found = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, timeout=5, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return found.stdout.strip()
