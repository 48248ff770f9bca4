"""Designing a workflow for a task, as one call: `optimize(RunConfig(...))`.

task, meta-agent → seeds → **strategy's turns** → best workflow by validation → (closing test evaluation) → files

Nothing is trained. The meta-agent is a checkpoint of this project, a Hugging Face folder or id, or any
model behind an OpenAI-compatible server; then no JAX is needed. A search ends after its turns, at a target, on
a plateau or at a cap; the same call goes on, with more turns if they are given. Its turns are trajectories:
`rlao` trains a meta-agent on them.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from w4s_jax.executor.base import Backend
from w4s_jax.reports.html import write_report
from w4s_jax.reports.record import Phase
from w4s_jax.rollout.plan import PlannedTrajectory
from w4s_jax.rollout.store import TrajectoryStore
from w4s_jax.run import closing, worst_case
from w4s_jax.run.artifacts import Chosen, write_workflows
from w4s_jax.run.callbacks import Callback, Callbacks, FinishedTurn
from w4s_jax.run.collector import make_engine, open_search_tasks
from w4s_jax.run.config import OPTIMIZE_OPTIONS, RunConfig, SearchConfig, TaskConfig
from w4s_jax.run.directory import MAY_CHANGE_ON_RESUME, RunDirectory, versions
from w4s_jax.run.environment import Environment, open_environment
from w4s_jax.run.meta_agent import open_meta_agent, resolved
from w4s_jax.run.metrics import MetricsLog
from w4s_jax.run.options import to_lines
from w4s_jax.run.progress import Progress, note
from w4s_jax.run.runner import Runner
from w4s_jax.run.search_summary import Searched, format_search, summary_json
from w4s_jax.run.tasks import format_source, load_tasks, refuse_other_data, tasks_record
from w4s_jax.run.trackers import open_trackers, refuse_missing
from w4s_jax.search.base import SearchEnd, SearchResult, StopRules
from w4s_jax.search.engine import SearchEngine
from w4s_jax.search.task import SearchTask
from w4s_jax.tasks.base import SealedTask
from w4s_jax.tasks.registry import expand_tasks
from w4s_jax.types import BudgetExceededError, InputError, Split, Turn

DEFAULTS = RunConfig(
    run_dir="runs/optimize",
    tasks=TaskConfig(task=()),
    search=SearchConfig(num_turns=StopRules().num_turns),
)
"""Of a search; `RunConfig`'s own are those of a training run."""

MAY_CHANGE = MAY_CHANGE_ON_RESUME | {"num_turns"}
"""Options that another process of the same search may be given: they decide when it ends, not what it does."""


