"""Designs a workflow for your task: `python -m experiments.optimize --task=jsonl:FILE --meta_agent=api:MODEL`.

task, meta-agent → seeds → **strategy's turns** → best workflow by validation → (closing test evaluation) → files

Nothing is trained. The meta-agent is a checkpoint of this project, a Hugging Face folder or id, or any
model behind an OpenAI-compatible server; then no JAX is needed. A search ends after its turns, at a target, on
a plateau or at a cap; the same command goes on, with more turns if they are given. Its turns are trajectories:
`experiments.rlao --trajectories=RUN_DIR` trains a meta-agent on them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from experiments import app, closing, dry_run
from experiments import flags as shared
from experiments.agents import API, open_meta_agent
from experiments.progress import Progress
from experiments.run_dir import RunDirectory, serialized_flags, versions, write_out
from experiments.search_summary import Searched, printed, summary_json
from experiments.searching import make_collector, make_template, open_search_tasks, suit_meta_agent
from experiments.workflow_files import Chosen, write_workflows
from experiments.world import Environment, load_tasks, open_environment, recorded, refuse_other_data, told
from w4s_jax.reports.html import write_report
from w4s_jax.rollout.collect import SearchTask
from w4s_jax.rollout.plan import PlannedTrajectory
from w4s_jax.rollout.store import TrajectoryStore
from w4s_jax.search.base import SearchEnd, SearchResult, StopRules, Strategy
from w4s_jax.search.w4s import W4SStrategy
from w4s_jax.tasks.registry import expand_tasks
from w4s_jax.types import BudgetExceededError, InputError, Policy, Split, Turn

FLAGS = flags.FLAGS

shared.define_run(run_dir="runs/optimize")
shared.define_splits()
shared.define_seed_workflows()
shared.define_meta_agent()
shared.define_search(num_turns=StopRules().num_turns)
shared.define_device()
shared.define_executor()
shared.define_sandbox()
flags.DEFINE_list("task", [], "Tasks by name, jsonl:PATH or python:FILE.py:CLASS; one search each; see docs/tasks.md.")
flags.DEFINE_enum("strategy", W4SStrategy.name, [W4SStrategy.name], "How to search.")
flags.DEFINE_integer("patience", 0, "Stop after so many turns without a better workflow (0: never).", lower_bound=0)
flags.DEFINE_float("target", None, "Stop at this validation score.", lower_bound=0.0, upper_bound=1.0)
flags.DEFINE_boolean("test", False, "Evaluate the best seed and the best workflow on the test split at the end.")

MAY_CHANGE = shared.MAY_CHANGE_ON_RESUME | {"num_turns", "patience", "target", "test"}
"""Flags that another process of the same search may be given: they decide when it ends, not what it does."""


@dataclasses.dataclass(kw_only=True)
class Job:
    """A run with what its searches have found so far."""

    run: RunDirectory
    environment: Environment
    store: TrajectoryStore
    searched: dict[str, Searched] = dataclasses.field(default_factory=dict)
    """By task."""

    def keep(self, search_task: SearchTask, found: SearchResult) -> None:
        """Takes what a search has found and writes all that a user takes away, as it stands.

        Raises:
            StoreError: it cannot be written.
        """
        self.searched[search_task.task.name] = Searched(search_task=search_task, found=found)
        self.write([])

    def write(self, results: Sequence[closing.Result]) -> dict[str, Any]:
        """Writes workflow files and `summary.json`; returns the summary.

        Raises:
            StoreError: they cannot be written.
        """
        searched, executor = list(self.searched.values()), self.environment.executor
        tests = {r.finalist.task: r.evaluation for r in closing.labelled(results, "search")}
        seeds = {r.finalist.task: r.evaluation for r in closing.labelled(results, "seeds")}
        chosen = [
            Chosen(
                task=one.task,
                evaluated=good,
                test=tests.get(one.task) if number == 0 else None,
                beside=Chosen(task=one.task, evaluated=one.best_seed, test=seeds.get(one.task)),
            )
            for one in searched
            for number, good in enumerate(one.good)
        ]
        write_workflows(self.run, chosen, executor.model, executor.simulated)
        summary = summary_json(searched, results, self.environment, self.run)
        self.run.write_json(self.run.summary, summary)
        return summary


# --- the search ---------------------------------------------------------------


def stop_rules() -> StopRules:
    """When the flags let a search end.

    Raises:
        InputError: they never do, or at once.
    """
    return StopRules(num_turns=FLAGS.num_turns, patience=FLAGS.patience, target=FLAGS.target)


def make_strategy(environment: Environment, policy: Policy) -> Strategy:
    """The strategy of `--strategy`."""
    return W4SStrategy(make_collector(policy, make_template(), environment, FLAGS.num_turns))


async def search_all(
    job: Job, strategy: Strategy, search_tasks: Mapping[str, SearchTask]
) -> BudgetExceededError | None:
    """One search a task, one after another; after each turn the files are written anew.

    Returns:
        The cap that ended them, if one did.

    Raises:
        InputError, ExecutorError, SandboxError, StoreError: as `Strategy.search`.
    """
    exceeded: BudgetExceededError | None = None
    for index, search_task in enumerate(search_tasks.values()):
        if exceeded is None:
            exceeded = await search_one(job, strategy, search_task, index)
        else:
            job.keep(search_task, SearchResult(search_task.start, job.store.finished_turns(0, index), SearchEnd.BUDGET))
    return exceeded


async def search_one(job: Job, strategy: Strategy, search_task: SearchTask, index: int) -> BudgetExceededError | None:
    """The search on one task; see `search_all`."""
    rules, name = stop_rules(), search_task.task.name
    planned = PlannedTrajectory(seed=FLAGS.seed, round=0, index=index, task=name)
    stored = len(job.store.finished_turns(0, index))
    with Progress(f"search on {name} (turns)", max(rules.num_turns, stored)) as progress:

        def so_far(stopped_by: SearchEnd | None = None) -> SearchResult:
            return SearchResult(search_task.start, job.store.finished_turns(0, index), stopped_by)

        def on_turn(turn: Turn) -> None:
            job.keep(search_task, found := so_far())
            progress.advance(best=f"{found.best.feedback.score:.3f}")

        progress.advance(stored, best=f"{so_far().best.feedback.score:.3f}")
        try:
            job.keep(search_task, await strategy.search(search_task, planned, job.store, rules, on_turn))
        except BudgetExceededError as error:
            job.keep(search_task, so_far(SearchEnd.BUDGET))
            return error
    return None


async def test_all(environment: Environment, searched: Sequence[Searched]) -> list[closing.Result]:
    """Opens the test split of every task for its best seed and its best workflow.

    Raises:
        BudgetExceededError, ExecutorError, SandboxError: as `Evaluator.evaluate`.
    """
    finalists = [
        closing.Finalist(label=label, task=one.task, chosen=chosen)
        for one in searched
        for label, chosen in (("seeds", one.best_seed), ("search", one.found.best))
    ]
    return await closing.closing_evaluation(environment, finalists)


# --- the command --------------------------------------------------------------


async def optimize(run: RunDirectory, names: Sequence[str]) -> None:
    """The whole search, or what is missing of it; what was found is written after each turn.

    Raises:
        BudgetExceededError: a cap left no room; what was found so far is written, and the same command goes on.
    """
    tasks = load_tasks(names)
    refuse_other_data(run.versions, tasks)
    empty = [name for name, task in tasks.items() if FLAGS.test and not task.split_sizes()[Split.TEST]]
    if empty:
        raise InputError(
            f"--test with an empty test split of {empty[0]}; give more rows or a smaller --validation_size"
        )
    outcomes = Path(FLAGS.outcomes) if FLAGS.outcomes else run.outcomes
    async with contextlib.AsyncExitStack() as stack:
        environment = await stack.enter_async_context(open_environment(tasks, run.calls, outcomes))
        policy = await stack.enter_async_context(open_meta_agent(environment))
        store = stack.enter_context(TrajectoryStore(run.trajectories))
        run.write_json(run.versions, described(environment))
        print(opening_lines(environment, run, len(store)), file=sys.stderr)
        tested = tested_before(run)
        search_tasks = await open_search_tasks(environment, names)
        job = Job(run=run, environment=environment, store=store)
        for index, search_task in enumerate(search_tasks.values()):
            turns = store.finished_turns(0, index)
            job.searched[search_task.task.name] = Searched(
                search_task=search_task, found=SearchResult(search_task.start, turns, None)
            )
        if not run.summary.exists():
            job.write([])
        exceeded = await search_all(job, make_strategy(environment, policy), search_tasks)
        results: list[closing.Result] = []
        same = tested == {one.task: one.found.best.workflow.digest for one in job.searched.values()}
        if (FLAGS.test or same) and exceeded is None:  # what was measured before is remembered and costs nothing
            try:
                results = await test_all(environment, list(job.searched.values()))
            except BudgetExceededError as error:
                exceeded = error
        summary = job.write(results)
    write_out(summary, run)
    write_report(run.root)
    print(printed(list(job.searched.values()), results, summary))
    if exceeded is not None:
        raise exceeded


def tested_before(run: RunDirectory) -> dict[str, str]:
    """Digests of the workflows, by task, whose test results stand in this run's summary; none where it has none."""
    try:
        summary = json.loads(run.summary.read_text(encoding="utf-8"))
        return {task: search["best"]["digest"] for task, search in summary["searches"].items() if "search" in summary}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def described(environment: Environment) -> dict[str, Any]:
    """What `versions.json` says."""
    return (
        versions()
        | recorded(environment.tasks)
        | {
            "meta_agent": {"name": FLAGS.meta_agent},
            "executor": environment.executor.model,
            "sandbox": environment.sandbox.name,
        }
    )


