"""Remembers what a workflow did on an item, so that it is run and paid once.

Evaluator → **OutcomeMemo** → (a new run | a run in flight | a remembered one) → Remembered

Equal work that is wanted at the same moment runs once (single flight), and with a
file another search or another cell of a benchmark starts from what is known. Only
finished outcomes are remembered: a failure of ours leaves no trace. Losing the
file loses time, never money, because every reply of the executor is in its cache.
"""

from __future__ import annotations

import dataclasses
import json
import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import NamedTuple, Self

from w4s_jax.concurrency import SingleFlight
from w4s_jax.errors import named_errors
from w4s_jax.types import ItemOutcome, ItemStatus, Split, StoreError

_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS outcomes_v1 (key TEXT PRIMARY KEY, outcome TEXT NOT NULL, traceback TEXT NOT NULL)"
)

_UNUSABLE = (sqlite3.Error, OSError, ValueError, TypeError, KeyError)
"""What a file that is damaged, or no memo, or on a full disk raises."""


class MemoKey(NamedTuple):
    """Everything that decides an outcome."""

    workflow_digest: str
    item: str
    """Id of the item and a digest of its content."""
    split: Split
    repetition: int
    executor: str
    """Model and whatever else decides its replies."""
    limits: str
    """Limits of the run, as text."""
    rule: str = ""
    """The task's grading rule."""


class Remembered(NamedTuple):
    """One workflow on one item, with the frames that a repair needs."""

    outcome: ItemOutcome
    traceback: str = ""
    """Frames of the workflow's own code; empty unless it raised."""


Run = Callable[[], Awaitable[Remembered]]


class OutcomeMemo:
    """Outcomes by key, in memory and, with a path, in an SQLite file shared by processes.

    Used from one event loop.

    Example:
        >>> memo = OutcomeMemo()
        >>> len(memo)
        0
    """

    def __init__(self, path: Path | None = None) -> None:
        """Opens the memo.

        Args:
            path: SQLite file, created where it is missing; None keeps the memo in memory.

        Raises:
            StoreError: The file cannot be opened or is not a memo.
        """
        self._path = path
        self._known: dict[MemoKey, Remembered] = {}
        self._flights = SingleFlight[MemoKey, Remembered]()
        self._db: sqlite3.Connection | None = None
        if path is not None:
            with named_errors(self._unusable, *_UNUSABLE):
                path.parent.mkdir(parents=True, exist_ok=True)
                self._db = sqlite3.connect(path, timeout=30.0, isolation_level=None)
                self._db.execute("PRAGMA journal_mode=WAL")
                self._db.execute("PRAGMA synchronous=NORMAL")
                self._db.execute(_SCHEMA)

    def __len__(self) -> int:
        """Outcomes that this process has seen."""
        return len(self._known)

    def __enter__(self) -> Self:
        """Returns itself."""
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Closes the file."""
        self.close()

    async def outcome(self, key: MemoKey, run: Run) -> Remembered:
        """Returns the remembered outcome, that of the run in flight, or that of a new `run`.

        Raises:
            StoreError: The file cannot be read or written.
            Exception: Whatever `run` raises, to all who wait for it; nothing is remembered then.
        """
        known = self.get(key)
        if known is not None:
            return known
        flight = self._flights.find(key) or self._flights.start(key, lambda _: self._fly(key, run))
        return await self._flights.join(flight)

    def get(self, key: MemoKey) -> Remembered | None:
        """The remembered outcome, or None."""
        known = self._known.get(key)
        if known is None and self._db is not None:
            known = self._read(key)
            if known is not None:
                self._known[key] = known
        return known

    def close(self) -> None:
        """Closes the file; what is in memory stays."""
        if self._db is not None:
            self._db.close()
            self._db = None

    async def _fly(self, key: MemoKey, run: Run) -> Remembered:
        remembered = await run()
        self._write(key, remembered)
        return remembered

    def _read(self, key: MemoKey) -> Remembered | None:
        assert self._db is not None
        with named_errors(self._unusable, *_UNUSABLE):
            row = self._db.execute(
                "SELECT outcome, traceback FROM outcomes_v1 WHERE key = ?", (json.dumps(key),)
            ).fetchone()
        if row is None:
            return None
        with named_errors(self._unusable, *_UNUSABLE):
            fields = json.loads(row[0])
            fields["status"] = ItemStatus(fields["status"])
            return Remembered(ItemOutcome(**fields), json.loads(row[1]))

    def _write(self, key: MemoKey, remembered: Remembered) -> None:
        self._known[key] = remembered
        if self._db is None:
            return
        row = (json.dumps(key), json.dumps(dataclasses.asdict(remembered.outcome)), json.dumps(remembered.traceback))
        with named_errors(self._unusable, *_UNUSABLE):
            self._db.execute("INSERT OR IGNORE INTO outcomes_v1 VALUES (?, ?, ?)", row)

    def _unusable(self, error: Exception) -> StoreError:
        return StoreError(
            f"{self._path}: cannot be used as a memo of outcomes ({error}); remove the file, or free disk space, "
            "and run the same command again: replies are in the executor's cache"
        )
