"""The main job: `python -m experiments.rlao --flagfile=experiments/flags/quickstart.flags`.

flags → search (before) → rounds of collecting and training → search (after)
→ **closing test evaluation, export, report, summary**

Reinforcement learning for agentic workflow optimisation, W4S (arXiv 2504.04785).
Each round collects trajectories with frozen parameters and trains on them while
later ones still run; with `--trajectories` it trains on stored ones alone. The
test split is opened once, at the end. Killed at any moment, the same command goes on.
"""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from absl import flags

from experiments import app, closing, distributed, dry_run
from experiments import flags as shared
from experiments.distributed import Leader
from experiments.meta_agent import generator_config
from experiments.metrics import MetricsLog, round_values
from experiments.phases import Job, search, train_offline, train_round
from experiments.run_dir import RunDirectory, serialized_flags, versions, write_out
from experiments.searching import make_template, open_search_tasks, suit_meta_agent
from experiments.summary import Paths, printed, summary_json
from experiments.training import Training, follow, open_training, sampling_mesh
from experiments.workflow_files import write_workflows
from experiments.world import (
    duplicates_between,
    load_tasks,
    open_environment,
    recorded,
    refuse_other_data,
    task_names,
    told,
)
from w4s_jax.policy.generate import Generator
from w4s_jax.policy.local import LocalPolicy
from w4s_jax.reports.html import write_report
from w4s_jax.rollout.segments import PublishedStore, SegmentStore
from w4s_jax.rollout.store import TrajectoryStore, read_trajectories
from w4s_jax.types import InputError, Trajectory, W4sError

FLAGS = flags.FLAGS

shared.define_all()


async def finish(job: Job, before: Sequence[Trajectory], after: Sequence[Trajectory]) -> None:
    """Opens the test split once, then writes everything a user takes away."""
    turns = [int(turn) for turn in FLAGS.eval_after_turns]
    finalists = [
        *closing.seed_finalists(job.search_tasks[name] for name in job.eval_names),
        *closing.search_finalists("before", job.search_tasks, before, turns),
        *closing.search_finalists("after", job.search_tasks, after, turns),
    ]
    results = await closing.closing_evaluation(job.environment, finalists)
    executor = job.environment.executor
    checkpoint, hf_export = job.training.export()
    paths = Paths(
        best_workflow=write_workflows(
            job.run, [r.chosen for r in closing.labelled(results, "after")], executor.model, executor.simulated
        ),
        checkpoint=checkpoint,
        hf_export=hf_export,
        report=job.run.report,
    )
    rounds = [round_values(list(job.store.trajectories(r))) for r in range(1, job.last_round + 1)]
    if job.training.stored:
        rounds = [round_values(job.training.stored)]
    summary = summary_json(
        results,
        rounds,
        job.environment.calls.summary(),
        seconds=job.environment.calls.spent.seconds,
        simulated=executor.simulated,
        paths=paths,
    )
    job.run.write_json(job.run.summary, summary)
    write_out(summary, job.run)
    write_report(job.run.root)
    print(printed(results, summary, FLAGS.eval_task or FLAGS.task))


# --- setting up ---------------------------------------------------------------


async def rlao(run: RunDirectory, leader: Leader, closing_time: contextlib.ExitStack) -> None:
    """The whole run, or what is missing of it.

    Args:
        run: Where it lives.
        leader: Of the other processes.
        closing_time: Ends when every thread has ended, however the run does.
    """
    stored = read_trajectories(FLAGS.trajectories)  # what cannot be read is said before anything is spent
    train_names, eval_names = task_names()
    tasks = load_tasks((*train_names, *eval_names))
    refuse_other_data(run.versions, tasks)
    training = open_training(run, stored, leader.tell)
    for trajectory in stored:
        training.learner.check(trajectory)
    closing_time.callback(training.checkpoints.wait)
    async with contextlib.AsyncExitStack() as stack:
        outcomes = Path(FLAGS.outcomes) if FLAGS.outcomes else run.outcomes
        environment = await stack.enter_async_context(open_environment(tasks, run.calls, outcomes))
        policy = open_policy(training)
        stack.callback(policy.close)
        metrics = MetricsLog(run.metrics, run.tensorboard, keep_rounds=training.rounds_done)
        stack.callback(metrics.close)
        store = stack.enter_context(TrajectoryStore(run.trajectories))
        alone = jax.process_count() == 1 and not run.segments.exists()
        job = Job(
            run=run,
            environment=environment,
            training=training,
            policy=policy,
            store=store,
            turns=store if alone else PublishedStore(store, SegmentStore(run.segments)),
            metrics=metrics,
            template=make_template(),
            train_names=train_names,
            eval_names=eval_names,
        )
        run.write_json(run.versions, described(job))
        print(opening_lines(job), file=sys.stderr)
        await phases(job)


