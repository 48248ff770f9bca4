"""Every benchmark's whole path without a network: files, seeds, search, closing test evaluation, workflow files."""

import asyncio
import json
import re
from pathlib import Path

import pytest
from fakes import FakeServer, completion
from small_benchmarks import write_small_benchmarks

from benchmarks.kill_and_resume import Command
from w4s_jax.tasks.registry import task_names

SHARED = Path(__file__).resolve().parents[2] / "shared" / "datasets"
BENCHMARKS = [name for name in task_names() if not name.startswith("toy")]
VARIANTS = ["gsm_hard:pal", "drop:bags", "mgsm:en", "math:algebra", "gaia:text"]
PRICE = '--executor_prices={"writer": {"input": 1, "output": 2}}'
ANY_TASK = """It answers questions and writes functions.
```python
def solver(agent, task, entry_point=None):
    if entry_point:
        reply = agent.call_llm(task + "\\nWrite the function in one Python block.", temperature=0.0)[0]
        return {"answer": agent.extract_code_block(reply, entry_point)}
    replies = agent.call_json_format_llm(task, temperature=0.0, return_dict_keys=["reasoning", "answer"])
    return {"answer": str(replies[0]["answer"])}
```"""


async def optimized(tmp_path, data_dir, tasks, *flags):
    """The summary of one search a task, and what was printed."""
    async with FakeServer(lambda *asked: completion(ANY_TASK)) as server:
        done = await asyncio.to_thread(
            Command(tmp_path / "no_agent", tmp_path / "compiled").python_to_end,
            *("-m", "experiments.optimize", f"--task={','.join(tasks)}", f"--data_dir={data_dir}", "--test"),
            *("--meta_agent=api:writer", f"--meta_agent_base_url={server.base_url}", "--budget_usd=5", PRICE),
            *("--num_turns=1", "--num_candidates=1", f"--run_dir={tmp_path / 'run'}", *flags),
        )
    assert done.returncode == 0, done.stderr
    return json.loads((tmp_path / "run" / "summary.json").read_text()), done


@pytest.mark.slow
async def test_every_benchmark_runs_on_small_files_of_our_own_making(tmp_path):
    tasks = [*BENCHMARKS, *VARIANTS]
    summary, done = await optimized(tmp_path, write_small_benchmarks(tmp_path / "data"), tasks)
    found = summary["search"]["by_task"]
    assert set(summary["searches"]) == set(found) == set(tasks)
    assert all(search["turns"] == 1 for search in summary["searches"].values())
    # The simulated executor knows every gold answer, so each task is solved by some of the workflows.
    assert [name for name, search in summary["searches"].items() if search["best"]["validation_accuracy"] == 0] == []
    assert [name for name, result in found.items() if result["score"] == 0] == []
    assert {name for name, search in summary["searches"].items() if search["metric"] == "f1"} == {
        "drop", "drop:bags", "hotpotqa",
    }  # fmt: skip
    versions = json.loads((tmp_path / "run" / "versions.json").read_text())
    for name in tasks:
        assert re.search(rf"^{re.escape(name)}: \S+.*\([0-9a-f]{{12}}\).*; right: ", done.stderr, re.MULTILINE), name
        assert versions["tasks"][name]["rule"]
        assert all(len(digest) == 64 for digest in versions["split_sha256"][name].values())
        assert Path(summary["searches"][name]["file"]).exists()
    assert "without tools" in versions["tasks"]["gaia"]["source"]


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason="the real benchmark files are not beside the repository")
async def test_the_real_files_run_as_well(tmp_path):
    tasks = ["gsm_hard", "gsm8k", "mgsm:en+de", "humaneval"]
    summary, _ = await optimized(tmp_path, SHARED, tasks, "--validation_size=8", "--test_size=8")
    assert {name: result["n"] for name, result in summary["search"]["by_task"].items()} == dict.fromkeys(tasks, 8)


def test_what_a_workflow_may_import_does_not_depend_on_what_its_grader_needs(tmp_path):
    (tmp_path / "greedy.py").write_text("def solver(agent, task):\n    import sympy\n    return {'answer': '7'}\n")
    found = {}
    for packages in ("numpy", "numpy,sympy"):
        done = Command(tmp_path / "no_agent", tmp_path / "compiled").python_to_end(
            *("-m", "experiments.evaluate", "--task=math", f"--data_dir={write_small_benchmarks(tmp_path / 'data')}"),
            *(
                f"--workflow={tmp_path / 'greedy.py'}",
                f"--run_dir={tmp_path / 'run'}",
                f"--sandbox_packages={packages}",
            ),
            f"--json_out={tmp_path / 'out.json'}",
        )
        assert done.returncode == 0, done.stderr
        found[packages] = {item["symptom"] for item in json.loads((tmp_path / "out.json").read_text())["items"]}
    assert found["numpy"] == {"ModuleNotFoundError"}
    assert "ModuleNotFoundError" not in found["numpy,sympy"]  # other packages, other outcomes
