"""The flag files: each opens with what it reproduces and is taken by its command as it stands."""

import re

import pytest
from commands import run_command
from small_benchmarks import write_small_benchmarks

from benchmarks.kill_and_resume import ROOT

FILES = sorted((ROOT / "experiments" / "flags").glob("*.flags"))
PAPERS = [path for path in FILES if path.name != "quickstart.flags"]
KEYS = ("The paper's figure:", "Splits:", "Settings:", "Hardware:", "Hours:", "USD:", "OPENAI_API_KEY")


def head(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    return "\n".join(line for line in lines if line.startswith("#"))


def test_every_run_of_the_paper_is_there_for_each_kind_of_meta_agent():
    kinds = ("h200", "v5e16", "api")
    assert {p.stem for p in PAPERS} == {
        f"{run}_{kind}" for run in ("humaneval", "math_transfer", "gsm_hard", "math") for kind in kinds
    }


@pytest.mark.parametrize("path", PAPERS, ids=lambda path: path.stem)
def test_a_file_says_what_it_reproduces_and_that_nobody_ran_it(path):
    told = head(path)
    assert "Not run by us." in told
    assert [key for key in KEYS if key not in told] == []
    flags = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    assert all(line.startswith("--") and "flagfile" not in line for line in flags)  # self-contained
    assert len({line.split("=")[0] for line in flags}) == len(flags)
    about = int(re.search(r"USD: about (\d+)", told)[1])
    cap = float(next(line for line in flags if line.startswith("--budget_usd=")).split("=")[1])
    assert about < cap < 10 * about


@pytest.mark.parametrize("path", PAPERS, ids=lambda path: path.stem)
def test_a_file_is_taken_by_its_command(path, tmp_path):
    module = re.search(r"python -m (experiments\.\w+) --flagfile=experiments/flags/" + path.name, head(path))[1]
    done = run_command(
        *(module.removeprefix("experiments."), f"--flagfile={path}", "--dry_run"),
        *(f"--data_dir={write_small_benchmarks(tmp_path / 'data')}", "--validation_size=4", "--test_size=4"),
    )
    assert done.returncode == 0, done.stderr
    assert "Worst case" in done.stdout
    assert "by list price" in done.stdout
    assert ("meta-agent gpt-4o" in done.stdout) == (module == "experiments.optimize")
