"""One run as several processes: the same losses, the same files, and nothing left behind when one of them dies."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time

import jax
import pytest
from rlao_runs import one_line, records
from tiny_policy import FAMILIES

from benchmarks.kill_and_resume import FLAGS, Left, differences, ended, stopped_when, turns_stored
from w4s_jax.policy.sharding import make_mesh
from w4s_jax.policy.transformer import Transformer
from w4s_jax.run.training import sampling_mesh
from w4s_jax.training.config import OptimizerConfig
from w4s_jax.training.step import Trainer

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def pair(shared):
    """A run of two processes that was never interrupted."""
    run_dir = shared.root / "pair"
    with shared.locked():
        if not (run_dir / "summary.json").exists():
            done = ended(launched(shared, run_dir))
            assert done.returncode == 0, done.stderr
            assert "in 2 processes" in done.stderr
    return run_dir


def launched(shared, run_dir, *flags):
    arguments = ["experiments.rlao", *FLAGS, f"--meta_agent={shared.command.agent}", f"--run_dir={run_dir}", *flags]
    return shared.command.python("-m", "launch.local", "--num_processes=2", "--", *arguments)


def members(run_dir):
    """Process ids of a run."""
    found = subprocess.run(
        ["pgrep", "-f", f"experiments.rlao.*--run_dir={run_dir}( |$)"], capture_output=True, text=True
    )
    every = {int(pid) for pid in found.stdout.split()}
    return {pid for pid in every if b"launch.local" not in command_line(pid)}


def command_line(pid):
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read()
    except FileNotFoundError:
        return b"launch.local"


def rank(pid):
    with open(f"/proc/{pid}/environ", "rb") as file:
        return int(re.search(rb"JAX_PROCESS_ID=(\d+)", file.read())[1])


def all_gone(run_dir):
    deadline = time.monotonic() + 30
    while members(run_dir):
        assert time.monotonic() < deadline, members(run_dir)
        time.sleep(0.1)
    return True


def updates(run_dir):
    return [r for r in records(run_dir / "metrics.jsonl") if r["kind"] == "update"]


def test_two_processes_have_the_losses_of_one_on_the_same_trajectories(shared):
    """Offline and by SGD, as sampling, and Adam's division by small moments, multiply the rounding of an update."""
    flags = (f"--trajectories={shared.run_dir}", "--evaluate_before=false", "--num_rounds=1", "--optimizer=sgd")
    alone, pair = shared.root / "offline_alone", shared.root / "offline_pair"
    for done in (shared.command.finish(alone, *flags), ended(launched(shared, pair, *flags))):
        assert done.returncode == 0, done.stderr
    one, two = updates(alone), updates(pair)
    assert [u["step"] for u in two] == [u["step"] for u in one] == [1, 2, 3, 4, 5, 6]
    for key in ("loss", "nll_per_token", "grad_norm"):
        assert [u[key] for u in two] == pytest.approx([u[key] for u in one], rel=1e-5)
    assert all_gone(pair)


def test_a_run_moves_from_one_process_to_two_and_back(shared):
    run_dir = shared.root / "moved"
    started = shared.command.start(run_dir)
    stopped_when(started, lambda: turns_stored(run_dir) >= 3, signal.SIGTERM)
    assert turns_stored(run_dir) < 12
    stopped_when(launched(shared, run_dir), lambda: turns_stored(run_dir) >= 7, signal.SIGTERM)
    assert all_gone(run_dir)
    done = shared.command.finish(run_dir)
    assert done.returncode == 0, done.stderr
    left = Left.of(run_dir)
    assert (len(left.turns), left.steps) == (len(shared.left.turns), shared.left.steps)
    assert updates(run_dir)[0]["loss"] == pytest.approx(updates(shared.run_dir)[0]["loss"], rel=1e-4)


@pytest.mark.parametrize("victim", [0, 1])
def test_when_one_process_is_killed_all_end_and_the_same_command_goes_on(shared, pair, victim):
    """Killed in the first round of training; what comes out is equal to the bit."""
    run_dir = shared.root / f"victim{victim}"
    process = launched(shared, run_dir)

    def kill():
        if turns_stored(run_dir) < 5:
            return False
        [pid] = [pid for pid in members(run_dir) if rank(pid) == victim]
        os.kill(pid, signal.SIGKILL)
        return True

    stopped_when(process, kill, signal.SIGCONT)
    assert process.returncode == 128 + signal.SIGKILL
    assert all_gone(run_dir)
    stored = Left.of(run_dir)
    done = ended(launched(shared, run_dir))
    assert done.returncode == 0, done.stderr
    assert differences(Left.of(pair), Left.of(run_dir), [stored]) == []


