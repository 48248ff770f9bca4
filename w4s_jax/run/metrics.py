"""The run's metrics: `metrics.jsonl` for programs, TensorBoard for eyes.

StepRecord, round statistics → **metrics.jsonl** → report
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tensorboardX import SummaryWriter

from w4s_jax.files import write_whole
from w4s_jax.training.learner import StepRecord
from w4s_jax.types import CandidateStatus, StoreError, Trajectory


class MetricsLog:
    """Appends one JSON line a record; lines behind a checkpoint are dropped on resume."""

    def __init__(self, path: Path, tensorboard: Path, *, keep_rounds: int) -> None:
        """Opens both; records of rounds after `keep_rounds` are removed, as they will be made again.

        Raises:
            StoreError: the file cannot be read or written.
        """
        self._path = path
        try:
            kept = [line for line in _whole_lines(path) if json.loads(line)["round"] <= keep_rounds]
            write_whole(path, "".join(f"{line}\n" for line in kept))
            self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 - open for the whole run
        except (OSError, ValueError) as error:
            raise StoreError(f"{path} cannot be used ({error}); remove it or free space") from None
        steps = [json.loads(line)["step"] for line in kept]
        self._board = SummaryWriter(str(tensorboard), purge_step=max(steps, default=-1) + 1)

    def add(self, kind: str, *, round_: int, step: int, values: Mapping[str, Any]) -> None:
        """Writes a record and its numbers.

        Raises:
            StoreError: the disk is full.
        """
        record = {"kind": kind, "round": round_, "step": step, **values}
        try:
            self._file.write(json.dumps(record, allow_nan=False) + "\n")
            self._file.flush()
        except OSError as error:
            raise StoreError(f"cannot write {self._path}: {error.strerror}; free space and resume") from None
        for name, value in values.items():
            if isinstance(value, int | float):
                self._board.add_scalar(f"{kind}/{name}", value, step)

    def close(self) -> None:
        """Flushes both."""
        self._file.close()
        self._board.close()


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