def opening_lines(environment: Environment, run: RunDirectory, stored: int) -> str:
    """What the search is, before it starts."""
    resumed = f"resuming, {stored} turns stored\n" if stored else ""
    lines = [told(task) for name, task in environment.tasks.items() if not name.startswith("toy")]
    return (
        f"{resumed}run {run.root}: strategy {FLAGS.strategy}, meta-agent {FLAGS.meta_agent}, "
        f"executor {environment.executor.model}, sandbox {environment.sandbox.name}\n"
        + "\n".join([f"search on {', '.join(environment.tasks)}", *lines])
    )


def main(argv: Sequence[str]) -> None:
    """Checks the flags, claims the run directory and searches."""
    del argv
    if not FLAGS.run_dir:
        raise InputError("--run_dir is empty; give the folder the search is written to, e.g. --run_dir=runs/mine")
    if not FLAGS.task:
        raise InputError("--task is empty; name one, e.g. --task=toy_units or --task=jsonl:FILE, see docs/tasks.md")
    names = expand_tasks(",".join(FLAGS.task))
    stop_rules()
    suit_meta_agent()
    run = RunDirectory(Path(FLAGS.run_dir))
    if FLAGS.dry_run:
        searches = len(names) * FLAGS.num_turns * FLAGS.num_candidates * (1 + FLAGS.max_repairs)
        writes = {FLAGS.meta_agent.removeprefix(API): searches} if FLAGS.meta_agent.startswith(API) else {}
        case = dry_run.worst_case(dry_run.runs_of_optimize(load_tasks(names)), writes)
        write_out(case, run)
        print(dry_run.spelled(case))
        return
    with run.opened(serialized_flags([shared.__name__, __name__]), MAY_CHANGE):
        app.run_async(optimize(run, names))


if __name__ == "__main__":
    app.run(main)
