"""Finished turns of many hosts in one shared folder, one immutable file a turn.

host's collect → Turn → **segments/r1-t3-turn0.jsonl** → every host → Trajectory → tree → step

`trajectories.jsonl` has one writer; a pod has many, and its shared folder may be a bucket
that cannot append. Each host writes the turns of its share of the plan as files of
their own, which appear whole or not at all and never change, and reads the others'.
`merge` copies them into a `TrajectoryStore`. The records are the same.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from etils import epath

from w4s_jax.files import write_whole
from w4s_jax.rollout.records import decode_turn, encode_turn
from w4s_jax.rollout.store import TrajectoryStore, named_store_errors
from w4s_jax.types import StoreError, Trajectory, Turn, TurnKey

_SUFFIX = ".jsonl"


class SegmentStore:
    """The turns of all hosts of a run; stands where a `TrajectoryStore` does.

    Example:
        >>> store = SegmentStore("gs://bucket/run/segments")  # doctest: +SKIP
        >>> store.append(turn)  # doctest: +SKIP
    """

    def __init__(self, folder: epath.PathLike) -> None:
        """Opens or creates the folder.

        Args:
            folder: A path, or `gs://…`, that every host sees.

        Raises:
            StoreError: It cannot be created or listed.
        """
        self._folder = epath.Path(folder)
        self._turns: dict[TurnKey, Turn] = {}
        with named_store_errors(self._folder, "opened"):
            self._folder.mkdir(parents=True, exist_ok=True)
        self.refresh()

    def __len__(self) -> int:
        """Finished turns seen so far."""
        return len(self._turns)

    def refresh(self) -> int:
        """Reads the segments that have appeared since; returns how many.

        Raises:
            StoreError: A segment is corrupt or is not what its name says.
        """
        with named_store_errors(self._folder, "listed"):
            names = sorted(path.name for path in self._folder.iterdir())
        new = 0
        for name in names:
            key = TurnKey.parse(name.removesuffix(_SUFFIX)) if name.endswith(_SUFFIX) else None
            if key is None or key.candidate is not None:  # a file still being written, or none of ours
                continue
            if key not in self._turns:
                self._turns[key] = self._read(name, key)
                new += 1
        return new

    def append(self, turn: Turn) -> None:
        """Writes a finished turn as a segment.

        Raises:
            StoreError: It is stored already, comes before an earlier one of its trajectory, or cannot be written.
        """
        key, name = turn.key, turn.key.trajectory_name
        path = self._folder / f"{key.name}{_SUFFIX}"
        with named_store_errors(self._folder, "read"):
            known = key in self._turns or path.exists()
        if known:
            raise StoreError(f"{path}: turn {turn.turn} of {name} is stored already; give each host its own share")
        if turn.turn > 0 and key._replace(turn=turn.turn - 1) not in self._turns:
            raise StoreError(f"{path}: turn {turn.turn} of {name} has no turn {turn.turn - 1} before it")
        line = encode_turn(turn)
        with named_store_errors(self._folder, "written"):
            _write_object(path, line)
        self._turns[key] = turn

    def finished_turns(self, round_: int, trajectory: int) -> tuple[Turn, ...]:
        """The stored turns of one trajectory, in order, as of the last `refresh`."""
        turns: list[Turn] = []
        while (turn := self._turns.get(TurnKey(round_, trajectory, len(turns)))) is not None:
            turns.append(turn)
        return tuple(turns)

    def trajectories(self, round_: int | None = None) -> Iterator[Trajectory]:
        """Trajectories (of one round) in planned order, whichever host collected them."""
        for number, index in sorted({key[:2] for key in self._turns if round_ is None or key.round == round_}):
            if self.finished_turns(number, index):
                yield self.trajectory(number, index)

    def trajectory(self, round_: int, index: int) -> Trajectory:
        """One trajectory with the turns it has, as of the last `refresh`.

        Raises:
            StoreError: It has none.
        """
        turns = self.finished_turns(round_, index)
        if not turns:
            name = TurnKey(round_, index, 0).trajectory_name
            raise StoreError(f"{self._folder}: holds no turn of {name}; every process has to see the same --run_dir")
        return Trajectory(round=round_, index=index, task=turns[0].task, turns=turns)

    def merge(self, store: TrajectoryStore) -> int:
        """Appends to `store` what it lacks, in planned order; returns how many turns.

        Raises:
            StoreError: `store` cannot be written.
        """
        copied = 0
        for trajectory in self.trajectories():
            known = len(store.finished_turns(trajectory.round, trajectory.index))
            for turn in trajectory.turns[known:]:
                store.append(turn)
                copied += 1
        return copied

    def _read(self, name: str, key: TurnKey) -> Turn:
        path = self._folder / name
        with named_store_errors(self._folder, "read"):
            data = path.read_bytes()
        turn = decode_turn(data, f"{path}:1")
        if turn.key != key:
            raise StoreError(f"{path}: holds turn {turn.turn} of {turn.key.trajectory_name}")
        return turn


class PublishedStore:
    """A `TrajectoryStore` whose turns the other processes of a run see too, as segments.

    Example:
        >>> store = PublishedStore(TrajectoryStore(run_dir / "trajectories.jsonl"), segments)  # doctest: +SKIP
    """

    def __init__(self, store: TrajectoryStore, segments: SegmentStore) -> None:
        """Gives each what only the other has, as a kill may come between two writes.

        Raises:
            StoreError: Either cannot be written.
        """
        self._store, self._segments = store, segments
        segments.merge(store)
        for turn in store.turns():
            if turn.turn >= len(segments.finished_turns(turn.round, turn.trajectory)):
                segments.append(turn)

    def append(self, turn: Turn) -> None:
        """Stores a finished turn, then publishes it.

        Raises:
            StoreError: As `TrajectoryStore.append` and `SegmentStore.append`.
        """
        self._store.append(turn)
        self._segments.append(turn)

    def finished_turns(self, round_: int, trajectory: int) -> tuple[Turn, ...]:
        """The stored turns of one trajectory, in order."""
        return self._store.finished_turns(round_, trajectory)


def _write_object(path: epath.Path, data: bytes) -> None:
    """Writes a file that appears whole or not at all; an object of a bucket does so by itself."""
    if "://" in os.fspath(path):
        path.write_bytes(data)
        return
    write_whole(Path(path), data)
