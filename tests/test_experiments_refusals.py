"""Bad input ends with 2 and one line that names the thing, its value and the remedy; nothing is begun."""

import fcntl

import pytest
from commands import run_command
from rlao_runs import one_line

from benchmarks.kill_and_resume import FLAGS

HERE = "http://127.0.0.1:9/v1"


def rlao(shared, run_dir, *flags):
    """The command with the flags of the shared runs, in this process."""
    return run_command("rlao", *FLAGS, f"--meta_agent={shared.command.agent}", f"--run_dir={run_dir}", *flags)


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--task=toy_unit"], ["toy_unit", "toy_units"]),
        (["--meta_agent=api:gpt-4o"], ["--meta_agent=api:gpt-4o", "--trajectories="]),
        (["--meta_agent=no/such folder"], ["--meta_agent=no/such folder", "tiny", "run directory"]),
        (["--eval_after_turns=2,x"], ["--eval_after_turns", "'x'", "2,5"]),
        (["--trajectories=no-such-run"], ["no-such-run", "No such file"]),
        (["--executor=openai", "--executor_model=gpt-4o-mini", "--budget_usd=1"], ["OPENAI_API_KEY", "export"]),
        (
            ["--executor=openai", "--executor_model=gpt-4o-mini", f"--executor_base_url={HERE}"],
            ["gpt-4o-mini", "--budget_usd"],
        ),
        (
            ["--executor=openai", "--executor_model=mine", f"--executor_base_url={HERE}", "--budget_usd=1"],
            ["price", "mine", "--executor_prices"],
        ),
    ],
    ids=lambda value: value[0].partition("=")[0] if value[0].startswith("--") else "",
)
def test_bad_input_is_refused_and_the_command_can_be_corrected(shared, tmp_path, flags, named):
    said = one_line(rlao(shared, tmp_path / "run", "--num_rounds=1", *flags), 2)
    for words in named:
        assert words in said
    left = {path.name for path in (tmp_path / "run").iterdir()} if (tmp_path / "run").exists() else set()
    assert left <= {".lock", "calls.sqlite", "calls.sqlite.lock"}  # no run.flags that would bind the next command


def test_a_missing_run_directory_is_refused():
    said = one_line(run_command("rlao", "--task=toy_units"), 2)
    assert "--run_dir is empty" in said


def test_an_argument_that_is_no_flag_is_refused(shared, tmp_path):
    assert "'quickstart'" in one_line(rlao(shared, tmp_path / "run", "quickstart"), 2)


def test_a_changed_flag_that_decides_results_is_refused_by_name(shared):
    before = (shared.run_dir / "run.flags").read_text()
    said = one_line(rlao(shared, shared.run_dir, "--tau=0.5", "--concurrency=3"), 2)
    assert "--tau=0.4 became --tau=0.5" in said
    assert "concurrency" not in said  # decides no result
    assert (shared.run_dir / "run.flags").read_text() == before


def test_a_run_directory_in_use_is_refused(shared, tmp_path):
    with open(tmp_path / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        said = one_line(rlao(shared, tmp_path), 2)
    assert str(tmp_path) in said
    assert "in use by another process" in said
