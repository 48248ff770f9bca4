"""What a run has spent, read from its ledger without touching it.

calls.sqlite → **Spending** → cost section

The ledger of a run that is still going on, or was killed, is read as it stands.
"""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path
from typing import NamedTuple

from w4s_jax.executor.ledger import IN_FLIGHT, REPLY
from w4s_jax.types import StoreError

_SUMS = (
    "SELECT purpose, model, count(*), sum(prompt_tokens), sum(cached_prompt_tokens), sum(completion_tokens), "
    "sum(usd), sum(length_stops), max(simulated) FROM calls GROUP BY purpose, model ORDER BY purpose, model"
)


class SpendingRow(NamedTuple):
    """Sums over the attempts of one purpose to one model."""

    purpose: str
    model: str
    calls: int
    """Attempts, those that failed included."""
    prompt_tokens: int
    cached_prompt_tokens: int
    completion_tokens: int
    usd: float
    length_stops: int
    """Choices that ended for their length."""
    simulated: int


class Spending(NamedTuple):
    """The ledger in sums."""

    rows: tuple[SpendingRow, ...]
    faults: dict[str, int]
    """Attempts without a reply, by kind; those in flight too."""
    seconds: float

    @property
    def simulated(self) -> bool:
        """Whether any call went to a simulated model."""
        return any(row.simulated for row in self.rows)

    @property
    def mixed(self) -> bool:
        """Whether real money was spent beside it."""
        return self.simulated and any(row.usd and not row.simulated for row in self.rows)


def read_spending(path: Path) -> Spending:
    """Reads the sums of `calls.sqlite`; a running process may hold it.

    Raises:
        StoreError: It is missing or cannot be read.
    """
    if not path.exists():
        raise StoreError(f"{path.name}: is not in the run directory; on a pod it stays on its host's own disk")
    still = not path.with_name(f"{path.name}-wal").exists()  # then nothing is written, and nothing need be locked
    try:
        uri = f"{path.resolve().as_uri()}?{'immutable=1' if still else 'mode=ro'}"
        with contextlib.closing(sqlite3.connect(uri, uri=True)) as connection:
            rows = tuple(SpendingRow(*row) for row in connection.execute(_SUMS))
            faults = dict(
                connection.execute(
                    "SELECT outcome, count(*) FROM calls WHERE outcome != ? GROUP BY outcome ORDER BY 2 DESC, 1",
                    (REPLY,),
                ).fetchall()
            )
            (waiting,) = connection.execute("SELECT count(*) FROM in_flight").fetchone()
            (seconds,) = connection.execute("SELECT seconds FROM elapsed").fetchone()
    except (sqlite3.Error, TypeError) as error:
        raise StoreError(f"{path.name}: cannot be read ({error}); spending by purpose is missing") from error
    if waiting:
        faults[IN_FLIGHT] = faults.get(IN_FLIGHT, 0) + waiting
    return Spending(rows, faults, float(seconds))
