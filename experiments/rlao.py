"""The main job: `python -m experiments.rlao --flagfile=experiments/flags/quickstart.flags`.

flags → search (before) → rounds of collecting and training → search (after)
→ **closing test evaluation, export, report, summary**

Reinforcement learning for agentic workflow optimisation, W4S (arXiv 2504.04785).
Each round collects trajectories with frozen parameters and trains on them while
later ones still run; with `--trajectories` it trains on stored ones alone. The
test split is opened once, at the end. Killed at any moment, the same command goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from absl import flags

from experiments import app, closing, dry_run
from experiments import flags as shared
from experiments.artefacts import export, write_workflows
from experiments.meta_agent import MetaAgent, load_meta_agent
from experiments.metrics import MetricsLog, round_values, step_values
from experiments.progress import Progress
from experiments.run_dir import RunDirectory, serialized_flags, versions
from experiments.summary import Paths, printed, summary_json
from experiments.world import World, open_world
from w4s_jax.mdp import RewardConfig, RewardKind
from w4s_jax.policy.generate import Generator, GeneratorConfig
from w4s_jax.policy.local import LocalPolicy
from w4s_jax.policy.sharding import make_mesh
from w4s_jax.reports.html import write_report
from w4s_jax.rollout.collect import CollectOptions, Collector, Problem, open_problem
from w4s_jax.rollout.evaluate import finish_all
from w4s_jax.rollout.plan import keyed_number, plan_round
from w4s_jax.rollout.rounds import collect_round
from w4s_jax.rollout.store import TrajectoryStore, read_trajectories
from w4s_jax.training.checkpoint import Checkpoints
from w4s_jax.training.learner import Learner, LearnerConfig, StepRecord
from w4s_jax.training.optimizer import OptimizerConfig
from w4s_jax.training.step import Trainer
from w4s_jax.training.weights import BestAction, PositiveReward, RewardWeighted, WeightRule
from w4s_jax.types import InputError, SamplingOptions, Split, Trajectory, Turn

FLAGS = flags.FLAGS

for define in (
    *(shared.define_run, shared.define_tasks, shared.define_meta_agent, shared.define_search),
    *(shared.define_training, shared.define_executor, shared.define_sandbox),
):
    define()


@dataclasses.dataclass(kw_only=True)
class Job:
    """The parts of a run; each phase takes what it needs."""

    run: RunDirectory
    world: World
    agent: MetaAgent
    policy: LocalPolicy
    learner: Learner
    store: TrajectoryStore
    metrics: MetricsLog
    checkpoints: Checkpoints
    rounds_done: int
    """Rounds that the learner's state has been trained on."""
    problems: dict[str, Problem] = dataclasses.field(default_factory=dict)

    @property
    def last_round(self) -> int:
        """Number of the last training round."""
        return 1 if FLAGS.trajectories else int(FLAGS.num_rounds)


# --- phases -------------------------------------------------------------------


async def open_problems(job: Job) -> None:
    """Evaluates the seed workflows of every task on validation items."""
    names = dict.fromkeys((*(() if FLAGS.trajectories else job.world.train_names), *job.world.eval_names))
    tasks = [job.world.tasks[name] for name in names]
    total = sum(len(task.items(Split.VALIDATION)) * len(task.seed_workflows()) for task in tasks)
    with Progress("seed workflows (items)", total) as progress:
        problems = await finish_all(
            [
                open_problem(job.world.evaluator, task, seed=FLAGS.seed, progress=lambda outcome: progress.advance())
                for task in tasks
            ]
        )
    job.problems = {problem.task.name: problem for problem in problems}


async def search(job: Job, label: str, round_: int) -> list[Trajectory]:
    """One search a task to evaluate on, with the meta-agent as it is."""
    plan = plan_round(
        seed=FLAGS.seed, round_=round_, tasks=job.world.eval_names, trajectories=len(job.world.eval_names)
    )
    collector = make_collector(job, FLAGS.eval_num_turns or FLAGS.num_turns)
    with Progress(f"search {label} training (turns)", len(plan) * collector.options.num_turns) as progress:
        async with contextlib.aclosing(_collected(job, collector, plan, progress)) as stream:
            return [trajectory async for trajectory in stream]


