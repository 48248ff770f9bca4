"""Small searches with a scripted meta-agent, that the tests of callbacks and trackers watch.

As a script it is a run that may kill itself: `python tests/tracked_runs.py search|rlao RUN_DIR TRACKERS DIE_AT`.
"""

import asyncio
import os
import sys
from pathlib import Path

from fakes import FakeBackend, reply

from benchmarks.kill_and_resume import FLAGS
from w4s_jax.run.callbacks import Callback
from w4s_jax.run.config import OPTIMIZE_OPTIONS, RunConfig
from w4s_jax.run.directory import RunDirectory
from w4s_jax.run.options import from_lines, to_lines
from w4s_jax.run.search import DEFAULTS, MAY_CHANGE, checked, run_search
from w4s_jax.run.tasks import load_tasks
from w4s_jax.workflows import load_seed

VOTE = load_seed("toy_vote").code.replace("num_of_response=5", "num_of_response=7")
SEARCH = (
    *("--task=toy_units", "--validation_size=4", "--test_size=4", "--num_candidates=2", "--sandbox_packages="),
    *("--meta_agent=api:fake", "--sandbox_workers=1", "--budget_usd=1", "--test"),
    '--executor_prices={"fake": {"input": 1, "output": 2}}',
)


def search(run_dir, *flags, callbacks=()):
    """A search in this process; its meta-agent always votes."""
    config, names = checked(from_lines(DEFAULTS, [*SEARCH, f"--run_dir={run_dir}", *flags]))
    backend = FakeBackend(lambda request, context, attempt: reply(f"It votes.\n```python\n{VOTE}\n```"))
    directory, tasks = RunDirectory(Path(run_dir)), load_tasks(config.tasks, names)
    with directory.opened(to_lines(config, OPTIMIZE_OPTIONS - {"run_dir"}), MAY_CHANGE):
        return asyncio.run(run_search(config, directory, tasks, meta_backend=backend, callbacks=callbacks))


class Dies(Callback):
    """Ends the process at once, at the end of a round or at the finish of a turn of a search."""

    def __init__(self, at):
        self.at = at

    def on_turn(self, finished):
        self._die(f"turn {finished.turns}")

    def on_round(self, metrics):
        self._die(f"round {metrics.round}")

    def _die(self, here):
        if here == self.at:
            import time

            time.sleep(5)  # what is on its way to a tracker gets there
            os._exit(9)


def main(kind, run_dir, trackers, at):
    """Runs it, to its end or to its death."""
    flags = (f"--run_dir={run_dir}", f"--trackers={trackers}")
    if kind == "search":
        search(run_dir, "--num_turns=3", *flags, callbacks=[Dies(at)])
        return
    from benchmarks.scripted_agent import write_scripted_agent
    from w4s_jax.run.rlao import rlao

    agent = Path(run_dir).parent / "agent"
    if not agent.exists():
        write_scripted_agent(agent)
    rlao(from_lines(RunConfig(), [*FLAGS, f"--meta_agent={agent}", *flags]), callbacks=[Dies(at)])


if __name__ == "__main__":
    main(*sys.argv[1:])
