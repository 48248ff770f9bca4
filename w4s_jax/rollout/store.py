"""The append-only record of finished turns.

collect → Turn → **trajectories.jsonl** → Trajectory → tree → step

One JSON line a turn, synced to disk before `append` returns. A line is finished by
its newline: what stands behind the last newline is a torn write and is cut off, with
a note, when the store is opened again. Any other damage is a StoreError that names
file and line. Strings are escaped to ASCII, so that every text a model can write
(lone surrogates too) and every float comes back as it was.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
from collections.abc import Container, Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple, Protocol, Self

from w4s_jax.errors import named_errors
from w4s_jax.files import sync_folder
from w4s_jax.rollout.records import decode_turn, encode_turn
from w4s_jax.types import StoreError, Trajectory, Turn, TurnKey

_LOG = logging.getLogger(__name__)

FILE_NAME = "trajectories.jsonl"


class TurnStore(Protocol):
    """Where finished turns last: a `TrajectoryStore`, or the stores of `segments` where there are many hosts."""

    def append(self, turn: Turn) -> None:
        """Makes a finished turn last.

        Raises:
            StoreError: It cannot be written.
        """

    def finished_turns(self, round_: int, trajectory: int) -> tuple[Turn, ...]:
        """The turns of one trajectory, in order."""


class _Place(NamedTuple):
    """Where a record stands."""

    offset: int
    length: int


class TrajectoryStore:
    """`trajectories.jsonl` of one run, held open by one process.

    Records stay on disk; memory holds only where each one stands.

    Example:
        >>> with TrajectoryStore(run_dir / "trajectories.jsonl") as store:  # doctest: +SKIP
        ...     store.append(turn)
        ...     store.finished_turns(0, 3)
    """

    def __init__(self, path: Path) -> None:
        """Opens or creates the file, locks it and cuts off a torn last line.

        Raises:
            StoreError: It cannot be opened, another process holds it, or a line is corrupt.
        """
        self.path = Path(path)
        self.recovered_bytes = 0
        """Bytes of a torn last line that were cut off."""
        self._places: dict[TurnKey, _Place] = {}
        self._file = -1
        self._failure: StoreError | None = None
        try:
            with named_store_errors(self.path, "opened"):
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
                sync_folder(self.path.parent)
            self._lock()
            self._end = self._recover()
        except StoreError:
            self.close()
            raise

    def __enter__(self) -> Self:
        """Returns itself."""
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Closes the file."""
        self.close()

    def __len__(self) -> int:
        """Finished turns."""
        return len(self._places)

    def append(self, turn: Turn) -> None:
        """Writes a finished turn and syncs it to disk.

        Raises:
            StoreError: The turn is stored already, comes before an earlier one of its trajectory,
                holds a number that is not finite, or cannot be written (disk full); what was
                stored before is kept, and nothing half-written is left to be believed.
        """
        self._admit(turn.key)
        line = encode_turn(turn)
        try:
            with named_store_errors(self.path, "written"):
                _write_all(self._file, line, self._end)
                os.fsync(self._file)
        except StoreError as error:
            self._give_up(error)
            raise
        self._places[turn.key] = _Place(self._end, len(line))
        self._end += len(line)

    def finished_turns(self, round_: int, trajectory: int) -> tuple[Turn, ...]:
        """The stored turns of one trajectory, in order; empty where there are none."""
        turns: list[Turn] = []
        while (place := self._places.get(TurnKey(round_, trajectory, len(turns)))) is not None:
            turns.append(self._read(place))
        return tuple(turns)

    def turns(self) -> Iterator[Turn]:
        """All turns, in the order they were finished."""
        for place in list(self._places.values()):
            yield self._read(place)

    def trajectories(self, round_: int | None = None) -> Iterator[Trajectory]:
        """Trajectories (of one round) in planned order, the unfinished ones with the turns they have."""
        names = sorted({key[:2] for key in self._places if round_ is None or key.round == round_})
        for number, index in names:
            turns = self.finished_turns(number, index)
            yield Trajectory(round=number, index=index, task=turns[0].task, turns=turns)

    def close(self) -> None:
        """Closes the file and gives up the lock."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _admit(self, key: TurnKey) -> None:
        if self._failure is not None:
            raise StoreError(str(self._failure))
        if self._file < 0:
            raise StoreError(f"{self.path}: is closed; open the store again to append")
        _check_order(self._places, key, str(self.path))

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StoreError(
                f"{self.path}: is held by another process; wait for that run to end, or give another --run_dir"
            ) from error
        except OSError as error:  # some network file systems have no locks
            _LOG.warning("%s: cannot be locked (%s); make sure that one run alone writes to it", self.path, error)

    def _recover(self) -> int:
        """Reads every record, cuts off a torn last line and returns where the file ends."""
        end = 0
        with named_store_errors(self.path, "read"), open(self.path, "rb") as file:
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n"):
                    self.recovered_bytes = len(line)
                    break
                turn = decode_turn(line, f"{self.path}:{number}")
                _check_order(self._places, turn.key, f"{self.path}:{number}")
                self._places[turn.key] = _Place(end, len(line))
                end += len(line)
        if self.recovered_bytes:
            _LOG.warning("%s: cut off a torn last line of %d bytes", self.path, self.recovered_bytes)
            with named_store_errors(self.path, "truncated"):
                os.ftruncate(self._file, end)
                os.fsync(self._file)
        return end

    def _read(self, place: _Place) -> Turn:
        with named_store_errors(self.path, "read"):
            line = os.pread(self._file, place.length, place.offset)
        return decode_turn(line, f"{self.path} at byte {place.offset}")

    def _give_up(self, failure: StoreError) -> None:
        """After a failed write: cuts the file back to its last finished record, and writes no more."""
        with contextlib.suppress(OSError):  # if this fails too, the next opening cuts the torn line off
            os.ftruncate(self._file, self._end)
        self._failure = failure
        self.close()


def read_trajectories(paths: Iterable[Path | str]) -> list[Trajectory]:
    """Reads stored trajectories, as `--trajectories` names them; the files are not changed.

    Args:
        paths: Files, or run directories that hold `trajectories.jsonl`.

    Returns:
        Trajectories, file by file, by round and planned number; a torn last line is left out with a note.

    Raises:
        StoreError: A file is missing, empty of finished turns, or has a corrupt line.
    """
    return [trajectory for path in paths for trajectory in _read_file(Path(path))]


def _read_file(path: Path) -> list[Trajectory]:
    path = path / FILE_NAME if path.is_dir() else path
    found: dict[TurnKey, Turn] = {}
    with named_store_errors(path, "read"), open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                _LOG.warning("%s: left out a torn last line of %d bytes", path, len(line))
                break
            turn = decode_turn(line, f"{path}:{number}")
            _check_order(found, turn.key, f"{path}:{number}")
            found[turn.key] = turn
    if not found:
        raise StoreError(f"{path}: holds no finished turn; name a run that has collected trajectories")
    by_trajectory: dict[tuple[int, int], list[Turn]] = {}
    for key in sorted(found):
        by_trajectory.setdefault(key[:2], []).append(found[key])
    return [
        Trajectory(round=round_, index=index, task=turns[0].task, turns=tuple(turns))
        for (round_, index), turns in by_trajectory.items()
    ]


def _check_order(known: Container[TurnKey], key: TurnKey, where: str) -> None:
    """Refuses a turn that is known already, or whose trajectory lacks the turn before it."""
    turn, name = key.turn, key.trajectory_name
    if key in known:
        raise StoreError(f"{where}: turn {turn} of {name} is stored twice; keep one of its records")
    if turn > 0 and key._replace(turn=turn - 1) not in known:
        raise StoreError(f"{where}: turn {turn} of {name} has no turn {turn - 1} before it; restore the missing record")


def _write_all(file: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(file, view, offset)
        view, offset = view[written:], offset + written


def named_store_errors(path: object, what: str) -> AbstractContextManager[None]:
    """Says which store could not be `what` (opened, read, written), and what to do."""
    return named_errors(
        lambda error: StoreError(
            f"{path}: cannot be {what}: {getattr(error, 'strerror', None) or error}; check the path, its permissions "
            "and the free disk space, then run the same command again: finished turns are kept"
        )
    )