async def train_round(job: Job, round_: int) -> None:
    """Collects a round with frozen parameters and trains on it as it comes."""
    job.policy.set_params(_copied(job.learner.state.variables))
    plan = plan_round(
        seed=FLAGS.seed, round_=round_, tasks=job.world.train_names, trajectories=FLAGS.trajectories_per_round
    )
    collector = make_collector(job, FLAGS.num_turns)
    title = f"round {round_}/{job.last_round} (turns)"
    with Progress(title, len(plan) * FLAGS.num_turns) as progress:
        async with contextlib.aclosing(_collected(job, collector, plan, progress)) as stream:
            trajectories = []
            async for trajectory in stream:
                trajectories.append(trajectory)
                await learn(job, round_, [trajectory], progress)
        await close_round(job, round_, trajectories, progress)


async def train_offline(job: Job) -> None:
    """Trains on stored trajectories alone."""
    trajectories = read_trajectories(FLAGS.trajectories)
    with Progress("offline training (trajectories)", len(trajectories) * FLAGS.epochs) as progress:
        for trajectory in trajectories:
            await learn(job, 1, [trajectory], progress)
            progress.advance()
        await close_round(job, 1, trajectories, progress)


async def close_round(job: Job, round_: int, trajectories: Sequence[Trajectory], progress: Progress) -> None:
    """Further epochs, the last update, the checkpoint and the round's statistics."""
    await learn(job, round_, (), progress, finish=True)
    for epoch in range(1, FLAGS.epochs):
        order = sorted(range(len(trajectories)), key=lambda i: keyed_number(FLAGS.seed, "epoch", round_, epoch, i))
        await learn(job, round_, [trajectories[i] for i in order], progress, finish=True)
    step = int(job.learner.state.step)
    values = round_values(trajectories) | {"updates_without_action": job.learner.unused}
    job.learner.unused = 0
    # Before the checkpoint: a resumed run drops what is behind its checkpoint, and cannot add what is missing.
    job.metrics.add("round", round_=round_, step=step, values=values)
    if step not in job.checkpoints.steps():
        await asyncio.to_thread(job.checkpoints.save, job.learner.state, {"round": round_})
    job.rounds_done = round_
    progress.note(reward=f"{values['mean_reward']:.2f}", runs=f"{values['running_share']:.2f}")


async def learn(
    job: Job, round_: int, trajectories: Iterable[Trajectory], progress: Progress, *, finish: bool = False
) -> None:
    """Feeds the learner in a thread of its own, so that rollouts go on meanwhile."""

    def work() -> list[StepRecord | None]:
        records = [job.learner.feed(trajectory) for trajectory in trajectories]
        return [*records, job.learner.finish()] if finish else records

    for record in await asyncio.to_thread(work):
        if record is not None:
            job.metrics.add("update", round_=round_, step=record.metrics.step, values=step_values(record))
            progress.note(loss=f"{record.metrics.loss:.3f}")


def _collected(job: Job, collector: Collector, plan: Sequence[Any], progress: Progress) -> Any:
    for planned in plan:
        progress.advance(len(job.store.finished_turns(planned.round, planned.index)))

    def on_turn(turn: Turn) -> None:
        progress.advance(calls=job.world.calls.summary().total.calls)

    return collect_round(
        collector, plan, job.problems, job.store, in_flight=FLAGS.trajectories_in_flight, on_turn=on_turn
    )


def make_collector(job: Job, num_turns: int) -> Collector:
    """A collector with the flags' options."""
    options = CollectOptions(
        num_candidates=FLAGS.num_candidates,
        num_turns=num_turns,
        turns_in_context=FLAGS.turns_in_context,
        max_repairs=FLAGS.max_repairs,
        sampling=SamplingOptions(temperature=FLAGS.temperature, max_new_tokens=FLAGS.max_new_tokens),
        reward=RewardConfig(kind=RewardKind(FLAGS.reward)),
    )
    return Collector(job.policy, job.world.template, job.world.evaluator, options)