@dataclasses.dataclass(kw_only=True)
class SearchRun:
    """A run with what its searches have found so far."""

    directory: RunDirectory
    environment: Environment
    store: TrajectoryStore
    callbacks: Callback
    """What watches the run, its own records first."""
    searched: dict[str, Searched] = dataclasses.field(default_factory=dict)
    """By task."""

    @property
    def config(self) -> RunConfig:
        """Of the run."""
        return self.environment.config

    def keep(self, search_task: SearchTask, found: SearchResult) -> None:
        """Takes what a search has found and writes all that a user takes away, as it stands.

        Raises:
            StoreError: It cannot be written.
        """
        self.searched[search_task.task.name] = Searched(search_task=search_task, found=found)
        self.write([])

    def write(self, results: Sequence[closing.Result]) -> dict[str, Any]:
        """Writes workflow files and `summary.json`; returns the summary.

        Raises:
            StoreError: They cannot be written.
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
        write_workflows(self.directory, chosen, executor.model, executor.simulated)
        summary = summary_json(searched, results, self.environment, self.directory)
        self.directory.write_json(self.directory.summary, summary)
        return summary


@dataclasses.dataclass(frozen=True, kw_only=True)
class SearchRunResult:
    """What a search ends with, as far as it came."""

    searched: Mapping[str, Searched]
    """By task."""
    results: Sequence[closing.Result]
    """Of the closing evaluation; empty where test was not opened."""
    summary: Mapping[str, Any]
    """As `summary.json`."""
    text: str
    """The same as people read it."""
    run_dir: Path
    exceeded: BudgetExceededError | None = None
    """The cap that ended it, if one did."""


# --- the search -------------------------------------------------------------------


def checked(config: RunConfig, names: Sequence[str] | None = None) -> tuple[RunConfig, list[str]]:
    """The config with what it leaves to the meta-agent, and the names of its tasks.

    Args:
        config: Of the run.
        names: Of tasks that are at hand; None: those that the config names.

    Raises:
        InputError: No run directory, no task, an unknown one, rules that end a search at once, or a tracker that is
            not installed.
    """
    if not config.run_dir:
        raise InputError("--run_dir is empty; give the folder the search is written to, e.g. --run_dir=runs/mine")
    if not config.tasks.task:
        raise InputError("--task is empty; name one, e.g. --task=toy_units or --task=jsonl:FILE, see docs/tasks.md")
    expanded = expand_tasks(",".join(config.tasks.task)) if names is None else list(names)
    stop_rules(config)
    refuse_missing(config.tracking)
    return resolved(config), expanded


def stop_rules(config: RunConfig) -> StopRules:
    """When a search ends.

    Raises:
        InputError: Never, or at once.
    """
    rules = config.optimize
    return StopRules(num_turns=config.search.num_turns, patience=rules.patience, target=rules.target)


def most_expensive(config: RunConfig, tasks: Mapping[str, SealedTask]) -> dict[str, Any]:
    """The worst case of a search in calls, tokens and USD; nothing is sent.

    Raises:
        InputError: An unknown price.
    """
    runs = worst_case.runs_of_optimize(config, tasks)
    return worst_case.worst_case(config, runs, worst_case.calls_of_meta_agent(config, len(tasks)))


async def search_all(
    run: SearchRun, engine: SearchEngine, search_tasks: Mapping[str, SearchTask]
) -> BudgetExceededError | None:
    """One search a task, one after another; after each turn the files are written anew.

    Returns:
        The cap that ended them, if one did.

    Raises:
        InputError, ExecutorError, SandboxError, StoreError: As `SearchEngine.search`.
    """
    exceeded: BudgetExceededError | None = None
    for index, search_task in enumerate(search_tasks.values()):
        if exceeded is None:
            exceeded = await search_one(run, engine, search_task, index)
        else:
            run.keep(search_task, SearchResult(search_task.start, run.store.finished_turns(0, index), SearchEnd.BUDGET))
    return exceeded


async def search_one(
    run: SearchRun, engine: SearchEngine, search_task: SearchTask, index: int
) -> BudgetExceededError | None:
    """The search on one task; see `search_all`."""
    rules, name = stop_rules(run.config), search_task.task.name
    planned = PlannedTrajectory(seed=run.config.seed, round=0, index=index, task=name)
    stored = len(run.store.finished_turns(0, index))
    with Progress(f"search on {name} (turns)", max(rules.num_turns, stored)) as progress:

        def so_far() -> SearchResult:
            return SearchResult(search_task.start, run.store.finished_turns(0, index), None)

        def on_turn(turn: Turn) -> None:
            run.keep(search_task, found := so_far())
            best, total = found.best.feedback.score, run.environment.calls.summary().total
            progress.advance(best=f"{best:.3f}")
            run.callbacks.on_turn(
                FinishedTurn(
                    turn=turn,
                    phase=Phase.SEARCH,
                    best_score=best,
                    turns=len(run.store),
                    usd=total.usd,
                    calls=total.calls,
                )
            )

        progress.advance(stored, best=f"{so_far().best.feedback.score:.3f}")
        found = await engine.search(search_task, planned, run.store, rules, on_turn)
        run.keep(search_task, found)
    return found.exceeded


async def test_all(environment: Environment, searched: Sequence[Searched]) -> list[closing.Result]:
    """Opens the test split of every task for its best seed and its best workflow.

    Raises:
        BudgetExceededError, ExecutorError, SandboxError: As `Evaluator.evaluate`.
    """
    finalists = [
        closing.Finalist(label=label, task=one.task, chosen=chosen)
        for one in searched
        for label, chosen in (("seeds", one.best_seed), ("search", one.found.best))
    ]
    return await closing.closing_evaluation(environment, finalists)


# --- the run ----------------------------------------------------------------------


def optimize(
    config: RunConfig, names: Sequence[str], *, runner: Runner = asyncio.run, callbacks: Sequence[Callback] = ()
) -> SearchRunResult:
    """Searches, or does what is missing of it in the run directory.

    Args:
        config: Of the run, checked.
        names: Of its tasks.
        runner: Runs the coroutine of the run.
        callbacks: Watch the run.

    Raises:
        InputError: An option that does not fit, bad data, or a run directory of another search.
        ExecutorError, SandboxError, StoreError: We broke.
    """
    directory = RunDirectory(Path(config.run_dir))
    with directory.opened(to_lines(config, OPTIMIZE_OPTIONS - {"run_dir"}), MAY_CHANGE):
        tasks = load_tasks(config.tasks, names)
        result: SearchRunResult = runner(run_search(config, directory, tasks, callbacks=callbacks))
        return result


async def run_search(
    config: RunConfig,
    directory: RunDirectory,
    tasks: Mapping[str, SealedTask],
    *,
    backend: Backend | None = None,
    meta_backend: Backend | None = None,
    callbacks: Sequence[Callback] = (),
    on_open: Callable[[SearchRun], None] | None = None,
) -> SearchRunResult:
    """The whole search, or what is missing of it; what was found is written after each turn.

    Args:
        config: Of the run, checked.
        directory: Claimed by this process.
        tasks: By name; a search each.
        backend: Asked instead of the config's executor.
        meta_backend: Asked instead of the config's meta-agent.
        callbacks: Watch the run, after its own records.
        on_open: Called once with the run, when its seeds are evaluated and it has a best workflow.

    Raises:
        InputError: An option that does not fit.
        ExecutorError, SandboxError, StoreError: We broke.
    """
    refuse_other_data(directory.versions, tasks)
    test = config.optimize.test
    if test:
        refuse_empty_test(tasks)
    async with contextlib.AsyncExitStack() as stack:
        environment = await stack.enter_async_context(open_environment(config, tasks, directory, backend=backend))
        policy = await stack.enter_async_context(open_meta_agent(config, environment, backend=meta_backend))
        store = stack.enter_context(TrajectoryStore(directory.trajectories))
        directory.write_json(directory.versions, versions_record(environment))
        note(format_opening(environment, directory, len(store)))
        tested = tested_before(directory)
        log = stack.enter_context(MetricsLog(directory.metrics))
        names = OPTIMIZE_OPTIONS - {"run_dir"}
        trackers = await stack.enter_async_context(open_trackers(config, directory, names))
        watched = Callbacks(log, *trackers, *callbacks)
        watched.on_run_start(config, directory.root)
        search_tasks = await open_search_tasks(environment, tasks)
        run = SearchRun(directory=directory, environment=environment, store=store, callbacks=watched)
        for index, search_task in enumerate(search_tasks.values()):
            turns = store.finished_turns(0, index)
            run.searched[search_task.task.name] = Searched(
                search_task=search_task, found=SearchResult(search_task.start, turns, None)
            )
        if not directory.summary.exists():
            run.write([])
        if on_open is not None:
            on_open(run)
        engine = make_engine(policy, environment, config.search.num_turns, config.optimize.strategy)
        exceeded = await search_all(run, engine, search_tasks)
        results: list[closing.Result] = []
        same = tested == {one.task: one.found.best.workflow.digest for one in run.searched.values()}
        if (test or same) and exceeded is None:  # what was measured before is remembered and costs nothing
            try:
                results = await test_all(environment, list(run.searched.values()))
            except BudgetExceededError as error:
                exceeded = error
            else:
                watched.on_test(results)
        summary = run.write(results)
        write_report(directory.root)
        watched.on_run_end(summary)
    return SearchRunResult(
        searched=run.searched,
        results=results,
        summary=summary,
        text=format_search(list(run.searched.values()), results, summary, tested=test),
        run_dir=directory.root,
        exceeded=exceeded,
    )


def result_so_far(run: SearchRun) -> SearchRunResult:
    """What a search that was interrupted ends with: what it has stored; nothing is written."""
    environment, searched = run.environment, list(run.searched.values())
    summary = summary_json(searched, [], environment, run.directory)
    return SearchRunResult(
        searched=run.searched,
        results=[],
        summary=summary,
        text=format_search(searched, [], summary, tested=False),
        run_dir=run.directory.root,
    )


async def run_test(
    config: RunConfig,
    directory: RunDirectory,
    tasks: Mapping[str, SealedTask],
    searched: Mapping[str, Searched],
    *,
    backend: Backend | None = None,
) -> SearchRunResult:
    """The closing evaluation of a search that has ended: its best seeds and workflows on the test split.

    Args:
        config: Of the search, checked.
        directory: Claimed by this process.
        tasks: By name.
        searched: What was found, by task.
        backend: Asked instead of the config's executor.

    Raises:
        InputError: A test split has no items.
        BudgetExceededError: A cap left no room; finished items are remembered.
        ExecutorError, SandboxError, StoreError: We broke.
    """
    refuse_empty_test(tasks)
    async with open_environment(config, tasks, directory, backend=backend) as environment:
        with TrajectoryStore(directory.trajectories) as store:
            run = SearchRun(
                directory=directory,
                environment=environment,
                store=store,
                callbacks=Callbacks(),
                searched=dict(searched),
            )
        results = await test_all(environment, list(searched.values()))
        summary = run.write(results)
    write_report(directory.root)
    return SearchRunResult(
        searched=searched,
        results=results,
        summary=summary,
        text=format_search(list(searched.values()), results, summary, tested=True),
        run_dir=directory.root,
    )


def refuse_empty_test(tasks: Mapping[str, SealedTask]) -> None:
    """Refuses to test where there is nothing to test on.

    Raises:
        InputError: A test split has no items.
    """
    empty = [name for name, task in tasks.items() if not task.split_sizes()[Split.TEST]]
    if empty:
        raise InputError(
            f"--test with an empty test split of {empty[0]}; give more rows or a smaller --validation_size"
        )


def tested_before(directory: RunDirectory) -> dict[str, str]:
    """Digests of the workflows, by task, whose test results stand in this run's summary; none where it has none."""
    try:
        summary = json.loads(directory.summary.read_text(encoding="utf-8"))
        return {task: search["best"]["digest"] for task, search in summary["searches"].items() if "search" in summary}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def versions_record(environment: Environment) -> dict[str, Any]:
    """What `versions.json` keeps."""
    return (
        versions()
        | tasks_record(environment.tasks)
        | {
            "meta_agent": {"name": environment.config.meta_agent.meta_agent},
            "executor": environment.executor.model,
            "sandbox": environment.sandbox.name,
        }
    )


def format_opening(environment: Environment, directory: RunDirectory, stored: int) -> str:
    """What the search is, before it starts."""
    config = environment.config
    resumed = f"resuming, {stored} turns stored\n" if stored else ""
    lines = [format_source(task) for name, task in environment.tasks.items() if not name.startswith("toy")]
    return (
        f"{resumed}run {directory.root}: strategy {config.optimize.strategy}, meta-agent "
        f"{config.meta_agent.meta_agent}, executor {environment.executor.model}, sandbox {environment.sandbox.name}\n"
        + "\n".join([f"search on {', '.join(environment.tasks)}", *lines])
    )
