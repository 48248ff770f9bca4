"""The main job as one call: `rlao(RunConfig(...))`.

RunConfig → search (before) → rounds of collecting and training → search (after)
→ **closing test evaluation, export, report, summary**

Reinforcement learning for agentic workflow optimisation, W4S (arXiv 2504.04785).
Each round collects trajectories with frozen parameters and trains on them while
later ones still run; with `training.trajectories` it trains on stored ones alone. The
test split is opened once, at the end. Killed at any moment, the same call goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from w4s_jax.policy.generate import Generator
from w4s_jax.policy.local import LocalPolicy
from w4s_jax.reports.html import write_report
from w4s_jax.reports.record import Phase
from w4s_jax.rollout.segments import PublishedStore, SegmentStore
from w4s_jax.rollout.store import TrajectoryStore, read_trajectories
from w4s_jax.run import closing, worst_case
from w4s_jax.run.artifacts import write_workflows
from w4s_jax.run.callbacks import Callback, Callbacks
from w4s_jax.run.collector import open_search_tasks
from w4s_jax.run.config import RLAO_OPTIONS, RunConfig
from w4s_jax.run.directory import RunDirectory, versions
from w4s_jax.run.environment import open_environment
from w4s_jax.run.meta_agent import resolved
from w4s_jax.run.metrics import MetricsLog, round_values
from w4s_jax.run.models import generator_config
from w4s_jax.run.options import to_lines
from w4s_jax.run.processes import Follower, Leader, join
from w4s_jax.run.progress import note
from w4s_jax.run.rounds import TrainingRun, search, train_offline, train_round
from w4s_jax.run.runner import Runner
from w4s_jax.run.summary import Paths, format_summary, summary_json
from w4s_jax.run.tasks import (
    duplicates_between,
    format_source,
    load_tasks,
    refuse_other_data,
    task_names,
    tasks_record,
)
from w4s_jax.run.tensorboard import TensorBoard
from w4s_jax.run.trackers import open_trackers, refuse_missing
from w4s_jax.run.training import Training, follow, open_training, sampling_mesh
from w4s_jax.types import InputError, Trajectory, W4sError


@dataclasses.dataclass(frozen=True, kw_only=True)
class RlaoResult:
    """What a training run ends with."""

    summary: Mapping[str, Any]
    """As `summary.json`."""
    text: str
    """The same as people read it."""
    run_dir: Path


def rlao(config: RunConfig, *, runner: Runner = asyncio.run, callbacks: Sequence[Callback] = ()) -> RlaoResult | None:
    """Trains a meta-agent, or does what is missing of it in the run directory.

    Args:
        config: The whole run; `run_dir` is needed.
        runner: Runs the coroutine of the run.
        callbacks: Watch the run, in the leading process alone.

    Returns:
        The result; None in a process that does not lead (`training.distributed`).

    Raises:
        InputError: An option that does not fit, or a run directory of another run.
        BudgetExceededError: A cap left no room; the same call goes on.
        ExecutorError, SandboxError, StoreError, CheckpointError, NumericsError: We broke.
    """
    config = checked(config)
    join(config)
    directory = RunDirectory(Path(config.run_dir))
    if jax.process_index() > 0:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)  # the leading process saves, and sends this one home
        follower = Follower(directory)
        stored = read_trajectories(config.training.trajectories)
        follow(open_training(config, directory, stored, lambda *args, **facts: None), follower)
        return None
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(directory.opened(to_lines(config, RLAO_OPTIONS - {"run_dir"})))
        except W4sError:
            Leader.refuse()
            raise
        leader = Leader(directory)
        stack.enter_context(leader.leading())
        ending = stack.enter_context(contextlib.ExitStack())
        result: RlaoResult = runner(run_rlao(config, directory, leader, ending, callbacks))
        return result


def checked(config: RunConfig) -> RunConfig:
    """The config with what it leaves to the meta-agent; what cannot be is refused before anything is touched.

    Raises:
        InputError: No run directory, a task that is unknown, or a tracker that is not installed.
    """
    if not config.run_dir:
        raise InputError("--run_dir is empty; give the folder the run is written to, e.g. --run_dir=runs/first")
    task_names(config.tasks)
    refuse_missing(config.tracking)
    return resolved(config)


def most_expensive(config: RunConfig) -> dict[str, Any]:
    """The worst case of a run in calls, tokens and USD; nothing is sent.

    Raises:
        InputError: An unknown task or price.
    """
    return worst_case.worst_case(config, worst_case.runs_of_rlao(config))


# --- the leading process ----------------------------------------------------------


async def run_rlao(
    config: RunConfig,
    directory: RunDirectory,
    leader: Leader,
    ending: contextlib.ExitStack,
    callbacks: Sequence[Callback] = (),
) -> RlaoResult:
    """The whole run, or what is missing of it.

    Args:
        config: Of the run, checked.
        directory: Claimed by this process.
        leader: Of the other processes.
        ending: Ends when every thread has ended, however the run does.
        callbacks: Watch the run, after its own records.
    """
    stored = read_trajectories(config.training.trajectories)  # what cannot be read is said before anything is spent
    train_names, eval_names = task_names(config.tasks)
    tasks = load_tasks(config.tasks, (*train_names, *eval_names))
    refuse_other_data(directory.versions, tasks)
    training = open_training(config, directory, stored, leader.tell)
    for trajectory in stored:
        training.learner.check(trajectory)
    ending.callback(training.checkpoints.wait)
    async with contextlib.AsyncExitStack() as stack:
        environment = await stack.enter_async_context(open_environment(config, tasks, directory))
        policy = open_policy(config, training)
        stack.callback(policy.close)
        store = stack.enter_context(TrajectoryStore(directory.trajectories))
        alone = jax.process_count() == 1 and not directory.segments.exists()
        run = TrainingRun(
            config=config,
            directory=directory,
            environment=environment,
            training=training,
            policy=policy,
            store=store,
            turns=store if alone else PublishedStore(store, SegmentStore(directory.segments)),
            callbacks=Callbacks(),
            train_names=train_names,
            eval_names=eval_names,
        )
        directory.write_json(directory.versions, versions_record(run))
        note(format_opening(run))
        run.callbacks = await stack.enter_async_context(watching(run, callbacks))
        run.callbacks.on_run_start(config, directory.root)
        return await phases(run)


@contextlib.asynccontextmanager
async def watching(run: TrainingRun, callbacks: Sequence[Callback]) -> AsyncIterator[Callback]:
    """What watches a run: its own records, so that they are whole whatever a callback raises, then the caller's."""
    directory = run.directory
    async with contextlib.AsyncExitStack() as stack:
        log = stack.enter_context(MetricsLog(directory.metrics, keep_rounds=run.training.rounds_done))
        board = stack.enter_context(TensorBoard(directory.tensorboard, purge_step=log.last_step + 1))
        names = RLAO_OPTIONS - {"run_dir"}
        trackers = await stack.enter_async_context(open_trackers(run.config, directory, names))
        yield Callbacks(log, board, *trackers, *callbacks)