async def finish(job: Job, before: Sequence[Trajectory], after: Sequence[Trajectory]) -> None:
    """Opens the test split once, then writes everything a user takes away."""
    turns = [int(turn) for turn in FLAGS.eval_after_turns]
    finalists = [
        *closing.seed_finalists(job.problems[name] for name in job.world.eval_names),
        *closing.search_finalists("before", job.problems, before, turns),
        *closing.search_finalists("after", job.problems, after, turns),
    ]
    results = await closing.closing_evaluation(job.world, finalists)
    executor = job.world.executor
    paths = Paths(
        best_workflow=write_workflows(job.run, closing.labelled(results, "after"), executor.model, executor.simulated),
        checkpoint=str(job.run.checkpoints / f"step_{int(job.learner.state.step):08d}"),
        hf_export=export(job.run, job.agent, job.learner.state),
        report=job.run.report,
    )
    rounds = [round_values(list(job.store.trajectories(r))) for r in range(1, job.last_round + 1)]
    if FLAGS.trajectories:
        rounds = [round_values(read_trajectories(FLAGS.trajectories))]
    summary = summary_json(
        results,
        rounds,
        job.world.calls.summary(),
        seconds=job.world.calls.spent.seconds,
        simulated=executor.simulated,
        paths=paths,
    )
    job.run.write_json(job.run.summary, summary)
    if FLAGS.json_out:
        job.run.write_json(Path(FLAGS.json_out), summary)
    write_report(job.run.root)
    print(printed(results, summary, FLAGS.eval_task or FLAGS.task))


# --- setting up ---------------------------------------------------------------


async def rlao(run: RunDirectory) -> None:
    """The whole run, or what is missing of it."""
    if FLAGS.trajectories:
        read_trajectories(FLAGS.trajectories)  # what cannot be read is said before anything is spent
    mesh = make_mesh(FLAGS.mesh or f"fsdp={jax.device_count()}")
    agent = load_meta_agent(FLAGS.meta_agent, mesh)
    trainer = Trainer(model=agent.model, mesh=mesh, optimizer=optimizer_config())
    checkpoints = Checkpoints(directory=str(run.checkpoints.resolve()), keep=FLAGS.keep_checkpoints)
    state, rounds_done = trainer.init_state(agent.variables), 0
    if checkpoints.steps():
        restored = checkpoints.restore(trainer.abstract_state._replace(frozen=state.frozen))
        state, rounds_done = restored.state, int(restored.extra["round"])
        for line in restored.rejected:
            print(f"warning: {line}; going on from the checkpoint before it", file=sys.stderr)
    learner = Learner(trainer, state, weight_rule(), learner_config(mesh), tokenise=lambda turn: tokenised(agent, turn))
    async with contextlib.AsyncExitStack() as stack:
        outcomes = Path(FLAGS.outcomes) if FLAGS.outcomes else run.outcomes
        world = await stack.enter_async_context(open_world(run.calls, outcomes))
        generator = Generator(
            agent.model, _copied(state.variables), generator_config(agent), stop_ids=agent.chat.stop_ids
        )
        policy = LocalPolicy(agent.chat, generator, name=agent.name)
        stack.callback(policy.close)
        metrics = MetricsLog(run.metrics, run.tensorboard, keep_rounds=rounds_done)
        stack.callback(metrics.close)
        job = Job(
            run=run,
            world=world,
            agent=agent,
            policy=policy,
            learner=learner,
            store=stack.enter_context(TrajectoryStore(run.trajectories)),
            metrics=metrics,
            checkpoints=checkpoints,
            rounds_done=rounds_done,
        )
        run.write_json(run.versions, described(job))
        print(opening_lines(job), file=sys.stderr)
        await phases(job)


