"""What is plotted of a run: names and axes, the same in TensorBoard and in every tracker.

Callback → **Series** → TensorBoard, trackers

`train/…` by update, `rollout/…` by round and `rollout/turns/…` by turn of the training's trajectories,
`validation/…` by turn of a search, `test/…` once, `summary/…` at the end.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from w4s_jax.reports.record import Phase
from w4s_jax.run.callbacks import FinishedTurn, Metrics
from w4s_jax.run.closing import Result, labelled, pooled


@dataclasses.dataclass(frozen=True, kw_only=True)
class Series:
    """One point of several curves that share an axis."""

    name: str
    """What their names begin with."""
    axis: str
    """What `step` counts; empty for what is measured once."""
    step: int
    values: Mapping[str, float]

    def named(self) -> dict[str, float]:
        """The values by their full names."""
        return {f"{self.name}/{name}": value for name, value in self.values.items()}


def of_update(metrics: Metrics) -> Series:
    """Of an optimiser step."""
    return Series(name="train", axis="step", step=metrics.step, values=metrics.values)


def of_round(metrics: Metrics) -> Series:
    """Of a round; two rounds may end after the same update, so the round counts."""
    return Series(name="rollout", axis="round", step=metrics.round, values=metrics.values)


def of_turn(finished: FinishedTurn) -> Series:
    """Of a turn: of a search by its own number, of the training's many trajectories by how many there are."""
    if finished.phase is Phase.TRAINING:
        return Series(name="rollout/turns", axis="turn", step=finished.turns, values=finished.values)
    search = "" if finished.phase is Phase.SEARCH else f"{finished.phase}/"
    return _of_search(search, finished.turn.task, finished.turn.turn + 1, finished.values)


def _of_search(search: str, task: str, turn: int, values: Mapping[str, float]) -> Series:
    return Series(name=f"validation/{search}{_as_name(task)}", axis="turn", step=turn, values=values)


def of_results(results: Sequence[Result]) -> Series:
    """Test scores by label, of all its tasks together and of each."""
    found = {}
    for label in dict.fromkeys(result.finalist.label for result in results):
        of_label = labelled(results, label)
        found[f"{label}/score"] = pooled(of_label).value
        found |= {f"{label}/{_as_name(r.finalist.task)}/score": pooled([r]).value for r in of_label}
    return Series(name="test", axis="", step=0, values=found)


def of_summary(summary: Mapping[str, Any]) -> dict[str, float]:
    """The main numbers of a summary: what was spent, the gains on test, the best of each search."""
    spent = ("usd", "calls", "cache_hits", "prompt_tokens", "completion_tokens", "seconds")
    found = {f"summary/{name}": float(summary[name]) for name in spent}
    for name, gain in summary.get("gains", {}).items():
        found[f"summary/gain/{name}"] = gain["difference"]
    for task, search in summary.get("searches", {}).items():
        found[f"summary/{_as_name(task)}/best_score"] = search["best"]["validation_score"]
        found[f"summary/{_as_name(task)}/turns"] = search["turns"]
    return found


def recorded(path: Path) -> Iterator[Series]:
    """What `metrics.jsonl` holds, for a tracker that has not seen it; nothing where there is no file."""
    if not path.exists():
        return
    for line in path.read_text(encoding="utf-8").splitlines():
        values = json.loads(line)
        kind, round_, step = (values.pop(name) for name in ("kind", "round", "step"))
        match kind:
            case "update":
                yield of_update(Metrics(round=round_, step=step, values=values))
            case "round":
                yield of_round(Metrics(round=round_, step=step, values=values))
            case "turn":
                yield _of_search("", values.pop("task"), step, values)


def _as_name(task: str) -> str:
    """A task's name as a part of a curve's name, which MLflow restricts."""
    return re.sub(r"[^\w.-]", "_", task)
