"""`calls.sqlite`: the ledger of every attempt and the cache of every reply, in one file.

MeteredExecutor → **CallStore** (one writer thread, group commit) → calls.sqlite → Summary

One file, so that a reply and its booking are committed together or not at all.
A row in `in_flight` is committed before a paid attempt is sent and removed by
the transaction that books it: what a killed process leaves there is booked at
its full reservation by the next one, because it may have been billed. A future
that `begin` or `book` returns is done after its commit, never before.

A batch is one transaction of a few multi-row statements: each statement takes
the interpreter's lock once, and a writer that had to take it for every row
would wait for a busy event loop every time.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import dataclasses
import fcntl
import itertools
import os
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from w4s_jax.errors import named_errors
from w4s_jax.executor.budget import Spent
from w4s_jax.types import StoreError

REPLY = "reply"
"""Outcome of an attempt that was answered; every other outcome is the kind of a fault."""
IN_FLIGHT = "in_flight"
"""Outcome of an attempt that was on its way when its process ended: booked at its full reservation."""

_SCHEMA_VERSION = 1
_CALL_COLUMNS = (
    "time, purpose, model, item, workflow, key, outcome, "
    "prompt_tokens, cached_prompt_tokens, completion_tokens, usd, length_stops, simulated"
)
_SCHEMA = f"""
CREATE TABLE calls (id INTEGER PRIMARY KEY, {_CALL_COLUMNS});
CREATE TABLE in_flight (id INTEGER PRIMARY KEY, {_CALL_COLUMNS});
CREATE TABLE replies (key TEXT PRIMARY KEY, reply TEXT NOT NULL);
CREATE TABLE elapsed (id INTEGER PRIMARY KEY CHECK (id = 1), seconds REAL NOT NULL);
INSERT INTO elapsed VALUES (1, 0.0);
PRAGMA user_version = {_SCHEMA_VERSION};
"""
_INSERTS = {
    "in_flight": f"INSERT INTO in_flight (id, {_CALL_COLUMNS}) VALUES ",
    "calls": f"INSERT INTO calls ({_CALL_COLUMNS}) VALUES ",
    "replies": "INSERT OR IGNORE INTO replies (key, reply) VALUES ",
}
_ROWS_PER_STATEMENT = 64


class Call(NamedTuple):
    """One attempt, as it is booked."""

    time: float
    """Seconds since the epoch."""
    purpose: str
    model: str
    item: str
    workflow: str
    """Digest."""
    key: str
    """Of the cache."""
    outcome: str
    """`reply`, `in_flight`, or the kind of a fault."""
    prompt_tokens: int = 0
    cached_prompt_tokens: int = 0
    completion_tokens: int = 0
    usd: float = 0.0
    length_stops: int = 0
    """Choices that ended for their length."""
    simulated: int = 0


@dataclasses.dataclass(kw_only=True)
class Totals:
    """Sums over attempts."""

    calls: int = 0
    """Attempts, those that failed included."""
    prompt_tokens: int = 0
    cached_prompt_tokens: int = 0
    completion_tokens: int = 0
    usd: float = 0.0
    length_stops: int = 0

    def add(self, other: Totals | Call, calls: int = 1) -> None:
        """Adds a call, or totals that stand for `calls` attempts."""
        self.calls += calls
        self.prompt_tokens += other.prompt_tokens
        self.cached_prompt_tokens += other.cached_prompt_tokens
        self.completion_tokens += other.completion_tokens
        self.usd += other.usd
        self.length_stops += other.length_stops

    def since(self, earlier: Totals) -> Totals:
        """What was added after `earlier`, which is not changed."""
        names = [field.name for field in dataclasses.fields(self)]
        return Totals(**{name: getattr(self, name) - getattr(earlier, name) for name in names})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Summary:
    """What a run has spent, all its processes together."""

    total: Totals
    by_purpose: dict[str, Totals]
    by_model: dict[str, Totals]
    faults: dict[str, int]
    """Failed attempts by kind."""
    cache_hits: int
    """Replies that cost nothing, of this process."""


class _Write(NamedTuple):
    """What one caller wants committed together."""

    begun: tuple[Any, ...] | None = None
    call: Call | None = None
    reply: tuple[str, str] | None = None
    ended: int | None = None
    durable: bool = True
    done: asyncio.Future[None] | None = None


def _promise() -> asyncio.Future[None]:
    """A future that nobody has to wait for: an error in it counts as looked at."""
    done = asyncio.get_running_loop().create_future()
    done.add_done_callback(lambda future: future.cancelled() or future.exception())
    return done


class CallStore:
    """Open `calls.sqlite`; one per file, shared by all executors of a process."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        now: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Opens or creates the file and books what an earlier process left in flight.

        Args:
            path: The file; its folder has to be there.
            now: Seconds since the epoch, for the rows.
            clock: Seconds, monotonic, for the time spent.

        Raises:
            StoreError: It cannot be read or written, is in use, or is not ours.
        """
        self.path = Path(path)
        self.now, self._clock = now, clock
        self._lock = self._take_lock()
        try:
            with self._named_errors():
                self._writer, self._reader = self._connect(), self._connect()
                self._left_in_flight = self._recover()
                self._sums = self._read_sums()
                (self._seconds_before,) = self._reader.execute("SELECT seconds FROM elapsed").fetchone()
        except StoreError:
            self._lock.close()
            raise
        self._ids = itertools.count(1)
        self._start = clock()
        self._hits = 0
        self._broken: str | None = None
        self._queue: queue.SimpleQueue[_Write | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._write_forever, name=f"write {self.path.name}", daemon=True)
        self._thread.start()

    # --- what callers see -----------------------------------------------------

    def reply(self, key: str) -> str | None:
        """The committed reply of `key`, None where there is none; a reply found counts as a hit.

        Raises:
            StoreError: The file cannot be read.
        """
        with self._named_errors():
            row = self._reader.execute("SELECT reply FROM replies WHERE key = ?", (key,)).fetchone()
        if row is None:
            return None
        self._hits += 1
        return str(row[0])

    def count_hit(self) -> None:
        """Counts a reply that was shared with an equal call in flight."""
        self._hits += 1

    async def begin(self, call: Call) -> int:
        """Commits that an attempt is about to be sent, booked at its bound; returns its ticket.

        Raises:
            StoreError: It could not be written; the attempt must not be sent.
        """
        ticket = next(self._ids)
        done = asyncio.get_running_loop().create_future()
        self._put(_Write(begun=(ticket, *call), done=done))
        await done
        return ticket

    def book(self, call: Call, *, reply: str | None = None, ticket: int | None = None) -> asyncio.Future[None]:
        """Books an attempt that has ended, in one transaction with its reply and the end of its ticket.

        Args:
            call: The attempt, at its actual cost, or at its bound where its fate is unknown.
            reply: JSON to keep under `call.key`.
            ticket: Of `begin`.

        Returns:
            A future that is done once this is committed, or holds the StoreError.
        """
        done = _promise()
        kept = None if reply is None else (call.key, reply)
        self._put(_Write(call=call, reply=kept, ended=ticket, durable=not call.simulated, done=done))
        self._sum(call.purpose, call.model, call.outcome).add(call)
        return done

    def keep(self, key: str, reply: str) -> asyncio.Future[None]:
        """Keeps a reply whose attempt is booked already; the future is as that of `book`."""
        done = _promise()
        self._put(_Write(reply=(key, reply), done=done))
        return done

    @property
    def spent(self) -> Spent:
        """What the run has spent so far, for `Budget`."""
        total = self.summary().total
        tokens = total.prompt_tokens + total.completion_tokens
        return Spent(total.usd, tokens, total.calls, self._seconds())

    @property
    def left_in_flight(self) -> int:
        """Attempts of an earlier process that were found in flight and booked in full."""
        return self._left_in_flight

    def summary(self) -> Summary:
        """Sums by purpose, by model and by kind of fault."""
        total, faults = Totals(), collections.Counter[str]()
        by_purpose: dict[str, Totals] = collections.defaultdict(Totals)
        by_model: dict[str, Totals] = collections.defaultdict(Totals)
        for (purpose, model, outcome), sums in self._sums.items():
            for totals in (total, by_purpose[purpose], by_model[model]):
                totals.add(sums, calls=sums.calls)
            if outcome != REPLY:
                faults[outcome] += sums.calls
        return Summary(
            total=total,
            by_purpose=dict(by_purpose),
            by_model=dict(by_model),
            faults=dict(faults),
            cache_hits=self._hits,
        )

    async def close(self) -> None:
        """Commits what is queued and releases the file; calling it again does nothing.

        Raises:
            StoreError: Something that was queued could not be written.
        """
        if self._lock.closed:
            return
        self._queue.put(None)
        await asyncio.to_thread(self._thread.join)
        self._reader.close()
        self._writer.close()
        self._lock.close()
        if self._broken is not None:
            raise StoreError(self._broken)

    # --- opening --------------------------------------------------------------

    def _take_lock(self) -> Any:
        """Holds `calls.sqlite.lock`; the kernel lets it go with the process, however that ends."""
        try:
            lock = open(f"{self.path}.lock", "a")  # noqa: SIM115 (kept open while the store is)
        except OSError as error:
            raise StoreError(
                f"{self.path} cannot be opened ({error.strerror}); give a folder that can be written"
            ) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lock.close()
            raise StoreError(
                f"{self.path} is in use by another process; wait for it, or use another run_dir"
            ) from error
        return lock

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False, cached_statements=256)
        connection.execute("PRAGMA journal_mode = WAL")
        return connection

    def _recover(self) -> int:
        """Creates the tables, or books what an earlier process left in flight; returns how many that were."""
        (version,) = self._writer.execute("PRAGMA user_version").fetchone()
        if version == 0:
            self._writer.executescript(f"BEGIN;{_SCHEMA}COMMIT;")
        elif version != _SCHEMA_VERSION:
            raise StoreError(
                f"{self.path} has schema {version}, this version reads {_SCHEMA_VERSION}; use another run_dir"
            )
        with self._transaction():
            moved = self._writer.execute(f"INSERT INTO calls ({_CALL_COLUMNS}) SELECT {_CALL_COLUMNS} FROM in_flight")
            self._writer.execute("DELETE FROM in_flight")
        return moved.rowcount

    def _read_sums(self) -> dict[tuple[str, str, str], Totals]:
        rows = self._reader.execute(
            "SELECT purpose, model, outcome, count(*), sum(prompt_tokens), sum(cached_prompt_tokens), "
            "sum(completion_tokens), sum(usd), sum(length_stops) FROM calls GROUP BY 1, 2, 3"
        )
        names = [field.name for field in dataclasses.fields(Totals)]
        return {tuple(row[:3]): Totals(**dict(zip(names, row[3:], strict=True))) for row in rows}

    def _sum(self, *which: str) -> Totals:
        return self._sums.setdefault(which, Totals())  # type: ignore[arg-type]

    def _seconds(self) -> float:
        return float(self._seconds_before) + self._clock() - self._start

    # --- the writer thread ----------------------------------------------------

    def _put(self, write: _Write) -> None:
        if self._broken is not None:
            raise StoreError(self._broken)
        self._queue.put(write)

    def _write_forever(self) -> None:
        ending = False
        while not ending:
            batch = [self._queue.get()]
            with contextlib.suppress(queue.Empty):
                while True:
                    batch.append(self._queue.get_nowait())
            ending = None in batch
            writes = [write for write in batch if write is not None]
            error = self._broken or self._commit(writes)
            self._broken = error
            _wake([write.done for write in writes if write.done is not None], error)

    def _commit(self, writes: Sequence[_Write]) -> str | None:
        """Writes one transaction; returns why it could not."""
        try:
            with self._named_errors(), self._transaction(durable=any(write.durable for write in writes)):
                self._insert("in_flight", (write.begun for write in writes if write.begun))
                self._insert("calls", (write.call for write in writes if write.call))
                self._insert("replies", (write.reply for write in writes if write.reply))
                ended = ",".join(str(write.ended) for write in writes if write.ended is not None)
                if ended:
                    self._writer.execute(f"DELETE FROM in_flight WHERE id IN ({ended})")
                self._writer.execute("UPDATE elapsed SET seconds = ?", (self._seconds(),))
        except StoreError as error:
            return str(error)
        return None

    def _insert(self, table: str, rows: Iterable[tuple[Any, ...]]) -> None:
        rows = list(rows)
        for start in range(0, len(rows), _ROWS_PER_STATEMENT):
            some = rows[start : start + _ROWS_PER_STATEMENT]
            holes = f"({','.join('?' * len(some[0]))})"
            statement = _INSERTS[table] + ",".join([holes] * len(some))
            self._writer.execute(statement, tuple(itertools.chain.from_iterable(some)))

    @contextlib.contextmanager
    def _transaction(self, *, durable: bool = True) -> Iterator[None]:
        """Commits at the end; `durable` also survives a power cut, the other kind any death of the process."""
        self._writer.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
        self._writer.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._writer.execute("COMMIT")
        finally:
            if self._writer.in_transaction:
                with contextlib.suppress(sqlite3.Error):
                    self._writer.execute("ROLLBACK")

    def _named_errors(self) -> contextlib.AbstractContextManager[None]:
        return named_errors(
            lambda error: StoreError(
                f"{self.path}: {error}; free space on its disk or make it writable, then run the same command again"
            ),
            sqlite3.Error,
        )


def _wake(futures: Sequence[asyncio.Future[None]], error: str | None) -> None:
    """Finishes futures in their loops, one call for each loop."""

    def finish(some: Sequence[asyncio.Future[None]]) -> None:
        for future in some:
            if future.done():
                continue
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(StoreError(error))

    by_loop: dict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]] = {}
    for future in futures:
        by_loop.setdefault(future.get_loop(), []).append(future)
    for loop, some in by_loop.items():
        with contextlib.suppress(RuntimeError):  # the loop was closed: nobody waits any more
            loop.call_soon_threadsafe(finish, some)
