"""The five lines that the documents begin with, run as they stand there."""

import os
import re
import subprocess
import sys

import pytest
from api_runs import ROWS, serving

from benchmarks.kill_and_resume import ROOT

BLOCK = re.compile(r"```python\n(import w4s_jax\n.*?)```", re.DOTALL)


@pytest.mark.parametrize("document", ["docs/api.md", "README.md"])
def test_the_five_lines_run_as_they_stand(document, tmp_path):
    found = BLOCK.search((ROOT / document).read_text(encoding="utf-8"))
    if document == "README.md" and (found is None or "w4s_jax.optimize" not in found[1]):
        pytest.skip("README.md has no call yet")
    rows = "".join(f"{row['question']},{row['answer']}\n" for row in ROWS)
    (tmp_path / "questions.csv").write_text(f"question,answer\n{rows}")
    with serving() as server:
        done = subprocess.run(
            [sys.executable, "-c", found[1]],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(ROOT), "OPENAI_BASE_URL": server.base_url},
            capture_output=True,
            text=True,
            timeout=300,
        )
    assert done.returncode == 0, done.stderr
    assert "def solver(agent, task)" in done.stdout
    assert {body["model"] for body, _ in server.requests} == {"gpt-4o", "gpt-4o-mini"}
    assert (tmp_path / "runs" / "mine" / "workflows" / "best.py").exists()
