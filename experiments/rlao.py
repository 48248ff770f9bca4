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
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from absl import flags

from experiments import app, closing, dry_run
from experiments import flags as shared
from experiments.artefacts import export, write_workflows
from experiments.meta_agent import MetaAgent, load_meta_agent, mesh_of_flags
from experiments.metrics import MetricsLog, round_values
from experiments.phases import Job, frozen_copy, open_problems, search, train_offline, train_round
from experiments.run_dir import RunDirectory, serialized_flags, versions
from experiments.summary import Paths, printed, summary_json
from experiments.world import open_world
from w4s_jax.policy.generate import Generator, GeneratorConfig
from w4s_jax.policy.local import LocalPolicy
from w4s_jax.reports.html import write_report
from w4s_jax.rollout.store import TrajectoryStore, read_trajectories
from w4s_jax.tasks.registry import expand_tasks
from w4s_jax.training.checkpoint import Checkpoints
from w4s_jax.training.learner import Learner, LearnerConfig
from w4s_jax.training.optimizer import OptimizerConfig
from w4s_jax.training.step import Trainer
from w4s_jax.training.weights import BestAction, PositiveReward, RewardWeighted, WeightRule
from w4s_jax.types import InputError, Split, Trajectory, Turn

FLAGS = flags.FLAGS

for define in (
    *(shared.define_run, shared.define_tasks, shared.define_meta_agent, shared.define_search),
    *(shared.define_device, shared.define_export, shared.define_training),
    *(shared.define_executor, shared.define_sandbox),
):
    define()


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
        checkpoint=latest_checkpoint(job),
        hf_export=export(job.run, job.agent, job.learner.state),
        report=job.run.report,
    )
    rounds = [round_values(list(job.store.trajectories(r))) for r in range(1, job.last_round + 1)]
    if job.stored:
        rounds = [round_values(job.stored)]
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


def latest_checkpoint(job: Job) -> str:
    """Path of the newest checkpoint; empty where nothing was trained."""
    steps = job.checkpoints.steps()
    return str(job.run.checkpoints / f"step_{steps[-1]:08d}") if steps else ""


# --- setting up ---------------------------------------------------------------


async def rlao(run: RunDirectory) -> None:
    """The whole run, or what is missing of it."""
    stored = read_trajectories(FLAGS.trajectories)  # what cannot be read is said before anything is spent
    mesh = mesh_of_flags()
    agent = load_meta_agent(FLAGS.meta_agent, mesh)
    trainer = Trainer(model=agent.model, mesh=mesh, optimizer=optimizer_config(len(stored)))
    checkpoints = Checkpoints(str(run.checkpoints.resolve()), keep=FLAGS.keep_checkpoints)
    state, rounds_done = trainer.init_state(agent.variables), 0
    if checkpoints.steps():
        restored = checkpoints.restore(trainer.abstract_state._replace(frozen=state.frozen))
        state, rounds_done = restored.state, int(restored.extra["round"])
        for line in restored.rejected:
            print(f"warning: {line}; going on from the checkpoint before it", file=sys.stderr)
    learner = Learner(trainer, state, weight_rule(), learner_config(mesh), tokenise=lambda turn: tokenised(agent, turn))
    async with contextlib.AsyncExitStack() as stack:
        outcomes = Path(FLAGS.outcomes) if FLAGS.outcomes else run.outcomes
        stack.callback(checkpoints.wait)
        world = await stack.enter_async_context(open_world(run.calls, outcomes))
        generator = Generator(
            agent.model, frozen_copy(state.variables), generator_config(agent), stop_ids=agent.chat.stop_ids
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
            stored=stored,
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
        await (train_offline(job) if job.stored else train_round(job, round_))
    job.policy.set_params(frozen_copy(job.learner.state.variables))
    after = await search(job, "after", job.last_round + 1)
    await finish(job, before, after)


def weight_rule() -> WeightRule:
    """What the actions weigh: RLAO's rewards, or one of the ablations."""
    if FLAGS.weights == "best":
        return BestAction()
    return PositiveReward() if FLAGS.weights == "positive" else RewardWeighted(tau=FLAGS.tau)


def optimizer_config(stored: int) -> OptimizerConfig:
    """The optimiser, from its flags; a cosine ends with the last planned update.

    Args:
        stored: Trajectories of `--trajectories`; 0 where rounds are collected.
    """
    a_round = -(-(stored or FLAGS.trajectories_per_round) // FLAGS.trajectories_per_step)
    return OptimizerConfig(
        name=FLAGS.optimizer,
        learning_rate=FLAGS.learning_rate,
        schedule_name=FLAGS.schedule,
        warmup_steps=FLAGS.warmup_steps,
        total_steps=FLAGS.num_rounds * FLAGS.epochs * a_round,
        moment_dtype=FLAGS.moment_dtype,
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
        f"train on {', '.join(FLAGS.task)}; evaluate on {', '.join(FLAGS.eval_task or FLAGS.task)}{sources(job)}"
    )


def sources(job: Job) -> str:
    """How the splits of each benchmark came from its source; generated tasks have nothing to say."""
    tasks = [task for name, task in job.world.tasks.items() if not name.startswith("toy")]
    return "".join(f"\n{task.name}: {task.source}" for task in tasks)


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
    expand_tasks(",".join([*FLAGS.task, *FLAGS.eval_task]))  # refuses a misspelt name before anything is loaded
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
