"""The run's metrics: `metrics.jsonl`, the record that programs and the report read.

StepRecord, round statistics, turns of a search → **metrics.jsonl** → report, trackers
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from w4s_jax.files import write_whole
from w4s_jax.reports.record import Phase
from w4s_jax.run.callbacks import Callback, FinishedTurn, Metrics
from w4s_jax.types import CandidateStatus, StoreError, Trajectory

if TYPE_CHECKING:  # a search without a local model has no JAX
    from w4s_jax.training.learner import StepRecord


class MetricsLog(Callback):
    """Appends one JSON line a record; lines behind a checkpoint are dropped on resume.

    A training run has a line an update and a round; what its turns scored stands in the rounds. A search,
    which has neither, has a line a turn (a kill between a turn and its line leaves the turn without one).
    """

    def __init__(self, path: Path, *, keep_rounds: int = 0) -> None:
        """Opens it; records of rounds after `keep_rounds` are removed, as they will be made again.

        Raises:
            StoreError: The file cannot be read or written.
        """
        self._path = path
        try:
            kept = [line for line in _whole_lines(path) if json.loads(line)["round"] <= keep_rounds]
            write_whole(path, "".join(f"{line}\n" for line in kept))
            self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 - open for the whole run
        except (OSError, ValueError) as error:
            raise StoreError(f"{path} cannot be used ({error}); remove it or free space") from None
        self.last_step: int = max((json.loads(line)["step"] for line in kept), default=-1)
        """The greatest step of what was kept; -1 for none."""

    def on_turn(self, finished: FinishedTurn) -> None:
        """Writes a turn of a search; see `Callback`."""
        if finished.phase is Phase.SEARCH:
            turn = finished.turn
            self.add("turn", round_=turn.round, step=turn.turn + 1, values={"task": turn.task, **finished.values})

    def on_update(self, metrics: Metrics) -> None:
        """Writes an update; see `Callback`."""
        self.add("update", round_=metrics.round, step=metrics.step, values=metrics.values)

    def on_round(self, metrics: Metrics) -> None:
        """Writes a round; see `Callback`."""
        self.add("round", round_=metrics.round, step=metrics.step, values=metrics.values)

    def add(self, kind: str, *, round_: int, step: int, values: Mapping[str, Any]) -> None:
        """Writes a record.

        Raises:
            StoreError: The disk is full.
        """
        record = {"kind": kind, "round": round_, "step": step, **values}
        try:
            self._file.write(json.dumps(record, allow_nan=False) + "\n")
            self._file.flush()
        except OSError as error:
            raise StoreError(f"cannot write {self._path}: {error.strerror}; free space and resume") from None

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def __enter__(self) -> Self:
        """Returns itself."""
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Closes the file."""
        self.close()


def _whole_lines(path: Path) -> list[str]:
    if not path.exists():
        return []
    text = path.read_text()
    return text[: text.rfind("\n") + 1].splitlines()


def step_values(record: StepRecord) -> dict[str, Any]:
    """What is logged of an update."""
    metrics = record.metrics
    return {
        "loss": metrics.loss,
        "nll_per_token": metrics.nll_per_token,
        "grad_norm": metrics.grad_norm,
        "learning_rate": metrics.learning_rate,
        "actions": metrics.num_actions,
        "effective_sample_size": record.effective_sample_size,
        "target_tokens": metrics.target_tokens,
        "tree_tokens": record.tree_tokens,
        "row_tokens": record.row_tokens,
        **metrics.measures,
    }


def round_values(trajectories: Sequence[Trajectory]) -> dict[str, Any]:
    """Statistics of the actions of a round: skipped ones count as reward 0, those that failed by us not at all."""
    candidates = [c for t in trajectories for turn in t.turns for c in turn.candidates]
    counted = [c for c in candidates if c.status is not CandidateStatus.FAILED]
    running = [c for c in counted if c.status is CandidateStatus.OK]
    total = sum(c.reward or 0.0 for c in running)
    return {
        "trajectories": len(trajectories),
        "actions": len(counted),
        "mean_reward": total / len(counted) if counted else 0.0,
        "running_share": len(running) / len(counted) if counted else 0.0,
        "reward_per_running": total / len(running) if running else 0.0,
        "mean_score": sum(c.score or 0.0 for c in running) / len(running) if running else 0.0,
        "mean_accuracy": sum(c.accuracy or 0.0 for c in running) / len(running) if running else 0.0,
        "repairs": sum(c.repairs for c in counted),
        "failed_by_us": len(candidates) - len(counted),
    }
