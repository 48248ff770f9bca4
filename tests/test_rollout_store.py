"""The store: exact round trips, torn and corrupt lines, full disks, two writers."""

import dataclasses
import json
import os
import resource
import stat
import subprocess
import sys

import pytest
from rollout_fakes import code

from w4s_jax.rollout.records import decode_turn, encode_turn
from w4s_jax.rollout.store import TrajectoryStore, read_trajectories
from w4s_jax.types import (
    Candidate,
    CandidateStatus,
    Case,
    DrawKey,
    Feedback,
    ItemStatus,
    Message,
    StoreError,
    Turn,
    TurnKey,
)

AWKWARD = 'caf\u00e9 \ud800 \udfff \u2028 \x00 \n \r "quoted" \\ \U0001f600'


def make_turn(number=0, trajectory=3, round_=1, text=AWKWARD):
    case = Case(question=text, answer="1", target="2", status=ItemStatus.WRONG, error="")
    feedback = Feedback(score=1 / 3, accuracy=1 / 3, n=3, usd_per_item=0.1 + 0.2, symptoms={text: 2}, cases=(case,))
    good = Candidate(
        index=0, status=CandidateStatus.OK, text=text, ids=(1, 2, 151_645), logprobs=(-5e-324, -0.0, -1 / 3),
        code=code("right 0"), score=1 / 3, reward=0.5, usd=1e-7, repairs=2, feedback=feedback,
    )  # fmt: skip
    bad = Candidate(index=1, status=CandidateStatus.SKIPPED, text="", reason="KeyError: 'x'", repairs=3)
    ours = Candidate(index=2, status=CandidateStatus.FAILED, text="t", reason="SandboxError: died")
    return Turn(
        round=round_, trajectory=trajectory, turn=number, task="toy", messages=(Message(role="user", content=text),),
        prompt_ids=(5, 6), candidates=(good, bad, ours), chosen=0,
    )  # fmt: skip


def test_a_turn_comes_back_exactly(tmp_path):
    turn = make_turn()
    with TrajectoryStore(tmp_path / "run" / "trajectories.jsonl") as store:
        store.append(turn)
        (back,) = store.finished_turns(1, 3)
    assert back == turn
    assert repr(back.candidates[0].logprobs) == "(-5e-324, -0.0, -0.3333333333333333)"
    assert decode_turn(encode_turn(turn), "x:1") == turn


def test_the_record_has_the_keys_that_other_programs_read():
    record = json.loads(encode_turn(make_turn(number=0)))
    assert record["trajectory"] == "r1-t3"
    assert {"schema_version", "trajectory", "turn", "task", "prompt_ids", "candidates", "chosen"} <= set(record)
    expected = {"ids", "logprobs", "text", "code", "status", "score", "accuracy", "reward", "usd", "repairs"}
    assert all(expected <= set(c) for c in record["candidates"])
    assert [c["status"] for c in record["candidates"]] == ["ok", "skipped", "failed"]
    assert (record["schema_version"], record["turn"], record["chosen"]) == (2, 0, 0)


def version_1(record, metric, score, symptoms):
    """The same record as the first version wrote it."""
    record = json.loads(json.dumps(record)) | {"schema_version": 1}
    for candidate in record["candidates"]:
        candidate["workflow"] = candidate.pop("code")
        candidate["accuracy"] = candidate.pop("score")
        if candidate["feedback"]:
            del candidate["feedback"]["score"]
            candidate["accuracy"] = score
            candidate["feedback"] |= {"accuracy": score, "metric": metric, "symptoms": symptoms}
    return json.dumps(record).encode() + b"\n"


@pytest.mark.parametrize(
    ("metric", "score", "symptoms", "accuracy"),
    [
        ("accuracy", 1 / 3, {"far": 2}, 1 / 3),
        ("pass@1", 1 / 3, {}, 1 / 3),
        ("f1", 0.9, {"partly right": 1}, 2 / 3),  # scores 1.0, 1.0 and 0.7
        ("f1", 1.0, {}, 1.0),
    ],
)
def test_a_record_of_the_first_version_is_read_where_it_says_the_share_of_right_items(
    metric, score, symptoms, accuracy
):
    turn = make_turn()
    back = decode_turn(version_1(json.loads(encode_turn(turn)), metric, score, symptoms), "x:1")
    good = back.candidates[0]
    assert (good.code, good.score, good.accuracy) == (turn.candidates[0].code, score, accuracy)
    assert (good.feedback.score, good.feedback.accuracy, good.feedback.metric) == (score, accuracy, metric)
    assert (back.key, back.messages, back.candidates[1:]) == (turn.key, turn.messages, turn.candidates[1:])


def test_a_record_of_the_first_version_that_does_not_say_it_is_refused():
    line = version_1(json.loads(encode_turn(make_turn())), "f1", 0.9, {})
    with pytest.raises(StoreError, match=r"x:7: schema_version=1 with metric='f1' does not say which share"):
        decode_turn(line, "x:7")


