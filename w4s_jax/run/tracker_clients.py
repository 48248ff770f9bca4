"""Weights & Biases and MLflow as they are called: start or resume a tracked run, log, end it.

Tracked → **Client** → wandb, mlflow

Both packages are optional and imported only when a run starts. Neither client touches their global run, so that two
runs in one process keep apart. W&B gets one row a point, numbered by us, since offline it cannot know how many
an earlier process has written; the axis of each curve is a metric of its own.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from w4s_jax.run.series import Series

DEFAULT_PROJECT = "w4s_jax"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Start:
    """What a tracked run starts with."""

    project: str
    """Project of W&B, experiment of MLflow; empty: as the environment says, else `w4s_jax`."""
    name: str
    run_id: str
    """Of the tracked run to go on in; empty for a new one."""
    folder: Path
    """For what a tracker keeps on this machine."""


class Client(Protocol):
    """A tracker's client; any method may raise whatever the tracker's package raises."""

    name: str
    """As `--trackers` names it, and its package."""

    def start(self, start: Start, values: Mapping[str, Any]) -> str:
        """Starts or resumes a tracked run.

        Args:
            start: Where, and under which name.
            values: Options and versions of the run.

        Returns:
            The id that resumes it.
        """

    def log(self, point: Series, row: int) -> None:
        """Logs a point.

        Args:
            point: Its values and its place on their axis.
            row: How many points the tracked run has.
        """

    def summarise(self, values: Mapping[str, float]) -> None:
        """Sets the run's final numbers."""

    def end(self, finished: bool) -> None:
        """Ends the tracked run."""


class WandbClient:
    """Weights & Biases; `WANDB_MODE=offline` writes into the run directory, for `wandb sync`."""

    name = "wandb"

    def __init__(self) -> None:
        """Imports nothing yet."""
        self._run: Any = None
        self._defined: set[str] = set()

    def start(self, start: Start, values: Mapping[str, Any]) -> str:
        """See `Client`; neither the console nor the command line is sent, which may hold what is private."""
        import wandb

        self._run = wandb.init(
            project=start.project or os.environ.get("WANDB_PROJECT") or DEFAULT_PROJECT,
            name=start.name,
            id=start.run_id or None,
            resume="allow",
            reinit="create_new",
            dir=str(start.folder),
            config=dict(values),
            allow_val_change=True,
            settings=wandb.Settings(
                silent=True,
                console="off",
                save_code=False,
                x_disable_meta=True,
                x_transaction_log_flush_interval=1.0,  # a killed process loses a second of its file, not 15
            ),
        )
        return str(self._run.id)

    def log(self, point: Series, row: int) -> None:
        """See `Client`."""
        values: dict[str, float] = point.named()
        if point.axis:
            axis = f"{point.name}/{point.axis}"
            for name in sorted(values.keys() - self._defined):
                self._run.define_metric(name, step_metric=axis)
                self._defined.add(name)
            values[axis] = point.step
        self._run.log(values, step=row, commit=True)

    def summarise(self, values: Mapping[str, float]) -> None:
        """See `Client`."""
        self._run.summary.update(dict(values))

    def end(self, finished: bool) -> None:
        """See `Client`."""
        self._run.finish(exit_code=0 if finished else 1)


class MlflowClient:
    """MLflow; `MLFLOW_TRACKING_URI` says where, else `mlflow.db` in the working directory."""

    name = "mlflow"

    _BATCH = 100
    """The most that one request may hold of parameters."""
    _LONGEST = 500
    """Characters of a parameter that every store takes."""

    def __init__(self) -> None:
        """Imports nothing yet."""
        self._client: Any = None
        self._run_id = ""

    def start(self, start: Start, values: Mapping[str, Any]) -> str:
        """See `Client`; a parameter cannot change, so a resumed run adds only those that are new."""
        import mlflow
        from mlflow.entities import Param

        self._client = mlflow.MlflowClient()
        if start.run_id:
            self._client.update_run(start.run_id, status="RUNNING")
            self._run_id = start.run_id
        else:
            experiment = start.project or os.environ.get("MLFLOW_EXPERIMENT_NAME") or DEFAULT_PROJECT
            self._run_id = self._client.create_run(self._experiment(experiment), run_name=start.name).info.run_id
        known = self._client.get_run(self._run_id).data.params
        new = [Param(name, str(value)[: self._LONGEST]) for name, value in values.items() if name not in known]
        for number in range(0, len(new), self._BATCH):
            self._client.log_batch(self._run_id, params=new[number : number + self._BATCH])
        return self._run_id

    def _experiment(self, name: str) -> str:
        found = self._client.get_experiment_by_name(name)
        return str(self._client.create_experiment(name) if found is None else found.experiment_id)

    def log(self, point: Series, row: int) -> None:
        """See `Client`."""
        self._log(point.named(), point.step)

    def summarise(self, values: Mapping[str, float]) -> None:
        """See `Client`."""
        self._log(values, 0)

    def _log(self, values: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(name, float(value), now, step) for name, value in values.items()]
        self._client.log_batch(self._run_id, metrics=metrics)

    def end(self, finished: bool) -> None:
        """See `Client`."""
        self._client.set_terminated(self._run_id, "FINISHED" if finished else "KILLED")


CLIENTS: Mapping[str, Callable[[], Client]] = {"wandb": WandbClient, "mlflow": MlflowClient}
"""By the name that `--trackers` knows."""
