"""Everything of a run directory that a report speaks of, as far as it is there.

run directory → **RunRecord** → findings → sections → page

A run that was killed has some of its files; what is missing or damaged is said in
`missing` and never ends the report.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from w4s_jax.reports.spending import Spending, read_spending
from w4s_jax.rollout.store import FILE_NAME, read_trajectories
from w4s_jax.types import InputError, StoreError, Trajectory

Json = Mapping[str, Any]


class Phase(enum.StrEnum):
    """When trajectories were collected."""

    BEFORE = "before"
    TRAINING = "training"
    AFTER = "after"
    SEARCH = "search"
    """Of a run that trains nothing."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunRecord:
    """One run, as its directory holds it."""

    name: str
    """Of the folder."""
    flag_lines: tuple[str, ...] = ()
    """`run.flags`, line by line."""
    versions: Json = dataclasses.field(default_factory=dict)
    summary: Json = dataclasses.field(default_factory=dict)
    """Empty until the run is finished."""
    rounds: tuple[Json, ...] = ()
    """Statistics by round."""
    updates: tuple[Json, ...] = ()
    """Metrics by optimiser update."""
    trajectories: tuple[Trajectory, ...] = ()
    spending: Spending | None = None
    missing: tuple[str, ...] = ()
    """A sentence for every part that is not there."""

    @functools.cached_property
    def flags(self) -> dict[str, str]:
        """Flags by name; switches are `true` or `false`."""
        return dict(_flag(line) for line in self.flag_lines if line.startswith("--"))

    @property
    def simulated(self) -> bool:
        """Whether the executor was a simulation."""
        if "simulated" in self.summary:
            return bool(self.summary["simulated"])
        if self.spending is not None and self.spending.rows:
            return self.spending.simulated
        return self.flags.get("executor") == "simulated"

    def phase(self, trajectory: Trajectory) -> Phase:
        """When a trajectory was collected; rounds 1 to the last train, 0 stands before them."""
        planned = self.flags.get("num_rounds", "")
        if not planned.isdecimal():
            return Phase.SEARCH
        last = 1 if self.flags.get("trajectories") else int(planned)
        if trajectory.round == 0:
            return Phase.BEFORE
        return Phase.TRAINING if trajectory.round <= last else Phase.AFTER

    def of(self, phase: Phase) -> tuple[Trajectory, ...]:
        """Trajectories of one phase, in planned order."""
        return tuple(t for t in self.trajectories if self.phase(t) is phase)

    def seed_score(self, task: str) -> float | None:
        """Validation score of a task's best seed workflow; None until the run is finished."""
        found = validation_score(self.summary.get("seeds", {}).get("by_task", {}).get(task, {}))
        if found is None:
            found = validation_score(self.summary.get("searches", {}).get(task, {}).get("seed", {}))
        return None if found is None else float(found)


def validation_score(chosen: Json) -> float | None:
    """Of a chosen workflow in a summary; the first version of summaries called it `validation_accuracy`."""
    found = chosen.get("validation_score", chosen.get("validation_accuracy"))
    return None if found is None else float(found)


def read_run(run_dir: Path) -> RunRecord:
    """Reads a run directory.

    Raises:
        InputError: There is no such folder, or nothing of a run is in it.
    """
    if not run_dir.is_dir():
        raise InputError(f"run directory {run_dir} is not a folder; give the --run_dir of a run")
    missing: list[str] = []
    record = RunRecord(
        name=run_dir.resolve().name,
        flag_lines=_lines(run_dir / "run.flags", missing),
        versions=_object(run_dir / "versions.json", missing),
        summary=_object(run_dir / "summary.json", missing),
        spending=_spending(run_dir / "calls.sqlite", missing),
        trajectories=_trajectories(run_dir, missing),
    )
    trains = "num_rounds" in record.flags or not record.flag_lines
    metrics = _records(run_dir / "metrics.jsonl", missing) if trains or (run_dir / "metrics.jsonl").exists() else None
    if not (record.flag_lines or record.summary or record.trajectories or metrics):
        raise InputError(f"run directory {run_dir} holds no run; give the --run_dir of one")
    if metrics is None and record.summary:
        metrics = [
            {"kind": "round", "round": n, **values} for n, values in enumerate(record.summary.get("rounds", []), 1)
        ]
    return dataclasses.replace(
        record,
        rounds=tuple(_round(m) for m in metrics or () if m.get("kind") == "round"),
        updates=tuple(m for m in metrics or () if m.get("kind") == "update"),
        missing=tuple(missing),
    )


def _round(record: Json) -> Json:
    """Statistics of a round; before `mean_score` there was one mean, called `mean_accuracy`."""
    return record if "mean_accuracy" not in record else {"mean_score": record["mean_accuracy"], **record}


_WITHOUT = {
    "summary.json": "the run is not finished, so nothing is known of the test split yet",
    "versions.json": "what code and models ran is not known",
    "run.flags": "the flags are not known",
    "metrics.jsonl": "there is no learning curve by update",
}
"""What a missing file means for the page."""


def _text(path: Path, missing: list[str]) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        missing.append(f"{path.name} is missing: {_WITHOUT[path.name]}.")
    except OSError as error:
        missing.append(f"{path.name} cannot be read ({error.strerror}): {_WITHOUT[path.name]}.")
    return None


def _lines(path: Path, missing: list[str]) -> tuple[str, ...]:
    return tuple((_text(path, missing) or "").splitlines())


def _object(path: Path, missing: list[str]) -> Json:
    text = _text(path, missing)
    if text is None:
        return {}
    try:
        found = json.loads(text)
    except ValueError as error:
        missing.append(f"{path.name} is damaged ({error}): {_WITHOUT[path.name]}.")
        return {}
    return found if isinstance(found, dict) else {}


def _records(path: Path, missing: list[str]) -> list[Json] | None:
    """Whole lines; a torn last one is of a killed run and made again."""
    text = _text(path, missing)
    if text is None:
        return None
    found = []
    for number, line in enumerate(text[: text.rfind("\n") + 1].splitlines(), 1):
        try:
            found.append(json.loads(line))
        except ValueError as error:
            missing.append(f"{path.name}, line {number} is damaged and left out ({error}).")
    return [record for record in found if isinstance(record, dict)]


def _trajectories(run_dir: Path, missing: list[str]) -> tuple[Trajectory, ...]:
    if not (run_dir / FILE_NAME).exists():
        missing.append(f"{FILE_NAME} is missing: no search can be shown.")
        return ()
    try:
        return tuple(read_trajectories([run_dir]))
    except StoreError as error:
        missing.append(f"No search can be shown: {error}.")
        return ()


def _spending(path: Path, missing: list[str]) -> Spending | None:
    try:
        return read_spending(path)
    except StoreError as error:
        missing.append(f"{error}.")
        return None


def _flag(line: str) -> tuple[str, str]:
    name, equals, value = line.removeprefix("--").partition("=")
    if equals:
        return name, value
    return (name.removeprefix("no"), "false") if name.startswith("no") else (name, "true")
