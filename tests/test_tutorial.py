"""Every block of docs/your_task.md, run in its order, with local servers in place of the paid ones."""

import asyncio
import json
import os
import re
import sys
from pathlib import Path

import pytest
from fakes import FakeServer, completion

from benchmarks.kill_and_resume import ROOT, environment
from w4s_jax.executor.simulator import SimulatedBackend
from w4s_jax.executor.simulator.server import serve
from w4s_jax.tasks.base import TaskOptions
from w4s_jax.tasks.custom import CustomFormat
from w4s_jax.tasks.registry import make_task
from w4s_jax.types import Split

PAGE = ROOT / "docs" / "your_task.md"
BLOCK = re.compile(r"^```(sh|python)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
PROGRAM = """It should compute.
```python
def solver(agent, task):
    reply = agent.call_llm(task + "\\nWrite Python code: def solution() that returns the answer.", temperature=0.0)[0]
    return {"answer": agent.execute_code(agent.extract_code_block(reply))}
```"""


def blocks():
    return [(kind, text) for kind, text in BLOCK.findall(PAGE.read_text(encoding="utf-8"))]


async def run(kind, text, folder, extra):
    """Runs one block as a reader would, in `folder`."""
    command = ["-c", text] if kind == "python" else None
    shell = f'set -eu\npython() {{ "{sys.executable}" "$@"; }}\n{text}'
    process = await asyncio.create_subprocess_exec(
        *([sys.executable, *command] if command else ["bash", "-c", shell]),
        cwd=folder,
        env=environment(folder / "compiled") | {"PYTHONPATH": str(ROOT), **extra},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode == 0, f"{text}\n{out.decode()}\n{err.decode()}"
    return out.decode()


@pytest.mark.slow
async def test_every_step_of_the_tutorial_does_what_the_page_says(tmp_path, monkeypatch):
    steps = blocks()
    assert [kind for kind, _ in steps] == ["python", "python", "sh", "sh", "sh", "python", "python", "sh"]
    await run(*steps[0], tmp_path, {})
    monkeypatch.chdir(tmp_path)
    task = make_task("jsonl:my_task/questions.csv", TaskOptions(), custom=CustomFormat(scorer="numeric"))
    assert task.split_sizes() == {Split.TRAIN: 0, Split.VALIDATION: 20, Split.TEST: 40}

    async with FakeServer(lambda *asked: completion(PROGRAM)) as writer, serve(SimulatedBackend(tasks=[task])) as url:
        keys = {"OPENAI_API_KEY": "sk-executor", "OPENAI_BASE_URL": url, "META_AGENT_BASE_URL": writer.base_url}
        called, _ = [await run(kind, text, tmp_path, keys) for kind, text in steps[1:3]]
        by_commands = len(writer.requests)
        baseline, searched, answered = [await run(kind, text, tmp_path, keys) for kind, text in steps[3:6]]
        assert all("sk-executor" not in str(headers) for _, headers in writer.requests)
        assert {body["model"] for body, _ in writer.requests} == {"gpt-4o"}
        assert "Orders of a glass shop" in writer.requests[by_commands][0]["messages"][0]["content"]
    *_, answer, tested = called.splitlines()
    assert float(answer)
    assert re.fullmatch(r"test: \d\.\d{3} \[.*\] n=40; best seed \d\.\d{3} .*; gain, paired [+-]\d\.\d{3} .*", tested)
    assert "cot on jsonl:my_task/questions.csv, validation: 20 of 20 items" in baseline
    assert "Worst case" in baseline
    assert "meta-agent gpt-4o" in baseline
    summary = json.loads((tmp_path / "runs" / "my_task" / "summary.json").read_text())
    found = summary["searches"]["jsonl:my_task/questions.csv"]
    assert found["best"]["validation_accuracy"] >= found["seed"]["validation_accuracy"]
    assert summary["search"]["n"] == 40
    assert summary["usd"] < 1
    assert "best workflow, test" in searched
    assert float(answered)  # the simulated executor may be wrong; a number it is
    header = Path("runs/my_task/workflows/best.py").read_text().splitlines()
    assert header[1].startswith("# Test accuracy")
    for kind, text in steps[6:]:
        out = await run(kind, text, tmp_path, {})
    assert re.search(r"mean score \d\.\d{3}", out)
    assert not (set(os.listdir(tmp_path)) - {"my_task", "runs", "compiled"})
