"""A run directory: what a run is, what it did, and whether this command may go on with it.

RunConfig → **run directory** → resume, report
"""

from __future__ import annotations

import fcntl
import importlib.metadata
import json
import platform
import subprocess
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from w4s_jax.files import write_whole
from w4s_jax.run.config import RunConfig
from w4s_jax.run.options import name_and_text, options
from w4s_jax.types import InputError, StoreError, W4sError

MAY_CHANGE_ON_RESUME = frozenset(
    {name for name, option in options(RunConfig).items() if not option.decides_results}
    | {"json_out", "dry_run", "output_dir", "flagfile"}
)
"""Options that decide no result (beyond rounding); every other one is refused on an existing run directory."""

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
        self.trackers = root / "trackers.json"
        self.versions = root / "versions.json"

    @contextmanager
    def opened(
        self,
        lines: Mapping[str, str],
        may_change: Collection[str] = MAY_CHANGE_ON_RESUME,
        comments: Collection[str] = (),
    ) -> Iterator[bool]:
        """Claims the directory for this process; yields whether it holds an earlier part of this run.

        Args:
            lines: Every option of the command by name, as `--name=value`; see `options.to_lines`.
            may_change: Names of options that may have another value than before.
            comments: Lines for people, written before the options.

        Raises:
            InputError: Another process is running here, or an option that decides results differs.
            StoreError: The folder cannot be written.
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
                self._refuse_other_flags(lines, may_change)
            written = [*(f"# {comment}" for comment in comments), *lines.values()]
            self.write(self.flags, "".join(f"{line}\n" for line in written))
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

    def _refuse_other_flags(self, lines: Mapping[str, str], may_change: Collection[str]) -> None:
        before = {name_and_text(line)[0]: line for line in self.flags.read_text().splitlines()}
        before.pop("", None)
        differing = sorted(
            name
            for name in before.keys() | lines.keys()
            if name not in may_change and before.get(name, _default_line(name)) != lines.get(name, _default_line(name))
        )
        if differing:
            changes = "; ".join(f"{before.get(n, f'no --{n}')} became {lines.get(n, f'no --{n}')}" for n in differing)
            raise InputError(
                f"--run_dir={self.root} holds a run with other flags: {changes}; give those, or another --run_dir"
            )

    @staticmethod
    def write(path: Path, text: str) -> None:
        """Writes a whole file or nothing.

        Raises:
            StoreError: No space, no permission.
        """
        try:
            write_whole(path, text)
        except OSError as error:
            raise StoreError(f"cannot write {path}: {error.strerror}; free space or give another path") from None

    def write_json(self, path: Path, value: Mapping[str, Any]) -> None:
        """Writes a JSON object with `schema_version`."""
        self.write(path, _as_text(value))

    def holds(self, path: Path) -> bool:
        """Whether a path is a file of the run itself, or lies in a folder of it."""
        own = {file.resolve() for file in vars(self).values()} - {self.root.resolve()}
        return bool(own & {path, *path.parents})


def write_out(json_out: str, value: Mapping[str, Any], run: RunDirectory | None = None) -> None:
    """Writes a result where `--json_out` says; a pipe or a device is written to as it is.

    Args:
        json_out: A path; empty for nowhere.
        value: The result.
        run: Whose files it must not name.

    Raises:
        InputError: It names one of them.
        StoreError: It cannot be written.
    """
    if not json_out:
        return
    given = Path(json_out)
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


def _default_line(name: str) -> str:
    """What a run says of an option that its command did not know; empty for none of ours."""
    known = options(RunConfig)
    return known[name].line(RunConfig()) if name in known else ""


def flags_of(root: Path) -> dict[str, str]:
    """The texts, by name, of the options that a run directory was made with."""
    pairs = map(name_and_text, RunDirectory(root).flags.read_text().splitlines())
    return {name: text for name, text in pairs if name}


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
    here = Path(__file__).resolve().parent.parent.parent
    if not (here / ".git").exists():  # installed: whatever repository lies around it is not ours
        return ""
    try:
        found = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, timeout=5, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return found.stdout.strip()
