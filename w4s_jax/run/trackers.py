"""A run in Weights & Biases or MLflow, by name: `--trackers=wandb,mlflow`.

Callback → Series → **queue → thread** → client (`run/tracker_clients.py`) → the tracker's server or files

A tracker is a mirror: `metrics.jsonl` stays the record. One that cannot start is an error, before anything is
paid; one that fails later costs one warning, and the run goes on without it. Each has a thread of its own, so
that a slow server holds up nothing. `trackers.json` in the run directory remembers the tracked runs and how far
each curve has come: a resumed run goes on in the same ones, sends no point twice, and catches up on what
`metrics.jsonl` has and a tracker lacks, be it because the run was killed or because the tracker is new.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import logging
import re
import threading
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from w4s_jax.errors import one_line
from w4s_jax.run import series
from w4s_jax.run.callbacks import Callback, FinishedTurn, Metrics
from w4s_jax.run.closing import Result
from w4s_jax.run.config import RunConfig, TrackingConfig
from w4s_jax.run.directory import RunDirectory
from w4s_jax.run.options import options
from w4s_jax.run.tracker_clients import CLIENTS, Client, Start
from w4s_jax.types import InputError, StoreError

_LOG = logging.getLogger(__name__)

_CLOSE_SECONDS = 60.0
"""The longest that the end of a run waits for a tracker."""


def refuse_missing(config: TrackingConfig) -> None:
    """Refuses a tracker whose package is not installed.

    Raises:
        InputError: It is not; says what to install.
    """
    for name in config.trackers:
        found = importlib.util.find_spec(name)
        if found is None or found.origin is None:  # a folder of that name, such as W&B leaves, is no package
            raise InputError(
                f"--trackers={name}: the package {name} is not installed; pip install 'w4s_jax[{name}]', "
                "or leave the tracker out"
            )


@contextlib.asynccontextmanager
async def open_trackers(
    config: RunConfig, directory: RunDirectory, names: Collection[str]
) -> AsyncIterator[list[Callback]]:
    """Starts the trackers of a run, or goes on in those that an earlier process has started; ends them all.

    Args:
        config: Of the run, checked.
        directory: Of the run; its `versions.json` and `metrics.jsonl` are written.
        names: Of the options that the command has; those with a value are sent.

    Raises:
        InputError: One cannot be started.
        StoreError: `trackers.json` cannot be read or written.
    """
    memory = TrackerMemory(directory)
    values = run_values(config, directory, names)
    tracked: list[Tracked] = []
    finished = False
    try:
        for name in config.tracking.trackers:
            tracked.append(Tracked(CLIENTS[name](), memory))
            await tracked[-1].start(config.tracking.tracker_project, directory.root, values)
        yield list(tracked)
        finished = True
    finally:
        for one in tracked:
            await one.end(finished=finished)


def run_values(config: RunConfig, directory: RunDirectory, names: Collection[str]) -> dict[str, Any]:
    """What a tracker is told of a run: options with a value and versions; no key, question or prompt.

    Args:
        config: Of the run.
        directory: Holds `versions.json`.
        names: Of the options that the command has.
    """
    known = options(RunConfig)
    given = {name: known[name].value(config) for name in sorted(names)}
    found = {name: _public(value) for name, value in given.items() if value not in (None, "", ())}
    versions = json.loads(directory.versions.read_text(encoding="utf-8"))
    packages = versions.pop("packages", {})
    plain = {name: value for name, value in versions.items() if isinstance(value, str)}
    agent = {f"meta_agent_{name}": value for name, value in versions.get("meta_agent", {}).items()}
    return found | {f"versions/{name}": value for name, value in (plain | agent | packages).items() if value}


def _public(value: Any) -> Any:
    """An option's value without what a URL may hold of a user and a key."""
    if isinstance(value, tuple):
        return [_public(part) for part in value]
    if isinstance(value, str) and "://" in value:
        return re.sub(r"(://)[^/@\s]*@|\?\S*", r"\1", value)
    return value


class TrackerMemory:
    """`trackers.json`: by tracker the id of the tracked run, its rows, and the last point of each curve."""

    def __init__(self, directory: RunDirectory) -> None:
        """Reads what an earlier process has left.

        Raises:
            StoreError: It cannot be read.
        """
        self._directory = directory
        self._lock = threading.Lock()
        self._known: dict[str, dict[str, Any]] = {}
        try:
            self._known = json.loads(directory.trackers.read_text(encoding="utf-8"))["trackers"]
        except FileNotFoundError:
            pass
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StoreError(f"{directory.trackers} cannot be used ({error}); remove it to track anew") from None

    def of(self, name: str) -> dict[str, Any]:
        """What is known of a tracker; empty where it has not started."""
        return self._known.setdefault(name, {})

    def keep(self, name: str, **values: Any) -> None:
        """Remembers values of a tracker.

        Raises:
            StoreError: It cannot be written.
        """
        with self._lock:
            self.of(name).update(values)
            self._directory.write_json(self._directory.trackers, {"trackers": self._known})


