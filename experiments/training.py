"""The half of a run that every process has: what learns, and where it lasts.

flags → **open_training** → Training → phases (leading process), follow (the others)

Each method runs programs over the mesh of all processes. The leading process tells the
others before it calls one; they are told to call the same.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from absl import flags

from experiments.artefacts import export
from experiments.distributed import Follower
from experiments.meta_agent import MetaAgent, load_meta_agent, mesh_of_flags
from experiments.run_dir import RunDirectory
from w4s_jax.policy import sharding
from w4s_jax.policy.generate import in_compute_dtype
from w4s_jax.rollout.segments import SegmentStore
from w4s_jax.training.checkpoint import Checkpoints
from w4s_jax.training.learner import Learner, LearnerConfig, StepRecord
from w4s_jax.training.optimizer import OptimizerConfig
from w4s_jax.training.step import Trainer
from w4s_jax.training.weights import BestAction, PositiveReward, RewardWeighted, WeightRule
from w4s_jax.types import Trajectory, Turn

FLAGS = flags.FLAGS


@dataclasses.dataclass(kw_only=True)
class Training:
    """A meta-agent on the mesh with all that training changes."""

    run: RunDirectory
    agent: MetaAgent
    learner: Learner
    checkpoints: Checkpoints
    stored: Sequence[Trajectory]
    """Of `--trajectories`; empty where rounds are collected."""
    rounds_done: int
    """Rounds that the learner's state has been trained on."""
    tell: Callable[..., None]
    """Tells the other processes what comes next; does nothing in those that are told."""

    def sampling_variables(self) -> dict[str, Any]:
        """A copy to sample with, on this process's own devices; an update donates the variables it starts from."""
        self.tell("sampling_variables")
        kept = self.learner.state.variables
        variables = in_compute_dtype(kept, self.agent.model.compute_dtype)
        if self.learner.trainer.mesh.size == 1:
            copied: dict[str, Any] = jax.tree.map(
                lambda x, own: jnp.copy(x) if x.dtype == own.dtype else x, variables, kept
            )
            return copied
        here: dict[str, Any] = sharding.local_copy(variables, sampling_mesh(self.learner.trainer))
        return here

    def feed(self, trajectory: Trajectory) -> StepRecord | None:
        """Trains on one trajectory; returns the update that it completed, if it completed one."""
        self.tell("feed", round=trajectory.round, trajectory=trajectory.index)
        return self.learner.feed(trajectory)

    def feed_stored(self, number: int) -> StepRecord | None:
        """Trains on one trajectory of `stored`, likewise."""
        self.tell("feed_stored", number=number)
        return self.learner.feed(self.stored[number])

    def finish(self) -> StepRecord | None:
        """Closes the open update."""
        self.tell("finish")
        return self.learner.finish()

    def save(self, round_: int) -> None:
        """Writes a checkpoint after a round."""
        self.tell("save", round_=round_)
        self.checkpoints.save(self.learner.state, {"round": round_})

    def save_unless_saved(self, round_: int) -> None:
        """The same, unless no update was made in the round."""
        if int(self.learner.state.step) not in self.checkpoints.steps():
            self.save(round_)
        self.rounds_done = round_

    def export(self) -> tuple[str, Path]:
        """Writes the Hugging Face folder; returns the path of the newest checkpoint (empty: no update) and its own."""
        self.tell("export")
        return self.checkpoints.newest(), export(self.run, self.agent, self.learner.state)


def open_training(run: RunDirectory, stored: Sequence[Trajectory], tell: Callable[..., None]) -> Training:
    """Loads the meta-agent onto the mesh, and what an earlier process has trained.

    Raises:
        InputError: a flag that does not fit, or a meta-agent that cannot be read.
        CheckpointError: there are checkpoints and none can be read.
    """
    mesh = mesh_of_flags()
    agent = load_meta_agent(FLAGS.meta_agent, mesh)
    trainer = Trainer(model=agent.model, mesh=mesh, optimizer=optimizer_config(len(stored)))
    checkpoints = Checkpoints(str(run.checkpoints.resolve()), keep=FLAGS.keep_checkpoints)
    if checkpoints.steps():
        restored = checkpoints.restore(trainer.abstract_state._replace(frozen=trainer.place_frozen(agent.variables)))
        state, rounds_done = restored.state, int(restored.extra["round"])
        for line in restored.rejected:
            print(f"warning: {line}; going on from the checkpoint before it", file=sys.stderr)
    else:
        state, rounds_done = trainer.init_state(agent.variables), 0
    agent = dataclasses.replace(agent, variables={})  # the state has its own
    learner = Learner(trainer, state, weight_rule(), learner_config(mesh), tokenise=lambda turn: tokenised(agent, turn))
    return Training(
        run=run,
        agent=agent,
        learner=learner,
        checkpoints=checkpoints,
        stored=stored,
        rounds_done=rounds_done,
        tell=tell,
    )


def sampling_mesh(trainer: Trainer) -> jax.sharding.Mesh:
    """Where this process samples: on its own devices, heads split over them, whatever the mesh that trains."""
    return sharding.host_mesh(jax.local_devices(), trainer.model.config.num_kv_heads)


def follow(training: Training, follower: Follower) -> None:
    """Does what the leading process tells, until it says stop.

    Raises:
        W4sError: what any of it raises; the leading process meets the same.
    """
    segments = SegmentStore(training.run.segments)
    try:
        for command in follower.commands():
            _obey(training, segments, **command)
    finally:
        training.checkpoints.wait()


def _obey(training: Training, segments: SegmentStore, what: str, **facts: Any) -> None:
    match what:
        case "sampling_variables":
            training.sampling_variables()
        case "feed":
            segments.refresh()
            training.feed(segments.trajectory(facts["round"], facts["trajectory"]))
        case "feed_stored":
            training.feed_stored(facts["number"])
        case "finish":
            training.finish()
        case "save":
            training.save(facts["round_"])
        case "export":
            training.export()
        case _:
            raise AssertionError(what)


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
        rows_per_batch=FLAGS.rows_per_batch * sharding.divided(mesh, sharding.BATCH_AXES),
        trajectories_per_step=FLAGS.trajectories_per_step,
    )


def tokenised(agent: MetaAgent, turn: Turn) -> tuple[Sequence[int], Sequence[Sequence[int]]]:
    """Ids of a turn that was collected through an API."""
    return agent.chat.render(turn.messages), [agent.chat.encode_action(c.text) for c in turn.candidates]