def test_a_record_says_score_and_accuracy_apart():
    turn = make_turn()
    good = turn.candidates[0]
    feedback = dataclasses.replace(good.feedback, score=0.9, accuracy=0.5, metric="f1")
    turn = dataclasses.replace(turn, candidates=(dataclasses.replace(good, score=0.9, feedback=feedback),))
    (record,) = json.loads(encode_turn(turn))["candidates"]
    assert (record["score"], record["accuracy"]) == (0.9, 0.5)
    assert (record["feedback"]["score"], record["feedback"]["accuracy"]) == (0.9, 0.5)
    assert decode_turn(encode_turn(turn), "x:1") == turn


def test_a_key_names_a_turn_and_its_candidates_and_is_read_back():
    turn = make_turn(number=12, trajectory=0, round_=4)
    assert (turn.key.trajectory_name, turn.key.name) == ("r4-t0", "r4-t0-turn12")
    assert turn.key.of_candidate(3).name == "r4-t0-turn12-c3"
    for key in (turn.key, turn.key.of_candidate(0)):
        assert TurnKey.parse(key.name) == key
    assert [TurnKey.parse(name) for name in ("r4-t0", "cot", "r4-t0-turn1-c2.py", "xr1-t1-turn1")] == [None] * 4
    assert DrawKey(9, 4, 0, 12, 3, 1).candidate_key == turn.key.of_candidate(3)


def test_a_record_is_one_line_of_ascii():
    line = encode_turn(make_turn())
    assert line.isascii()
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")


def test_a_number_that_is_not_finite_is_refused(tmp_path):
    with TrajectoryStore(tmp_path / "t.jsonl") as store:
        turn = make_turn()
        with pytest.raises(StoreError, match="not finite"):
            store.append(
                dataclasses.replace(turn, candidates=(dataclasses.replace(turn.candidates[0], usd=float("nan")),))
            )
        store.append(turn)
        assert len(store) == 1


def test_every_torn_last_line_is_cut_off_and_can_be_written_again(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda handle: None)  # hundreds of openings
    path = tmp_path / "t.jsonl"
    last = dataclasses.replace(make_turn(1, text="\ud800"), candidates=(), chosen=None)
    first, second = encode_turn(make_turn(0)), encode_turn(last)
    for cut in range(len(second)):
        path.write_bytes(first + second[:cut])
        with TrajectoryStore(path) as store:
            assert (len(store), store.recovered_bytes) == (1, cut)
        assert path.read_bytes() == first
    with TrajectoryStore(path) as store:
        store.append(last)
    assert path.read_bytes() == first + second


def test_a_reader_leaves_a_torn_last_line_out_and_alone(tmp_path):
    path = tmp_path / "trajectories.jsonl"
    path.write_bytes(encode_turn(make_turn(0)) + encode_turn(make_turn(1))[:-1])
    (trajectory,) = read_trajectories([path])
    assert len(trajectory.turns) == 1
    assert not path.read_bytes().endswith(b"\n")


@pytest.mark.parametrize(
    "damage",
    [
        b"\n",
        b"{}\n",
        b"null\n",
        b"[1]\n",
        b"\x00\x00\x00\x00\n",
        b"\xff\xfe\n",
        b"[" * 100_000 + b"\n",
        encode_turn(make_turn(0, 9))[:-20] + b"\n",
        encode_turn(make_turn(0, 9)).replace(b'"r1-t9"', b'"r2-t9"'),
        encode_turn(make_turn(0, 9)).replace(b'"turn": 0', b'"turn": "0"'),
        encode_turn(make_turn(0, 9)).replace(b'"chosen": 0', b'"chosen": 1'),
        encode_turn(make_turn(0, 9)).replace(b'"chosen": 0', b'"chosen": 7'),
        encode_turn(make_turn(0, 9)).replace(b'"status": "ok"', b'"status": "great"'),
        encode_turn(make_turn(0, 9)).replace(b'"index": 2', b'"index": 5'),
    ],
)  # fmt: skip
def test_a_corrupt_line_is_named_by_file_and_line(tmp_path, damage):
    path = tmp_path / "trajectories.jsonl"
    path.write_bytes(encode_turn(make_turn(0)) + damage + encode_turn(make_turn(1)))
    before = path.read_bytes()
    with pytest.raises(StoreError, match=r"trajectories\.jsonl:2: the record is corrupt"):
        TrajectoryStore(path)
    with pytest.raises(StoreError, match=r"trajectories\.jsonl:2: the record is corrupt"):
        read_trajectories([path])
    assert path.read_bytes() == before


