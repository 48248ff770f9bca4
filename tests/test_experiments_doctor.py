"""The doctor says what works here, keeps keys to itself, and does not need what it looks for."""

import json
import os
import subprocess
import sys

import pytest

from benchmarks.kill_and_resume import ROOT, environment
from w4s_jax.run.doctor import available_memory, package_requirements, unmet

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


@pytest.mark.parametrize(
    ("meminfo", "limit", "bytes_"),
    [
        ("MemTotal: 4096 kB\nMemAvailable:    2048 kB\n", "max\n", 2048 * 1024),
        ("MemTotal: 4096 kB\nMemAvailable:    2048 kB\n", "1048576\n", 1048576),
        ("MemTotal: 4096 kB\nMemAvailable:    2048 kB\n", None, 2048 * 1024),
        ("MemTotal: 4096 kB\nMemFree: 2048 kB\n", "max\n", None),
        ("", "1048576\n", None),
        (None, None, None),
    ],
)
def test_memory_is_unknown_where_the_kernel_does_not_say(tmp_path, meminfo, limit, bytes_):
    for name, text in (("meminfo", meminfo), ("limit", limit)):
        if text is not None:
            (tmp_path / name).write_text(text)
    assert available_memory(tmp_path / "meminfo", tmp_path / "limit") == bytes_


def test_the_requirements_are_the_checkouts_or_else_those_of_the_installed_package(tmp_path, monkeypatch):
    source, of_checkout = package_requirements(ROOT)
    assert source == "pyproject.toml"
    assert any(line.startswith("openai") for line in of_checkout[""])
    lines = ["numpy>=2.2", 'jax>=0.10; extra == "train"', "flax>=0.12.6 ; extra == 'train'"]
    monkeypatch.setattr("importlib.metadata.requires", {"w4s_jax": lines}.get)
    assert package_requirements(tmp_path)[1] == {"": ["numpy>=2.2"], "train": ["jax>=0.10", "flax>=0.12.6"]}


def test_a_requirement_of_another_name_or_version_is_unmet(monkeypatch):
    monkeypatch.setattr("importlib.metadata.version", {"numpy": "2.10.1"}.__getitem__)
    assert unmet("numpy>=2.9") == ""
    assert unmet("numpy>=2.10.2") == "numpy 2.10.1 is older than 2.10.2"
    assert unmet("w4s_jax[train]") == ""
