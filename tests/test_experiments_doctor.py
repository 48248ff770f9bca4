"""The doctor tells what works here, keeps keys to itself, and does not need what it looks for."""

import json
import os
import subprocess
import sys

import pytest

from benchmarks.kill_and_resume import ROOT, environment

NO_TRAIN_EXTRA = """
import importlib.abc, runpy, sys

EXTRA = {"jax", "jaxlib", "flax", "optax", "orbax", "transformers", "tokenizers", "safetensors", "tensorboardX"}

class Hidden(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in EXTRA:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Hidden())
sys.argv[0] = "doctor"
runpy.run_module("experiments.doctor", run_name="__main__")
"""
SECRET = "sk-canary-77aa"


def doctor(tmp_path, *command, **variables):
    report = tmp_path / "doctor.json"
    done = subprocess.run(
        [sys.executable, *command, f"--json_out={report}"],
        cwd=ROOT,
        env=environment(tmp_path / "compiled") | variables,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert "Traceback" not in done.stderr
    result = json.loads(report.read_text())
    return done, {check["name"]: check for check in result["checks"]}, result["quickstart"]


def test_the_doctor_says_what_works_and_never_a_key(tmp_path):
    done, checks, quickstart = doctor(tmp_path, "-m", "experiments.doctor", OPENAI_API_KEY=SECRET)
    for name in ("python", "host packages", "train packages", "jax", "loopback", "OPENAI_API_KEY", "sandbox process"):
        assert checks[name]["ok"], checks[name]
    assert SECRET not in done.stdout + done.stderr + json.dumps(checks)
    assert done.returncode == (0 if quickstart else 1)
    assert quickstart == all(check["ok"] for check in checks.values() if check["needed"])
    lines = done.stdout.splitlines()
    for check in checks.values():
        assert any(line.split()[:1] == ["ok" if check["ok"] else "missing"] and check["name"] in line for line in lines)
        assert check["ok"] or check["remedy"]


def test_the_doctor_runs_without_the_train_extra_and_names_its_remedy(tmp_path):
    done, checks, quickstart = doctor(tmp_path, "-c", NO_TRAIN_EXTRA)
    assert done.returncode == 1
    assert not quickstart
    assert not checks["jax"]["ok"]
    assert "pip install -e '.[train]'" in checks["jax"]["remedy"]
    assert "it needs: jax" in done.stdout


@pytest.mark.skipif(os.name != "posix", reason="guard and bwrap are for Linux")
def test_the_doctor_believes_a_sandbox_that_ran_a_workflow(tmp_path):
    """With no bwrap on the path it says so, with the line that installs it."""
    folder = tmp_path / "empty"
    folder.mkdir()
    _, checks, _ = doctor(tmp_path, "-c", NO_TRAIN_EXTRA, PATH=str(folder))
    assert not checks["sandbox bwrap"]["ok"]
    assert "bubblewrap" in checks["sandbox bwrap"]["found"]
    assert "apt-get install" in checks["sandbox bwrap"]["remedy"]
    assert checks["sandbox auto"]["ok"] == checks["sandbox guard"]["ok"]
