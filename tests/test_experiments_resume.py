"""A run that is killed, stopped or out of budget goes on as if nothing had happened."""

import random
import re
import shlex
import shutil
import signal
import subprocess

import pytest
from rlao_runs import one_line

from benchmarks.kill_and_resume import (
    NUM_TURNS,
    ROOT,
    Left,
    differences,
    environment,
    stopped_when,
    turns_stored,
)

pytestmark = pytest.mark.slow


def after_turns(run_dir, turns):
    """A moment: this many turns are stored."""
    return lambda: turns_stored(run_dir) >= turns


def test_a_run_killed_at_random_moments_ends_as_if_it_had_not_been(shared):
    """Three kills in one run, in its first search, in its rounds and near its end: equal to the bit."""
    run_dir, rng, stored = shared.root / "killed", random.Random(0), []
    for turns in (rng.randrange(2), rng.randrange(3, 7), rng.randrange(7, NUM_TURNS)):
        stopped_when(shared.command.start(run_dir), after_turns(run_dir, turns), signal.SIGKILL)
        stored.append(Left.of(run_dir))
        assert len(stored[-1].turns) >= turns
    assert len(stored[0].turns) < NUM_TURNS
    done = shared.command.finish(run_dir)
    assert done.returncode == 0, done.stderr
    assert differences(shared.left, Left.of(run_dir), stored) == []


def test_a_run_stopped_by_a_budget_by_ctrl_c_and_by_sigterm_resumes(shared):
    run_dir, stored = shared.root / "stopped", []

    done = shared.command.finish(run_dir, "--budget_calls=20")
    said = one_line(done, 3)
    assert "--budget_calls=20" in said
    assert "raise --budget_calls and run the same command again" in said
    stored.append(Left.of(run_dir))
    assert sum(stored[-1].calls.values()) == 20  # the cap is reached and never passed

    process = shared.command.start(run_dir, "--budget_calls=1000")
    said = stopped_when(process, after_turns(run_dir, 3), signal.SIGTERM)
    assert process.returncode == 143, said
    assert "Traceback" not in said
    stored.append(Left.of(run_dir))

    process = shared.command.start(run_dir, "--budget_calls=1000")
    said = stopped_when(process, after_turns(run_dir, 5), signal.SIGINT)
    assert process.returncode == 130, said
    assert "Traceback" not in said
    stored.append(Left.of(run_dir))

    resume = shlex.split(re.search(r"Resume with:\n\s+(.*)", said)[1])
    done = subprocess.run(
        resume, cwd=ROOT, env=environment(shared.command.compiled), capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    assert "resuming after round" in done.stderr
    assert differences(shared.left, Left.of(run_dir), stored) == []


def test_a_finished_run_given_again_buys_nothing_and_says_the_same(shared, tmp_path):
    run_dir = shutil.copytree(shared.run_dir, tmp_path / "finished")
    done = shared.command.finish(run_dir)
    assert done.returncode == 0, done.stderr
    assert differences(shared.left, Left.of(run_dir)) == []
    for name in ("trajectories.jsonl", "run.flags"):
        assert (run_dir / name).read_bytes() == (shared.run_dir / name).read_bytes()
