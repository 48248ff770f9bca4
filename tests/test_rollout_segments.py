"""Segments: many writers in one folder, whole files or none, the same records."""

import os
from pathlib import Path

import pytest
from test_rollout_store import make_turn

from w4s_jax.rollout.segments import PublishedStore, SegmentStore
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


def test_a_published_store_gives_each_side_what_only_the_other_has(tmp_path):
    """A kill came between the writes of turn 1 of trajectory 0; trajectory 3 was left by another host."""
    segments = SegmentStore(tmp_path / "s")
    segments.append(make_turn(0, trajectory=0))
    segments.append(make_turn(0, trajectory=3))
    with TrajectoryStore(tmp_path / "trajectories.jsonl") as store:
        for turn in (make_turn(0, trajectory=0), make_turn(1, trajectory=0)):
            store.append(turn)
        published = PublishedStore(store, segments)
        published.append(make_turn(1, trajectory=3))
        assert published.finished_turns(1, 3) == (make_turn(0, trajectory=3), make_turn(1, trajectory=3))
        assert list(SegmentStore(tmp_path / "s").trajectories()) == list(store.trajectories())
        assert len(store) == 4


def test_a_trajectory_that_another_host_does_not_see_is_named(tmp_path):
    with pytest.raises(StoreError, match=r"holds no turn of r1-t7; every process has to see the same --run_dir"):
        SegmentStore(tmp_path).trajectory(1, 7)


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