def open_policy(config: RunConfig, training: Training) -> LocalPolicy:
    """The meta-agent as it is now, on this process's own devices."""
    agent, mesh = training.agent, sampling_mesh(training.learner.trainer)
    generator = Generator(
        agent.model.clone(mesh=mesh),
        training.sampling_variables(),
        generator_config(agent.config, config),
        stop_ids=agent.chat.stop_ids,
    )
    return LocalPolicy(agent.chat, generator, name=agent.name)


async def phases(run: TrainingRun) -> RlaoResult:
    """Search, train, search, close; what an earlier process finished is taken from the store."""
    trained_on = () if run.training.stored else run.train_names
    run.search_tasks = await open_search_tasks(run.environment, (*trained_on, *run.eval_names))
    before = await search(run, Phase.BEFORE, 0) if run.config.training.evaluate_before else []
    for round_ in range(run.training.rounds_done + 1, run.last_round + 1):
        await (train_offline(run) if run.training.stored else train_round(run, round_))
    run.policy.set_params(run.training.sampling_variables())
    after = await search(run, Phase.AFTER, run.last_round + 1)
    return await finish(run, before, after)


async def finish(run: TrainingRun, before: Sequence[Trajectory], after: Sequence[Trajectory]) -> RlaoResult:
    """Opens the test split once, then writes everything a user takes away."""
    turns, directory, executor = run.config.training.eval_turns, run.directory, run.environment.executor
    finalists = [
        *closing.seed_finalists(run.search_tasks[name] for name in run.eval_names),
        *closing.search_finalists("before", run.search_tasks, before, turns),
        *closing.search_finalists("after", run.search_tasks, after, turns),
    ]
    results = await closing.closing_evaluation(run.environment, finalists)
    run.callbacks.on_test(results)
    checkpoint, hf_export = run.training.export()
    chosen = [result.chosen for result in closing.labelled(results, "after")]
    paths = Paths(
        best_workflow=write_workflows(directory, chosen, executor.model, executor.simulated),
        checkpoint=checkpoint,
        hf_export=hf_export,
        report=directory.report,
    )
    rounds = [round_values(list(run.store.trajectories(r))) for r in range(1, run.last_round + 1)]
    if run.training.stored:
        rounds = [round_values(run.training.stored)]
    calls = run.environment.calls
    summary = summary_json(
        results, rounds, calls.summary(), seconds=calls.spent.seconds, simulated=executor.simulated, paths=paths
    )
    directory.write_json(directory.summary, summary)
    write_report(directory.root)
    run.callbacks.on_run_end(summary)
    text = format_summary(results, summary, run.config.tasks.evaluated)
    return RlaoResult(summary=summary, text=text, run_dir=directory.root)


# --- what is said and kept of it --------------------------------------------------


def versions_record(run: TrainingRun) -> dict[str, Any]:
    """What `versions.json` keeps."""
    agent = run.training.agent
    return (
        versions()
        | tasks_record(run.environment.tasks)
        | {
            "meta_agent": {
                "name": agent.name,
                "weights_sha256": agent.weights_hash,
                "tokenizer_sha256": agent.tokenizer_hash,
            },
            "executor": run.environment.executor.model,
            "sandbox": run.environment.sandbox.name,
        }
    )


def format_opening(run: TrainingRun) -> str:
    """What the run is, before it starts."""
    agent, tasks = run.training.agent, run.config.tasks
    resumed = f"resuming after round {run.training.rounds_done}, {len(run.store)} turns stored\n" if run.store else ""
    return (
        f"{resumed}run {run.directory.root}: meta-agent {agent.name} ({agent.num_parameters / 1e6:.2f} M parameters), "
        f"executor {run.environment.executor.model}, sandbox {run.environment.sandbox.name}, "
        f"{jax.device_count()} {jax.devices()[0].platform} device(s)"
        f"{f' in {jax.process_count()} processes' if jax.process_count() > 1 else ''}\n"
        f"train on {', '.join(tasks.task)}; evaluate on {', '.join(tasks.evaluated)}{_sources(run)}"
    )


def _sources(run: TrainingRun) -> str:
    """Where the questions of each benchmark are from; generated tasks have nothing to say."""
    tasks = run.environment.tasks
    lines = [format_source(task) for name, task in tasks.items() if not name.startswith("toy")]
    return "".join(f"\n{line}" for line in (*lines, *duplicates_between(tasks, run.train_names, run.eval_names)))