def test_a_checkpoint_that_one_process_cannot_read_stops_all_of_them_and_is_named(shared, pair):
    run_dir = shared.root / "damaged_pair"
    shutil.copytree(pair, run_dir)
    newest = max((run_dir / "checkpoints").glob("step_*"))
    data = max(newest.glob("*/ocdbt.process_1/d/*"), key=lambda path: path.stat().st_size)
    damaged = bytearray(data.read_bytes())
    damaged[len(damaged) // 2] ^= 0x10
    data.write_bytes(damaged)
    done = ended(launched(shared, run_dir))
    assert done.returncode == 2, done.stderr
    assert f"{newest.name} cannot be read" in done.stderr
    assert "move it away and run the same command again" in done.stderr
    assert all_gone(run_dir)
    newest.rename(shared.root / "moved_away")
    done = ended(launched(shared, run_dir))
    assert done.returncode == 0, done.stderr
    assert Left.of(run_dir).parameters == Left.of(pair).parameters


def test_ctrl_c_saves_and_leaves_no_process(shared):
    run_dir = shared.root / "interrupted_pair"
    process = launched(shared, run_dir)
    said = stopped_when(process, lambda: turns_stored(run_dir) >= 3, signal.SIGINT)
    assert process.returncode == 130, said
    assert "everything finished is saved. Resume with:\n  python -m launch.local --num_processes=2 -- exper" in said
    assert all_gone(run_dir)


def test_a_refusal_is_one_line_and_ends_every_process(shared, tmp_path):
    done = ended(launched(shared, tmp_path / "run", "--mesh=fsdp=3"))
    assert "mesh='fsdp=3' asks for 3 devices, but 2 are present" in one_line_of(done)
    assert all_gone(tmp_path / "run")


def one_line_of(done):
    """The leader's line alone; the others' carry their number."""
    err = "".join(line for line in done.stderr.splitlines(keepends=True) if line.startswith("error: "))
    return one_line(subprocess.CompletedProcess(done.args, done.returncode, "", err), 2)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--num_processes=0", "--", "experiments.rlao"], "--num_processes=0 is not allowed; give at least 1"),
        ([], "MODULE"),
    ],
)
def test_a_bad_command_line_starts_nothing(arguments, said):
    done = subprocess.run([sys.executable, "-m", "launch.local", *arguments], capture_output=True, text=True)
    assert done.returncode == 2
    assert said in done.stderr


def test_distributed_without_a_description_of_the_processes_is_one_line(shared, tmp_path):
    done = shared.command.finish(tmp_path / "run", "--distributed")
    assert "--distributed: the other processes cannot be found" in one_line(done, 2)


FOUR_DEVICES = """
import os, runpy
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4"
runpy.run_module("experiments.rlao", run_name="__main__", alter_sys=True)
"""


def test_one_process_with_four_devices_trains_on_all_and_samples_with_its_heads_split(shared):
    """Weights lie on `fsdp` while they train; a decode step would gather all of them for every token."""
    run_dir = shared.root / "four_devices"
    flags = (*FLAGS, f"--meta_agent={shared.command.agent}", f"--run_dir={run_dir}", "--num_rounds=1")
    done = shared.command.python_to_end("-c", FOUR_DEVICES, *flags)
    assert done.returncode == 0, done.stderr
    assert updates(run_dir)[0]["loss"] == pytest.approx(updates(shared.run_dir)[0]["loss"], rel=1e-4)
    mesh = make_mesh("fsdp=4", jax.devices()[:4])
    trainer = Trainer(
        model=Transformer(config=FAMILIES["qwen2"], mesh=mesh, compute_dtype="float32", remat="none"),
        mesh=mesh,
        optimizer=OptimizerConfig(),
    )
    assert dict(sampling_mesh(trainer).shape)["fsdp"] == 1
    assert dict(sampling_mesh(trainer).shape)["tensor"] == FAMILIES["qwen2"].num_kv_heads