class Tracked(Callback):
    """Sends a run to one tracker, in order, from a thread of its own."""

    def __init__(self, client: Client, memory: TrackerMemory) -> None:
        """Starts nothing yet.

        Args:
            client: Called from the thread alone.
            memory: Of the run directory.
        """
        self._client, self._memory = client, memory
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=client.name)
        self._failed = False

    async def start(self, project: str, run_dir: Path, values: Mapping[str, Any]) -> None:
        """Starts a tracked run, or goes on in the one that the run directory names.

        Raises:
            InputError: It cannot be started.
            StoreError: `trackers.json` cannot be written.
        """
        name, known = self._client.name, self._memory.of(self._client.name)
        start = Start(project=project, name=run_dir.resolve().name, run_id=known.get("id", ""), folder=run_dir)
        begun = asyncio.wrap_future(self._thread.submit(self._client.start, start, values))
        await asyncio.wait([begun])
        error = begun.exception()
        if error is not None:
            self._failed = True
            why = one_line(f"{type(error).__name__}: {error}", 300)
            again = f"; its run is {start.run_id}, remove {run_dir}/trackers.json to begin another"
            raise InputError(
                f"--trackers={name} cannot start ({why}){again if start.run_id else ''}; "
                "see docs/tracking.md, or leave the tracker out"
            )
        self._memory.keep(name, **({"rows": 0, "logged": {}} | known | {"id": begun.result()}))

    def on_run_start(self, config: RunConfig, run_dir: Path) -> None:
        """Catches up on `metrics.jsonl`; see `Callback`."""
        self._send(self._catch_up, RunDirectory(run_dir).metrics)

    def on_turn(self, finished: FinishedTurn) -> None:
        """See `Callback`."""
        self._send(self._plot, series.of_turn, finished)

    def on_update(self, metrics: Metrics) -> None:
        """See `Callback`."""
        self._send(self._plot, series.of_update, metrics)

    def on_round(self, metrics: Metrics) -> None:
        """See `Callback`."""
        self._send(self._plot, series.of_round, metrics)

    def on_test(self, results: Sequence[Result]) -> None:
        """See `Callback`."""
        self._send(self._plot, series.of_results, results)

    def on_run_end(self, summary: Mapping[str, Any]) -> None:
        """See `Callback`."""
        self._send(self._summarise, summary)

    async def end(self, *, finished: bool) -> None:
        """Sends what is left and ends the tracked run; waits a minute at most.

        Args:
            finished: False where an error or a signal ended the run.
        """
        last = self._send(self._client.end, finished)
        if last is not None:
            sent = asyncio.wrap_future(last)
            await asyncio.wait([sent], timeout=_CLOSE_SECONDS)
            if sent.done():
                sent.exception()  # is said in `_warn_once`
            else:
                sent.cancel()  # nobody waits for it any more
                _LOG.warning("tracker %s: not all is sent after %.0f s", self._client.name, _CLOSE_SECONDS)
        self._thread.shutdown(wait=False, cancel_futures=True)

    # In the thread, what is sent is made there as well: no mistake in it can end the run.

    def _catch_up(self, metrics: Path) -> None:
        for point in series.recorded(metrics):
            self._send_new(point)

    def _plot(self, make: Callable[[Any], series.Series], seen: Any) -> None:
        self._send_new(make(seen))

    def _summarise(self, summary: Mapping[str, Any]) -> None:
        self._client.summarise(series.of_summary(summary))

    def _send_new(self, point: series.Series) -> None:
        """Sends a point, unless the tracker has it."""
        name = self._client.name
        known = self._memory.of(name)
        logged, last = known["logged"], known["logged"].get(point.name)
        newest = point.step if point.axis else dict(point.values)
        if last is not None and (newest <= last if point.axis else newest == last):
            return
        self._client.log(point, known["rows"])
        self._memory.keep(name, rows=known["rows"] + 1, logged=logged | {point.name: newest})

    # --- to the thread ---

    def _send(self, work: Callable[..., None], *values: Any) -> Future[None] | None:
        """Has the thread do something; nothing more once something has failed."""
        if self._failed:
            return None
        sent = self._thread.submit(self._unless_failed, work, *values)
        sent.add_done_callback(self._warn_once)
        return sent

    def _unless_failed(self, work: Callable[..., None], *values: Any) -> None:
        if not self._failed:
            work(*values)

    def _warn_once(self, sent: Future[None]) -> None:
        """Says so when something has failed, whatever it was: a paid run does not end for it."""
        error = None if sent.cancelled() else sent.exception()
        if error is not None and not self._failed:
            self._failed = True
            _LOG.warning(
                "tracker %s failed and is left out from here on (%s); metrics.jsonl has everything, and the "
                "same command sends the rest when it resumes",
                self._client.name,
                one_line(f"{type(error).__name__}: {error}", 300),
            )
