"""Segments: many writers in one folder, whole files or none, the same records."""

import os
from pathlib import Path

import pytest
from test_rollout_store import make_turn

from w4s_jax.rollout.segments import SegmentStore
from w4s_jax.rollout.store import TrajectoryStore, read_trajectories
from w4s_jax.types import StoreError


def test_hosts_see_each_others_turns_in_planned_order(tmp_path):
    first, second = SegmentStore(tmp_path / "s"), SegmentStore(tmp_path / "s")
    second.append(make_turn(0, trajectory=1))
    first.append(make_turn(0, trajectory=0))
    first.append(make_turn(1, trajectory=0))
    assert len(second) == 1
    assert (second.refresh(), second.refresh()) == (2, 0)
    assert list(second.trajectories()) == list(SegmentStore(tmp_path / "s").trajectories())
    assert [(t.index, len(t.turns)) for t in second.trajectories(1)] == [(0, 2), (1, 1)]
    assert second.finished_turns(1, 0) == (make_turn(0, trajectory=0), make_turn(1, trajectory=0))


def test_merging_brings_what_is_missing_and_can_be_repeated(tmp_path):
    segments = SegmentStore(tmp_path / "s")
    for trajectory, number in ((4, 0), (2, 0), (4, 1)):
        segments.append(make_turn(number, trajectory=trajectory))
    with TrajectoryStore(tmp_path / "trajectories.jsonl") as store:
        store.append(make_turn(0, trajectory=4))
        assert segments.merge(store) == 2
        assert segments.merge(store) == 0
    assert read_trajectories([tmp_path]) == list(segments.trajectories())


def test_a_turn_is_written_once_by_one_host(tmp_path):
    first, second = SegmentStore(tmp_path), SegmentStore(tmp_path)
    first.append(make_turn(0))
    for store in (first, second):
        with pytest.raises(StoreError, match="stored already"):
            store.append(make_turn(0))
    with pytest.raises(StoreError, match="no turn 1 before"):
        first.append(make_turn(2))


def test_a_file_that_is_still_being_written_is_not_seen(tmp_path):
    store = SegmentStore(tmp_path)
    (tmp_path / ".r1-t3-turn0.jsonl.77").write_bytes(b'{"half')
    assert store.refresh() == 0


def test_a_failed_write_leaves_no_segment(tmp_path, monkeypatch):
    store = SegmentStore(tmp_path)

    def fail(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StoreError, match="cannot be written: No space left on device"):
        store.append(make_turn(0))
    monkeypatch.undo()
    assert list(Path(tmp_path).iterdir()) == []
    store.append(make_turn(0))


def test_a_corrupt_or_misnamed_segment_is_named(tmp_path):
    SegmentStore(tmp_path).append(make_turn(0))
    good = (tmp_path / "r1-t3-turn0.jsonl").read_bytes()
    (tmp_path / "r1-t9-turn0.jsonl").write_bytes(good)
    with pytest.raises(StoreError, match=r"r1-t9-turn0\.jsonl: holds turn 0 of r1-t3"):
        SegmentStore(tmp_path)
    (tmp_path / "r1-t9-turn0.jsonl").write_bytes(good[:40])
    with pytest.raises(StoreError, match=r"r1-t9-turn0\.jsonl:1: the record is corrupt"):
        SegmentStore(tmp_path)
