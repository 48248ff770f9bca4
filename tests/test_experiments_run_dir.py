"""Small parts of a run directory: whom it lets in, and what its metrics keep."""

import json

import pytest

from w4s_jax.run.directory import RunDirectory
from w4s_jax.run.metrics import MetricsLog, round_values
from w4s_jax.types import Candidate, CandidateStatus, Feedback, InputError, StoreError, Trajectory, Turn

FLAGS = {"tau": "--tau=0.4", "evaluate_before": "--evaluate_before", "concurrency": "--concurrency=64"}


def begin(run, flags=FLAGS):
    """A first command that gets as far as its first turn."""
    with run.opened(flags) as resumed:
        run.trajectories.touch()
    return resumed


def test_the_first_command_starts_and_the_same_one_resumes(tmp_path):
    run = RunDirectory(tmp_path / "a" / "b")
    assert begin(run) is False
    assert begin(run) is True
    assert run.flags.read_text().splitlines() == list(FLAGS.values())


@pytest.mark.parametrize(
    ("name", "line"),
    [("tau", "--tau=0.5"), ("evaluate_before", "--noevaluate_before"), ("seed", "--seed=3")],
)
def test_a_flag_that_decides_results_cannot_change(tmp_path, name, line):
    run = RunDirectory(tmp_path)
    begin(run)
    with (
        pytest.raises(InputError, match=f"{FLAGS.get(name, 'no --seed')} became {line}"),
        run.opened(FLAGS | {name: line}),
    ):
        pass
    assert begin(run)  # the refused command left the flags as they were


def test_a_flag_that_decides_no_result_may_change_and_is_recorded(tmp_path):
    run = RunDirectory(tmp_path)
    begin(run)
    assert begin(run, FLAGS | {"concurrency": "--concurrency=1"})
    assert "--concurrency=1" in run.flags.read_text()


def test_a_command_that_was_refused_before_it_began_binds_nobody(tmp_path):
    run = RunDirectory(tmp_path)
    with pytest.raises(InputError, match="unknown task"), run.opened(FLAGS):
        raise InputError("unknown task")
    assert begin(run, FLAGS | {"tau": "--tau=9"}) is False


def test_a_command_that_failed_after_it_began_binds_the_next(tmp_path):
    run = RunDirectory(tmp_path)
    run.trajectories.write_text("a turn\n")
    with pytest.raises(StoreError), run.opened(FLAGS):
        raise StoreError("disk full")
    with pytest.raises(InputError, match="other flags"):
        begin(run, FLAGS | {"tau": "--tau=9"})


def test_a_command_that_failed_before_its_first_turn_may_be_corrected(tmp_path):
    run = RunDirectory(tmp_path)
    run.trajectories.touch()  # opened, and nothing in it
    run.checkpoints.mkdir()
    with pytest.raises(InputError, match="no such model"), run.opened(FLAGS):
        raise InputError("no such model")
    begin(run, FLAGS | {"tau": "--tau=9"})


def test_two_processes_do_not_share_a_directory(tmp_path):
    run = RunDirectory(tmp_path)
    with run.opened(FLAGS), pytest.raises(InputError, match="in use by another process"), run.opened(FLAGS):
        pass


def test_a_write_that_fails_leaves_the_old_file_and_no_half_one(tmp_path):
    run = RunDirectory(tmp_path)
    (tmp_path / "summary.json").mkdir()
    with pytest.raises(StoreError, match=r"summary\.json"):
        run.write_json(run.summary, {"a": 1})
    assert [path.name for path in tmp_path.iterdir()] == ["summary.json"]
    with pytest.raises(ValueError, match="not JSON compliant"):
        run.write_json(run.versions, {"a": float("nan")})
    assert not run.versions.exists()


# --- metrics ----------------------------------------------------------------------


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_metrics_behind_the_checkpoint_are_dropped_with_a_torn_last_line(tmp_path):
    """Killed in round 2, after the checkpoint of round 1: what round 2 wrote will be written again."""
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path, tmp_path / "tensorboard", keep_rounds=0)
    for round_, step in ((1, 1), (1, 2), (2, 3)):
        log.add("update", round_=round_, step=step, values={"loss": 0.5})
    log.close()
    path.write_text(path.read_text() + '{"kind": "upd')
    log = MetricsLog(path, tmp_path / "tensorboard", keep_rounds=1)
    log.add("update", round_=2, step=3, values={"loss": 0.25})
    log.close()
    assert [(m["round"], m["step"], m["loss"]) for m in lines(path)] == [(1, 1, 0.5), (1, 2, 0.5), (2, 3, 0.25)]


def test_metrics_that_are_no_metrics_are_refused(tmp_path):
    (tmp_path / "metrics.jsonl").write_text("what is this\n")
    with pytest.raises(StoreError, match=r"metrics\.jsonl cannot be used"):
        MetricsLog(tmp_path / "metrics.jsonl", tmp_path / "tensorboard", keep_rounds=1)


def candidate(index, status, **fields):
    return Candidate(index=index, status=status, text="", **fields)


def test_a_skipped_action_counts_as_no_reward_and_a_failure_of_ours_not_at_all():
    """Rewards 1 and 0.5 of two that ran, one skipped, one failed by us: 1.5 over 3 actions, 2 of which ran."""
    ok, skipped, failed = CandidateStatus.OK, CandidateStatus.SKIPPED, CandidateStatus.FAILED
    candidates = (
        candidate(0, ok, reward=1.0, score=0.9, feedback=Feedback(score=0.9, accuracy=0.8, n=5), repairs=2),
        candidate(1, ok, reward=0.5, score=0.5, feedback=Feedback(score=0.5, accuracy=0.4, n=5)),
        candidate(2, skipped, repairs=3),
        candidate(3, failed),
    )
    turn = Turn(round=1, trajectory=0, turn=0, task="t", messages=(), prompt_ids=(), candidates=candidates, chosen=0)
    values = round_values([Trajectory(round=1, index=0, task="t", turns=(turn,))])
    assert values["actions"] == 3
    assert values["mean_reward"] == pytest.approx(0.5)
    assert values["running_share"] == pytest.approx(2 / 3)
    assert values["reward_per_running"] == pytest.approx(0.75)
    assert values["mean_score"] == pytest.approx(0.7)
    assert values["mean_accuracy"] == pytest.approx(0.6)
    assert (values["repairs"], values["failed_by_us"]) == (5, 1)


def test_a_round_without_actions_has_no_division_by_zero():
    assert round_values([])["mean_reward"] == 0.0
