"""Whole searches by every strategy in one process: simulated executor, real sandbox, a scripted meta-agent."""

import asyncio
import json

import pytest
from fakes import FakeBackend, reply

from w4s_jax.run import search
from w4s_jax.run.config import OPTIMIZE_OPTIONS
from w4s_jax.run.directory import RunDirectory
from w4s_jax.run.options import replaced, to_lines
from w4s_jax.run.tasks import load_tasks
from w4s_jax.search.registry import STRATEGIES
from w4s_jax.workflows import load_workflow

PRICES = '{"fake": {"input": 1.0, "output": 2.0}}'
COT = load_workflow("toy_cot").code


def writes(request, context, attempt):
    """A workflow of its own for every draw; one in four does not run."""
    code = "def solver(agent, task):\n    raise KeyError" if context.sample_index % 4 == 0 else COT
    return reply(f"A plan first.\n```python\n{code}\n# {context.sample_index}\n```")


def run(folder, strategy, **values):
    """The result of a search, what the meta-agent was sent, and the records."""
    given = {"task": ("toy_units",), "validation_size": 4, "num_turns": 2, "num_candidates": 2, "max_repairs": 1}
    given |= {"meta_agent": "api:fake", "executor_prices": PRICES, "budget_usd": "1", "sandbox_packages": ()}
    config, names = search.checked(
        replaced(search.DEFAULTS, {**given, "run_dir": str(folder), "strategy": strategy, **values})
    )
    backend, directory = FakeBackend(writes), RunDirectory(folder)
    tasks = load_tasks(config.tasks, names)
    with directory.opened(to_lines(config, OPTIMIZE_OPTIONS - {"run_dir"}), search.MAY_CHANGE):
        result = asyncio.run(search.run_search(config, directory, tasks, meta_backend=backend))
    lines = directory.trajectories.read_text().splitlines()
    return result, backend.sent, [json.loads(line) for line in lines]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_searches_reports_and_goes_on(strategy, tmp_path):
    result, sent, records = run(tmp_path, strategy)
    (searched,) = result.summary["searches"].values()
    assert (result.summary["strategy"], searched["turns"], searched["stopped_by"]) == (strategy, 2, "turns")
    assert all(record["parents"] for record in records)
    assert searched["candidates"]["ok"] > 0
    assert f"<dd>{strategy}</dd>" in (tmp_path / "report.html").read_text()
    assert (tmp_path / "workflows" / "best.py").is_file()
    before = (tmp_path / "trajectories.jsonl").read_bytes()
    _, more, records = run(tmp_path, strategy, num_turns=3)
    assert (tmp_path / "trajectories.jsonl").read_bytes().startswith(before)
    assert len(records) == 3
    assert not {context.sample_index for _, context in sent} & {context.sample_index for _, context in more}
    openings = {tuple(message["content"] for message in record["messages"][:1]) for record in records}
    assert len(openings) == {"w4s": 2, "random": len({r["parents"][0] for r in records}), "best_of_n": 1}[strategy]
