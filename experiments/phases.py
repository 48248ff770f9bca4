"""The phases of a run: searches, rounds of collecting and training.

Job → **search → train_round … → search** → closing evaluation

What an earlier process finished is taken from the store; parameters are frozen while
a round is collected, and training goes on as trajectories come in.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
from collections.abc import AsyncIterator, Callable, Iterable, Sequence

from absl import flags

from experiments.metrics import MetricsLog, round_values, step_values
from experiments.progress import Progress
from experiments.run_dir import RunDirectory
from experiments.searching import make_collector
from experiments.training import Training
from experiments.world import Environment
from w4s_jax.policy.local import LocalPolicy
from w4s_jax.prompts import PromptTemplate
from w4s_jax.rollout.collect import Collector, SearchTask
from w4s_jax.rollout.plan import PlannedTrajectory, keyed_number, plan_round
from w4s_jax.rollout.rounds import TurnStore, collect_round
from w4s_jax.rollout.store import TrajectoryStore
from w4s_jax.training.learner import StepRecord
from w4s_jax.types import Trajectory, Turn

FLAGS = flags.FLAGS

Step = Callable[[], StepRecord | None]
"""Trains on something; returns the update that it completed, if it completed one."""


@dataclasses.dataclass(kw_only=True)
class Job:
    """The parts of a run; each phase takes what it needs."""

    run: RunDirectory
    environment: Environment
    training: Training
    policy: LocalPolicy
    store: TrajectoryStore
    """For reading."""
    turns: TurnStore
    """The same for writing: where there are other processes, they see what is written."""
    metrics: MetricsLog
    template: PromptTemplate
    train_names: tuple[str, ...]
    """Tasks trained on."""
    eval_names: tuple[str, ...]
    """Tasks searched on before and after."""
    search_tasks: dict[str, SearchTask] = dataclasses.field(default_factory=dict)

    @property
    def last_round(self) -> int:
        """Number of the last training round."""
        return 1 if self.training.stored else int(FLAGS.num_rounds)


async def search(job: Job, label: str, round_: int) -> list[Trajectory]:
    """One search a task to evaluate on, with the meta-agent as it is."""
    plan = plan_round(seed=FLAGS.seed, round_=round_, tasks=job.eval_names, trajectories=len(job.eval_names))
    collector = make_collector(job.policy, job.template, job.environment, FLAGS.eval_num_turns or FLAGS.num_turns)
    with Progress(f"search {label} training (turns)", len(plan) * collector.options.num_turns) as progress:
        async with contextlib.aclosing(_collected(job, collector, plan, progress)) as stream:
            return [trajectory async for trajectory in stream]


async def train_round(job: Job, round_: int) -> None:
    """Collects a round with frozen parameters and trains on it as it comes."""
    job.policy.set_params(job.training.sampling_variables())
    plan = plan_round(seed=FLAGS.seed, round_=round_, tasks=job.train_names, trajectories=FLAGS.trajectories_per_round)
    collector = make_collector(job.policy, job.template, job.environment, FLAGS.num_turns)
    title = f"round {round_}/{job.last_round} (turns)"
    with Progress(title, len(plan) * FLAGS.num_turns) as progress:
        async with contextlib.aclosing(_collected(job, collector, plan, progress)) as stream:
            trajectories, steps = [], []
            async for trajectory in stream:
                trajectories.append(trajectory)
                steps.append(functools.partial(job.training.feed, trajectory))
                await learn(job, round_, steps[-1:], progress)
        await close_round(job, round_, trajectories, steps, progress)


async def train_offline(job: Job) -> None:
    """Trains on stored trajectories alone."""
    trajectories = job.training.stored
    steps = [functools.partial(job.training.feed_stored, number) for number in range(len(trajectories))]
    with Progress("offline training (trajectories)", len(steps) * FLAGS.epochs) as progress:
        for step in steps:
            await learn(job, 1, [step], progress)
            progress.advance()
        await close_round(job, 1, trajectories, steps, progress)


async def close_round(
    job: Job, round_: int, trajectories: Sequence[Trajectory], steps: Sequence[Step], progress: Progress
) -> None:
    """The last update, further epochs, the round's statistics and the checkpoint."""
    training = job.training
    await learn(job, round_, [training.finish], progress)
    for epoch in range(1, FLAGS.epochs):
        order = sorted(range(len(steps)), key=lambda i: keyed_number(FLAGS.seed, "epoch", round_, epoch, i))
        await learn(job, round_, [*(steps[i] for i in order), training.finish], progress)
    values = round_values(trajectories) | {"updates_without_action": training.learner.unused}
    training.learner.unused = 0
    # Before the checkpoint: a resumed run drops what is behind its checkpoint, and cannot add what is missing.
    job.metrics.add("round", round_=round_, step=int(training.learner.state.step), values=values)
    await asyncio.to_thread(training.save_unless_saved, round_)
    progress.note(reward=f"{values['mean_reward']:.2f}", runs=f"{values['running_share']:.2f}")


async def learn(job: Job, round_: int, steps: Iterable[Step], progress: Progress) -> None:
    """Trains in a thread of its own, so that rollouts go on meanwhile."""
    for record in await asyncio.to_thread(lambda: [step() for step in steps]):
        if record is not None:
            job.metrics.add("update", round_=round_, step=record.metrics.step, values=step_values(record))
            progress.note(loss=f"{record.metrics.loss:.3f}")


def _collected(
    job: Job, collector: Collector, plan: Sequence[PlannedTrajectory], progress: Progress
) -> AsyncIterator[Trajectory]:
    for planned in plan:
        progress.advance(len(job.store.finished_turns(planned.round, planned.index)))

    def on_turn(turn: Turn) -> None:
        progress.advance(calls=job.environment.calls.summary().total.calls)

    return collect_round(
        collector, plan, job.search_tasks, job.turns, in_flight=FLAGS.trajectories_in_flight, on_turn=on_turn
    )
