"""What watches a run: each finished turn, update and round, the test results and the end.

searches, rounds, closing evaluation → **Callback** → metrics.jsonl, TensorBoard, trackers, yours

Whatever records a run is a callback, so that a notebook's plot, an early stop and the run's own files see
the same. Departures from the usual hooks of training libraries: there is none before a step, and none can
change what the run does, except by raising.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from w4s_jax.mdp import best_tried
from w4s_jax.reports.record import Phase
from w4s_jax.run.closing import Result
from w4s_jax.run.config import RunConfig
from w4s_jax.types import CandidateStatus, State, Turn


@dataclasses.dataclass(frozen=True, kw_only=True)
class FinishedTurn:
    """A turn that is stored, with how its run stands after it."""

    turn: Turn
    phase: Phase
    """Which search it is of: before, in or after the training, or of a run that trains nothing."""
    best_score: float
    """Best validation score of its search so far, seeds included."""
    turns: int
    """Finished turns of the run, this one and those of earlier processes included."""
    usd: float
    """Spent by the run so far, in USD."""
    calls: int
    """Made by the run so far."""

    @property
    def values(self) -> dict[str, float]:
        """Its numbers by name; `score`, of the workflow that advances the state, only where one ran."""
        counted = [c for c in self.turn.candidates if c.status is not CandidateStatus.FAILED]
        chosen = [c.score for c in counted if c.index == self.turn.chosen and c.score is not None]
        found = {"best_score": self.best_score}
        if chosen:
            found["score"] = chosen[0]
        if counted:
            found["mean_reward"] = sum(c.reward or 0.0 for c in counted) / len(counted)
        return found | {"usd": self.usd, "calls": self.calls}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Metrics:
    """Numbers of an update or of a round, as a line of `metrics.jsonl` has them."""

    round: int
    """From 1."""
    step: int
    """Updates made so far."""
    values: Mapping[str, float]


class Callback:
    """Sees a run as it goes on; each method does nothing until it is overridden.

    All are called on the thread of the run's event loop, in order, so a slow one holds up the run. A run that
    is resumed calls for what it does now, not for what is stored. What a callback raises ends the run as
    that error; whatever has finished by then is stored, and the same call goes on from there.

    Example:
        >>> class Best(Callback):
        ...     score = 0.0
        ...     def on_turn(self, finished: FinishedTurn) -> None:
        ...         self.score = finished.best_score
    """

    def on_run_start(self, config: RunConfig, run_dir: Path) -> None:
        """Called before anything is paid, with what the config leaves open filled in."""

    def on_turn(self, finished: FinishedTurn) -> None:
        """Called once a turn, after it is stored; several searches may take turns."""

    def on_update(self, metrics: Metrics) -> None:
        """Called after each optimiser step."""

    def on_round(self, metrics: Metrics) -> None:
        """Called after a round's last update, before its checkpoint."""

    def on_test(self, results: Sequence[Result]) -> None:
        """Called after the closing evaluation on the test split, where there is one."""

    def on_run_end(self, summary: Mapping[str, Any]) -> None:
        """Called with what `summary.json` holds, unless an error or a signal ended the run."""


class Callbacks(Callback):
    """Several as one, called in the order they are given."""

    def __init__(self, *callbacks: Callback) -> None:
        """Joins them."""
        self._callbacks = callbacks

    def on_run_start(self, config: RunConfig, run_dir: Path) -> None:
        """See `Callback`."""
        for callback in self._callbacks:
            callback.on_run_start(config, run_dir)

    def on_turn(self, finished: FinishedTurn) -> None:
        """See `Callback`."""
        for callback in self._callbacks:
            callback.on_turn(finished)

    def on_update(self, metrics: Metrics) -> None:
        """See `Callback`."""
        for callback in self._callbacks:
            callback.on_update(metrics)

    def on_round(self, metrics: Metrics) -> None:
        """See `Callback`."""
        for callback in self._callbacks:
            callback.on_round(metrics)

    def on_test(self, results: Sequence[Result]) -> None:
        """See `Callback`."""
        for callback in self._callbacks:
            callback.on_test(results)

    def on_run_end(self, summary: Mapping[str, Any]) -> None:
        """See `Callback`."""
        for callback in self._callbacks:
            callback.on_run_end(summary)


def best_score(start: State, turns: Sequence[Turn]) -> float:
    """Best validation score of a search after some turns, seeds included."""
    return best_tried(start, turns).feedback.score