def open_policy(training: Training) -> LocalPolicy:
    """The meta-agent as it is now, on this process's own devices."""
    agent, mesh = training.agent, sampling_mesh(training.learner.trainer)
    generator = Generator(
        agent.model.clone(mesh=mesh),
        training.sampling_variables(),
        generator_config(agent.config),
        stop_ids=agent.chat.stop_ids,
    )
    return LocalPolicy(agent.chat, generator, name=agent.name)


async def phases(job: Job) -> None:
    """Search, train, search, close; what an earlier process finished is taken from the store."""
    trained_on = () if job.training.stored else job.train_names
    job.search_tasks = await open_search_tasks(job.environment, (*trained_on, *job.eval_names))
    before = await search(job, "before", 0) if FLAGS.evaluate_before else []
    for round_ in range(job.training.rounds_done + 1, job.last_round + 1):
        await (train_offline(job) if job.training.stored else train_round(job, round_))
    job.policy.set_params(job.training.sampling_variables())
    after = await search(job, "after", job.last_round + 1)
    await finish(job, before, after)


def described(job: Job) -> dict[str, Any]:
    """What `versions.json` says."""
    return (
        versions()
        | recorded(job.environment.tasks)
        | {
            "meta_agent": {
                "name": job.training.agent.name,
                "weights_sha256": job.training.agent.weights_hash,
                "tokenizer_sha256": job.training.agent.tokenizer_hash,
            },
            "executor": job.environment.executor.model,
            "sandbox": job.environment.sandbox.name,
        }
    )


def opening_lines(job: Job) -> str:
    """What the run is, before it starts."""
    agent = job.training.agent
    resumed = (
        f"resuming after round {job.training.rounds_done}, {len(job.store)} turns stored\n" if len(job.store) else ""
    )
    return (
        f"{resumed}run {job.run.root}: meta-agent {agent.name} ({agent.num_parameters / 1e6:.2f} M parameters), "
        f"executor {job.environment.executor.model}, sandbox {job.environment.sandbox.name}, "
        f"{jax.device_count()} {jax.devices()[0].platform} device(s)"
        f"{f' in {jax.process_count()} processes' if jax.process_count() > 1 else ''}\n"
        f"train on {', '.join(FLAGS.task)}; evaluate on {', '.join(FLAGS.eval_task or FLAGS.task)}{sources(job)}"
    )


def sources(job: Job) -> str:
    """Where the questions of each benchmark are from; generated tasks have nothing to say."""
    lines = [told(task) for name, task in job.environment.tasks.items() if not name.startswith("toy")]
    shared = duplicates_between(job.environment.tasks, job.train_names, job.eval_names)
    return "".join(f"\n{line}" for line in (*lines, *shared))


def main(argv: Sequence[str]) -> None:
    """Checks the flags, claims the run directory and runs."""
    del argv
    if not FLAGS.run_dir:
        raise InputError("--run_dir is empty; give the folder the run is written to, e.g. --run_dir=runs/first")
    if FLAGS.trajectories and FLAGS.num_rounds != 1:
        raise InputError(f"--num_rounds={FLAGS.num_rounds} with --trajectories; offline training is one round")
    bad = [turns for turns in FLAGS.eval_after_turns if not turns.isdecimal()]
    if bad:
        raise InputError(f"--eval_after_turns has {bad[0]!r}, which is no number of turns; give numbers, e.g. 2,5")
    task_names()  # refuses a misspelt name before anything is loaded
    suit_meta_agent()
    distributed.join()
    run = RunDirectory(Path(FLAGS.run_dir))
    if FLAGS.dry_run:
        case = dry_run.worst_case(dry_run.runs_of_rlao())
        write_out(case, run)
        print(dry_run.spelled(case))
        return
    if jax.process_index() > 0:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)  # the leading process saves, and sends this one home
        follower = distributed.Follower(run)
        follow(open_training(run, read_trajectories(FLAGS.trajectories), lambda *args, **facts: None), follower)
        return
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(run.opened(serialized_flags([shared.__name__])))
        except W4sError:
            distributed.Leader.refuse()
            raise
        leader = distributed.Leader(run)
        stack.enter_context(leader.leading())
        app.run_async(rlao(run, leader, stack.enter_context(contextlib.ExitStack())))


if __name__ == "__main__":
    app.run(main)
