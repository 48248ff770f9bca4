"""The phases of a training run: searches, rounds of collecting and training.

TrainingRun → **search → train_round … → search** → closing evaluation

What an earlier process finished is taken from the store; parameters are frozen while
a round is collected, and training goes on as trajectories come in.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence

from w4s_jax.policy.local import LocalPolicy
from w4s_jax.reports.record import Phase
from w4s_jax.rollout.plan import PlannedTrajectory, keyed_number, plan_round
from w4s_jax.rollout.store import TrajectoryStore, TurnStore
from w4s_jax.run.callbacks import Callback, FinishedTurn, Metrics, best_score
from w4s_jax.run.collector import make_engine
from w4s_jax.run.config import RunConfig
from w4s_jax.run.directory import RunDirectory
from w4s_jax.run.environment import Environment
from w4s_jax.run.metrics import round_values, step_values
from w4s_jax.run.progress import Progress
from w4s_jax.run.training import Training
from w4s_jax.search.engine import SearchEngine
from w4s_jax.search.rounds import collect_round
from w4s_jax.search.task import SearchTask
from w4s_jax.training.learner import StepRecord
from w4s_jax.types import Trajectory, Turn

Step = Callable[[], StepRecord | None]
"""Trains on something; returns the update that it completed, if it completed one."""


@dataclasses.dataclass(kw_only=True)
class TrainingRun:
    """The parts of a training run; each phase takes what it needs."""

    config: RunConfig
    directory: RunDirectory
    environment: Environment
    training: Training
    policy: LocalPolicy
    store: TrajectoryStore
    """For reading."""
    turns: TurnStore
    """The same for writing: where there are other processes, they see what is written."""
    callbacks: Callback
    """What watches the run, its own records first."""
    train_names: tuple[str, ...]
    """Tasks trained on."""
    eval_names: tuple[str, ...]
    """Tasks searched on before and after."""
    search_tasks: dict[str, SearchTask] = dataclasses.field(default_factory=dict)

    @property
    def last_round(self) -> int:
        """Number of the last training round."""
        return 1 if self.training.stored else self.config.training.num_rounds


async def search(run: TrainingRun, phase: Phase, round_: int) -> list[Trajectory]:
    """One search a task to evaluate on, with the meta-agent as it is."""
    config = run.config
    plan = plan_round(seed=config.seed, round_=round_, tasks=run.eval_names, trajectories=len(run.eval_names))
    engine = make_engine(run.policy, run.environment, config.training.eval_num_turns or config.search.num_turns)
    with Progress(f"search {phase} training (turns)", len(plan) * engine.options.num_turns) as progress:
        async with contextlib.aclosing(_collected(run, engine, plan, phase, progress)) as stream:
            return [trajectory async for trajectory in stream]


async def train_round(run: TrainingRun, round_: int) -> None:
    """Collects a round with frozen parameters and trains on it as it comes."""
    config = run.config
    run.policy.set_params(run.training.sampling_variables())
    trajectories_per_round, num_turns = config.training.trajectories_per_round, config.search.num_turns
    plan = plan_round(seed=config.seed, round_=round_, tasks=run.train_names, trajectories=trajectories_per_round)
    engine = make_engine(run.policy, run.environment, num_turns)
    with Progress(f"round {round_}/{run.last_round} (turns)", len(plan) * num_turns) as progress:
        async with contextlib.aclosing(_collected(run, engine, plan, Phase.TRAINING, progress)) as stream:
            trajectories, steps = [], []
            async for trajectory in stream:
                trajectories.append(trajectory)
                steps.append(functools.partial(run.training.feed, trajectory))
                await learn(run, round_, steps[-1:], progress)
        await close_round(run, round_, trajectories, steps, progress)


async def train_offline(run: TrainingRun) -> None:
    """Trains on stored trajectories alone."""
    trajectories = run.training.stored
    steps = [functools.partial(run.training.feed_stored, number) for number in range(len(trajectories))]
    with Progress("offline training (trajectories)", len(steps) * run.config.training.epochs) as progress:
        for step in steps:
            await learn(run, 1, [step], progress)
            progress.advance()
        await close_round(run, 1, trajectories, steps, progress)


async def close_round(
    run: TrainingRun, round_: int, trajectories: Sequence[Trajectory], steps: Sequence[Step], progress: Progress
) -> None:
    """The last update, further epochs, the round's statistics and the checkpoint."""
    training, seed = run.training, run.config.seed
    await learn(run, round_, [training.finish], progress)
    for epoch in range(1, run.config.training.epochs):
        order = sorted(range(len(steps)), key=lambda i: keyed_number(seed, "epoch", round_, epoch, i))
        await learn(run, round_, [*(steps[i] for i in order), training.finish], progress)
    values = round_values(trajectories) | {"updates_without_action": training.learner.unused}
    training.learner.unused = 0
    # Before the checkpoint: a resumed run drops what is behind its checkpoint, and cannot add what is missing.
    run.callbacks.on_round(Metrics(round=round_, step=int(training.learner.state.step), values=values))
    await asyncio.to_thread(training.save_unless_saved, round_)
    progress.note(reward=f"{values['mean_reward']:.2f}", runs=f"{values['running_share']:.2f}")


async def learn(run: TrainingRun, round_: int, steps: Iterable[Step], progress: Progress) -> None:
    """Trains in a thread of its own, so that rollouts go on meanwhile."""
    for record in await asyncio.to_thread(lambda: [step() for step in steps]):
        if record is not None:
            run.callbacks.on_update(Metrics(round=round_, step=record.metrics.step, values=step_values(record)))
            progress.note(loss=f"{record.metrics.loss:.3f}")


def _collected(
    run: TrainingRun, engine: SearchEngine, plan: Sequence[PlannedTrajectory], phase: Phase, progress: Progress
) -> AsyncGenerator[Trajectory]:
    for planned in plan:
        progress.advance(len(run.store.finished_turns(planned.round, planned.index)))

    def on_turn(turn: Turn) -> None:
        total = run.environment.calls.summary().total
        progress.advance(calls=total.calls)
        tried = run.store.finished_turns(turn.round, turn.trajectory)
        best = best_score(run.search_tasks[turn.task].start, tried)
        run.callbacks.on_turn(
            FinishedTurn(
                turn=turn, phase=phase, best_score=best, turns=len(run.store), usd=total.usd, calls=total.calls
            )
        )

    return collect_round(
        engine,
        plan,
        run.search_tasks,
        run.turns,
        in_flight=run.config.training.trajectories_in_flight,
        on_turn=on_turn,
    )
