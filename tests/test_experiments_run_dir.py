"""Small parts of a run directory: whom it lets in, and what it keeps."""

import pytest

from w4s_jax.run.directory import RunDirectory
from w4s_jax.types import InputError, StoreError

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