def test_a_record_of_another_schema_is_refused_by_its_number(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_bytes(encode_turn(make_turn()).replace(b'"schema_version": 2', b'"schema_version": 99'))
    with pytest.raises(StoreError, match=r"t\.jsonl:1: schema_version=99"):
        read_trajectories([path])


def test_a_turn_is_stored_once_and_in_order(tmp_path):
    with TrajectoryStore(tmp_path / "t.jsonl") as store:
        with pytest.raises(StoreError, match="turn 1 of r1-t3 has no turn 0"):
            store.append(make_turn(1))
        store.append(make_turn(0))
        with pytest.raises(StoreError, match="turn 0 of r1-t3 is stored twice"):
            store.append(make_turn(0))
        store.append(make_turn(0, trajectory=4))
        store.append(make_turn(0, round_=2))
        assert len(store) == 3


def test_a_duplicate_or_a_gap_in_a_file_is_named(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_bytes(encode_turn(make_turn(0)) * 2)
    with pytest.raises(StoreError, match=r"t\.jsonl:2: turn 0 of r1-t3 is stored twice"):
        TrajectoryStore(path)
    path.write_bytes(encode_turn(make_turn(0)) + encode_turn(make_turn(2)))
    with pytest.raises(StoreError, match=r"t\.jsonl:2: turn 2 of r1-t3 has no turn 1"):
        read_trajectories([path])


def test_trajectories_come_in_planned_order_whatever_order_they_finished_in(tmp_path):
    path = tmp_path / "trajectories.jsonl"
    with TrajectoryStore(path) as store:
        for round_, trajectory, number in [(2, 0, 0), (1, 11, 0), (1, 2, 0), (1, 11, 1), (1, 2, 1)]:
            store.append(make_turn(number, trajectory, round_))
        ours = list(store.trajectories())
        assert [(t.round, t.index, len(t.turns)) for t in ours] == [(1, 2, 2), (1, 11, 2), (2, 0, 1)]
        assert [t.index for t in store.trajectories(1)] == [2, 11]
        assert [t.trajectory for t in store.turns()] == [0, 11, 2, 11, 2]
        assert store.finished_turns(7, 7) == ()
    assert read_trajectories([path]) == ours
    assert read_trajectories([tmp_path, path]) == ours + ours


def test_paths_without_trajectories_are_named(tmp_path):
    with pytest.raises(StoreError, match=r"trajectories\.jsonl: cannot be read"):
        read_trajectories([tmp_path])
    (tmp_path / "trajectories.jsonl").write_bytes(b"")
    with pytest.raises(StoreError, match="holds no finished turn"):
        read_trajectories([tmp_path])


def test_a_second_writer_is_refused_while_the_first_lives(tmp_path):
    path = tmp_path / "t.jsonl"
    with TrajectoryStore(path), pytest.raises(StoreError, match="held by another process"):
        TrajectoryStore(path)
    with TrajectoryStore(path):
        pass


def test_a_full_disk_is_named_and_leaves_nothing_half_written(tmp_path):
    """A file size limit makes the kernel write a part of the record and refuse the rest, as a full disk does."""
    path = tmp_path / "t.jsonl"
    size = len(encode_turn(make_turn(0)))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with TrajectoryStore(path) as store:
        store.append(make_turn(0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, limits[1]))
        try:
            with pytest.raises(StoreError, match=r"t\.jsonl: cannot be written: File too large; .*free disk space"):
                store.append(make_turn(1))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert path.stat().st_size == size
        with pytest.raises(StoreError, match="File too large"):
            store.append(make_turn(1))
    with TrajectoryStore(path) as store:
        store.append(make_turn(1))
        assert len(store.finished_turns(1, 3)) == 2


def test_a_failed_sync_is_a_store_error(tmp_path, monkeypatch):
    path = tmp_path / "t.jsonl"
    with TrajectoryStore(path) as store:

        def fail(handle):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", fail)
        with pytest.raises(StoreError, match="No space left on device"):
            store.append(make_turn(0))
    monkeypatch.undo()
    assert path.read_bytes() == b""


def test_a_closed_store_takes_nothing(tmp_path):
    store = TrajectoryStore(tmp_path / "t.jsonl")
    store.close()
    with pytest.raises(StoreError, match="is closed"):
        store.append(make_turn(0))


def test_a_path_that_cannot_be_opened_is_named(tmp_path):
    (tmp_path / "t.jsonl").mkdir()
    with pytest.raises(StoreError, match=r"t\.jsonl: cannot be opened: Is a directory"):
        TrajectoryStore(tmp_path / "t.jsonl")


def test_a_killed_writer_loses_no_finished_turn(tmp_path):
    """Another process appends one turn, starts a second record and is killed."""
    path = tmp_path / "t.jsonl"
    script = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from w4s_jax.rollout.store import TrajectoryStore\n"
        "from w4s_jax.rollout.records import decode_turn\n"
        "line = sys.stdin.buffer.read()\n"
        "store = TrajectoryStore(Path(sys.argv[1]))\n"
        "store.append(decode_turn(line, 'stdin'))\n"
        "os.pwrite(store._file, line[:50], len(line))\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    line = encode_turn(make_turn(0))
    done = subprocess.run([sys.executable, "-c", script, str(path)], input=line, check=False, timeout=60)
    assert done.returncode == -9
    with TrajectoryStore(path) as store:
        assert store.recovered_bytes == 50
        assert store.finished_turns(1, 3) == (make_turn(0),)
    assert stat.S_IMODE(path.stat().st_mode) & 0o600 == 0o600
