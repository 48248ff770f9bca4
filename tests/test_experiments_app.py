"""The frame of every entry point, on small programs of its own."""

import signal
import subprocess
import sys

import pytest

from benchmarks.kill_and_resume import ROOT

PROGRAM = """
import asyncio
from experiments import app
from experiments.flags import Flags
from w4s_jax import types
from w4s_jax.run.config import RunConfig

async def work():
    try:
        print("ready", flush=True)
        await asyncio.sleep(60)
    finally:
        print("saved", flush=True)

def main():
    {body}

app.run(main, Flags(RunConfig(), {{"run_dir"}}))
"""


def start(body, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(body=body), *arguments],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("error", "code"),
    [
        ("InputError", 2),
        ("StoreError", 2),
        ("CheckpointError", 2),
        ("ExecutorError", 2),
        ("SandboxError", 2),
        ("BudgetExceededError", 3),
    ],
)
def test_an_error_of_the_library_is_one_line_and_a_code(error, code):
    process = start(f"raise types.{error}('the thing=7\\nis wrong')")
    out, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert out == ""
    assert err == "error: the thing=7 is wrong\n"


def test_any_other_error_keeps_its_traceback():
    process = start("raise ZeroDivisionError('ours')")
    assert "Traceback" in process.communicate(timeout=60)[1]
    assert process.returncode == 1


def test_success_is_zero():
    process = start("print('done')")
    assert process.communicate(timeout=60)[0] == "done\n"
    assert process.returncode == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_lets_the_work_save_and_prints_the_command_that_resumes(number):
    process = start("app.run_async(work())", "--run_dir=a b")
    process.kill() if process.stdout.readline() != "ready\n" else process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert out == "saved\n"
    assert "Resume with:" in err
    assert "'--run_dir=a b'" in err
    assert "Traceback" not in err
