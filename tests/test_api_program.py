"""`w4s`: every command under one name, in a checkout run as the module that is installed."""

import os
import re
import subprocess
import sys

import pytest

from benchmarks.kill_and_resume import ROOT
from experiments import app

AS_INSTALLED = """
import sys, types, experiments
for name in {missing!r}:
    sys.modules[name] = None
sys.argv = ["/somewhere/bin/w4s", *sys.argv[1:]]
from experiments import app
app.w4s()
"""


def w4s(*arguments, cwd, missing=()):
    return subprocess.run(
        [sys.executable, "-c", AS_INSTALLED.format(missing=missing), *arguments],
        cwd=cwd, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip


@pytest.fixture
def program(monkeypatch, capsys):
    """Runs the program in this process as far as the choice of the command."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["/somewhere/bin/w4s", *arguments])
        code = 0
        try:
            app.w4s()
        except SystemExit as exit_:
            code = exit_.code
        return code, *capsys.readouterr()

    return run


@pytest.mark.parametrize("arguments", [(), ("--help",), ("-h",), ("help",)])
def test_the_help_has_a_line_a_command(program, arguments):
    code, out, _ = program(*arguments)
    assert code == 0
    for name in app.COMMANDS:
        (line,) = re.findall(rf"^  {name} +(\S.*)$", out, re.MULTILINE)
        assert "`" not in line
        assert len(line) <= 110


def test_an_unknown_command_is_one_line(program):
    code, out, err = program("optimise")
    assert (code, out) == (2, "")
    assert err == "error: command 'optimise' is unknown, did you mean optimize?; see w4s --help\n"


def test_a_command_that_needs_jax_says_what_to_install(tmp_path):
    done = w4s("rlao", "--task=toy", cwd=tmp_path, missing=("jax",))
    assert done.returncode == 2
    assert done.stderr == "error: w4s rlao needs jax, which is not installed; pip install 'w4s_jax[train]'\n"


def test_a_command_runs_outside_a_checkout_without_jax(tmp_path):
    done = w4s(
        *("evaluate", "--task=toy_units", "--workflow=toy_cot", "--validation_size=5", "--sandbox_packages="),
        cwd=tmp_path, missing=("jax", "flax", "transformers", "orbax", "optax"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "toy_cot on toy_units, validation: 5 of 5 items" in done.stdout
    assert (tmp_path / "runs" / "evaluate" / "calls.sqlite").exists()


def test_a_flag_file_that_is_shipped_goes_by_its_name():
    assert app.shipped_flags("--flagfile=quickstart") == f"--flagfile={ROOT / 'experiments/flags/quickstart.flags'}"
    assert app.shipped_flags("--flagfile=mine.flags") == "--flagfile=mine.flags"
    assert app.shipped_flags("--seed=1") == "--seed=1"


def test_the_command_that_resumes_is_the_programs(monkeypatch):
    monkeypatch.delenv("W4S_COMMAND", raising=False)
    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/w4s", "optimize", "--run_dir=a b"])
    assert app.resume_command() == "w4s optimize '--run_dir=a b'"