async def phases(job: Job) -> None:
    """Search, train, search, close; what an earlier process finished is taken from the store."""
    await open_problems(job)
    before = await search(job, "before", 0) if FLAGS.evaluate_before else []
    for round_ in range(job.rounds_done + 1, job.last_round + 1):
        await (train_offline(job) if FLAGS.trajectories else train_round(job, round_))
    job.policy.set_params(_copied(job.learner.state.variables))
    after = await search(job, "after", job.last_round + 1)
    await finish(job, before, after)


def weight_rule() -> WeightRule:
    """What the actions weigh: RLAO's rewards, or one of the ablations."""
    if FLAGS.weights == "best":
        return BestAction()
    return PositiveReward() if FLAGS.weights == "positive" else RewardWeighted(tau=FLAGS.tau)


def optimizer_config() -> OptimizerConfig:
    """The optimiser, from its flags."""
    return OptimizerConfig(
        name=FLAGS.optimizer,
        learning_rate=FLAGS.learning_rate,
        warmup_steps=FLAGS.warmup_steps,
        max_grad_norm=FLAGS.max_grad_norm,
    )


def learner_config(mesh: jax.sharding.Mesh) -> LearnerConfig:
    """Shapes of a step; every data shard gets `--rows_per_batch` rows."""
    return LearnerConfig(
        row_length=FLAGS.row_length,
        rows_per_batch=FLAGS.rows_per_batch * mesh.shape["data"] * mesh.shape["fsdp"],
        trajectories_per_step=FLAGS.trajectories_per_step,
    )


def generator_config(agent: MetaAgent) -> GeneratorConfig:
    """Shapes of decoding."""
    return GeneratorConfig(
        cache_length=FLAGS.cache_length or min(agent.config.max_positions, 16_384),
        max_new_tokens=FLAGS.max_new_tokens,
        slots=FLAGS.prompts_in_flight,
        samples_per_slot=FLAGS.num_candidates,
    )


def tokenised(agent: MetaAgent, turn: Turn) -> tuple[Sequence[int], Sequence[Sequence[int]]]:
    """Ids of a turn that was collected through an API."""
    return agent.chat.render(turn.messages), [agent.chat.encode_action(c.text) for c in turn.candidates]


def described(job: Job) -> dict[str, Any]:
    """What `versions.json` says."""
    splits = {name: {split.value: task.split_hash(split) for split in Split} for name, task in job.world.tasks.items()}
    return versions() | {
        "meta_agent": {
            "name": job.agent.name,
            "weights_sha256": job.agent.weights_hash,
            "tokenizer_sha256": job.agent.tokenizer_hash,
        },
        "executor": job.world.executor.model,
        "sandbox": job.world.sandbox.name,
        "split_sha256": splits,
    }


def opening_lines(job: Job) -> str:
    """What the run is, before it starts."""
    size = sum(x.size for x in jax.tree.leaves(job.agent.variables))
    resumed = f"resuming after round {job.rounds_done}, {len(job.store)} turns stored\n" if len(job.store) else ""
    return (
        f"{resumed}run {job.run.root}: meta-agent {job.agent.name} ({size / 1e6:.2f} M parameters), "
        f"executor {job.world.executor.model}, sandbox {job.world.sandbox.name}, "
        f"{jax.device_count()} {jax.devices()[0].platform} device(s)\n"
        f"train on {', '.join(FLAGS.task)}; evaluate on {', '.join(FLAGS.eval_task or FLAGS.task)}"
    )


def _copied(variables: dict[str, Any]) -> dict[str, Any]:
    """Frozen parameters for sampling: an update donates the ones it starts from."""
    copied: dict[str, Any] = jax.tree.map(jnp.copy, variables)
    return copied


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
    run = RunDirectory(Path(FLAGS.run_dir))
    if FLAGS.dry_run:
        case = dry_run.worst_case()
        if FLAGS.json_out:
            run.write_json(Path(FLAGS.json_out), case)
        print(dry_run.spelled(case))
        return
    with run.opened(serialized_flags([shared.__name__])):
        app.run_async(rlao(run))


if __name__ == "__main__":
    app.run(main)
